"""Server: a cache in Redis, which all boxes of a company may share."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, ClassVar, Final, TypeVar, cast
from urllib.parse import urlsplit

from localstore.cache.backend import INTEGER_MAX, INTEGER_MIN, Backend, Measured, NotAnInteger
from localstore.cache.failures import CacheFailure, RefusedEntry
from localstore.errors import ConfigurationError

T = TypeVar("T")

ANSWER_SECONDS: Final = 2.0
"""A cache that needs longer than this costs more than it saves."""

REST_SECONDS: Final = 2.0
"""After a server did not answer in time, nobody waits for it again for so long."""

CONNECTIONS_MAX: Final = 50

AT_ONCE: Final = 500
"""Keys of one round trip."""

_RELEASE: Final = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"
_SPECIAL: Final = re.compile(r"([*?\[\]\\^-])")
_SCHEMES: Final = ("redis", "rediss", "unix")


class Server(Backend):
    """One Redis server. Each event loop has connections of its own, which are closed when the loop ends."""

    name: ClassVar[str] = "redis"

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.address = _address(url)
        self.failures.name = f"the cache at {self.address}"
        self._clients: dict[asyncio.AbstractEventLoop, tuple[Any, AsyncGenerator[None, None]]] = {}
        self._resting_until = 0.0
        _redis()

    def __repr__(self) -> str:
        return f"<Server {self.address}>"

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return each key's value, or None."""

        async def work(client: Any) -> list[bytes | None]:
            async with client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.get(key)
                return [self._value(answer) for answer in await pipeline.execute(raise_on_error=False)]

        async def work_one(client: Any) -> list[bytes | None]:
            return [cast("bytes | None", await client.get(keys[0]))]

        try:
            return await self._run(work_one if len(keys) == 1 else work)
        except RefusedEntry as error:
            self.refuse(error)
            return [None] * len(keys)

    async def set(self, entries: Sequence[tuple[str, bytes]], ttl: float) -> None:
        """Keep all of these, in one round trip for a few hundred."""
        milliseconds = _milliseconds(ttl)

        async def work(client: Any) -> None:
            if len(entries) == 1:
                await client.set(*entries[0], px=milliseconds)
                return
            for start in range(0, len(entries), AT_ONCE):
                async with client.pipeline(transaction=False) as pipeline:
                    for key, value in entries[start : start + AT_ONCE]:
                        pipeline.set(key, value, px=milliseconds)
                    await pipeline.execute()

        await self._run(work)

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        """Keep the value unless the key has one."""

        async def work(client: Any) -> bool:
            return bool(await client.set(key, value, px=_milliseconds(ttl), nx=True))

        return await self._run(work)

    async def incr(self, key: str, by: int, ttl: float) -> int:
        """Add to an integer; the zero that it begins from brings the time to live along, in the same transaction."""
        if not INTEGER_MIN <= by <= INTEGER_MAX:
            raise NotAnInteger

        async def work(client: Any) -> Any:
            async with client.pipeline(transaction=True) as pipeline:
                pipeline.set(key, b"0", px=_milliseconds(ttl), nx=True)
                pipeline.incrby(key, by)
                return (await pipeline.execute(raise_on_error=False))[1]

        answer = await self._run(work)
        if isinstance(answer, int):
            return answer
        if "not an integer" in str(answer) or "overflow" in str(answer) or "WRONGTYPE" in str(answer):
            raise NotAnInteger
        raise CacheFailure(f"{type(answer).__name__}: {answer}")

    async def delete(self, keys: Sequence[str]) -> int:
        """Delete keys."""

        async def work(client: Any) -> int:
            total = 0
            for start in range(0, len(keys), AT_ONCE):
                total += await client.unlink(*keys[start : start + AT_ONCE])
            return total

        return await self._run(work)

    async def release(self, key: str, value: bytes) -> None:
        """Delete the key if it still has this value, in one step on the server."""

        async def work(client: Any) -> None:
            await client.eval(_RELEASE, 1, key, value)

        await self._run(work)

    async def sweep(self, prefix: str, matches: Callable[[str], bool]) -> int:
        """Delete what matches, going through the keys by SCAN, which never stops the server as KEYS would."""
        total = 0
        async for keys in self._scan(prefix):
            wanted = [key for key in keys if matches(key)]
            if wanted:
                total += await self.delete(wanted)
        return total

    async def count(self, company_id: str, hits: int, misses: int) -> None:
        """Add to the company's counts on the server."""

        async def work(client: Any) -> None:
            async with client.pipeline(transaction=False) as pipeline:
                pipeline.hincrby(_counts_key(company_id), "hits", hits)
                pipeline.hincrby(_counts_key(company_id), "misses", misses)
                await pipeline.execute()

        await self._run(work)

    async def measure(self, company_id: str, prefix: str) -> Measured:
        """Return what the company's keys take, its counts, and the memory of the whole server."""
        seen: set[str] = set()
        size = 0
        async for keys in self._scan(prefix):
            # A key may come up more than once while others come and go.
            new = [key for key in keys if key not in seen]
            seen.update(new)
            size += sum(await self._lengths(new))

        async def work(client: Any) -> tuple[Any, Any, Any]:
            async with client.pipeline(transaction=False) as pipeline:
                pipeline.hgetall(_counts_key(company_id))
                pipeline.info("memory")
                pipeline.info("stats")
                counts, memory, stats = await pipeline.execute()
                return counts, memory, stats

        counts, memory, stats = await self._run(work)
        return Measured(
            entries=len(seen),
            bytes=size,
            bytes_max=memory.get("maxmemory") or None,
            hits=int(counts.get(b"hits", 0)),
            misses=int(counts.get(b"misses", 0)),
            evictions=int(stats.get("evicted_keys", 0)),
            memory={
                "used": memory.get("used_memory"),
                "peak": memory.get("used_memory_peak"),
                "max": memory.get("maxmemory"),
                "policy": memory.get("maxmemory_policy"),
            },
        )

    async def close(self) -> None:
        """Close this loop's connections; those of others go with their loops."""
        client, guard = self._clients.pop(asyncio.get_running_loop(), (None, None))
        if guard is not None:
            await guard.aclose()
        elif client is not None:
            await client.aclose()

    async def _scan(self, prefix: str) -> AsyncGenerator[list[str], None]:
        """Yield the keys that begin with `prefix`, some at a time."""
        pattern = _SPECIAL.sub(r"\\\1", prefix) + "*"
        cursor = 0
        while True:

            async def work(client: Any, cursor: int = cursor) -> tuple[int, list[bytes]]:
                place, keys = await client.scan(cursor, match=pattern, count=AT_ONCE)
                return int(place), keys

            cursor, found = await self._run(work)
            keys = []
            for key in found:
                # What is no text was not written by a cache of ours.
                with suppress(UnicodeDecodeError):
                    keys.append(key.decode())
            yield [key for key in keys if key.startswith(prefix)]
            if cursor == 0:
                return

    async def _lengths(self, keys: Sequence[str]) -> list[int]:
        async def work(client: Any) -> list[int]:
            async with client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.strlen(key)
                return [answer for answer in await pipeline.execute(raise_on_error=False) if isinstance(answer, int)]

        return await self._run(work) if keys else []

    def _value(self, answer: Any) -> bytes | None:
        if answer is None or isinstance(answer, bytes):
            return answer
        if "WRONGTYPE" in str(answer):
            self.refuse(RefusedEntry("it is no text"))
            return None
        raise CacheFailure(f"{type(answer).__name__}: {answer}")

    async def _run(self, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        """Run `work` with this loop's client; whatever the server or the way to it does wrong is a CacheFailure."""
        if monotonic() < self._resting_until:
            raise CacheFailure("it did not answer a moment ago")
        exceptions = _redis().exceptions
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await work(await self._client())
        except (exceptions.TimeoutError, TimeoutError) as error:
            self._resting_until = monotonic() + REST_SECONDS
            raise CacheFailure("it did not answer in time") from error
        except exceptions.RedisError as error:
            if "WRONGTYPE" in str(error):
                raise RefusedEntry("it is no text") from error
            raise CacheFailure(_said(error)) from error
        except OSError as error:
            raise CacheFailure(_said(error)) from error

    async def _client(self) -> Any:
        loop = asyncio.get_running_loop()
        known = self._clients.get(loop)
        if known is not None:
            return known[0]
        client = self._make()
        guard = _closing(client)
        # From its first step on, the loop closes the generator when it ends itself, and so the client.
        await anext(guard)
        self._clients = {other: kept for other, kept in self._clients.items() if not other.is_closed()}
        return self._clients.setdefault(loop, (client, guard))[0]

    def _make(self) -> Any:
        redis = _redis()
        return redis.asyncio.Redis.from_url(
            self._url,
            protocol=2,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
            max_connections=CONNECTIONS_MAX,
            # A connection that the server closed meanwhile is worth one more attempt, a server that is down is not.
            retry=redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 1),
        )


async def _closing(client: Any) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await client.aclose()


def _redis() -> Any:
    try:
        import redis.asyncio.retry
        import redis.backoff
    except ImportError as error:
        raise ConfigurationError(
            "REDIS_URL is set, but the package redis is not installed", hint="pip install 'localstore[redis]'"
        ) from error
    return redis


def _address(url: str) -> str:
    """Return the URL without its credentials; raises ConfigurationError, without repeating it, for what is none."""
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme not in _SCHEMES:
        raise ConfigurationError(
            "REDIS_URL is not a URL of a Redis server", hint="redis://[[user]:password@]host[:port][/db], rediss://…"
        )
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    return f"{parts.scheme}://{parts.hostname or 'localhost'}:{port}{parts.path.rstrip('/')}"


def _said(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}"


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _counts_key(company_id: str) -> str:
    """Return a key that is no company's: ids never begin with a tilde."""
    return f"~counts:{company_id}"
