"""An entry that is not what a cache wrote is as good as none, for every call, and is in nobody's way afterwards."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from localstore import Cache, InvalidRow
from localstore.cache import once
from localstore.cache.backends import Caches
from tests.contract.redis_server import RedisServer

Plant = Callable[[Cache, str], Awaitable[None]]
"""Damages what is under a full key, or puts there what is not ours."""

COLUMNS = {
    "another value": "value = x'00000000' || x'31'",
    "a value too short": "value = x''",
    "no value": "value = NULL",
    "a text": "value = '1'",
    "a text that is none": "value = CAST(x'ff' AS TEXT)",
    "a number": "value = 1",
    "a pickle": "mode = 4",
    "a file": "mode = 2, filename = 'x', value = NULL",
    "no end": "expire_time = NULL",
    "an end that is a text": "expire_time = 'never'",
    "an end that is bytes": "expire_time = x'ff'",
}
VALUES = {
    "no JSON": b"\x80\x04\x95",
    "nothing": b"",
    "states that are none": b"\x01[]\n5",
    "no end of its states": b'\x01{"t":"1"}',
}
KINDS = {
    "disk": [*COLUMNS, *VALUES],
    "redis": [*VALUES, "list", "hash"],
}


@pytest.fixture(params=[f"{backend}: {kind}" for backend, kinds in KINDS.items() for kind in kinds])
def damage(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Name a backend and one kind of damage after the other."""
    backend, _, kind = str(request.param).partition(": ")
    return backend, kind


@pytest.fixture
def cache_backend(damage: tuple[str, str]) -> str:
    """Name the backend of the damage."""
    return damage[0]


@pytest.fixture
def plant(damage: tuple[str, str], tmp_path: Path, redis_server: RedisServer) -> Plant:
    """Return a function that does this damage."""
    backend, kind = damage

    def on_disk(full: str) -> None:
        with closing(sqlite3.connect(tmp_path / "data" / "alpha" / "cache" / "cache.db", isolation_level=None)) as file:
            file.execute(f"UPDATE Cache SET {COLUMNS[kind]} WHERE key = ?", (full.encode(),))
            assert file.execute("SELECT changes()").fetchone() == (1,)

    def on_server(full: str) -> None:
        with redis_server.client() as client:
            client.delete(full)
            if kind == "list":
                client.rpush(full, "a")
            elif kind == "hash":
                client.hset(full, "a", "b")
            else:
                client.set(full, VALUES[kind])

    async def done(cache: Cache, full: str) -> None:
        if backend == "redis":
            on_server(full)
        elif kind in VALUES:
            await cache.backend.set([(full, VALUES[kind])], 3600)
        else:
            await cache.backend.set([(full, b"1")], 3600)
            on_disk(full)

    return done


async def test_damage_is_a_miss_for_every_call(caches: Caches, plant: Plant) -> None:
    """Whatever is under a key that no cache wrote: to read, add, count and make go on as if it were not there."""
    cache, full = caches.of("alpha"), "alpha::key"
    failures = 0

    async def planted() -> None:
        nonlocal failures
        await plant(cache, full)
        failures = cache.backend.failures.count

    await planted()
    assert await cache.get("key", "absent") == "absent"
    assert cache.backend.failures.count == failures + 1
    assert await cache.get("key", "absent") == "absent"
    assert cache.backend.failures.count == failures + 1
    await planted()
    assert await cache.add("key", "added")
    assert cache.backend.failures.count > failures
    assert await cache.get("key") == "added"
    await planted()
    assert await cache.incr("key", 5) == 5
    assert cache.backend.failures.count > failures
    assert await cache.incr("key") == 6
    await planted()
    assert await cache.get_many(["key", "other"]) == {}
    assert await cache.incr("key") == 1
    await planted()
    assert await cache.remember("key", lambda: asyncio.sleep(0, "made")) == "made"
    assert await cache.get("key") == "made"
    await planted()
    assert await cache.set("key", "set")
    assert await cache.get("key") == "set"
    await planted()
    await cache.delete("key")
    assert await cache.add("key", 1)
    with pytest.raises(InvalidRow):
        await cache.set("key", "text")
        await cache.incr("key")
    assert not await cache.add("key", 1)
    assert await cache.get("key") == "text"


async def test_a_damaged_lock_is_waited_for_by_nobody(
    caches: Caches, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in the place of a lock and is none gives way at once, and is gone when the value has been made."""
    monkeypatch.setattr(once, "WAIT_SECONDS", 3600.0)
    cache = caches.of("alpha")
    lock = cache.namespace.lock("key")
    await plant(cache, lock)
    async with asyncio.timeout(60):
        assert await cache.remember("key", lambda: asyncio.sleep(0, 1)) == 1
    assert await cache.backend.get([lock]) == [None]


async def test_a_damaged_lock_is_released(caches: Caches, plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that was damaged while a value was made neither fails its maker nor keeps the next one waiting."""
    monkeypatch.setattr(once, "WAIT_SECONDS", 3600.0)
    cache = caches.of("alpha")
    lock = cache.namespace.lock("key")

    async def make() -> str:
        await plant(cache, lock)
        return "made"

    assert await cache.remember("key", make) == "made"
    await cache.delete("key")
    async with asyncio.timeout(60):
        assert await cache.remember("key", lambda: asyncio.sleep(0, "again")) == "again"
