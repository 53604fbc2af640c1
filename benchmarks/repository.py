"""Time a help desk's lists, pages and statistics over one tenant's million tickets, in its file and in Postgres.

Run `python benchmarks/repository.py [ROWS]`. Each figure is the fastest of five calls, or of all that fit in two
seconds, as a ratio to reading one ticket by its id on the same side in the same run; a query that is bound to an index
hardly grows with the number of rows.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from localstore import LocalStore
from localstore.helpdesk import Conversation, Ticket
from localstore.helpdesk.filters import After
from localstore.helpdesk.repository import TicketRepository
from localstore.postgres.connect import Server, connection_to
from localstore.postgres.embedded import embedded_server
from localstore.postgres.pool import Pool
from localstore.schema.reflect import table_from_model
from sync.production import prepare, register

ACME = ("acme", "jira")
ROUNDS = 5
SECONDS = 2.0
SQLITE = """
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)
INSERT INTO tickets (company_id, id, platform, ticket_id, created_at, updated_at, title, status, priority,
    assignee_email, is_processed, processing_status, raw_data)
SELECT 'acme', printf('%032x', i), 'jira', 'T-' || i,
    strftime('%Y-%m-%d %H:%M:%S.000000', 1577836800 + i * 37, 'unixepoch'), '2020-01-01 00:00:00.000000',
    'Ticket ' || i,
    CASE WHEN i <= :rows / 1000 THEN 'old' WHEN i % 50 = 0 THEN 'open' WHEN i % 50 = 1 THEN 'pending' ELSE 'closed' END,
    CASE i % 3 WHEN 0 THEN 'low' WHEN 1 THEN 'high' ELSE 'urgent' END, 'person' || (i % 200) || '@example.com',
    i > :rows / 1000, 'pending', '{"x": "' || hex(zeroblob(100)) || '"}' FROM n
"""
POSTGRES = """
INSERT INTO tickets (company_id, id, platform, ticket_id, created_at, updated_at, title, status, priority,
    assignee_email, is_processed, processing_status, raw_data)
SELECT 'acme', gen_random_uuid(), 'jira', 'T-' || i, timestamptz '2020-01-01 00:00+00' + i * interval '37 s',
    timestamptz '2020-01-01 00:00+00', 'Ticket ' || i,
    CASE WHEN i <= $1 / 1000 THEN 'old' WHEN i % 50 = 0 THEN 'open' WHEN i % 50 = 1 THEN 'pending' ELSE 'closed' END,
    CASE i % 3 WHEN 0 THEN 'low' WHEN 1 THEN 'high' ELSE 'urgent' END, 'person' || (i % 200) || '@example.com',
    i > $1 / 1000, 'pending', jsonb_build_object('x', repeat('0', 200)) FROM generate_series(1, $1) i
"""


def calls(repository: TicketRepository, rows: int) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Return what is timed, the yardstick first."""
    middle = After(datetime.fromtimestamp(1_577_836_800 + rows // 2 * 37, UTC), f"T-{rows // 2}")
    week = {"priority": ["low"], "date_range": {"start": "2020-01-03", "end": "2020-01-10"}}
    chosen = {"status": ["open"], "priority": ["low"], "assignee_email": ["person100@example.com"]}
    return {
        "one ticket": lambda: repository.get_ticket_by_id(*ACME, "T-7"),
        "newest 100": lambda: repository.get_tickets(*ACME),
        "100 by key from the middle": lambda: repository.get_tickets(*ACME, after=middle),
        "100 by offset from the middle": lambda: repository.get_tickets(*ACME, None, 100, rows // 2),
        "100 of one status in 50": lambda: repository.get_tickets(*ACME, {"status": ["open"]}),
        "100 of an assignee in 200": lambda: repository.get_tickets(*ACME, {"assignee_email": "person3@example.com"}),
        "three filters at once": lambda: repository.get_tickets(*ACME, chosen),
        "100 of a status of the oldest": lambda: repository.get_tickets(*ACME, {"status": ["old"]}),
        "100 of two statuses, one rare": lambda: repository.get_tickets(*ACME, {"status": ["old", "lost"]}),
        "100 of the oldest, unprocessed": lambda: repository.get_tickets(*ACME, {"is_processed": False}),
        "100 of a priority in a week": lambda: repository.get_tickets(*ACME, week),
        "a status that nobody has": lambda: repository.get_tickets(*ACME, {"status": ["lost"]}),
        "statistics": lambda: repository.get_ticket_stats(*ACME),
        "100 with conversations": lambda: repository.get_threads(*ACME),
    }


async def measure(name: str, repository: TicketRepository, rows: int) -> None:
    """Print one side's figures."""
    yardstick = 0.0
    for what, call in calls(repository, rows).items():
        fastest, rounds, began = float("inf"), 0, perf_counter()
        while rounds < ROUNDS or perf_counter() - began < SECONDS:
            begin = perf_counter()
            await call()
            fastest = min(fastest, perf_counter() - begin)
            rounds += 1
        yardstick = yardstick or fastest
        print(f"{name:10} {what:32} {fastest / yardstick:8.1f}   ({fastest * 1000:.1f} ms)", flush=True)


async def main(rows: int) -> None:
    """Fill both sides and measure each."""
    print(f"{rows:,} tickets of one tenant; ratios to reading one ticket")
    with tempfile.TemporaryDirectory(prefix="localstore-bench-") as folder:
        async with LocalStore(Path(folder) / "data") as store, store.tenant("acme") as tenant:
            await tenant.put(Ticket(platform="jira", ticket_id="first"))
            await tenant.database.write(lambda connection: connection.execute(SQLITE, {"rows": rows}).rowcount)
            await measure("file", TicketRepository(tenant), rows)
        async with embedded_server(Path(folder) / "postgres", erase=True) as server:
            await in_postgres(server, rows)


async def in_postgres(server: Server, rows: int) -> None:
    """Fill production and measure it."""
    async with connection_to(server) as connection:
        await prepare(connection)
        await register(connection, "public", [table_from_model(model) for model in (Ticket, Conversation)])
        await connection.execute(POSTGRES, rows)
        await connection.execute("VACUUM ANALYZE tickets")
    async with Pool(server) as pool:
        await measure("postgres", TicketRepository(pool), rows)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1].replace("_", "")) if len(sys.argv) > 1 else 1_000_000))
