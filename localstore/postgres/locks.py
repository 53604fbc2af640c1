"""File locks that the kernel drops when their holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from localstore.errors import StoreBusy

LOCK_SECONDS = 120.0
_POLL_SECONDS = 0.02


class FileLock:
    """A lock on a file: shared by many or held by one. It belongs to this object, not to the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self, *, shared: bool, timeout: float = LOCK_SECONDS) -> None:
        """Take the lock, or raise `StoreBusy` when others hold it for the whole of `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not self.try_acquire(shared=shared):
            if time.monotonic() >= deadline:
                raise StoreBusy(
                    f"another command holds {self._path}", hint="wait for it to end, then run this command again"
                )
            time.sleep(_POLL_SECONDS)

    def try_acquire(self, *, shared: bool) -> bool:
        """Take the lock, or turn the one held into the other kind; return False where others are in the way."""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            # The kernel may have dropped the kind held before, so nothing is held from here on.
            self.release()
            return False
        return True

    def release(self) -> None:
        """Give the lock back; doing it twice is harmless."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        """Hold the lock alone for a block."""
        self.acquire(shared=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lock back."""
        self.release()
