"""The cache in Redis: a server that is down, slow, restarted or full of others' things is a miss, never an error."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from localstore import Cache, CacheManager, CacheUnavailable, ConfigurationError, LocalStore, Settings
from localstore.cache import wire
from localstore.cache.backend import VALUE_BYTES_MAX
from localstore.cache.backends import Caches, caches_at
from localstore.cache.failures import CacheFailure
from localstore.cache.server import Server
from tests.contract.redis_server import RedisServer, running


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """Run a server that this test may stop."""
    with running() as server:
        yield server


def on(server: RedisServer, tmp_path: Path) -> Caches:
    """Return caches in that server."""
    return caches_at(tmp_path / "data", Settings(redis_url=SecretStr(server.url)))


async def misses(cache: Cache) -> None:
    """Make every call, none of which may raise; all answer as an empty cache that keeps nothing."""
    assert await cache.get("key", "absent") == "absent"
    assert await cache.get_many(["key", "other"]) == {}
    assert not await cache.set("key", 1)
    assert not await cache.set_many({"key": 1, "other": 2})
    assert not await cache.add("key", 1)
    assert not await cache.delete("key")
    assert not await cache.forget("key")
    assert await cache.incr("key") is None
    assert await cache.delete_pattern("*") == 0
    assert await cache.remember("key", lambda: asyncio.sleep(0, "made")) == "made"
    stats = await cache.stats()
    assert (stats.available, stats.entries) == (False, 0)
    assert stats.failures >= 10
    with pytest.raises(CacheUnavailable):
        await cache.clear()


async def test_a_server_that_is_down_is_a_miss(
    own_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every call answers while the server is down, one line says so, and when it is back it is used again."""
    caches = on(own_server, tmp_path)
    cache = caches.of("alpha")
    assert await cache.set("key", 1)
    own_server.kill()
    with caplog.at_level(logging.WARNING, "localstore.cache"):
        await misses(cache)
    assert len(caplog.records) == 1
    assert own_server.password not in caplog.text
    own_server.start()
    assert await cache.get("key", "absent") == "absent"
    assert await cache.set("key", 2)
    assert await cache.get("key") == 2
    await caches.close()


async def test_a_restarted_server_is_used_without_a_miss_in_between(own_server: RedisServer, tmp_path: Path) -> None:
    """Connections that the server's end has closed are replaced: the first call after a restart is answered."""
    caches = on(own_server, tmp_path)
    cache = caches.of("alpha")
    await asyncio.gather(*(cache.set(str(number), number) for number in range(10)))
    own_server.kill()
    own_server.start()
    assert await cache.set("key", 2)
    assert await cache.get("key") == 2
    assert (await cache.stats()).failures == 0
    await caches.close()


async def test_a_server_that_does_not_answer_is_not_waited_for_again_and_again(
    own_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one call ran out of time the others do not wait; when the rest is over the server is asked again."""
    monkeypatch.setattr(wire, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(wire, "REST_SECONDS", 3600.0)
    caches = on(own_server, tmp_path)
    cache = caches.of("alpha")
    await cache.set("key", 1)
    own_server.signal(signal.SIGSTOP)
    assert await cache.get("key", "absent") == "absent"
    own_server.signal(signal.SIGCONT)
    await misses(cache)
    assert isinstance(cache.backend, Server)
    (way,) = cache.backend._wires.values()
    async with asyncio.timeout(60):
        way._resting_until = 0.0
        while await cache.get("key", "absent") != 1:
            way._resting_until = 0.0
    await caches.close()


async def test_a_full_server_keeps_nothing_more_and_says_so(tmp_path: Path) -> None:
    """A server out of memory that may evict nothing declines; one that may evicts, and its evictions are told."""
    with running("maxmemory 2500kb", "maxmemory-policy noeviction") as server:
        caches = on(server, tmp_path)
        cache = caches.of("alpha")
        kept = [await cache.set(str(number), "x" * 100_000) for number in range(30)]
        assert kept[0]
        assert not kept[-1]
        assert await cache.get("0") == "x" * 100_000
        with server.client() as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
        assert all([await cache.set(str(number), "x" * 100_000) for number in range(30)])
        stats = await cache.stats()
        assert stats.evictions > 0
        assert stats.bytes_max == 2500 * 1024
        assert stats.memory is not None
        assert stats.memory["policy"] == "allkeys-lru"
        await caches.close()


async def test_a_value_that_would_take_much_of_the_servers_memory_is_not_kept(tmp_path: Path) -> None:
    """Where the server says how much it may take, a value takes at most an eighth of it, and pushes out nothing."""
    with running("maxmemory 8mb", "maxmemory-policy allkeys-lru") as server:
        caches = on(server, tmp_path)
        cache = caches.of("alpha")
        assert await cache.set("small", "here")
        assert await cache.set("fits", "x" * (1024 * 1024 - 2))
        for size in (1024 * 1024 - 1, 5 * 1024 * 1024):
            assert not await cache.set("large", "x" * size)
            assert not await cache.add("large", "x" * size)
        assert await cache.get("small") == "here"
        stats = await cache.stats()
        assert (stats.entries, stats.evictions, stats.failures) == (2, 0, 0)
        await caches.close()


@pytest.mark.parametrize("setting", ["maxmemory 0", 'rename-command INFO ""'])
async def test_a_server_that_does_not_say_its_memory_takes_what_any_cache_takes(tmp_path: Path, setting: str) -> None:
    """Without a limit, or where nobody may ask for it, values go up to the largest that is kept anywhere."""
    with running(setting) as server:
        caches = on(server, tmp_path)
        cache = caches.of("alpha")
        assert await cache.set("key", "x" * (VALUE_BYTES_MAX - 2))
        assert not await cache.set("key", "x" * (VALUE_BYTES_MAX - 1))
        assert await cache.get("key", "absent") == "absent"
        await caches.close()


async def test_what_others_put_there_is_a_miss(redis_server: RedisServer, tmp_path: Path) -> None:
    """Keys of another kind, and values that are no JSON, are counted and count as absent; a set replaces them."""
    caches = on(redis_server, tmp_path)
    cache = caches.of("alpha")
    with redis_server.client() as client:

        def plant() -> None:
            client.delete("alpha::list", "alpha::noise", "alpha::made")
            client.rpush("alpha::list", "a")
            client.set("alpha::noise", b"\x80\x04\x95")
            client.set("alpha::made", b'\x01{"tickets":"1"}')

        plant()
        client.set(b"alpha::\xff", b"1")
        client.set("alpha::plain", b'{"by": "another program"}')
        assert await cache.get_many(["list", "noise", "made", "plain"]) == {"plain": {"by": "another program"}}
        assert client.exists("alpha::list", "alpha::noise", "alpha::made") == 0
        assert (await cache.stats()).failures == 3
        plant()
        for key in ("list", "noise", "made"):
            assert await cache.remember(f"{key}", lambda: asyncio.sleep(0, 7)) == 7
            assert await cache.get(key) == 7
        assert (await cache.stats()).failures >= 6
        assert await cache.set("plain", {"b": [1]})
        assert client.get("alpha::plain") == b'{"b":[1]}'
        client.flushall()
    await caches.close()


async def test_keys_are_found_by_scan(own_server: RedisServer, tmp_path: Path) -> None:
    """Deleting by pattern, clearing and measuring never ask for all keys at once."""
    caches = on(own_server, tmp_path)
    cache = caches.of("alpha")
    await cache.set_many({str(number): number for number in range(1500)})
    assert await cache.delete_pattern("1*") > 0
    await cache.stats()
    await cache.clear()
    with own_server.client() as client:
        commands = client.info("commandstats")
    assert "cmdstat_scan" in commands
    assert "cmdstat_keys" not in commands
    await caches.close()


def test_one_cache_serves_one_loop_after_another(redis_server: RedisServer, tmp_path: Path) -> None:
    """Connections end with the loop that opened them, without a word, and the next loop has its own."""
    caches = on(redis_server, tmp_path)
    for number in range(3):
        assert asyncio.run(caches.of("alpha").set("key", number))
        assert asyncio.run(caches.of("alpha").get("key")) == number
    asyncio.run(caches.of("alpha").clear())


async def test_the_password_is_shown_nowhere(redis_server: RedisServer, tmp_path: Path) -> None:
    """Neither a repr nor an error repeats it, whether it is right, wrong, or in a URL that does not parse."""
    caches = on(redis_server, tmp_path)
    cache = caches.of("alpha")
    await cache.set("key", 1)
    secret = redis_server.password
    for shown in (caches, cache, cache.backend, CacheManager(redis_server.url), caches.settings, await cache.stats()):
        assert secret not in repr(shown)
    for url in (f"redis://:{secret}@[/0", f"http://:{secret}@host", secret, f"redis://:{secret}@host:port"):
        with pytest.raises(ConfigurationError) as caught:
            Server(url)
        assert secret not in f"{caught.value} {caught.value.hint}"
    wrong = Server(redis_server.url.replace(secret, "wrong-password"))
    with pytest.raises(CacheFailure) as failed:
        await wrong.get(["key"])
    assert "wrong-password" not in str(failed.value)
    await wrong.close()
    await cache.clear()
    await caches.close()


async def test_a_tenant_uses_the_server_that_redis_url_names(redis_server: RedisServer, tmp_path: Path) -> None:
    """With REDIS_URL `tenant.cache` is in Redis, by the company's keys, and no cache folder is filled."""
    settings = Settings(redis_url=SecretStr(redis_server.url))
    async with LocalStore(tmp_path / "data", models=[], settings=settings) as store, store.tenant("alpha") as tenant:
        await tenant.cache.set("greeting", {"hello": "world"})
        with redis_server.client() as client:
            assert client.get("alpha::greeting") == b'{"hello":"world"}'
            assert 0 < client.pttl("alpha::greeting") <= 300_000
        assert await tenant.cache.clear() == 1
        assert list((tenant.folder / "cache").iterdir()) == []


async def test_two_processes_make_a_value_once(redis_server: RedisServer, tmp_path: Path) -> None:
    """What one process is making another one waits for, instead of making it, too."""
    maker = """
import asyncio, sys
from localstore import Settings
from localstore.cache.backend import VALUE_BYTES_MAX
from localstore.cache.backends import caches_at

async def make():
    print("making", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    return "by the other"

async def main():
    caches = caches_at("unused", Settings(redis_url=sys.stdin.readline().strip()))
    await caches.of("alpha").remember("key", make)
    await caches.close()

asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", maker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{redis_server.url}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "making\n"

        async def make() -> str:
            return "here"

        caches = on(redis_server, tmp_path)
        waiting = asyncio.create_task(caches.of("alpha").remember("key", make))
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert not waiting.done()
        process.communicate("\n")
        assert await waiting == "by the other"
        await caches.of("alpha").clear()
        await caches.close()


async def test_many_callers_share_the_way_to_the_server(redis_server: RedisServer, tmp_path: Path) -> None:
    """A thousand calls at once are all answered, over one connection."""
    caches = on(redis_server, tmp_path)
    cache = caches.of("alpha")
    assert all(await asyncio.gather(*(cache.set(str(number), number) for number in range(1000))))
    found = await asyncio.gather(
        *(cache.get(str(number)) for number in range(1000)), cache.incr("n"), cache.get("none")
    )
    assert found == [*range(1000), 1, None]
    leaving = [asyncio.create_task(cache.get(str(number))) for number in range(100)]
    await asyncio.sleep(0)
    for task in leaving[::2]:
        task.cancel()
    left = await asyncio.gather(*leaving, return_exceptions=True)
    assert left[1::2] == list(range(1, 100, 2))
    with redis_server.client() as client:
        # The other one is this very client.
        assert len(client.client_list()) == 2
    assert (await cache.stats()).failures == 0
    await cache.clear()
    await caches.close()
