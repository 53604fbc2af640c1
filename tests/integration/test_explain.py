"""The plans of the hot queries among 50,000 tickets: each goes by an index that is led by the company."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from localstore import LocalStore
from localstore.helpdesk import Ticket
from localstore.helpdesk.filters import After
from localstore.helpdesk.repository import TicketRepository
from localstore.postgres.connect import Server, connection_to
from localstore.postgres.pool import Pool
from localstore.tenant import Tenant
from tests.conftest import Login
from tests.integration.helpdesk import make_tables

ACME = ("acme", "jira")
ROWS = 50_000
MIDDLE = After(datetime(2020, 1, 10, tzinfo=UTC), "T-5")
FILTERS: dict[str, Any] = {
    "status": {"status": ["open"]},
    "statuses": {"status": ["open", "pending"]},
    "a status or none": {"status": ["open", None]},
    "priority": {"priority": ["urgent"]},
    "assignee": {"assignee_email": ["person3@example.com", "person4@example.com"]},
    "processed": {"is_processed": True},
    "not processed": {"is_processed": False},
    "dates": {"date_range": {"start": "2020-01-05", "end": "2020-01-06"}},
    "every filter": {
        "status": ["open"],
        "priority": ["low"],
        "assignee_email": ["person3@example.com"],
        "is_processed": False,
        "date_range": {"start": "2020-01-05"},
    },
}
HOT: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "a list": ("get_tickets", ACME, {}),
    "a page by offset": ("get_tickets", (*ACME, None, 100, 500), {}),
    "a page by key": ("get_tickets", ACME, {"after": MIDDLE}),
    "a page by key of a status": ("get_tickets", (*ACME, FILTERS["status"]), {"after": MIDDLE}),
    **{f"a list by {name}": ("get_tickets", (*ACME, filters), {}) for name, filters in FILTERS.items()},
    "a ticket": ("get_ticket_by_id", (*ACME, "T-7"), {}),
    "statistics": ("get_ticket_stats", ACME, {}),
    "tickets with conversations": ("get_threads", ACME, {}),
    "conversations": ("get_conversations", (*ACME, ["T-7", "T-8"]), {}),
}

# Whatever the share of tickets that meet them, these lists read no others.
OWN_INDEX: dict[str, str] = {
    "a page by key of a status": " ix_tickets_status (company_id=? AND platform=? AND status=?",
    "a list by status": " ix_tickets_status (company_id=? AND platform=? AND status=?",
    "a list by statuses": " ix_tickets_status (company_id=? AND platform=? AND status=?",
    "a list by a status or none": " ix_tickets_status (company_id=? AND platform=? AND status=?",
    "a list by priority": " ix_tickets_priority (company_id=? AND platform=? AND priority=?",
    "a list by assignee": " ix_tickets_assignee (company_id=? AND platform=? AND assignee_email=?",
    "a list by processed": " ix_tickets_processed (company_id=? AND platform=? AND is_processed=?",
    "a list by not processed": " ix_tickets_processed (company_id=? AND platform=? AND is_processed=?",
}

SPELLED_OTHERWISE = "SEARCH tickets USING COVERING INDEX ix_tickets_otherwise (company_id=? AND platform=?)"

_FILL_SQLITE = """
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)
INSERT INTO tickets (company_id, id, platform, ticket_id, created_at, updated_at, title, status, priority,
    assignee_email, is_processed, processing_status, raw_data)
SELECT 'acme', printf('%032x', i), 'jira', 'T-' || i,
    strftime('%Y-%m-%d %H:%M:%S.000000', 1577836800 + i * 37, 'unixepoch'), '2020-01-01 00:00:00.000000',
    'Ticket ' || i,
    CASE i * 7 % 5 WHEN 0 THEN 'open' WHEN 1 THEN 'pending' WHEN 2 THEN NULL ELSE 'closed' END,
    CASE i % 3 WHEN 0 THEN 'low' WHEN 1 THEN 'high' ELSE 'urgent' END,
    'person' || (i % 200) || '@example.com', i % 2, 'pending', '{"x": "' || hex(zeroblob(200)) || '"}'
FROM n
"""

# Other companies and another platform are there, too, so that an index not led by them would show. A ticket's payload
# is as large as real ones are when they have little text.
_FILL_POSTGRES = f"""
INSERT INTO tickets (company_id, id, platform, ticket_id, created_at, updated_at, title, status, priority,
    assignee_email, is_processed, processing_status, raw_data)
SELECT CASE WHEN i % 5 < 2 THEN 'acme' ELSE 'company' || i % 5 END, gen_random_uuid(),
    CASE WHEN i % 10 = 1 THEN 'zendesk' ELSE 'jira' END, 'T-' || i,
    timestamptz '2020-01-01 00:00+00' + i * interval '37 s', timestamptz '2020-01-01 00:00+00', 'Ticket ' || i,
    CASE i * 7 % 11 WHEN 0 THEN 'open' WHEN 1 THEN 'pending' WHEN 2 THEN NULL ELSE 'closed' END,
    CASE i % 3 WHEN 0 THEN 'low' WHEN 1 THEN 'high' ELSE 'urgent' END,
    'person' || (i % 200) || '@example.com', i % 2 = 1, 'pending', jsonb_build_object('x', repeat('y', 1000))
FROM generate_series(1, {ROWS}) i
"""
_FILL_CONVERSATIONS = """
INSERT INTO conversations (company_id, id, platform, ticket_id, conversation_id, created_at, content)
SELECT company_id, gen_random_uuid(), platform, ticket_id, '1', created_at, repeat('z', 200) FROM tickets
ORDER BY created_at LIMIT 10000
"""

_ALL_VISIBLE = "SELECT relallvisible = relpages FROM pg_class WHERE oid = $1::text::regclass"


@pytest.fixture
async def tenant(tmp_path: Path) -> AsyncIterator[Tenant]:
    """Give a tenant with the tickets, of which SQLite has no statistics."""
    async with LocalStore(tmp_path / "data") as store, store.tenant("acme") as tenant:
        await tenant.put(Ticket(platform="zendesk", ticket_id="1"))
        await tenant.database.write(lambda connection: connection.execute(_FILL_SQLITE, {"rows": ROWS}).rowcount)
        yield tenant


@pytest.fixture
async def pool(production: str, login: Login) -> AsyncIterator[Pool]:
    """Give one connection of a login that is only a member of `app_user` to a production with the tickets."""
    await make_tables(production)
    async with connection_to(Server.parse(production)) as owner:
        await owner.execute("SET statement_timeout = '60s'")
        await owner.execute("SET default_statistics_target = 1000")  # No sample, but every row.
        for table, statement in (("tickets", _FILL_POSTGRES), ("conversations", _FILL_CONVERSATIONS)):
            # Beside a worker of the server's own, VACUUM could not tell that every row is seen by all.
            await owner.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
            await owner.execute(statement)
            # Without statistics of the tickets each conversation's foreign key would be looked up by a poor plan.
            await owner.execute(f"VACUUM ANALYZE {table}")
            while not await owner.fetchval(_ALL_VISIBLE, table):
                await owner.execute(f"VACUUM {table}")
    async with Pool(Server.parse(login("app_user")), max_size=1) as pool:
        yield pool


async def test_every_hot_query_goes_by_a_companys_index_in_sqlite(tenant: Tenant) -> None:
    """Each query searches an index from company and platform on, before and after ANALYZE, and never scans."""
    repository = TicketRepository(tenant)
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    async def plan(statement: str, parameters: Any) -> list[tuple[int, str]]:
        explained = f"EXPLAIN QUERY PLAN {statement}"
        rows = await tenant.database.read(lambda connection: connection.execute(explained, parameters).fetchall())
        return [(parent, line) for _, parent, _, line in rows]

    for prepare in ("ANALYZE", "PRAGMA optimize"):
        for name, (method, arguments, options) in HOT.items():
            event.listen(Engine, "before_cursor_execute", note)
            try:
                await getattr(repository, method)(*arguments, **options)
            finally:
                event.remove(Engine, "before_cursor_execute", note)
            queries, asked = asked, []
            if method in ("get_tickets", "get_threads"):
                assert await plan(*queries.pop(0)) == [(0, SPELLED_OTHERWISE)], name
            assert queries, name
            for query in queries:
                lines = await plan(*query)
                reads = [line for _, line in lines if re.search(r" (tickets|conversations)\b", line)]
                assert reads, name
                for line in reads:
                    assert re.match(r"SEARCH .* INDEX \w+ \(company_id=\? AND platform=\?", line), (name, lines)
                    assert name not in OWN_INDEX or OWN_INDEX[name] in line, (name, lines)
                # Where tickets are read only those of one moment are sorted, so that a page ends the search.
                reading = {parent for parent, line in lines if line in reads}
                sorting = {parent for parent, line in lines if line == "USE TEMP B-TREE FOR ORDER BY"}
                assert method != "get_tickets" or not reading & sorting, (name, lines)
        await tenant.database.write(partial(_run, prepare))


async def test_times_that_are_spelled_otherwise_leave_the_others_to_their_index(tenant: Tenant) -> None:
    """Where other tools wrote some times, a page reads those, by an index of their own, and no more of the others."""
    spell = "UPDATE tickets SET created_at = replace(created_at, ' ', 'T') WHERE rowid % 5000 = 2"
    await tenant.database.write(partial(_run, spell))
    repository = TicketRepository(tenant)
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    for prepare in ("ANALYZE", "PRAGMA optimize"):
        for name, (method, arguments, options) in HOT.items():
            if method != "get_tickets":
                continue
            asked.clear()
            event.listen(Engine, "before_cursor_execute", note)
            try:
                await repository.get_tickets(*arguments, **options)
            finally:
                event.remove(Engine, "before_cursor_execute", note)
            (_, (statement, values)) = asked
            lines = await tenant.database.read(partial(_fetch, f"EXPLAIN QUERY PLAN {statement}", values))
            reads = [line for _, _, _, line in lines if " tickets " in line]
            assert len(reads) > 2
            *others, found, joined = reads
            for line in others:
                assert re.match(r"SEARCH .* INDEX \w+ \(company_id=\? AND platform=\?", line), (name, lines)
                assert name not in OWN_INDEX or OWN_INDEX[name] in line, (name, lines)
            assert found == SPELLED_OTHERWISE, (name, lines)
            assert joined.removesuffix(" LEFT-JOIN").endswith("(company_id=? AND platform=? AND ticket_id=?)"), lines
            reading = {parent for _, parent, _, line in lines if line in reads}
            sorting = {parent for _, parent, _, line in lines if line == "USE TEMP B-TREE FOR ORDER BY"}
            assert not reading & sorting, (name, lines)
        await tenant.database.write(partial(_run, prepare))


async def test_every_hot_query_goes_by_a_companys_index_in_postgres(pool: Pool) -> None:
    """Each query, as the application's login sends it, reads by an index condition on the company; none scans."""
    repository = TicketRepository(pool)
    asked: list[tuple[str, Any]] = []
    async with pool.transaction("acme") as connection:
        raw = connection._con
    raw.add_query_logger(lambda record: asked.append((record.query, record.args)))
    for name, (method, arguments, options) in HOT.items():
        asked.clear()
        await getattr(repository, method)(*arguments, **options)
        queries = [query for query in asked if query[0].lstrip().startswith("SELECT")]
        assert queries, name
        for text, values in queries:
            async with pool.transaction("acme", readonly=True) as connection:
                await refuses_shortcuts(connection)
                explained = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {text}", *values)
            nodes = list(walk(orjson.loads(explained)[0]["Plan"]))
            kinds = [node["Node Type"] for node in nodes]
            assert "Seq Scan" not in kinds, (name, kinds)
            reads = [
                node for node in nodes if node["Node Type"] in ("Index Scan", "Index Only Scan", "Bitmap Index Scan")
            ]
            assert reads, (name, kinds)
            for node in reads:
                assert "company_id" in node["Index Cond"], (name, node)


def _fetch(statement: str, values: Any, connection: sqlite3.Connection) -> list[Any]:
    return connection.execute(statement, values).fetchall()


def _run(statement: str, connection: sqlite3.Connection) -> None:
    connection.execute(statement).fetchall()


async def refuses_shortcuts(connection: asyncpg.Connection) -> None:
    """See that the plan is one that an application gets: its role, under the policy, with no switch turned."""
    assert await connection.fetchval("SELECT current_user") == "app_user"
    assert await connection.fetchval("SELECT row_security_active('tickets')")
    assert (
        await connection.fetchval("SELECT count(*) FROM pg_settings WHERE name ~ '^enable_' AND source <> 'default'")
        == 0
    )


def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a plan's nodes."""
    yield node
    for child in node.get("Plans", ()):
        yield from walk(child)
