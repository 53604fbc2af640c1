"""The feed of what others changed, written by every statement but the promoter's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from localstore.postgres.connect import Server
from localstore.schema.tables import Column, Kind, Table
from sync.production import register

if TYPE_CHECKING:
    from tests.integration.production.conftest import Connect, World

Act = Callable[..., AbstractAsyncContextManager[None]]


async def fed(owner: asyncpg.Connection) -> list[tuple[object, ...]]:
    """Return what the feed holds and empty it."""
    rows = await owner.fetch(
        "WITH gone AS (DELETE FROM localstore.feed RETURNING *) "
        "SELECT company_id, tbl, array_to_string(key, '/') AS key, op::text FROM gone ORDER BY id"
    )
    return [tuple(row) for row in rows]


@pytest.fixture
async def quiet(world: World) -> asyncpg.Connection:
    """Give a superuser's connection to the world with an empty feed."""
    await fed(world.owner)
    return world.owner


async def test_each_row_that_a_statement_changed_is_recorded(quiet: asyncpg.Connection) -> None:
    """Inserts, updates and deletes are recorded with company, table, key without company, and operation."""
    await quiet.execute("INSERT INTO comments VALUES ('alpha', '1', 2), ('beta', '1', 2)")
    assert await fed(quiet) == [("alpha", "comments", "2", "i"), ("beta", "comments", "2", "i")]
    await quiet.execute("UPDATE comments SET body = 'x' WHERE number = 2")
    assert sorted(await fed(quiet)) == [("alpha", "comments", "2", "u"), ("beta", "comments", "2", "u")]
    await quiet.execute("DELETE FROM comments WHERE company_id = 'beta'")
    assert sorted(await fed(quiet)) == [("beta", "comments", "1", "d"), ("beta", "comments", "2", "d")]


async def test_a_row_written_as_it_was_is_not_recorded(quiet: asyncpg.Connection) -> None:
    """An update that changes nothing feeds nothing; NULL and another JSON are told apart."""
    await quiet.execute("UPDATE tickets SET title = title, email = email")
    await quiet.execute("UPDATE notes SET raw = raw WHERE false")
    assert await fed(quiet) == []
    await quiet.execute("UPDATE notes SET raw = NULL WHERE company_id = 'alpha'")
    await quiet.execute("UPDATE notes SET raw = 'null' WHERE company_id = 'alpha'")
    assert await fed(quiet) == [("alpha", "notes", "1", "u")] * 2


async def test_C5_a_changed_key_is_recorded_under_both(quiet: asyncpg.Connection) -> None:
    """The row went away under the old key and came under the new one; a swap of keys changes both rows."""
    await quiet.execute("UPDATE notes SET number = 9 WHERE company_id = 'alpha'")
    assert sorted(await fed(quiet), key=str) == [("alpha", "notes", "1", "d"), ("alpha", "notes", "9", "i")]
    await quiet.execute("INSERT INTO notes VALUES ('alpha', 10, '[1]')")
    await fed(quiet)
    await quiet.execute("UPDATE notes SET number = number + 1 WHERE company_id = 'alpha' AND number = 10")
    assert sorted(await fed(quiet), key=str) == [("alpha", "notes", "10", "d"), ("alpha", "notes", "11", "i")]


async def test_a_row_moved_to_another_company_is_recorded_for_both(quiet: asyncpg.Connection) -> None:
    """Only a superuser can do that; both companies hear of it."""
    await quiet.execute("UPDATE notes SET company_id = 'gamma' WHERE company_id = 'alpha'")
    assert sorted(await fed(quiet), key=str) == [("alpha", "notes", "1", "d"), ("gamma", "notes", "1", "i")]


async def test_upserts_and_merges_are_recorded_as_what_they_did(quiet: asyncpg.Connection) -> None:
    """ON CONFLICT and MERGE fire the triggers of the operations that took place."""
    await quiet.execute(
        "INSERT INTO notes VALUES ('alpha', 1, '[]'), ('alpha', 2, '[]') "
        "ON CONFLICT (company_id, number) DO UPDATE SET raw = excluded.raw"
    )
    assert sorted(await fed(quiet), key=str) == [("alpha", "notes", "1", "u"), ("alpha", "notes", "2", "i")]
    await quiet.execute(
        "MERGE INTO notes n USING (VALUES (1), (2), (3)) s (number) ON n.number = s.number AND n.company_id = 'alpha' "
        "WHEN MATCHED AND s.number = 1 THEN DELETE WHEN MATCHED THEN UPDATE SET raw = NULL "
        "WHEN NOT MATCHED THEN INSERT VALUES ('alpha', s.number, NULL)"
    )
    assert sorted(await fed(quiet), key=str) == [
        ("alpha", "notes", "1", "d"),
        ("alpha", "notes", "2", "u"),
        ("alpha", "notes", "3", "i"),
    ]


async def test_cascades_are_recorded_too(quiet: asyncpg.Connection) -> None:
    """Rows that go with their parent are others' changes like any."""
    await quiet.execute("DELETE FROM tickets WHERE company_id = 'alpha'")
    assert sorted(await fed(quiet)) == [("alpha", "comments", "1", "d"), ("alpha", "tickets", "1", "d")]


async def test_copy_is_recorded(quiet: asyncpg.Connection) -> None:
    """A bulk load by a superuser feeds a row for each row."""
    await quiet.copy_records_to_table("notes", records=[("alpha", number, None) for number in range(100, 200)])
    assert {row[2] for row in await fed(quiet)} == {str(number) for number in range(100, 200)}


async def test_truncate_tells_every_tenant(quiet: asyncpg.Connection) -> None:
    """Which rows went is not known any more, so each tenant hears that the whole table is to be compared."""
    await quiet.execute("TRUNCATE notes")
    assert await fed(quiet) == [("alpha", "notes", None, "t"), ("beta", "notes", None, "t")]


async def test_the_promoter_s_own_writes_are_not_recorded(world: World, quiet: asyncpg.Connection) -> None:
    """A promotion names its batch in one row of its own, so its statements feed nothing, whoever logged in."""
    async with quiet.transaction():
        await quiet.execute("SET LOCAL ROLE localstore_promoter")
        await quiet.execute("SELECT set_config('app.current_company_id', 'alpha', true)")
        await quiet.execute("UPDATE tickets SET title = 'x'")
        await quiet.execute("INSERT INTO notes VALUES ('alpha', 5, NULL)")
        await quiet.execute("DELETE FROM comments")
        await quiet.execute("DELETE FROM tickets")
    assert await fed(quiet) == []


async def test_an_application_s_writes_are_recorded_with_its_login(
    world: World, quiet: asyncpg.Connection, login: Callable[..., str], connected: Connect
) -> None:
    """A login without any right on the feed writes to it through the trigger, under its own name."""
    url = login("app_user")
    app = await connected(url)
    async with app.transaction():
        await app.execute("SELECT set_config('app.current_company_id', 'alpha', true)")
        await app.execute("UPDATE tickets SET title = 'x'")
        xid = await app.fetchval("SELECT pg_current_xact_id()::text")
    row = await quiet.fetchrow("SELECT company_id, target, key, op, origin, batch, xid::text FROM localstore.feed")
    assert tuple(row) == ("alpha", "public", ["1"], b"u", Server.parse(url).user, None, xid)


async def test_what_is_rolled_back_leaves_no_trace(quiet: asyncpg.Connection, act: Act) -> None:
    """The feed is written in the writer's transaction."""
    async with act(quiet, None):
        await quiet.execute("DELETE FROM tickets")
    assert await fed(quiet) == []


@pytest.mark.parametrize(
    "setting",
    ["TimeZone = 'Asia/Seoul'", "DateStyle = 'German'", "bytea_output = 'escape'", "extra_float_digits = -15"],
)
async def test_a_key_s_text_is_the_same_in_every_session(world: World, quiet: asyncpg.Connection, setting: str) -> None:
    """Keys of times, bytes and numbers read alike whatever the writer's session displays."""
    shape = Table(
        "keyed",
        (
            Column("at", Kind.TIMESTAMP, nullable=False),
            Column("day", Kind.DATE, nullable=False),
            Column("raw", Kind.BLOB, nullable=False),
            Column("real", Kind.REAL, nullable=False),
        ),
        key=("at", "day", "raw", "real"),
        has_company=False,
    )
    await register(quiet, "public", (shape,))
    async with quiet.transaction():
        await quiet.execute(f"SET LOCAL {setting}")
        await quiet.execute("INSERT INTO keyed VALUES ('a', '2024-02-29 12:00+00', DATE '2024-02-29', '\\x01ff', 0.1)")
    assert await fed(quiet) == [("a", "keyed", "2024-02-29 12:00:00+00/2024-02-29/\\x01ff/0.1", "i")]


async def test_a_type_without_equality_does_not_break_the_feed(world: World, quiet: asyncpg.Connection) -> None:
    """Production may hold columns of its own, of types that cannot be compared."""
    await quiet.execute("ALTER TABLE notes ADD COLUMN place point, ADD COLUMN doc json, DROP COLUMN raw")
    await quiet.execute("UPDATE notes SET place = '(1,1)', doc = '{}' WHERE company_id = 'alpha'")
    assert await fed(quiet) == [("alpha", "notes", "1", "u")]
    await quiet.execute("UPDATE notes SET place = '(1,1)', doc = '{}' WHERE company_id = 'alpha'")
    assert await fed(quiet) == []


async def test_a_large_statement_is_recorded_whole(quiet: asyncpg.Connection) -> None:
    """Twenty thousand rows changed by one statement are twenty thousand keys."""
    await quiet.execute("INSERT INTO notes SELECT 'alpha', n, NULL FROM generate_series(2, 20001) n")
    await fed(quiet)
    await quiet.execute("UPDATE notes SET raw = '[]' WHERE company_id = 'alpha' AND number > 1")
    assert len(await fed(quiet)) == 20_000
