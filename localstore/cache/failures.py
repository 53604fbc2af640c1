"""What goes wrong with a cache: it is counted and said now and then, and the caller sees a miss."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

SAID_EVERY_SECONDS: Final = 60.0
"""A cache that is down fails at every call; one line a minute tells as much as a thousand."""

_log = logging.getLogger("localstore.cache")


class CacheFailure(Exception):
    """Raised inside the cache when a backend could not answer; callers of the cache never see it."""


class RefusedEntry(CacheFailure):
    """Raised when a stored entry is not one of ours: planted, damaged, or written by another program."""


@dataclass(slots=True)
class Failures:
    """How often one backend failed; says so at most once a minute."""

    name: str
    count: int = 0
    _unsaid: int = 0
    _said_at: float | None = None
    _lock: Lock = field(default_factory=Lock)

    def note(self, error: CacheFailure) -> None:
        """Count a failure, and log it unless one was logged a moment ago."""
        with self._lock:
            self.count += 1
            self._unsaid += 1
            now = time.monotonic()
            if self._said_at is not None and now - self._said_at < SAID_EVERY_SECONDS:
                return
            failures, self._unsaid, self._said_at = self._unsaid, 0, now
        _log.warning("%s did not answer and counts as empty: %s (%d since last said)", self.name, error, failures)
