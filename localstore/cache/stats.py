"""What a company has in the cache and how useful it was."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a company has in the cache (its platforms' entries included) and how useful it was.

    `bytes` are those of the values. `hits` and `misses` are of all processes, `failures` of this one. On disk
    `evictions` and `bytes_max` are the company's own; on a server they are of the whole server, as `memory` is. With
    `available` false the backend did not answer, and the numbers are those of this process.
    """

    backend: str
    available: bool
    entries: int
    bytes: int
    bytes_max: int | None
    hits: int
    misses: int
    evictions: int
    failures: int
    memory: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as plain values."""
        return asdict(self)
