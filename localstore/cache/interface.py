"""Cache: values of one company that are cheaper to keep than to make again, the same on every backend."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from localstore.cache import values
from localstore.cache.backend import INTEGER_MAX, INTEGER_MIN, VALUE_BYTES_SMALL, Backend, NotAnInteger
from localstore.cache.changes import Changes, table_names
from localstore.cache.failures import CacheFailure
from localstore.cache.following import Following
from localstore.cache.keys import Namespace, check_key
from localstore.cache.once import Computations, compute
from localstore.cache.patterns import check_pattern, compile_pattern
from localstore.cache.stats import CacheStats
from localstore.errors import CacheUnavailable, ConfigurationError, InvalidRow

T = TypeVar("T")
D = TypeVar("D")

TTL_SECONDS: Final = 300.0
TTL_SECONDS_MAX: Final = 366 * 24 * 3600.0
"""A year, also a leap year. Nothing is kept for good: what nobody deletes goes at last."""

COUNTED_AT_ONCE: Final = 500
"""Hits and misses are counted here and added to the backend's counts when so many have come together."""


class Cache:
    """The cache of one company, or of one of its platforms.

    Values are what JSON can hold and come back equal to what was set; others are an InvalidRow. A `ttl` is in seconds,
    None means five minutes. A backend that is down or damaged is a miss: it is counted and logged, and nothing raises.
    """

    def __init__(self, backend: Backend, namespace: Namespace, changes: Changes | None = None) -> None:
        self.backend = backend
        self.namespace = namespace
        self._following = Following(changes, namespace.company_id, backend.failures)
        self._hits = 0
        self._misses = 0
        self._computations = Computations()

    def __repr__(self) -> str:
        return f"<Cache of {self.namespace.prefix} on {self.backend.name}>"

    async def get(self, key: str, default: D | None = None) -> Any | D | None:
        """Return the value of a key, or `default`. A value made from rows that changed since is not there any more."""
        return (await self.get_many((key,))).get(key, default)

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those of the keys that have one."""
        wanted = {key: self.namespace.key(key) for key in keys}
        if not wanted:
            return {}
        try:
            stored = await self.backend.get(list(wanted.values()))
        except CacheFailure as error:
            self._failed(error)
            stored = [None] * len(wanted)
        there = {key: data for key, data in zip(wanted, stored, strict=True) if data is not None}
        found, refused = await self._following.values(there)
        for key in refused:
            await self._guarded(self.backend.release(wanted[key], there[key]), None)
        await self._count(len(found), len(wanted) - len(found))
        return found

    async def set(self, key: str, value: object, ttl: float | None = None) -> bool:
        """Keep a value; return whether it is kept, which it is not when it is too large or the cache is down."""
        return await self.set_many({check_key(key): value}, ttl)

    async def set_many(self, entries: Mapping[str, object], ttl: float | None = None) -> bool:
        """Keep several values; return whether all are kept."""
        seconds = check_ttl(ttl)
        encoded = [(self.namespace.key(key), values.encode(value)) for key, value in entries.items()]
        try:
            limit = await self._limit(max((len(data) for _, data in encoded), default=0))
            small = [(key, data) for key, data in encoded if len(data) <= limit]
            large = [key for key, data in encoded if len(data) > limit]
            kept = await self.backend.set(small, seconds) if small else True
            if large:
                # What was there before is not what the caller wants to find.
                await self.backend.delete(large)
        except CacheFailure as error:
            self._failed(error)
            return False
        return kept and not large

    async def add(self, key: str, value: object, ttl: float | None = None) -> bool:
        """Keep a value unless the key has one, and return whether this call did: of several at once, one hears True."""
        full, data, seconds = self.namespace.key(key), values.encode(value), check_ttl(ttl)
        return await self._guarded(self._add(full, data, seconds), False)

    async def incr(self, key: str, by: int = 1, ttl: float | None = None) -> int | None:
        """Add to an integer and return it; a counter that begins here begins at 0 and lives for `ttl`.

        None means that the cache is down. Raises InvalidRow where the value is no integer of 64 bits, or would be none.
        """
        full, seconds = self.namespace.key(key), check_ttl(ttl)
        if type(by) is not int or not INTEGER_MIN <= by <= INTEGER_MAX:
            raise ConfigurationError("a counter can only be raised by an integer of 64 bits", hint="incr(key, 1)")
        try:
            return await self._guarded(self._incr(full, by, seconds), None)
        except NotAnInteger:
            raise InvalidRow(
                "what the cache has under this key is no integer of 64 bits, or would not stay one",
                hint="count under a key of its own, or delete this one first",
                tenant=self.namespace.company_id,
            ) from None

    async def delete(self, key: str) -> bool:
        """Delete a key; return whether it was there."""
        return bool(await self._guarded(self.backend.delete([self.namespace.key(key)]), 0))

    async def forget(self, key: str) -> bool:
        """Delete a key; return whether it is gone now, whether or not it was there: False when the cache is down."""
        return await self._guarded(self.backend.delete([self.namespace.key(key)]), None) is not None

    async def delete_pattern(self, pattern: str) -> int:
        """Delete every key that matches and return how many were there.

        `*` is any run of characters, `?` one, `[abc]`, `[a-z]` and `[^a]` one of a set; a backslash takes the next one
        as it is. A pattern sees the keys of this cache and no others.
        """
        wanted = compile_pattern(check_pattern(pattern))
        start = len(self.namespace.prefix)
        return await self._guarded(
            self.backend.sweep(self.namespace.prefix + wanted.literal, lambda key: wanted.matches(key[start:])), 0
        )

    async def remember(
        self,
        key: str,
        make: Callable[[], Awaitable[T]],
        *,
        ttl: float | None = None,
        tables: Iterable[Any] = (),
    ) -> T:
        """Return the key's value, made by `make` and kept where there is none.

        While one caller makes it, others wait for it, those of other processes too, up to ten seconds; then they make
        it themselves. With `tables` (models or names) it is made again as soon as any row of theirs has changed.
        """
        full, seconds, names = self.namespace.key(key), check_ttl(ttl), table_names(tables)

        async def look() -> tuple[bytes, Any] | None:
            stored = (await self.backend.get([full]))[0]
            return None if stored is None else await self._following.value(stored, names)

        async def make_and_keep() -> bytes:
            # Asked for before the value is made: what changes in between makes it look older than it is, never newer.
            states = await self._following.states(names)
            data = values.encode(await make())
            await self._guarded(self._keep(full, values.bind(data, states), seconds), None)
            return data

        found = await self._guarded(look(), None)
        await self._count(int(found is not None), int(found is None))
        if found is not None:
            value: T = found[1]
            return value
        made = await self._computations.once(
            full,
            lambda: compute(self.backend, self.namespace.lock(key), make_and_keep, look),
            make_and_keep,
            states=await self._following.states(names),
            hold=self._following.hold,
        )
        # Everybody gets a value of their own: one that a caller changes must not change for the others.
        result: T = values.decode(made)
        return result

    async def clear(self) -> int:
        """Delete everything of the company, its platforms' entries included, and return how many entries that were.

        The one call that raises CacheUnavailable: whoever empties a cache must know that it was not emptied.
        """
        try:
            return await self.backend.sweep(self.namespace.company_prefix, lambda _key: True)
        except CacheFailure as error:
            self._failed(error)
            raise CacheUnavailable(
                f"the cache of tenant {self.namespace.company_id} was not emptied: {error}",
                hint="run `localstore cache clear` again when it answers",
                tenant=self.namespace.company_id,
            ) from error

    async def stats(self) -> CacheStats:
        """Return what the company has in the cache and how useful that was."""
        company = self.namespace.company_id
        try:
            await self.flush()
            found = await self.backend.measure(company, self.namespace.company_prefix)
        except CacheFailure as error:
            self._failed(error)
            failures = self.backend.failures.count
            return CacheStats(self.backend.name, False, 0, 0, None, self._hits, self._misses, 0, failures)
        return CacheStats(
            backend=self.backend.name,
            available=True,
            entries=found.entries,
            bytes=found.bytes,
            bytes_max=found.bytes_max,
            hits=found.hits,
            misses=found.misses,
            evictions=found.evictions,
            failures=self.backend.failures.count,
            memory=None if found.memory is None else dict(found.memory),
        )

    async def flush(self) -> None:
        """Add the hits and misses of this process to what the backend counts; raises CacheFailure when it is down."""
        hits, misses = self._hits, self._misses
        if hits or misses:
            self._hits = self._misses = 0
            try:
                await self.backend.count(self.namespace.company_id, hits, misses)
            except CacheFailure:
                self._hits += hits
                self._misses += misses
                raise

    async def settle(self) -> None:
        """Do what `flush` does, as well as it goes."""
        await self._guarded(self.flush(), None)

    async def _limit(self, size: int) -> int:
        """Return how large a value may be; nobody is asked for a size that always fits."""
        return VALUE_BYTES_SMALL if size <= VALUE_BYTES_SMALL else await self.backend.value_bytes_max()

    async def _keep(self, full: str, data: bytes, seconds: float) -> None:
        if len(data) <= await self._limit(len(data)):
            await self.backend.set([(full, data)], seconds)

    async def _add(self, full: str, data: bytes, seconds: float) -> bool:
        if len(data) > await self._limit(len(data)):
            return False
        if await self.backend.add(full, data, seconds):
            return True
        return await self._cleared(full) and await self.backend.add(full, data, seconds)

    async def _incr(self, full: str, by: int, seconds: float) -> int:
        try:
            return await self.backend.incr(full, by, seconds)
        except NotAnInteger:
            if not await self._cleared(full):
                raise
        return await self.backend.incr(full, by, seconds)

    async def _cleared(self, full: str) -> bool:
        """Return whether nothing is in the way under a key, after what nobody would get from it was deleted."""
        (stored,) = await self.backend.get([full])
        if stored is not None:
            found, _ = await self._following.values({full: stored})
            if found:
                return False
            await self.backend.release(full, stored)
        return True

    async def _guarded(self, answer: Awaitable[T], missing: D) -> T | D:
        try:
            return await answer
        except CacheFailure as error:
            self._failed(error)
            return missing

    def _failed(self, error: CacheFailure) -> None:
        self.backend.failures.note(error)

    async def _count(self, hits: int, misses: int) -> None:
        self._hits += hits
        self._misses += misses
        if self._hits + self._misses >= COUNTED_AT_ONCE:
            await self.settle()


def check_ttl(ttl: float | None) -> float:
    """Return the seconds to keep something for: five minutes for None; raises ConfigurationError for what is none."""
    if ttl is None:
        return TTL_SECONDS
    if type(ttl) not in (int, float) or not 0 < ttl <= TTL_SECONDS_MAX:
        raise ConfigurationError(
            "this ttl is no time that a cache keeps something for",
            hint="give seconds above 0 and up to a year (366 days), or None for five minutes",
        )
    return float(ttl)
