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


VALUE_BYTES_MAX: Final = 8 * 1024 * 1024
"""What is larger is not kept: moving it costs more than most computations, and it would push out everything else."""

VALUE_SHARE: Final = 8
"""A value takes at most this part of the room: an eighth of the default is just the largest value."""

VALUE_BYTES_SMALL: Final = 64 * 1024
"""Nobody has to ask whether there is room for a value of this size."""


def share_of(room: int) -> int:
    """Return how large a value may be where there is so much room for all."""
    return max(min(VALUE_BYTES_MAX, room // VALUE_SHARE), VALUE_BYTES_SMALL)


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
    from any event loop. Nothing is opened before the first call. A write that meets an entry that is not ours counts it
    as a failure, deletes it, and goes on as if there were none.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self.failures = Failures(self.name)

    @abstractmethod
    async def value_bytes_max(self) -> int:
        """Return how large a value may be: one that takes much of the room would push out all others, and go itself."""

    @abstractmethod
    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return each key's value, None where there is none.

        One that is not ours is counted as a failure, is as good as none, and is deleted before a later call is begun.
        """

    @abstractmethod
    async def set(self, entries: Sequence[tuple[str, bytes]], ttl: float) -> bool:
        """Keep these, in place of what was there; return whether there is room for all of them."""

    @abstractmethod
    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        """Keep the value unless the key has one; of several callers at once exactly one hears True."""

    @abstractmethod
    async def lock(self, key: str, owner: bytes, ttl: float) -> bool:
        """Keep the owner under a key unless it has one; what cannot be a lock, as it would stay longer, gives way."""

    @abstractmethod
    async def incr(self, key: str, by: int, ttl: float) -> int:
        """Add to the integer under the key (0 where there is none) and return it; only a new one gets the `ttl`."""

    @abstractmethod
    async def delete(self, keys: Sequence[str]) -> int:
        """Delete keys and return how many were there."""

    @abstractmethod
    async def release(self, key: str, value: bytes) -> None:
        """Delete the key if it still has this value: a lock of the caller's, or an entry that nobody can read."""

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
