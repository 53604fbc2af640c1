"""A bound on the file descriptors of open tenants: those unused for longest are put to sleep for others."""

from __future__ import annotations

import resource
from threading import Lock
from typing import Protocol

DESCRIPTORS_MIN = 64
FREED_AT_ONCE = 16
"""A store that goes round many tenants looks for sleepers once in a while, not at every opening."""


class Sleeper(Protocol):
    """Something that uses file descriptors and can do without them while it is idle."""

    used_at: float

    def sleep(self) -> bool:
        """Close what is open if nobody uses it; return whether it is closed."""
        ...


class Descriptors:
    """The file descriptors of all open tenants of one process."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = Lock()
        self._making_room = Lock()
        self._held: dict[Sleeper, int] = {}
        self._total = 0

    @property
    def total(self) -> int:
        """Return how many are in use."""
        return self._total

    @property
    def awake(self) -> int:
        """Return how many tenants have any."""
        return len(self._held)

    def holds(self, sleeper: Sleeper, count: int) -> None:
        """Note that `sleeper` now uses `count` of them."""
        with self._lock:
            self._total += count - self._held.pop(sleeper, 0)
            if count:
                self._held[sleeper] = count

    def make_room(self, count: int, sleeper: Sleeper) -> None:
        """Put idle tenants other than `sleeper` to sleep until `count` more fit; those in use keep theirs."""
        with self._making_room:
            if self._total + count <= self.limit:
                return
            target = max(0, self.limit - count - FREED_AT_ONCE)
            with self._lock:
                candidates = sorted(self._held, key=lambda candidate: candidate.used_at)
            for candidate in candidates:
                if self._total <= target:
                    return
                if candidate is not sleeper:
                    candidate.sleep()


def descriptors_default() -> int:
    """Return half of what the process may have; the rest is the application's."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A limit of "infinity" is a huge number, or -1.
    return max(DESCRIPTORS_MIN, (soft if 0 < soft < 1 << 20 else 1 << 20) // 2)
