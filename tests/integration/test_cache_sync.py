"""Cached values and sync: a pull or a rollback spoils what was made from the rows it changed, a promotion does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from localstore import Tenant
from localstore.cache.changes import FileChanges
from localstore.sqlite.database import Database
from tests.integration.promotion import COMPANY, Sides, sides
from tests.integration.test_pull import second_box

TABLES = (
    "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT)",
    "CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES t ON DELETE CASCADE)",
    "CREATE TABLE quiet (id INTEGER PRIMARY KEY, a TEXT)",
)


class Watched:
    """What was made from each table of a tenant, and how often."""

    def __init__(self, one: Sides, tenant: Tenant) -> None:
        self.one = one
        self.tenant = tenant
        self.made: list[str] = []

    async def rows(self, table: str) -> list[tuple[Any, ...]]:
        """Return a table's rows through the cache; they must be those that the file has."""

        async def make() -> list[list[Any]]:
            self.made.append(table)
            return [list(row) for row in await self.one.rows(f"SELECT * FROM {table} ORDER BY id")]

        found = [tuple(row) for row in await self.tenant.cache.remember(table, make, tables=(table,))]
        assert found == await self.one.rows(f"SELECT * FROM {table} ORDER BY id")
        return found

    async def made_anew(self) -> set[str]:
        """Look at every table, and return those that were not in the cache any more."""
        self.made.clear()
        for table in ("t", "child", "quiet"):
            await self.rows(table)
        return set(self.made)


async def watched(one: Sides) -> Watched:
    """Return the cache of the tenant, which has seen everything once."""
    found = Watched(one, await one.store.tenant(COMPANY).open())
    await found.made_anew()
    return found


async def test_a_value_follows_promotions_pulls_and_rollbacks(tmp_path: Path, production: str) -> None:
    """What changes rows of the file spoils the values made from their tables, what leaves them alone does not."""
    async with sides(tmp_path, production) as one:
        await one.track(*TABLES)
        await one.local("INSERT INTO t VALUES (?, 'a', 'b')", [(1,), (2,), (3,)])
        await one.local("INSERT INTO child VALUES (?, 3)", [(1,), (2,)])
        await one.local("INSERT INTO quiet VALUES (1, 'q')")
        seen = await watched(one)
        batch = (await one.push()).batch
        assert batch is not None
        assert await seen.made_anew() == set()

        await one.theirs("UPDATE t SET a = 'theirs' WHERE id = 1")
        await one.engine.pull([COMPANY])
        assert await seen.made_anew() == {"t"}
        await one.engine.pull([COMPANY])
        assert await seen.made_anew() == set()

        # The pull has taken its own marks away, so the next mark has the number of one of them.
        await one.local("UPDATE t SET b = 'ours' WHERE id = 2")
        assert await seen.made_anew() == {"t"}
        await one.theirs("UPDATE t SET a = 'theirs again' WHERE id = 2")
        await one.engine.pull([COMPANY])
        assert (2, "theirs again", "ours") in await seen.rows("t")
        assert await seen.made_anew() == set()

        await one.theirs("DELETE FROM t WHERE id = 3")
        await one.engine.pull([COMPANY])
        assert {"t", "child"} <= await seen.made_anew()
        await one.push()
        assert await seen.made_anew() == set()

        await one.local("UPDATE quiet SET a = 'taken back'")
        second = (await one.push()).batch
        assert second is not None
        assert await seen.made_anew() == {"quiet"}
        await one.engine.rollback(second)
        await one.engine.pull([COMPANY])
        await seen.made_anew()
        assert await seen.rows("quiet") == [(1, "taken back")]
        (held,) = await one.engine.held()
        await one.engine.quarantine.discard(held.address, [COMPANY])
        assert await seen.made_anew() == {"quiet"}
        assert await seen.rows("quiet") == [(1, "q")]

        await one.push()
        assert await one.engine.held() == []
        await one.theirs("UPDATE quiet SET a = 'while away'")
        await one.engine.rebase([COMPANY])
        assert await seen.rows("quiet") == [(1, "while away")]


async def test_a_pull_that_only_settles_marks_brings_no_old_value_back(tmp_path: Path, production: str) -> None:
    """Where production made the same change, its marks go and no row changes; what was made before is still too old."""
    async with sides(tmp_path, production) as one:
        await one.track(*TABLES)
        await one.local("INSERT INTO t VALUES (?, 'a', 'b')", [(1,), (2,)])
        await one.push()
        await one.engine.pull([COMPANY])
        seen = await watched(one)
        await one.local("UPDATE t SET a = 'both' WHERE id = 2")
        await one.theirs("UPDATE t SET a = 'both' WHERE id = 2")
        await one.engine.pull([COMPANY])
        assert await seen.rows("t") == [(1, "a", "b"), (2, "both", "b")]
        other = Watched(one, seen.tenant)
        other.tenant.cache._following._changes = FileChanges(lambda: _answer(one.database))
        assert await other.made_anew() == set()


async def _answer(database: Database) -> Database:
    return database


async def test_a_rollback_reaches_the_other_box_s_cache(tmp_path: Path, production: str) -> None:
    """A box that pulled a batch and cached its rows sees the former rows after the batch was taken back."""
    async with sides(tmp_path, production) as one:
        await one.track(*TABLES)
        await one.local("INSERT INTO t VALUES (1, 'a', 'b')")
        await one.push()
        await one.local("UPDATE t SET a = 'wrong'")
        batch = (await one.push()).batch
        assert batch is not None
        async with second_box(tmp_path, production) as two:
            seen = await watched(two)
            assert await seen.rows("t") == [(1, "wrong", "b")]
            await one.engine.rollback(batch)
            await two.engine.pull([COMPANY])
            assert await seen.made_anew() == {"t"}
            assert await seen.rows("t") == [(1, "a", "b")]


async def test_a_read_only_copy_s_values_follow_its_refreshes(tmp_path: Path, production: str) -> None:
    """Where production is the truth and the file a copy, a pull into the closed file spoils what it changed."""
    async with sides(tmp_path, production) as one:
        await one.track(*TABLES)
        await one.local("INSERT INTO t VALUES (1, 'a', 'b')")
        await one.push()
        await one.engine.modes.advance(COMPANY, until="postgresql")
        seen = await watched(one)
        await one.theirs("UPDATE t SET a = 'theirs'")
        assert await seen.made_anew() == set()
        await one.engine.pull([COMPANY])
        assert await seen.made_anew() == {"t"}
        assert await seen.rows("t") == [(1, "theirs", "b")]
        await one.engine.modes.back(COMPANY)
        await one.local("UPDATE t SET a = 'ours'")
        assert "t" in await seen.made_anew()
