"""Lists and counts of storages are answered from indexes, and what they cost grows with the page, not the tenant."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from localstore import FileStorage, PostgresStorage
from localstore.postgres.connect import Server, connection_to
from localstore.storage import file, postgres
from localstore.storage.answers import FAILED, PROCESSED
from localstore.storage.page import Page
from localstore.storage.tables import storage_tables
from sync.production import prepare, register

ROWS = 20_000
FILTERS: list[Any] = [
    pytest.param({}, id="all"),
    pytest.param({"status": "rare"}, id="status"),
    pytest.param({"processing_status": "failed"}, id="processing-status"),
]

_MAKE = """
INSERT INTO tickets (company_id, platform, ticket_id, status, processing_status, is_processed, created_at, updated_at)
SELECT c, p, 'T-' || n, CASE WHEN n % 500 = 0 THEN 'rare' ELSE 'open' END,
    CASE WHEN n % 400 = 0 THEN 'failed' ELSE 'pending' END, false,
    timestamptz '2024-01-01Z' + n * interval '1 minute', now()
FROM generate_series(1, 20000) n, unnest(ARRAY['alpha', 'beta']) c, unnest(ARRAY['freshdesk', 'jira']) p
"""


def page(platform: str | None = "freshdesk", **filters: Any) -> Page:
    """Return the second page of a list."""
    return Page(platform, filters.get("status"), filters.get("processing_status"), limit=100, offset=100)


@pytest.fixture
async def app(production: str, login: Callable[..., str]) -> AsyncIterator[asyncpg.Connection]:
    """Give the connection of a member of app_user to a production with 80,000 tickets of two companies."""
    async with connection_to(Server.parse(production)) as owner:
        await prepare(owner)
        await register(owner, "public", storage_tables())
        await owner.execute("ALTER TABLE tickets DISABLE TRIGGER USER")
        await owner.execute(_MAKE)
        await owner.execute("ALTER TABLE tickets ENABLE TRIGGER USER")
        await owner.execute("VACUUM ANALYZE tickets")
    async with connection_to(Server.parse(login("app_user"))) as connection, connection.transaction():
        await connection.execute("SELECT set_config('app.current_company_id', 'alpha', true)")
        yield connection


async def test_production_lists_from_an_index_led_by_the_company(app: asyncpg.Connection) -> None:
    """Under row-level security no list, with or without a platform or a filter, reads the table from end to end."""
    for filters in ({}, {"status": "rare"}, {"processing_status": "failed"}):
        for platforms in (["freshdesk"], ["freshdesk", "jira"]):
            condition, values = page(**filters).condition(
                "tickets", "alpha", platforms, postgres._ORDER, lambda place: f"${place}"
            )
            lines = await app.fetch(
                f"EXPLAIN (ANALYZE, COSTS OFF) SELECT raw_data FROM tickets WHERE {condition}", *values
            )
            plan = "\n".join(line[0] for line in lines)
            assert "Seq Scan" not in plan, plan
            assert "Index Scan" in plan or "Bitmap Index Scan" in plan, plan


async def test_production_finds_the_platforms_by_steps(app: asyncpg.Connection) -> None:
    """Platforms are found by a step through the index for each, not by reading all rows."""
    lines = await app.fetch(f"EXPLAIN {postgres._PLATFORMS.format('tickets')}", "alpha")
    plan = "\n".join(line[0] for line in lines)
    assert "Seq Scan" not in plan
    assert [row[0] for row in await app.fetch(postgres._PLATFORMS.format("tickets"), "alpha")] == ["freshdesk", "jira"]


@pytest.mark.parametrize("filters", FILTERS)
async def test_a_file_lists_from_an_index_led_by_the_company(tmp_path: Path, filters: dict[str, str]) -> None:
    """SQLite searches an index for each part of a list and scans no table; unfiltered, it sorts ties only."""
    async with FileStorage(tmp_path) as storage:
        await storage.save_ticket("alpha", "freshdesk", {"id": 1})
        database = (await storage.store.tenant("alpha").open()).database

        def explain(connection: sqlite3.Connection) -> list[str]:
            condition, values = page(**filters).condition(
                "tickets", "alpha", ["freshdesk", "jira"], file._ORDER, lambda _place: "?"
            )
            plan = connection.execute(f"EXPLAIN QUERY PLAN SELECT raw_data FROM tickets WHERE {condition}", values)
            return [row[3] for row in plan]

        plan = await database.read(explain)
    on_table = [line for line in plan if "tickets" in line]
    assert len(on_table) == 3
    assert all(line.startswith("SEARCH tickets USING") and "company_id=?" in line for line in on_table), plan
    if not filters:
        assert sum("ix_tickets_created_at" in line for line in on_table) == 2, plan
        assert "USE TEMP B-TREE FOR ORDER BY" not in plan[plan.index(on_table[0]) + 1 : plan.index(on_table[1])]


async def test_progress_is_counted_by_the_companys_index(app: asyncpg.Connection, tmp_path: Path) -> None:
    """On both, counting looks at the platform's own tickets only."""
    lines = await app.fetch(
        f"EXPLAIN {postgres._PROGRESS.format('tickets')}", "alpha", "jira", list(PROCESSED), list(FAILED)
    )
    plan = "\n".join(line[0] for line in lines)
    assert "Index Cond: ((company_id = 'alpha'::text) AND (platform = 'jira'::text))" in plan, plan
    async with FileStorage(tmp_path) as storage:
        await storage.save_ticket("alpha", "freshdesk", {"id": 1})
        database = (await storage.store.tenant("alpha").open()).database
        values = (*PROCESSED, *FAILED, "alpha", "freshdesk")
        (row,) = await database.read(
            lambda connection: connection.execute(f"EXPLAIN QUERY PLAN {file._PROGRESS}", values).fetchall()
        )
    assert row[3].startswith("SEARCH tickets USING")
    assert row[3].endswith("(company_id=? AND platform=?)")


async def test_a_page_of_a_large_tenant_is_the_same_from_both(
    app: asyncpg.Connection, production: str, tmp_path: Path
) -> None:
    """The page that indexes give is the page that sorting everything gives."""
    del app, tmp_path
    async with PostgresStorage(production) as storage:
        for platform in (None, "jira"):
            listed = await storage.list_tickets("alpha", platform, status="rare", limit=7, offset=5)
            whole = await storage.list_tickets("alpha", platform, limit=None)
            assert listed == [found for found in whole if found["status"] == "rare"][5:12]
        assert len(whole) == ROWS
