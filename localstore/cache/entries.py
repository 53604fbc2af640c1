"""One cache database: diskcache's statements on one connection of ours, with room that is bounded and measured."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Final

import diskcache

from localstore.cache.backend import INTEGER_MAX, INTEGER_MIN, NotAnInteger
from localstore.cache.disk import Disk, value_of
from localstore.cache.failures import Failures, RefusedEntry

SETTINGS: Final = {
    **diskcache.DEFAULT_SETTINGS,
    "eviction_policy": "least-recently-stored",  # Anything else would make every read a write.
    "cull_limit": 0,  # Room is made once for a group of writes, not at each of them.
    "sqlite_auto_vacuum": 2,  # Pages are given back to the disk where somebody asks for it, not at every delete.
    "sqlite_mmap_size": 0,  # A file that is cut off under a mapping kills the process.
}

EXPIRED_AT_ONCE: Final = 200
"""How many expired entries go with a group of writes."""

EVICTED_AT_ONCE: Final = 100
KEPT_OF_LIMIT: Final = 0.9
"""Making more room than is needed means not having to do it again at the next write."""

SWEPT_AT_ONCE: Final = 1000
"""How many keys one group of work looks through, so that others get their turn."""

_INTEGER: Final = re.compile(rb"-?(?:0|[1-9][0-9]{0,18})")


class Entries(diskcache.Cache):  # type: ignore[misc]  # diskcache has no types
    """The entries of one database, for whoever has the sole use of the connection at the moment.

    diskcache's constructor is not called: it takes attributes, pragmas and the folder itself from a table of the
    file, which is whatever somebody wrote there. The file is a copy of one that diskcache made; nothing is read from
    that table but counts.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection, bytes_max: int, failures: Failures) -> None:
        for name, value in SETTINGS.items():
            setattr(self, name, value)
        self._directory = str(folder)
        self._timeout = 0
        self._txn_id: int | None = None
        self._disk = Disk(str(folder))
        self.connection = connection
        self.bytes_max = bytes_max
        self._failures = failures
        self._page_size = int(connection.execute("PRAGMA page_size").fetchone()[0])

    @property
    def _con(self) -> sqlite3.Connection:
        """Return the connection: one for all threads, where diskcache would open one a thread."""
        return self.connection

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    @contextmanager
    def transact(self, retry: bool = False) -> Iterator[None]:
        """Do what is in the block in one transaction, which is over at its end, however it ends.

        diskcache's own hides why none could be begun, and leaves one behind that could not be committed.
        """
        assert not retry
        self.connection.execute("BEGIN IMMEDIATE")
        self._txn_id = get_ident()
        try:
            yield
            self.connection.execute("COMMIT")
        finally:
            self._txn_id = None
            # SQLite has ended it already after some errors, as when the disk is full.
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")

    def volume(self) -> int:
        """Return how many bytes the entries take in the file; pages that are free do not count."""
        (pages,) = self.connection.execute("PRAGMA page_count").fetchone()
        (free,) = self.connection.execute("PRAGMA freelist_count").fetchone()
        return int(self._page_size * (pages - free))

    # -- one entry ------------------------------------------------------------------------------------------------

    def read(self, key: str) -> bytes | None:
        """Return the value of a key, or None; raises RefusedEntry for one that is not ours."""
        entry = self._entry(key)
        return None if entry is None else entry[0]

    def has(self, key: str) -> bool:
        """Return whether the key has an entry, of whatever kind."""
        found = self.connection.execute("SELECT 1 FROM Cache WHERE raw = 1 AND key = ?", (key.encode(),)).fetchone()
        return found is not None

    def add(self, key: str, value: bytes, ttl: float) -> bool:
        """Keep the value unless the key has one, and return whether this call did."""
        if self._sound(key) is not None:
            return False
        self.set(key, value, expire=ttl)
        return True

    def lock(self, key: str, owner: bytes, ttl: float) -> bool:
        """Keep the owner unless the key has one; see `Backend.lock`."""
        entry = self._sound(key)
        if entry is not None and entry[1] <= time.time() + ttl:
            return False
        self.set(key, owner, expire=ttl)
        return True

    def raise_by(self, key: str, by: int, ttl: float) -> int:
        """Add to the integer under the key; see `Backend.incr`."""
        value, expires = self._sound(key) or (b"0", None)
        total = int(value) + by if _INTEGER.fullmatch(value) else INTEGER_MAX + 1
        if not (INTEGER_MIN <= total <= INTEGER_MAX and INTEGER_MIN <= total - by <= INTEGER_MAX):
            raise NotAnInteger
        self.set(key, b"%d" % total, expire=ttl if expires is None else expires - time.time())
        return total

    def release(self, key: str, value: bytes) -> None:
        """Delete the key if it has this value."""
        entry = self._sound(key)
        if entry is not None and entry[0] == value:
            self.delete(key)

    def drop_refused(self, keys: Sequence[str]) -> None:
        """Delete those of the keys that have what is not ours: nobody could use it, and it is in others' way."""
        for key in keys:
            try:
                self._entry(key)
            except RefusedEntry:
                self.connection.execute("DELETE FROM Cache WHERE raw = 1 AND key = ?", (key.encode(),))

    def _sound(self, key: str) -> tuple[bytes, float] | None:
        """Return what a write finds under the key; what is not ours is counted, deleted, and as good as nothing."""
        try:
            return self._entry(key)
        except RefusedEntry as error:
            self._failures.note(error)
            self.drop_refused([key])
            return None

    def _entry(self, key: str) -> tuple[bytes, float] | None:
        stored, expires = self.get(key, expire_time=True)
        if stored is None:
            return None
        if not isinstance(expires, float):
            raise RefusedEntry("it has no time to expire")
        return value_of(key, stored), expires

    # -- many entries ---------------------------------------------------------------------------------------------

    def sweep(self, prefix: str, matches: Callable[[str], bool], after: bytes | None) -> tuple[int, bytes | None]:
        """Delete what matches among the next keys that begin with `prefix`; return how many, and where to go on."""
        rows = self.connection.execute(
            f"SELECT rowid, key, expire_time FROM Cache WHERE raw = 1 AND {_RANGE} AND key > ? ORDER BY key LIMIT ?",
            (*_bounds(prefix), b"" if after is None else after, SWEPT_AT_ONCE),
        ).fetchall()
        gone: list[tuple[int]] = []
        alive, now = 0, time.time()
        for rowid, key, expires in rows:
            try:
                wanted = matches(self._disk.get(key, 1))
            except RefusedEntry:
                continue
            if wanted:
                gone.append((rowid,))
                alive += expires is None or expires > now
        self.connection.executemany("DELETE FROM Cache WHERE rowid = ?", gone)
        return alive, rows[-1][1] if len(rows) == SWEPT_AT_ONCE else None

    def shrink(self) -> None:
        """Give the free pages back to the disk."""
        (free,) = self.connection.execute("PRAGMA freelist_count").fetchone()
        for _ in range(free):
            # `execute` takes one page and stops; `executescript` would commit what others are in the middle of.
            self.connection.execute("PRAGMA incremental_vacuum(1)")

    def tidy(self) -> None:
        """Delete what has expired, and the entries stored longest ago when there is more than there is room for."""
        self.connection.execute(
            "DELETE FROM Cache WHERE rowid IN (SELECT rowid FROM Cache WHERE expire_time < ? LIMIT ?)",
            (time.time(), EXPIRED_AT_ONCE),
        )
        if self.volume() <= self.bytes_max:
            return
        evicted, now = 0, time.time()
        while (excess := self.volume() - self.bytes_max * KEPT_OF_LIMIT) > 0:
            gone: list[tuple[int]] = []
            for rowid, expires, size in self.connection.execute(
                "SELECT rowid, expire_time, length(value) FROM Cache ORDER BY store_time LIMIT ?", (EVICTED_AT_ONCE,)
            ):
                gone.append((rowid,))
                evicted += expires is None or expires > now
                excess -= size or 0
                if excess <= 0:
                    break
            if not gone:
                break
            self.connection.executemany("DELETE FROM Cache WHERE rowid = ?", gone)
        self.add_to("evictions", evicted)

    # -- counts ---------------------------------------------------------------------------------------------------

    def add_to(self, name: str, number: int) -> None:
        """Add to one of the counts that the file keeps."""
        if number:
            self.connection.execute("UPDATE Settings SET value = value + ? WHERE key = ?", (number, name))

    def counts(self) -> dict[str, int]:
        """Return what the file counts."""
        rows = self.connection.execute(
            "SELECT key, value FROM Settings WHERE key IN ('hits', 'misses', 'evictions')"
        ).fetchall()
        return {key: value for key, value in rows if isinstance(value, int)}

    def measure(self, prefix: str) -> tuple[int, int]:
        """Return how many entries begin with `prefix` and have not expired, and the bytes of their values."""
        row = self.connection.execute(
            f"SELECT count(*), coalesce(sum(length(value) - 4), 0) FROM Cache WHERE raw = 1 AND {_RANGE} "
            "AND (expire_time IS NULL OR expire_time > ?)",
            (*_bounds(prefix), time.time()),
        ).fetchone()
        return int(row[0]), int(row[1])


_RANGE: Final = "key >= ? AND key < ?"


def _bounds(prefix: str) -> tuple[bytes, bytes]:
    """Return the bytes between which every key with this prefix is; no UTF-8 has the byte FF."""
    return prefix.encode(), prefix.encode() + b"\xff"


def add_counts(connection: sqlite3.Connection, names: Sequence[str]) -> None:
    """Add counts to the file's, when it is made."""
    connection.executemany("INSERT OR IGNORE INTO Settings (key, value) VALUES (?, 0)", [(name,) for name in names])
