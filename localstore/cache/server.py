"""Server: a cache in Redis, which all boxes of a company may share."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, Final

from localstore.cache.address import check_address
from localstore.cache.backend import VALUE_BYTES_MAX, Backend, Measured, NotAnInteger, share_of
from localstore.cache.failures import CacheFailure, RefusedEntry
from localstore.cache.wire import AT_ONCE, Command, Wire, said, wire_to
from localstore.sqlite.threads import in_thread

# What has no end, or a later one than a lock's, was not put there as one.
_LOCK: Final = (
    "if redis.call('exists', KEYS[1]) == 1 then local left = redis.call('pttl', KEYS[1]) "
    "if redis.call('type', KEYS[1]).ok == 'string' and left >= 0 and left <= tonumber(ARGV[2]) then return 0 end end "
    "redis.call('del', KEYS[1]) redis.call('set', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1"
)
_DROP: Final = "if redis.call('type', KEYS[1]).ok ~= 'string' then redis.call('del', KEYS[1]) end return 0"
_RELEASE: Final = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"
# The sum is read again because a number of 64 bits would lose some on its way through Lua.
_INCR: Final = (
    "redis.call('set', KEYS[1], '0', 'PX', ARGV[2], 'NX') redis.call('incrby', KEYS[1], ARGV[1]) "
    "return redis.call('get', KEYS[1])"
)
_NO_INTEGER: Final = ("not an integer", "overflow", "WRONGTYPE")
_SPECIAL: Final = re.compile(r"([*?\[\]\\^-])")


class Server(Backend):
    """One Redis server. Each event loop has a connection of its own, which is closed when the loop ends."""

    name: ClassVar[str] = "redis"

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.address = check_address(url)
        self.failures.name = f"the cache at {self.address}"
        self._wires: dict[asyncio.AbstractEventLoop, Wire] = {}

    def __repr__(self) -> str:
        return f"<Server {self.address}>"

    async def value_bytes_max(self) -> int:
        """Return how large a value may be, by the memory that the server may take as far as it says so."""
        (memory,) = await self._ask([("INFO", "memory")])
        room = memory.get("maxmemory") if isinstance(memory, dict) else None
        return share_of(room) if isinstance(room, int) and room > 0 else VALUE_BYTES_MAX

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return each key's value, or None."""
        refused: list[str] = []
        answers = await self._ask([("GET", key) for key in keys])
        found = [self._value(key, answer, refused) for key, answer in zip(keys, answers, strict=True)]
        if refused:
            try:
                await self._do([("EVAL", _DROP, 1, key) for key in refused])
            except CacheFailure as error:
                self.failures.note(error)
        return found

    async def set(self, entries: Sequence[tuple[str, bytes]], ttl: float) -> bool:
        """Keep all of these; what the server gives up for them is its own affair."""
        milliseconds = _milliseconds(ttl)
        await self._do([("SET", key, value, "PX", milliseconds) for key, value in entries])
        return True

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        """Keep the value unless the key has one."""
        return bool((await self._do([("SET", key, value, "PX", _milliseconds(ttl), "NX")], again=False))[0])

    async def lock(self, key: str, owner: bytes, ttl: float) -> bool:
        """Take the lock unless another one has it, in one step on the server."""
        return bool((await self._do([("EVAL", _LOCK, 1, key, owner, _milliseconds(ttl))], again=False))[0])

    async def incr(self, key: str, by: int, ttl: float) -> int:
        """Add to an integer, in one step on the server; the zero that it begins from brings its time along."""
        (answer,) = await self._ask([("EVAL", _INCR, 1, key, by, _milliseconds(ttl))], again=False)
        if isinstance(answer, bytes):
            return int(answer)
        if any(text in str(answer) for text in _NO_INTEGER):
            raise NotAnInteger
        raise CacheFailure(said(answer))

    async def delete(self, keys: Sequence[str]) -> int:
        """Delete keys."""
        total = 0
        for start in range(0, len(keys), AT_ONCE):
            total += (await self._do([("UNLINK", *keys[start : start + AT_ONCE])]))[0]
        return total

    async def release(self, key: str, value: bytes) -> None:
        """Delete the key if it still has this value, in one step on the server."""
        await self._do([("EVAL", _RELEASE, 1, key, value)])

    async def sweep(self, prefix: str, matches: Callable[[str], bool]) -> int:
        """Delete what matches, going through the keys by SCAN, which never stops the server as KEYS would."""
        total = 0
        async for keys in self._scan(prefix):
            # A pattern of many runs takes a moment, which all others on this loop would wait for.
            wanted = await in_thread(partial(_matching, keys, matches))
            if wanted:
                total += await self.delete(wanted)
        return total

    async def count(self, company_id: str, hits: int, misses: int) -> None:
        """Add to the company's counts on the server."""
        key = _counts_key(company_id)
        await self._do([("HINCRBY", key, "hits", hits), ("HINCRBY", key, "misses", misses)], again=False)

    async def measure(self, company_id: str, prefix: str) -> Measured:
        """Return what the company's keys take, its counts, and the memory of the whole server."""
        seen: set[str] = set()
        size = 0
        async for keys in self._scan(prefix):
            # A key may come up more than once while others come and go.
            new = [key for key in keys if key not in seen]
            seen.update(new)
            lengths = await self._ask([("STRLEN", key) for key in new])
            size += sum(length for length in lengths if isinstance(length, int))
        counts, memory, stats = await self._do(
            [("HGETALL", _counts_key(company_id)), ("INFO", "memory"), ("INFO", "stats")]
        )
        return Measured(
            entries=len(seen),
            bytes=size,
            bytes_max=memory.get("maxmemory") or None,
            hits=_number(counts.get(b"hits")),
            misses=_number(counts.get(b"misses")),
            evictions=int(stats.get("evicted_keys", 0)),
            memory={
                "used": memory.get("used_memory"),
                "peak": memory.get("used_memory_peak"),
                "max": memory.get("maxmemory"),
                "policy": memory.get("maxmemory_policy"),
            },
        )

    async def close(self) -> None:
        """Close this loop's connection; those of others go with their loops."""
        wire = self._wires.pop(asyncio.get_running_loop(), None)
        if wire is not None:
            await wire.close()

    async def _scan(self, prefix: str) -> AsyncGenerator[list[str], None]:
        """Yield the keys that begin with `prefix`, some at a time."""
        pattern = _SPECIAL.sub(r"\\\1", prefix) + "*"
        cursor: Any = 0
        while True:
            ((cursor, found),) = await self._do([("SCAN", cursor, "MATCH", pattern, "COUNT", AT_ONCE)])
            keys = []
            for key in found:
                # What is no text was not written by a cache of ours.
                with suppress(UnicodeDecodeError):
                    keys.append(key.decode())
            yield [key for key in keys if key.startswith(prefix)]
            if int(cursor) == 0:
                return

    def _value(self, key: str, answer: Any, refused: list[str]) -> bytes | None:
        if answer is None or isinstance(answer, bytes):
            return answer
        if "WRONGTYPE" in str(answer):
            self.failures.note(RefusedEntry("it is no text"))
            refused.append(key)
            return None
        raise CacheFailure(said(answer))

    async def _do(self, commands: Sequence[Command], *, again: bool = True) -> list[Any]:
        """Return the answers; an error among them is a CacheFailure."""
        answers = await self._ask(commands, again=again)
        for answer in answers:
            if isinstance(answer, Exception):
                raise CacheFailure(said(answer))
        return answers

    async def _ask(self, commands: Sequence[Command], *, again: bool = True) -> list[Any]:
        """Return the answers; `again` where the commands may be carried out twice."""
        loop = asyncio.get_running_loop()
        wire = self._wires.get(loop)
        if wire is None:
            self._wires = {other: kept for other, kept in self._wires.items() if not other.is_closed()}
            wire = self._wires.setdefault(loop, wire_to(self._url))
        return await wire.ask(commands, again=again)


def _number(counted: bytes | None) -> int:
    """Return a count; what others put in its place counts as nothing."""
    return int(counted) if counted is not None and counted.isdigit() else 0


def _matching(keys: Sequence[str], matches: Callable[[str], bool]) -> list[str]:
    return [key for key in keys if matches(key)]


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _counts_key(company_id: str) -> str:
    """Return a key that is no company's: ids never begin with a tilde."""
    return f"~counts:{company_id}"
