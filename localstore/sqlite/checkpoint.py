"""When a file's WAL is copied back, and by whom: one process at a time where SQLite has the WAL-reset bug.

SQLite before 3.51.3 (but for 3.50.7 and 3.44.6 on their branches) can damage a file when two connections write or
checkpoint at the same moment. Below a fixed version no connection of ours checkpoints by itself; the writing
connection does it, holding a lock that excludes every other process.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_NAME = "store.lock"

CHANGES_PER_CHECKPOINT = 4_000
COMMITS_PER_CHECKPOINT = 500
"""Whichever comes first: either makes a WAL of a few megabytes, as SQLite's own rule does."""

FRAMES_ALARM = 250_000
"""About a gigabyte of WAL: a reader that never ends keeps it from being copied back."""

_log = logging.getLogger("localstore")


def has_wal_reset_bug(version: tuple[int, ...]) -> bool:
    """Return whether this version of SQLite has the WAL-reset bug."""
    if version >= (3, 51, 3) or version < (3, 7, 0):
        return False
    return not ((3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45))


@contextmanager
def folder_lock(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the folder's lock against other processes; gives False when it is taken and `wait` is not wanted.

    The lock belongs to the open file and goes with the process, however it ends.
    """
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


class Checkpoints:
    """Decides after each commit whether the WAL is copied back now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._needed = has_wal_reset_bug(sqlite3.sqlite_version_info)
        self._changes = 0
        self._commits = 0
        self._alarmed = False

    def after_commit(self, connection: sqlite3.Connection) -> None:
        """Copy the WAL back when enough has been written since the last time."""
        if not self._needed:
            return
        self._commits += 1
        if self._commits < COMMITS_PER_CHECKPOINT and connection.total_changes - self._changes < CHANGES_PER_CHECKPOINT:
            return
        with folder_lock(self._path.parent, wait=False) as alone:
            # Another process that holds the lock is doing this very work.
            frames = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1] if alone else 0
        self._changes = connection.total_changes
        self._commits = 0
        if frames > FRAMES_ALARM and not self._alarmed:
            self._alarmed = True
            _log.warning(
                "the WAL of %s holds %d pages: a reader that does not end keeps it growing", self._path, frames
            )

    def opened(self) -> None:
        """Begin counting anew for a new connection."""
        self._changes = self._commits = 0
