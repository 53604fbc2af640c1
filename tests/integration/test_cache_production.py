"""Cached values and production: every committed change of a row spoils what was made from its table."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from localstore import Cache, ConfigurationError, PostgresStorage, Settings, Ticket, cached
from localstore.cache.backends import caches_at
from localstore.cache.production import ProductionChanges
from localstore.postgres.pool import Pool
from localstore.postgres.server import Server
from tests.integration.promotion import COMPANY, Sides, sides

Login = Callable[..., str]


class Watched:
    """What was made from production's table t, through a pool of a member of app_user, and how often."""

    def __init__(self, pool: Pool, cache: Cache, company: str) -> None:
        self.pool = pool
        self.cache = cache
        self.company = company
        self.made = 0

    async def rows(self) -> list[list[Any]]:
        """Return the rows of the company, through the cache."""

        async def make() -> list[list[Any]]:
            self.made += 1
            async with self.pool.transaction(self.company, readonly=True) as connection:
                return [list(row) for row in await connection.fetch("SELECT id, a FROM t ORDER BY id")]

        return await self.cache.remember("rows", make, tables=("t",))

    async def made_anew(self) -> bool:
        """Look, and return whether the value had to be made."""
        before = self.made
        assert await self.rows() == await self.rows()
        return self.made > before


@pytest.fixture
async def one(tmp_path: Path, production: str) -> AsyncIterator[Sides]:
    """Give a box and a production with three promoted rows."""
    async with sides(tmp_path, production) as one:
        await one.track(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)", "CREATE TABLE quiet (id INTEGER PRIMARY KEY, a TEXT)"
        )
        await one.local("INSERT INTO t VALUES (?, 'a')", [(1,), (2,), (3,)])
        await one.local("INSERT INTO quiet VALUES (1, 'a')")
        await one.push()
        yield one


@pytest.fixture
async def watching(
    one: Sides, tmp_path: Path, production: str, login: Login
) -> AsyncIterator[Callable[[str], Watched]]:
    """Return a function that gives a company's cache over production."""
    server = Server.parse(login("app_user"))
    assert production
    caches = caches_at(tmp_path / "caches", Settings(redis_url=None))
    async with Pool(server) as pool:
        yield lambda company: Watched(
            pool, caches.of(company, changes=ProductionChanges(pool, company, "public")), company
        )
    await caches.close()


async def test_promotions_rollbacks_and_applications_are_noticed(
    one: Sides, watching: Callable[[str], Watched]
) -> None:
    """A promotion, its rollback and an application's write spoil the value; what is about other tables does not."""
    seen, other = watching(COMPANY), watching("beta")
    assert await seen.rows() == [[1, "a"], [2, "a"], [3, "a"]]
    assert await other.rows() == []
    assert not await seen.made_anew()

    await one.local("UPDATE quiet SET a = 'b'")
    await one.push()
    await one.theirs("UPDATE quiet SET a = 'c'")
    assert not await seen.made_anew()

    await one.local("UPDATE t SET a = 'promoted' WHERE id = 1")
    batch = (await one.push()).batch
    assert batch is not None
    assert await seen.rows() == [[1, "promoted"], [2, "a"], [3, "a"]]
    await one.engine.plan()
    assert not await seen.made_anew()
    await one.engine.rollback(batch)
    assert await seen.rows() == [[1, "a"], [2, "a"], [3, "a"]]

    await one.theirs("UPDATE t SET a = a")
    assert not await seen.made_anew()
    await one.theirs("DELETE FROM t WHERE id = 3", "INSERT INTO t VALUES ('beta', 1, 'theirs')")
    assert await seen.rows() == [[1, "a"], [2, "a"]]
    assert await other.rows() == [[1, "theirs"]]
    await one.theirs("UPDATE t SET a = 'x' WHERE company_id = 'beta'")
    assert not await seen.made_anew()
    assert await other.made_anew()
    await one.theirs("TRUNCATE t")
    assert await seen.rows() == []


async def test_a_transaction_that_was_under_way_is_not_overlooked(
    one: Sides, watching: Callable[[str], Watched], production: str
) -> None:
    """A write that began before the value was made and commits after it is noticed, though later ones came first."""
    seen = watching(COMPANY)
    slow = await asyncpg.connect(production)
    try:
        async with slow.transaction():
            await slow.execute("UPDATE t SET a = 'slow' WHERE id = 1")
            await one.theirs("UPDATE t SET a = 'quick' WHERE id = 2")
            assert await seen.rows() == [[1, "a"], [2, "quick"], [3, "a"]]
            assert not await seen.made_anew()
        assert await seen.rows() == [[1, "slow"], [2, "quick"], [3, "a"]]
        async with slow.transaction():
            await slow.execute("UPDATE t SET a = 'slow again' WHERE id = 1")
            assert not await seen.made_anew()
            await slow.execute("SELECT pg_current_xact_id()")
            transaction = "rolled back"
            raise_it = RuntimeError(transaction)
            with pytest.raises(RuntimeError):
                async with slow.transaction():
                    raise raise_it
        assert await seen.made_anew()
    finally:
        await slow.close(timeout=5)


async def test_a_state_that_cannot_be_compared_holds_nothing(
    one: Sides, watching: Callable[[str], Watched], login: Login
) -> None:
    """States of another production, another schema or a file, and noise, are taken for changed, never for an error."""
    seen = watching(COMPANY)
    await seen.rows()
    changes = ProductionChanges(seen.pool, COMPANY, "public")
    state = (await changes.states(["t"]))["t"]
    where, _, snapshot = state.partition("|")
    assert await changes.hold([{"t": state}]) == [True]
    noise = ["", "1:2", "9:1:", f"{'9' * 30}:1:", "1:5:9,8"]
    for wrong in (
        snapshot,
        f"1.00000001.5|{snapshot}",
        *(f"{where}|{text}" for text in noise),
        "0b5c.1.7.0.3",
        "x" * 9999,
    ):
        assert await changes.hold([{"t": wrong}]) == [False], wrong
    assert await ProductionChanges(seen.pool, COMPANY, "elsewhere").states(["t"]) == {}
    with pytest.raises(ConfigurationError):
        await seen.cache.remember("x", seen.rows, tables=("nothing",))


async def test_a_login_hears_only_of_its_companies(one: Sides, production: str, login: Login) -> None:
    """Whether another company's rows changed is not told to a login that is limited, nor without a company."""
    limited = login("app_user")
    await one.theirs(f"SELECT localstore.limit_login('{Server.parse(limited).user}', 'beta')")
    async with Pool(Server.parse(limited)) as pool:
        for company, answer in ((COMPANY, False), ("beta", True)):
            changes = ProductionChanges(pool, company, "public")
            states = await changes.states(["t"])
            assert await changes.hold([states]) == [answer]


@cached(tables=(Ticket,), cache=lambda storage, company, _platform: storage.cache(company))
async def open_tickets(storage: PostgresStorage, company: str, platform: str) -> int:
    """Count the open tickets of a platform."""
    return len(await storage.list_tickets(company, platform, status="open", limit=None))


async def test_a_storage_s_values_follow_its_rows(production: str, login: Login, tmp_path: Path) -> None:
    """`@cached` over PostgresStorage counts anew after a save through any storage, also where several read at once."""
    from localstore.storage.tables import storage_tables
    from sync.production import prepare, register

    owner = await asyncpg.connect(production)
    await prepare(owner)
    await register(owner, "public", storage_tables())
    await owner.close(timeout=5)
    settings, url = Settings(redis_url=None, data_path=tmp_path / "data"), login("app_user")
    async with PostgresStorage(url, settings=settings) as storage, PostgresStorage(url, settings=settings) as other:
        assert await open_tickets(storage, "acme", "jira") == 0
        for number in range(3):
            await other.save_ticket("acme", "jira", {"id": number, "status": "open"})
            found = await asyncio.gather(*(open_tickets(storage, "acme", "jira") for _ in range(5)))
            assert found == [number + 1] * 5
        await other.save_ticket("beta", "jira", {"id": secrets.token_hex(4), "status": "open"})
        assert await open_tickets(storage, "acme", "jira") == 3
        assert (await storage.cache("acme").stats()).hits >= 1
