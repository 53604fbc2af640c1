"""What a cache promises, on a folder and on a real Redis."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localstore import Cache, ConfigurationError, InvalidIdentifier, InvalidRow
from localstore.cache import once
from localstore.cache.backend import VALUE_BYTES_MAX
from localstore.cache.backends import Caches
from tests.contract.caches import BACKENDS, caches_of, eventually_absent
from tests.contract.redis_server import RedisServer

VALUES = [
    *(None, True, False, 0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 0.1, -0.0, 1e308, 5e-324, 1.0),
    *("", "null", "5", "\x00", "a\tb\\N", "한국어 😀 \u202e", [], {}, [None, [1, [2.5]]]),
    *({"": {"a.b": [1, "2", None]}, "한": True}, "x" * 100_000, list(range(5000))),
]

NOT_JSON = [
    *(math.nan, math.inf, -math.inf, [1, math.nan], {"a": [-math.inf, None]}, 2**64, -(2**63) - 1, {1: "a"}, {None: 1}),
    *("\ud800", {"\udfff": 1}, b"bytes", {1, 2}, (1, 2), {"a": (1,)}, datetime.now(UTC), uuid4(), Decimal(1), object()),
]

TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(":*?[]\\^-~{}"), max_size=12)
KEYS = TEXTS | st.sampled_from(["", ":", "alpha:", "beta::secret", "../beta", "*", "beta:jira:secret", "~lock::secret"])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


async def test_what_is_set_comes_back(caches: Caches) -> None:
    """Every value that JSON can hold comes back equal and of the same type; None is not the same as nothing."""
    cache = caches.of("alpha")
    value: Any
    for value in VALUES:
        assert await cache.set("key", value)
        found = await cache.get("key", "absent")
        assert (found, type(found)) == (value, type(value))
    assert await cache.set_many({f"key {place}": value for place, value in enumerate(VALUES)})
    assert await cache.get_many([f"key {place}" for place in range(-1, len(VALUES) + 1)]) == {
        f"key {place}": value for place, value in enumerate(VALUES)
    }
    assert await cache.get("nothing") is None
    assert await cache.get("nothing", default=7) == 7


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.dictionaries(KEYS, JSON, min_size=1, max_size=6))
def test_both_backends_keep_the_same(entries: dict[str, Any], tmp_path: Path, redis_server: RedisServer) -> None:
    """Any texts as keys and any JSON as values: both backends give the same back."""

    async def run(backend: str) -> dict[str, Any]:
        async with caches_of(backend, tmp_path, redis_server) as caches:
            cache = caches.of("alpha")
            await cache.clear()
            assert await cache.set_many(entries)
            found = await cache.get_many(entries)
            assert (await cache.stats()).entries == len(entries)
            return found

    assert asyncio.run(run("disk")) == asyncio.run(run("redis")) == entries


async def test_what_json_cannot_hold_is_refused(caches: Caches) -> None:
    """NaN, integers beyond 64 bits, tuples, dates and the like are an InvalidRow, and nothing is kept."""
    cache = caches.of("alpha")
    for value in NOT_JSON:
        for call in (cache.set("key", value), cache.add("key", value), cache.set_many({"a": 1, "key": value})):
            with pytest.raises(InvalidRow):
                await call
    assert (await cache.stats()).entries == 0


async def test_keys_are_texts_of_a_bounded_length(caches: Caches) -> None:
    """Any text up to 1,024 bytes is a key; anything else is an InvalidIdentifier everywhere."""
    cache = caches.of("alpha")
    assert await cache.set("한" * 341, 1)
    for key in ("x" * 1025, "한" * 342, "\ud800", 7, b"x", None):
        for call in (cache.get(key), cache.set(key, 1), cache.delete(key), cache.incr(key), cache.add(key, 1)):  # type: ignore[arg-type]
            with pytest.raises(InvalidIdentifier):
                await call


async def test_what_is_too_large_is_not_kept(caches: Caches) -> None:
    """A value beyond the limit is declined, and what the key had before is not there any more either."""
    cache = caches.of("alpha")
    await cache.set("key", "small")
    assert not await cache.set("key", "x" * VALUE_BYTES_MAX)
    assert await cache.get("key", "absent") == "absent"
    assert not await cache.set_many({"key": "x" * VALUE_BYTES_MAX, "other": 1})
    assert await cache.get("other") == 1


async def test_a_value_goes_when_its_time_is_up(caches: Caches) -> None:
    """A ttl ends a value, one that was set, added or counted; a later increment does not prolong it."""
    cache = caches.of("alpha")
    await cache.set("set", 1, ttl=0.05)
    await cache.add("added", 1, ttl=0.05)
    await cache.incr("counted", ttl=0.05)
    await cache.incr("counted", ttl=3600)
    await cache.set("stays", 1)
    for key in ("set", "added", "counted"):
        await eventually_absent(caches, "alpha", key)
    assert await cache.add("added", 2)
    assert await cache.incr("counted") == 1
    assert await cache.get("stays") == 1


NO_TTL = {
    **{str(ttl): ttl for ttl in (0, -1, math.nan, math.inf, True, "5", 366 * 86400 + 0.001, Decimal(5))},
    "10**400": 10**400,
    "-10**400": -(10**400),
    "10**5000": 10**5000,
}


@pytest.mark.parametrize("ttl", NO_TTL.values(), ids=NO_TTL)
async def test_a_ttl_that_is_no_time_is_refused(caches: Caches, ttl: Any) -> None:
    """Nothing is kept for no time, for more than a year or for good; a year itself is one."""
    for call in (
        caches.of("alpha").set("key", 1, ttl),
        caches.of("alpha").add("key", 1, ttl),
        caches.of("alpha").incr("key", 1, ttl),
    ):
        with pytest.raises(ConfigurationError):
            await call
    assert await caches.of("alpha").set("key", 1, 366 * 86400)


async def test_one_of_many_adds(caches: Caches) -> None:
    """Of many callers that add one key at once, one hears True, and its value is kept."""
    cache = caches.of("alpha")
    heard = await asyncio.gather(*(cache.add("key", number) for number in range(30)))
    assert heard.count(True) == 1
    assert await cache.get("key") == heard.index(True)
    assert await cache.delete("key")
    assert not await cache.delete("key")
    assert await cache.add("key", None)
    assert not await cache.add("key", 1)


async def test_counting_loses_nothing(caches: Caches) -> None:
    """Increments from many callers are all there; what is no integer of 64 bits is refused and stays as it is."""
    cache = caches.of("alpha")
    await asyncio.gather(*(cache.incr("key", 2) for _ in range(50)))
    assert await cache.get("key") == 100
    assert await cache.incr("key", -150) == -50
    value: Any
    for value in ("5", 5.0, True, None, [], 2**64 - 1):
        await cache.set("other", value)
        with pytest.raises(InvalidRow):
            await cache.incr("other")
        assert await cache.get("other") == value
    await cache.set("most", 2**63 - 2)
    assert await cache.incr("most") == 2**63 - 1
    with pytest.raises(InvalidRow):
        await cache.incr("most")
    for by in (2**63, 1.5, True, "1"):
        with pytest.raises(ConfigurationError):
            await cache.incr("key", by)  # type: ignore[arg-type]


PATTERNS = {
    "*": "abc a*c a?c a[c a:c ab:c a\\c é 한국 ABC a-c",
    "a*": "abc a*c a?c a[c a:c ab:c a\\c a-c",
    "a?c": "abc a*c a?c a[c a:c a\\c a-c",
    "?": "é",
    "??": "한국",
    "a[b*]c": "abc a*c",
    "a[^b]c": "a*c a?c a[c a:c a\\c a-c",
    "a[a-c]c": "abc",
    "a[c-a]c": "abc",
    "a[b-]c": "abc a-c",
    "a\\*c": "a*c",
    "a\\?c": "a?c",
    "a[[]c": "a[c",
    "a[c": "a[c",
    "a\\\\c": "a\\c",
    "a[\\\\]c": "a\\c",
    "*:*": "a:c ab:c",
    "*b*c": "abc ab:c",
    "[A-Z]*": "ABC",
    "[가-힣]*": "한국",
    "a[]c": "",
    "": "",
    "abc": "abc",
    "abcd*": "",
    "a*b*c*d": "",
}


async def test_a_pattern_means_the_same_everywhere(caches: Caches) -> None:
    """Each pattern deletes the keys that it describes and no other, and says how many."""
    cache = caches.of("alpha")
    keys = PATTERNS["*"].split()
    for pattern, wanted in PATTERNS.items():
        await cache.set_many(dict.fromkeys(keys, 1))
        assert await cache.delete_pattern(pattern) == len(wanted.split()), pattern
        assert set(keys) - set(await cache.get_many(keys)) == set(wanted.split()), pattern


async def test_a_pattern_of_many_runs_ends(caches: Caches) -> None:
    """A pattern that could be tried in endlessly many ways is decided at once."""
    cache = caches.of("alpha")
    await cache.set("a" * 1000, 1)
    assert await cache.delete_pattern("*a" * 100 + "b") == 0
    assert await cache.delete_pattern("*a" * 100) == 1


async def test_thousands_go_by_pattern(caches: Caches) -> None:
    """More keys than one look through the cache holds are deleted to the last."""
    cache = caches.of("alpha")
    await cache.set_many({f"{kind}:{number}": number for kind in ("a", "b") for number in range(2500)})
    assert await cache.delete_pattern("a:*") == 2500
    assert (await cache.stats()).entries == 2500


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.lists(KEYS, min_size=1, max_size=5, unique=True), pattern=KEYS, backend=st.sampled_from(BACKENDS))
def test_S1_no_key_or_pattern_reaches_another_tenant(
    keys: list[str], pattern: str, backend: str, tmp_path: Path, redis_server: RedisServer
) -> None:
    """Whatever tenant alpha calls with whatever text, what beta and the platforms have stays there, and unseen."""

    async def run() -> None:
        async with caches_of(backend, tmp_path, redis_server) as caches:
            others = [
                *(caches.of("beta"), caches.of("beta", "jira"), caches.of("alpha", "jira"), caches.of("alpha-2")),
                *(caches.of("alph"), caches.of("a")),
            ]
            theirs = {key: f"secret {key}" for key in [*keys, "secret"]}
            for other in others:
                await other.set_many(theirs)
            mine = caches.of("alpha")
            await mine.delete_pattern("*")
            assert await mine.get_many([*theirs, *(f"beta::{key}" for key in keys)]) == {}
            for key in keys:
                assert await mine.add(key, 1)
                assert await mine.incr(key) == 2
                await mine.set(key, "mine")
                assert await mine.remember(key, lambda: asyncio.sleep(0, "made")) == "mine"
            await mine.delete_pattern(pattern)
            for key in keys:
                await mine.delete(key)
            await mine.delete_pattern("*")
            for other in others:
                assert await other.get_many(theirs) == theirs
            await mine.clear()
            for other in others:
                expected = {} if other.namespace.company_id == "alpha" else theirs
                assert await other.get_many(theirs) == expected

    asyncio.run(run())


async def test_ids_that_are_no_ids_are_refused(caches: Caches) -> None:
    """A company or platform that could be read as something else never becomes part of a key or a path."""
    for company, platform in (("../x", ""), ("a:b", ""), ("", ""), ("A", ""), ("a", "~lock"), ("a", "x:y"), ("*", "")):
        with pytest.raises(InvalidIdentifier):
            caches.of(company, platform)


async def test_stats_say_what_is_there(caches: Caches, cache_backend: str) -> None:
    """Entries, bytes, hits and misses are the same on every backend, and outlive whoever counted them."""
    cache = caches.of("alpha")
    await cache.set("a", "four")
    await caches.of("alpha", "jira").set("b", [1, 2])
    await caches.of("beta").set("c", 1)
    await cache.get("a")
    await cache.get_many(["a", "nothing", "nothing either"])
    await caches.close()
    found = await caches.of("alpha").stats()
    assert (found.backend, found.available, found.failures) == (cache_backend, True, 0)
    assert (found.entries, found.bytes, found.hits, found.misses) == (2, len('"four"[1,2]'), 2, 2)
    assert found.evictions == 0
    if cache_backend == "redis":
        assert found.memory is not None
        assert found.memory["used"] > 0
    else:
        assert found.bytes_max == 64 * 1024 * 1024


async def test_clear_empties_one_company(caches: Caches) -> None:
    """Everything of the company goes, its platforms' entries too, and nothing else."""
    await caches.of("alpha").set_many({str(number): number for number in range(3)})
    await caches.of("alpha", "jira").set("x", 1)
    await caches.of("beta").set("x", 1)
    assert await caches.of("alpha").clear() == 4
    assert (await caches.of("alpha").stats()).entries == 0
    assert await caches.of("beta").get("x") == 1


async def test_one_makes_a_value_while_others_wait(caches: Caches) -> None:
    """Of many callers at once one makes the value; each gets a copy of its own."""
    cache = caches.of("alpha")
    made = 0

    async def make() -> list[Any]:
        nonlocal made
        made += 1
        await asyncio.sleep(0.05)
        return [made]

    found = await asyncio.gather(*(cache.remember("key", make) for _ in range(20)))
    assert (made, found) == (1, [[1]] * 20)
    found[0].append("changed")
    assert await cache.remember("key", make) == [1]
    assert await cache.get("key") == [1]
    await cache.delete("key")
    assert await cache.remember("key", make) == [2]


async def test_the_first_caller_may_leave(caches: Caches) -> None:
    """Those who wait get the value although the caller who set off its making was cancelled."""
    cache = caches.of("alpha")
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def make() -> str:
        begun.set()
        await go_on.wait()
        return "made"

    first = asyncio.create_task(cache.remember("key", make))
    await begun.wait()
    second = asyncio.create_task(cache.remember("key", make))
    await asyncio.sleep(0)
    first.cancel()
    go_on.set()
    assert await second == "made"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_what_fails_is_not_kept(caches: Caches) -> None:
    """An error of the maker reaches every caller, and leaves and blocks nothing; so does a result that is no JSON."""
    cache = caches.of("alpha")

    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise LookupError("no such thing")

    async def nothing() -> Any:
        return None

    heard = await asyncio.gather(*(cache.remember("key", fail) for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in heard] == [LookupError] * 3
    with pytest.raises(InvalidRow):
        await cache.remember("key", lambda: asyncio.sleep(0, (1, 2)))
    assert await cache.remember("key", nothing) is None
    assert await cache.get("key", "absent") is None


async def test_a_maker_that_was_killed_is_waited_for_until_its_lock_goes(caches: Caches) -> None:
    """Who finds a lock that nobody will give back takes over when it has expired."""
    cache: Cache = caches.of("alpha")
    await cache.backend.add(cache.namespace.lock("key"), b"killed", 0.2)
    assert await cache.remember("key", lambda: asyncio.sleep(0, 1)) == 1
    assert await cache.backend.get([cache.namespace.lock("key")]) == [None]


async def test_who_waited_in_vain_makes_the_value(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
    """A maker that takes too long is not waited for, in its own process either, and what it makes is its caller's."""
    monkeypatch.setattr(once, "WAIT_SECONDS", 0.05)
    cache = caches.of("alpha")
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        begun.set()
        await go_on.wait()
        return "slow"

    first = asyncio.create_task(cache.remember("key", slow))
    await begun.wait()
    found = await asyncio.gather(*(cache.remember("key", lambda: asyncio.sleep(0, "alone")) for _ in range(5)))
    assert found == ["alone"] * 5
    assert not first.done()
    go_on.set()
    assert await first == "slow"


async def test_a_maker_may_ask_for_what_it_makes(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
    """A maker that asks for its own key, by a task of its own as well, is not waited for by itself."""
    monkeypatch.setattr(once, "WAIT_SECONDS", 3600.0)
    cache = caches.of("alpha")
    depth = 0

    async def countdown() -> int:
        nonlocal depth
        depth += 1
        if depth == 4:
            return 1
        if depth % 2:
            return 1 + await cache.remember("key", countdown)
        return 1 + await asyncio.create_task(cache.remember("key", countdown))

    async with asyncio.timeout(60):
        found = await asyncio.gather(cache.remember("key", countdown), cache.remember("key", countdown))
    assert list(found) == [4, 4]
    assert await cache.get("key") == 4


async def test_makers_that_wait_for_each_other_do_so_in_vain(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two values that are made from one another, begun from both ends, are made when the wait is over."""
    monkeypatch.setattr(once, "WAIT_SECONDS", 0.05)
    cache = caches.of("alpha")
    both = asyncio.Barrier(2)

    async def make(other: str) -> str:
        await both.wait()
        return f"made from {await cache.remember(other, lambda: asyncio.sleep(0, other))}"

    async with asyncio.timeout(60):
        found = await asyncio.gather(
            cache.remember("a", lambda: make("b")),
            cache.remember("b", lambda: make("a")),
        )
    assert list(found) == ["made from b", "made from a"]
