"""What companies share: one way to the server, one thread at a time; nobody's call fails or stalls another's."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from localstore import Cache, ConfigurationError, InvalidIdentifier, InvalidRow, LocalStore, Settings
from localstore.cache.backends import Caches, caches_at
from localstore.cache.failures import CacheFailure
from localstore.cache.folder import Folder
from localstore.cache.server import Server
from localstore.cache.wire import AT_ONCE, BYTES_AT_ONCE, Command, Wire
from tests.contract.caches import BACKENDS, PATIENCE_SECONDS, caches_of
from tests.contract.redis_server import RedisServer

ANYTHING = (
    st.text(max_size=8)
    | st.text(st.characters(categories=["Cs"]) | st.sampled_from("*?[]\\^-a"), min_size=1, max_size=8)
    | st.sampled_from(
        ["", "\x00*", "\ud800*", "[\udfff-a]*", "[", "\\", "x" * 1025, "*a" * 3000, "한" * 1400, "\r\n*1"]
    )
    | st.sampled_from([None, 5, 1.5, True, b"x", (), ["a"], {"a": 1}, object()])
)
"""Texts and other things, as keys, patterns and values; Hypothesis's own texts never hold halves of characters."""


@pytest.mark.parametrize("pattern", ["\ud800*", "[\udfff-a]", "*a" * 2049, "한" * 1366, 5, None, b"*", True, ["*"]])
async def test_a_pattern_is_a_text_of_a_bounded_length(caches: Caches, pattern: Any) -> None:
    """What cannot be a pattern is refused where it is given, the same on every backend, and harms no other call."""
    cache, other = caches.of("alpha"), caches.of("beta")
    await cache.set("key", 1)

    async def refused() -> None:
        with pytest.raises(InvalidIdentifier):
            await cache.delete_pattern(pattern)

    async with asyncio.timeout(PATIENCE_SECONDS):
        _, kept, found, theirs = await asyncio.gather(
            refused(), cache.set("other", 2), cache.get("key"), other.set("key", 3)
        )
    assert (kept, found, theirs) == (True, 1, True)
    assert await cache.get_many(["key", "other"]) == {"key": 1, "other": 2}


async def test_the_longest_key_can_be_written_as_a_pattern(caches: Caches) -> None:
    """Each character of the longest key may be put into brackets."""
    cache = caches.of("alpha")
    await cache.set("*" * 1024, 1)
    assert await cache.delete_pattern("[*]" * 1024) == 1


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_=st.lists(ANYTHING, min_size=1, max_size=8), backend=st.sampled_from(BACKENDS))
def test_S1_no_call_fails_or_stalls_another_tenants(
    given_: list[Any], backend: str, tmp_path: Path, redis_server: RedisServer
) -> None:
    """Whatever alpha calls with, at the same moment, beta's calls are answered, rightly, and alpha is told why."""

    async def alphas(calls: Sequence[Coroutine[Any, Any, object]]) -> None:
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert not isinstance(error, BaseException) or isinstance(error, ConfigurationError | InvalidRow), error

    async def betas(cache: Cache, number: int) -> None:
        assert await cache.set(f"key {number}", number)
        assert await cache.get(f"key {number}") == number
        await cache.incr("counted")
        assert await cache.add(f"added {number}", number)
        assert await cache.remember(f"made {number}", lambda: asyncio.sleep(0, number)) == number
        assert await cache.delete_pattern(f"key {number}") == 1

    async def run() -> None:
        async with caches_of(backend, tmp_path, redis_server) as caches, asyncio.timeout(PATIENCE_SECONDS):
            alpha, beta = caches.of("alpha"), caches.of("beta")
            await beta.clear()
            calls: list[Coroutine[Any, Any, object]] = []
            for value in given_:
                calls += [
                    *(alpha.delete_pattern(value), alpha.get(value), alpha.get_many([value]), alpha.set(value, 1)),
                    *(alpha.set("key", value), alpha.set("key", 1, ttl=value), alpha.incr(value), alpha.delete(value)),
                    *(alpha.incr("counted", value), alpha.add(value, value), alpha.forget(value)),
                    alpha.remember(value, lambda: asyncio.sleep(0, 1)),
                ]
            await asyncio.gather(alphas(calls), *(betas(beta, number) for number in range(10)))
            assert await beta.get("counted") == 10
            assert (await beta.stats()).failures == 0

    asyncio.run(run())


def way_of(cache: Cache) -> Wire:
    """Return this loop's connection to the server."""
    assert isinstance(cache.backend, Server)
    return cache.backend._wires[asyncio.get_running_loop()]


async def test_whatever_the_driver_raises_everybody_hears_of_it(redis_server: RedisServer, tmp_path: Path) -> None:
    """An error that nobody foresaw reaches all who wait, and no answer to them is taken for the next one's."""
    async with caches_of("redis", tmp_path, redis_server) as caches, asyncio.timeout(PATIENCE_SECONDS):
        cache, other = caches.of("alpha"), caches.of("beta")
        await asyncio.gather(cache.set("key", "alpha's"), other.set("key", "beta's"))

        def fail(*_: object, **__: object) -> None:
            raise LookupError("a bug")

        client = way_of(cache).client
        client.set_response_callback("GET", fail)
        heard = await asyncio.gather(
            *(cache.get("key") for _ in range(5)), other.get("key"), other.delete("none"), return_exceptions=True
        )
        assert {type(error) for error in heard} == {LookupError}
        del client.response_callbacks["GET"]
        assert await other.get("key") == "beta's"
        assert await cache.get("key") == "alpha's"


async def test_what_cannot_be_sent_is_refused_where_it_is_asked(redis_server: RedisServer, tmp_path: Path) -> None:
    """A command that no bytes can be made of is its asker's error only."""
    async with caches_of("redis", tmp_path, redis_server) as caches, asyncio.timeout(PATIENCE_SECONDS):
        cache, other = caches.of("alpha"), caches.of("beta")
        bad, good, found = await asyncio.gather(
            cache.backend.get(["\ud800"]), other.set("key", 1), other.get("none"), return_exceptions=True
        )
        assert isinstance(bad, UnicodeEncodeError)
        assert (good, found) == (True, None)


@pytest.mark.parametrize("begun", [False, True])
async def test_asking_that_was_interrupted_is_a_miss(redis_server: RedisServer, tmp_path: Path, begun: bool) -> None:
    """When the task that asks is cancelled, also before it began, nobody waits for it; the next call has another."""
    async with caches_of("redis", tmp_path, redis_server) as caches, asyncio.timeout(PATIENCE_SECONDS):
        cache, other = caches.of("alpha"), caches.of("beta")
        await cache.set("key", 1)
        waiting = [asyncio.create_task(each.get("key", "absent")) for each in (cache, other) for _ in range(400)]
        while (task := way_of(cache)._sending) is None or task.done():
            await asyncio.sleep(0)
        if begun:
            await asyncio.sleep(0)
        task.cancel()
        assert set(await asyncio.gather(*waiting)) <= {"absent", 1}
        assert await cache.get("key") == 1


async def test_much_at_once_goes_in_parts(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many or large one company's entries are, those of others have their turn in between."""
    asked: list[tuple[int, int]] = []
    answers = Wire._answers

    async def counted(self: Wire, commands: Sequence[Command]) -> list[Any]:
        sizes = [len(part) for command in commands for part in command[1:] if isinstance(part, bytes)]
        asked.append((len(commands), sum(sizes)))
        return await answers(self, commands)

    monkeypatch.setattr(Wire, "_answers", counted)
    async with caches_of("redis", tmp_path, redis_server) as caches:
        cache = caches.of("alpha")
        assert await cache.set_many({str(number): "x" * 300_000 for number in range(20)})
        assert await cache.set_many({str(number): number for number in range(2000)})
        await asyncio.gather(*(cache.set(str(number), "x" * 100_000) for number in range(30)))
        assert len(await cache.get_many([str(number) for number in range(2000)])) == 2000
    assert max(number for number, _ in asked) == AT_ONCE
    assert max(size for _, size in asked) <= BYTES_AT_ONCE


async def test_a_bug_in_one_call_on_disk_is_that_calls_own(tmp_path: Path) -> None:
    """An error that is neither SQLite's nor the system's goes to the call that made it; the others are kept."""
    caches = caches_at(tmp_path / "data", Settings(redis_url=None))
    cache = caches.of("alpha")
    await cache.set("key", 1)
    assert isinstance(cache.backend, Folder)

    def fail(_: str) -> bool:
        raise LookupError("a bug")

    calls: list[Any] = []
    for number in range(50):
        calls += [cache.set(str(number), number), cache.backend.sweep("alpha:", fail), cache.get("key")]
        calls += [cache.backend.set([("\ud800", b"1")], 5), cache.backend.set([("alpha::x", "7")], 5)]  # type: ignore[list-item]
    heard = await asyncio.gather(*calls, return_exceptions=True)
    assert heard[::5] == [True] * 50
    assert {type(error) for error in heard[1::5]} == {LookupError}
    assert heard[2::5] == [1] * 50
    assert {type(error) for error in heard[3::5]} == {UnicodeEncodeError}
    assert all(isinstance(error, CacheFailure) for error in heard[4::5])
    assert await cache.get_many([str(number) for number in range(50)]) == {str(number): number for number in range(50)}
    assert (await cache.stats()).failures == 0
    await caches.close()


URLS = [
    *("redis://:{}@[/0", "http://:{}@host", "{}", "redis://:{}@host:port", "redis://:{}@host?foo=bar", "unix://{}/x/y"),
    *("redis://:{}@host?db=x", "redis://:{}@host?db=", "redis://:{}@host/x", "redis://:{}@host?db=1&db=2", "unix://"),
    *("redis://host?{}=1", "redis://host?{}", "redis://:1?{}@host", "redis://:1/{}@host", "redis://:1#{}@host"),
    *("redis://:{}@host?decode_responses=1", "redis://:{}@host?ssl_cert_reqs=none", "unix://:1/{}@/socket"),
    *("rediss://:{}@host?ssl_cert_reqs={}", "unix://:{}@/socket?socket_keepalive=1", "unix://:{}@", "redis:{}"),
]


@pytest.mark.parametrize("url", URLS)
async def test_a_url_is_refused_before_anything_is_asked(url: str, tmp_path: Path) -> None:
    """What is no URL of a server, or has options that the cache cannot take, is an error at once, without a secret."""
    secret = "s3cret-Wort"
    chosen = Settings(redis_url=SecretStr(url.replace("{}", secret)))
    async with LocalStore(tmp_path / "data", models=[], settings=chosen) as store, store.tenant("alpha") as tenant:
        with pytest.raises(ConfigurationError, match="REDIS_URL") as caught:
            await tenant.cache.get("key")
        shown = f"{caught.value!r} {caught.value} {caught.value.hint}"
        assert secret not in shown
        assert secret.lower() not in shown.lower()
        assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", "redis://localhost:6379"),
        ("redis://user:pass@HOST:7000/3", "redis://host:7000/3"),
        ("redis://:p%2F%3F%40@[::1]/?client_name=x&health_check_interval=5&socket_keepalive=1", "redis://::1:6379"),
        ("rediss://host?db=2&ssl_cert_reqs=none&ssl_check_hostname=no", "rediss://host:6379"),
        ("unix://user:pass@/run/redis.sock?db=4", "unix:///run/redis.sock"),
    ],
)
def test_a_url_is_shown_without_its_credentials(url: str, address: str) -> None:
    """What the driver takes is taken, and an address says where it leads and not how to get in."""
    assert Server(url).address == address
