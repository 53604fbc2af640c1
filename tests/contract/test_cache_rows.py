"""Values that were made from rows: they are made again once any tool has changed a row, and not before."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from localstore import ConfigurationError, InvalidRow, LocalStore, Tenant, TenantModel, cached
from localstore.cache.backends import caches_at
from localstore.sqlite import marks
from localstore.sqlite.backup import back_up
from localstore.sqlite.restore import restore
from tests.contract.caches import settings_of
from tests.contract.redis_server import RedisServer


class CachedNote(TenantModel, table=True):
    """Something that values are made from."""

    text: str


class CachedOther(TenantModel, table=True):
    """Something else."""

    text: str


MADE: list[str] = []


@cached(tables=(CachedNote,))
async def texts(tenant: Tenant, order: str = "text") -> list[str]:
    """Return the texts of all notes."""
    MADE.append(order)
    return sorted(note.text for note in await tenant.find(CachedNote))


@cached(tables=("cachednote", CachedOther))
async def sizes(tenant: Tenant) -> dict[str, int]:
    """Return how many rows there are of both."""
    MADE.append("sizes")
    return {"notes": len(await tenant.find(CachedNote)), "others": len(await tenant.find(CachedOther))}


def open_store(backend: str, root: Path, server: RedisServer) -> LocalStore:
    """Open the store with the backend's cache."""
    return LocalStore(root / "data", models=[CachedNote, CachedOther], settings=settings_of(backend, server))


@pytest.fixture
async def tenant(cache_backend: str, tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[Tenant]:
    """Give a tenant with one note."""
    MADE.clear()
    async with open_store(cache_backend, tmp_path, redis_server) as store:
        tenant = store.tenant("alpha")
        await tenant.put(CachedNote(id=UUID(int=1), text="first"))
        yield tenant
        await tenant.cache.clear()


async def test_every_way_to_write_is_noticed(tenant: Tenant) -> None:
    """After a write of any kind, by any tool, the value is made from the rows as they are now."""

    async def by_session() -> None:
        async with tenant.session() as session:
            session.add(CachedNote(id=UUID(int=5), text="session"))
            await session.commit()

    def by_shell(statement: str) -> Any:
        # A connection that knows nothing of us, as the shell's is.
        with closing(sqlite3.connect(tenant.database.path, isolation_level=None)) as shell:
            shell.execute(statement)

    assert await texts(tenant) == await texts(tenant) == ["first"]
    await tenant.put(CachedNote(id=UUID(int=2), text="second"))
    assert await texts(tenant) == await texts(tenant) == ["first", "second"]
    await tenant.put(CachedNote(id=UUID(int=2), text="changed"))
    assert await texts(tenant) == ["changed", "first"]
    await tenant.delete(CachedNote, UUID(int=2))
    assert await texts(tenant) == ["first"]
    await by_session()
    assert await texts(tenant) == ["first", "session"]
    await asyncio.to_thread(by_shell, "UPDATE cachednote SET text = 'shell' WHERE text = 'session'")
    assert await texts(tenant) == ["first", "shell"]
    await asyncio.to_thread(by_shell, "INSERT OR REPLACE INTO cachednote SELECT * FROM cachednote")
    await asyncio.to_thread(by_shell, "DELETE FROM cachednote WHERE text = 'shell'")
    assert await texts(tenant) == await texts(tenant) == ["first"]
    assert len(MADE) == 7


async def test_what_was_rolled_back_and_what_was_not_changed_costs_nothing(tenant: Tenant) -> None:
    """Other tables, other tenants' rows, a rolled back session and a put of what is there leave the value alone."""
    assert await texts(tenant) == ["first"]
    found = await tenant.get(CachedNote, UUID(int=1))
    assert found is not None
    await tenant.put(found)
    await tenant.put(CachedOther(text="other"))
    async with tenant.session() as session:
        session.add(CachedNote(text="never"))
        await session.flush()
        await session.rollback()
    assert await texts(tenant) == ["first"]
    assert await texts(tenant, order="text") == ["first"]
    assert len(MADE) == 1
    assert await sizes(tenant) == {"notes": 1, "others": 1}
    await tenant.put(CachedOther(text="another"))
    assert await sizes(tenant) == {"notes": 1, "others": 2}
    assert await texts(tenant, order="id") == ["first"]
    assert MADE == ["text", "sizes", "sizes", "id"]


async def test_what_is_not_there_any_more_is_in_nobodys_way(tenant: Tenant) -> None:
    """Where `get` finds nothing because a row has changed, `add` and `incr` find nothing, too."""
    cache = tenant.cache
    for call, answer in ((partial(cache.add, "key", 7), True), (partial(cache.incr, "key"), 1)):
        await cache.remember("key", lambda: asyncio.sleep(0, "made"), tables=(CachedNote,))
        assert not await cache.add("key", 7)
        with pytest.raises(InvalidRow):
            await cache.incr("key")
        await tenant.put(CachedNote(text="another"))
        assert await call() == answer
        assert await cache.delete("key")


async def test_acknowledged_marks_take_no_value_along(tenant: Tenant) -> None:
    """Trimming marks neither spoils a value nor lets an old one come back, whatever the numbers of later marks are."""
    other = CachedOther(text="other")
    assert await texts(tenant) == ["first"]
    for number in range(3):
        await tenant.put(other)
        other.text = str(number)
        await tenant.database.write(lambda file: marks.trim(file, marks.newest(file)))
        assert await texts(tenant) == ["first"]
    assert len(MADE) == 1
    await tenant.put(CachedNote(id=UUID(int=1), text="changed"))
    await tenant.database.write(lambda file: marks.trim(file, marks.newest(file)))
    assert await texts(tenant) == ["changed"]
    assert len(MADE) == 2


async def test_a_value_made_while_a_row_changed_is_made_again(tenant: Tenant) -> None:
    """A write between the reading of the rows and the keeping of the value is not hidden by it."""

    async def slow() -> list[str]:
        found = [note.text for note in await tenant.find(CachedNote)]
        if len(MADE) == 0:
            MADE.append("slow")
            await tenant.put(CachedNote(id=UUID(int=1), text="changed meanwhile"))
        return found

    assert await tenant.cache.remember("key", slow, tables=(CachedNote,)) == ["first"]
    assert await tenant.cache.get("key", "absent") == "absent"
    assert await tenant.cache.remember("key", slow, tables=(CachedNote,)) == ["changed meanwhile"]
    assert await tenant.cache.get("key") == ["changed meanwhile"]
    await tenant.put(CachedNote(text="more"))
    assert await tenant.cache.get_many(["key"]) == {}


async def test_another_process_sees_the_same_states(
    tenant: Tenant, cache_backend: str, tmp_path: Path, redis_server: RedisServer
) -> None:
    """A store opened later uses what this one made, and no longer does so once a row has changed."""
    assert await texts(tenant) == ["first"]
    for number in range(3):
        await tenant.put(CachedOther(text=str(number)))
    await tenant.database.write(lambda file: marks.trim(file, 2))
    async with open_store(cache_backend, tmp_path, redis_server) as store:
        assert await texts(store.tenant("alpha")) == ["first"]
        assert len(MADE) == 1
        await store.tenant("alpha").put(CachedNote(text="second"))
        assert await texts(store.tenant("alpha")) == ["first", "second"]
    assert await texts(tenant) == ["first", "second"]
    assert len(MADE) == 2


async def test_another_tenant_has_values_of_its_own(
    tenant: Tenant, cache_backend: str, tmp_path: Path, redis_server: RedisServer
) -> None:
    """The same function called for two tenants gives each the rows of its own file."""
    async with open_store(cache_backend, tmp_path, redis_server) as store:
        beta = store.tenant("beta")
        await beta.put(CachedNote(id=UUID(int=1), text="beta's"))
        assert await texts(tenant) == ["first"]
        assert await texts(beta) == ["beta's"]
        assert await texts(tenant) == ["first"]
        await beta.cache.clear()
    assert len(MADE) == 2


async def test_a_restored_file_and_a_new_one_begin_anew(
    cache_backend: str, tmp_path: Path, redis_server: RedisServer
) -> None:
    """A value from before a restore, or of a file that was removed, is not served for another state with its number."""
    MADE.clear()
    folder = tmp_path / "data" / "alpha"
    async with open_store(cache_backend, tmp_path, redis_server) as store:
        tenant = store.tenant("alpha")
        await tenant.put(CachedNote(id=UUID(int=1), text="backed up"))
        backup = await back_up(tenant.database)
        await tenant.put(CachedNote(id=UUID(int=1), text="later"))
        assert await texts(tenant) == ["later"]
    await asyncio.to_thread(restore, folder, "alpha", backup.path)
    async with open_store(cache_backend, tmp_path, redis_server) as store:
        tenant = store.tenant("alpha")
        await tenant.put(CachedNote(id=UUID(int=1), text="another way"))
        assert await texts(tenant) == ["another way"]
    for path in folder.glob("store.db*"):
        path.unlink()
    async with open_store(cache_backend, tmp_path, redis_server) as store:
        tenant = store.tenant("alpha")
        await tenant.put(CachedNote(id=UUID(int=1), text="new file"))
        await tenant.put(CachedNote(id=UUID(int=1), text="new file, changed"))
        assert await texts(tenant) == ["new file, changed"]
        await tenant.cache.clear()


async def test_a_gap_in_capture_spoils_what_was_made_before_it(
    tenant: Tenant, cache_backend: str, tmp_path: Path, redis_server: RedisServer
) -> None:
    """Where triggers were dropped nothing from before is believed, and nothing from in between once they are back."""
    assert await texts(tenant) == ["first"]

    def drop_and_write() -> None:
        with closing(sqlite3.connect(tenant.database.path, isolation_level=None)) as shell:
            names = [row[0] for row in shell.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'")]
            for name in names:
                shell.execute(f'DROP TRIGGER "{name}"')
            shell.execute("UPDATE cachednote SET text = 'unmarked'")

    await asyncio.to_thread(drop_and_write)
    assert await texts(tenant) == ["unmarked"]
    async with open_store(cache_backend, tmp_path, redis_server) as store:
        assert await texts(await store.tenant("alpha").open()) == ["unmarked"]
    assert len(MADE) == 3


async def test_tables_that_nobody_follows_are_refused(tenant: Tenant) -> None:
    """A value follows tracked tables, given as models or names; anything else is an error instead of going stale."""

    async def make() -> int:
        return 1

    for tables in (("nothing",), (CachedNote, "localstore_state"), (7,), "cachednote"):
        with pytest.raises(ConfigurationError):
            await tenant.cache.remember("key", make, tables=tables)


async def test_arguments_make_the_key(tenant: Tenant) -> None:
    """Calls that mean the same share a value however they are written, and different arguments never do."""
    seen: list[Any] = []

    @cached(ttl=60, key="echo")
    async def echo(tenant: Tenant, /, one: Any, *more: Any, named: Any = None, **others: Any) -> list[Any]:
        seen.append(one)
        return [one, list(more), named, others]

    for value in (1, 1.0, True, "1", None, "null", [1], {"a": 1}, "x" * 5000, "x" * 5001, "한국"):
        assert await echo(tenant, value) == [value, [], None, {}]
        assert await echo(tenant, one=value, named=None) == [value, [], None, {}]
    assert len(seen) == 11
    assert await echo(tenant, 1, 2, other="x") == [1, [2], None, {"other": "x"}]
    assert await echo(tenant, 1, named=[2]) == [1, [], [2], {}]
    assert len(seen) == 13
    with pytest.raises(InvalidRow):
        await echo(tenant, object())
    with pytest.raises(TypeError):
        await echo(tenant)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError):
        cached(ttl=0)
    with pytest.raises(ConfigurationError):
        await echo("no tenant", 1)  # type: ignore[arg-type]


async def test_functions_share_a_value_only_if_they_are_one(tenant: Tenant) -> None:
    """Functions made from what is around them have one name, so each needs a key of its own; with one it has it."""

    def factory(number: int, key: str | None) -> Any:
        @cached(ttl=60, key=key)
        async def price(tenant: Tenant, /, times: int = 1) -> int:
            return number * times

        return price

    with pytest.raises(ConfigurationError, match="price"):
        factory(1, None)
    one, two = factory(1, "price 1"), factory(2, "price 2")
    assert (await one(tenant), await two(tenant), await one(tenant, 3), await two(tenant, times=3)) == (1, 2, 3, 6)
    long = [factory(number, f"{'x' * 1000}{number}") for number in range(3)]
    assert [await each(tenant) for each in long] == [0, 1, 2]
    for refused in ("\ud800", "x" * 1025, 5):
        with pytest.raises(ConfigurationError):
            factory(1, refused)  # type: ignore[arg-type]


async def test_what_is_given_by_name_has_no_order(tenant: Tenant) -> None:
    """Arguments by name mean the same in any order, also those that the function does not name."""

    @cached(ttl=60)
    async def pairs(tenant: Tenant, /, **named: int) -> dict[str, int]:
        return named

    await pairs(tenant, a=1, b=2)
    await pairs(tenant, b=2, a=1)
    assert (await tenant.cache.stats()).entries == 1


PROGRAM = """
import asyncio, sys
from localstore import cached
from localstore.cache.backends import caches_at
from localstore.config import Settings
from pydantic import SecretStr

@cached(ttl=60, cache=lambda cache: cache)
async def answer(cache):
    return "{answer}"

async def main():
    url = sys.stdin.readline().strip()
    caches = caches_at(sys.argv[1], Settings(redis_url=SecretStr(url) if url else None))
    print(await answer(caches.of("alpha")))
    await caches.close()

asyncio.run(main())
"""


async def test_two_programs_are_two(cache_backend: str, tmp_path: Path, redis_server: RedisServer) -> None:
    """Every program is called `__main__`; a function of one is not taken for another's, and its own value is found."""
    url = redis_server.url if cache_backend == "redis" else ""

    def run(*program: str | Path, folder: Path = tmp_path) -> str:
        command = [sys.executable, *program, tmp_path / "data"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
        return subprocess.run(
            command, input=url, capture_output=True, text=True, check=True, env=environment
        ).stdout.strip()

    try:
        for name in ("first", "second"):
            (tmp_path / f"{name}.py").write_text(PROGRAM.replace("{answer}", name))
            assert run(tmp_path / f"{name}.py") == name
            assert run("-m", name) == name
            # What a shell is given has no file, so nobody can tell it from another.
            assert run("-c", PROGRAM.replace("{answer}", f"shell {name}")) == f"shell {name}"
        (tmp_path / "first.py").write_text(PROGRAM.replace("{answer}", "a later version of it"))
        assert run(tmp_path / "first.py") == "first"
        assert run("-m", "first") == "first"
    finally:
        caches = caches_at(tmp_path / "data", settings_of(cache_backend, redis_server))
        await caches.of("alpha").clear()
        await caches.close()
