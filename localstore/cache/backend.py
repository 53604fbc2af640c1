"""Backend: what a cache asks of whatever holds its entries. Keys are full ones, values bytes, times seconds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from localstore.cache.failures import Failures

INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**63 - 1
"""What Redis counts with, and therefore both."""


class NotAnInteger(Exception):
    """Raised when `incr` meets something else than an integer of 64 bits, or would make one."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one company has in a cache, and what was counted about it; `memory` is the server's, where there is one."""

    entries: int
    bytes: int
    bytes_max: int | None
    hits: int
    misses: int
    evictions: int
    memory: Mapping[str, Any] | None = None


class Backend(ABC):
    """Holds entries until they expire or the room is needed.

    Every method raises CacheFailure where it cannot answer, and nothing else but NotAnInteger. A method may be called
    from any event loop. Nothing is opened before the first call.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self.failures = Failures(self.name)

    @abstractmethod
    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return each key's value, None where there is none; one that is not ours counts as a failure and as none."""

    @abstractmethod
    async def set(self, entries: Sequence[tuple[str, bytes]], ttl: float) -> None:
        """Keep all of these, in place of what was there."""

    @abstractmethod
    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        """Keep the value unless the key has one; of several callers at once exactly one hears True."""

    @abstractmethod
    async def incr(self, key: str, by: int, ttl: float) -> int:
        """Add to the integer under the key (0 where there is none) and return it; only a new one gets the `ttl`."""

    @abstractmethod
    async def delete(self, keys: Sequence[str]) -> int:
        """Delete keys and return how many were there."""

    @abstractmethod
    async def release(self, key: str, value: bytes) -> None:
        """Delete the key if it still has this value."""

    @abstractmethod
    async def sweep(self, prefix: str, matches: Callable[[str], bool]) -> int:
        """Delete every key that begins with `prefix` and matches, and return how many were there."""

    @abstractmethod
    async def count(self, company_id: str, hits: int, misses: int) -> None:
        """Add to what is counted about a company; kept beyond this process."""

    @abstractmethod
    async def measure(self, company_id: str, prefix: str) -> Measured:
        """Return what the keys with this prefix take, and what was counted about the company."""

    @abstractmethod
    async def close(self) -> None:
        """Close what is open; a later call opens it again."""
