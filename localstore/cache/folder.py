"""Folder: a cache in a folder of the tenant's, by diskcache, without a server."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from threading import RLock
from time import monotonic
from typing import ClassVar, Final, TypeVar

from localstore.cache import database
from localstore.cache.backend import Backend, Measured, NotAnInteger, share_of
from localstore.cache.database import Damaged
from localstore.cache.entries import Entries
from localstore.cache.failures import CacheFailure, RefusedEntry
from localstore.cache.lane import Job, Lane
from localstore.sqlite.checkpoint import Checkpoints, folder_lock
from localstore.sqlite.connection import FileId
from localstore.sqlite.descriptors import Descriptors
from localstore.sqlite.threads import in_thread

T = TypeVar("T")

DESCRIPTORS: Final = 3
"""The database, its WAL and its index."""

_OWN_ERRORS: Final = (sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
"""What sqlite says of the values that it was given, and not of the file."""


class Folder(Backend):
    """One folder's entries. All caches of a process on that folder share one `Folder` and its one connection.

    The connection is closed when others need the file descriptors and opened again at the next use. A folder that is
    not there reads as empty and is made by the first write. A damaged database is set aside for a new one.
    """

    name: ClassVar[str] = "disk"

    def __init__(self, path: Path, bytes_max: int, descriptors: Descriptors) -> None:
        super().__init__()
        self.failures.name = f"the cache in {path}"
        self.path = path
        self.bytes_max = bytes_max
        self.used_at = monotonic()
        self._budget = descriptors
        self._lock = RLock()
        self._entries: Entries | None = None
        self._file_id: FileId | None = None
        self._checkpoints = Checkpoints(path / database.FILE_NAME)
        self._lane: Lane[Entries | None] = Lane(self._perform)
        self._process = os.getpid()

    def __repr__(self) -> str:
        return f"<Folder {str(self.path)!r}>"

    async def value_bytes_max(self) -> int:
        """Return how large a value may be."""
        return share_of(self.bytes_max)

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return each key's value, or None."""
        refused: list[str] = []

        def work(entries: Entries) -> list[bytes | None]:
            return [self._value(entries, key, refused) for key in keys]

        nothing: list[bytes | None] = [None] * len(keys)
        found = await self._read(work, nothing)
        if refused:
            try:
                await self._write(partial(Entries.drop_refused, keys=refused))
            except CacheFailure as error:
                self.failures.note(error)
        return found

    async def set(self, entries: Sequence[tuple[str, bytes]], ttl: float) -> bool:
        """Keep all of these, in one transaction."""
        much = sum(len(value) for _, value in entries) > share_of(self.bytes_max)

        def work(found: Entries) -> bool:
            for key, value in entries:
                found.set(key, value, expire=ttl)
            if not much:
                return True
            # So much may push out its own beginning.
            found.tidy()
            return all(found.has(key) for key, _ in entries)

        return await self._write(work)

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        """Keep the value unless the key has one."""
        return await self._write(lambda entries: entries.add(key, value, ttl))

    async def lock(self, key: str, owner: bytes, ttl: float) -> bool:
        """Take the lock unless another one has it."""
        return await self._write(lambda entries: entries.lock(key, owner, ttl))

    async def incr(self, key: str, by: int, ttl: float) -> int:
        """Add to an integer."""
        return await self._write(lambda entries: entries.raise_by(key, by, ttl))

    async def delete(self, keys: Sequence[str]) -> int:
        """Delete keys."""
        if not await self._exists():
            return 0
        return await self._write(lambda entries: sum(bool(entries.delete(key)) for key in keys))

    async def release(self, key: str, value: bytes) -> None:
        """Delete the key if it still has this value."""
        await self._write(lambda entries: entries.release(key, value))

    async def sweep(self, prefix: str, matches: Callable[[str], bool]) -> int:
        """Delete what matches, a bounded number of keys at a time."""
        if not await self._exists():
            return 0
        total, after, first = 0, None, True
        while first or after is not None:
            first = False
            number, after = await self._write(partial(Entries.sweep, prefix=prefix, matches=matches, after=after))
            total += number
        await self._write(Entries.shrink)
        return total

    async def count(self, _company_id: str, hits: int, misses: int) -> None:
        """Add to the counts in the file."""

        def work(entries: Entries) -> None:
            entries.add_to("hits", hits)
            entries.add_to("misses", misses)

        if await self._exists():
            await self._write(work)

    async def measure(self, _company_id: str, prefix: str) -> Measured:
        """Return what the entries take, and what the file counts."""

        def work(entries: Entries) -> Measured:
            number, size = entries.measure(prefix)
            counts = entries.counts()
            return Measured(
                number,
                size,
                self.bytes_max,
                counts.get("hits", 0),
                counts.get("misses", 0),
                counts.get("evictions", 0),
            )

        return await self._read(work, Measured(0, 0, self.bytes_max, 0, 0, 0))

    async def close(self) -> None:
        """Wait for what is under way and close the connection."""
        if os.getpid() == self._process:
            await self._lane.run(_nothing, writes=False)
            await in_thread(self._close)

    async def _exists(self) -> bool:
        try:
            return await in_thread(partial(database.exists, self.path))
        except OSError as error:
            raise CacheFailure(f"{type(error).__name__}: {error}") from error

    async def _read(self, work: Callable[[Entries], T], absent: T) -> T:
        return await self._run(lambda entries: absent if entries is None else work(entries), writes=False)

    async def _write(self, work: Callable[[Entries], T]) -> T:
        def done(entries: Entries | None) -> T:
            assert entries is not None
            return work(entries)

        return await self._run(done, writes=True)

    async def _run(self, work: Callable[[Entries | None], T], *, writes: bool) -> T:
        if os.getpid() != self._process:
            raise CacheFailure("it was opened by the parent of this process")
        try:
            return await self._lane.run(work, writes=writes)
        except (NotAnInteger, CacheFailure):
            raise
        except Exception as error:
            failed = database.failure(error)
            if failed is None:
                raise
            raise failed from error

    # What follows runs in threads of the pool.

    def sleep(self) -> bool:
        """Close the connection if nobody uses it; return whether it is closed."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if not self._lane.idle:
                return False
            self._close()
            return True
        finally:
            self._lock.release()

    def _perform(self, group: Sequence[Job[Entries | None]]) -> None:
        """Do a group's work in one transaction; a damaged database is set aside, and the work done on a new one."""
        self.used_at = monotonic()
        with self._lock:
            for last in (False, True):
                try:
                    self._attempt(group)
                    return
                except Exception as error:
                    failed = database.failure(error)
                    if not isinstance(failed, Damaged) or last:
                        raise
                    self.failures.note(failed)
                    found = self._file_id
                    self._close()
                    database.set_aside(self.path, found)

    def _attempt(self, group: Sequence[Job[Entries | None]]) -> None:
        group = [job for job in group if job.work is not _nothing]
        if not group:
            return
        writes = any(job.writes for job in group)
        entries = self._opened(create=writes)
        if entries is None or not writes:
            for job in group:
                _do(job, entries)
            return
        with entries.transact():
            for job in group:
                _do(job, entries)
            entries.tidy()
        with suppress(sqlite3.OperationalError):
            # The entries are kept; a checkpoint that could not be made now is made after a later write.
            self._checkpoints.after_commit(entries.connection)

    def _opened(self, *, create: bool) -> Entries | None:
        """Return the entries of the file that is there now, opened if need be; None where there is none."""
        if self._entries is not None and database.identify(self.path) != self._file_id:
            # Another process set the database aside, or somebody removed it: what is open is nobody's any more.
            self._close()
        if self._entries is None:
            if not database.exists(self.path):
                if not create:
                    return None
                database.create(self.path)
            self._budget.make_room(DESCRIPTORS, self)
            self._file_id = None
            with suppress(Damaged):
                self._file_id = database.identify(self.path)
            connection, self._file_id = database.connect(self.path)
            self._entries = Entries(self.path, connection, self.bytes_max, self.failures)
            self._budget.holds(self, DESCRIPTORS)
            self._checkpoints.opened()
        return self._entries

    def _close(self) -> None:
        with self._lock:
            entries, self._entries = self._entries, None
            if entries is None:
                return
            with ExitStack() as stack:
                stack.callback(self._budget.holds, self, 0)
                # The last connection to close copies the WAL back, which only one process at a time may do. A folder
                # that went away has no lock, and nobody to exclude.
                with suppress(OSError):
                    stack.enter_context(folder_lock(self.path, wait=True))
                entries.close()

    def _value(self, entries: Entries, key: str, refused: list[str]) -> bytes | None:
        try:
            return entries.read(key)
        except RefusedEntry as error:
            self.failures.note(error)
            refused.append(key)
            return None


def _nothing(_entries: Entries | None) -> None:
    """Do nothing, after all that came before."""


def _do(job: Job[Entries | None], entries: Entries | None) -> None:
    """Do one job. What is wrong with the file is everybody's error; whatever else is wrong is the job's own."""
    try:
        job.result = job.work(entries)
    except _OWN_ERRORS as error:
        job.error = error
    except (sqlite3.Error, OSError, Damaged):
        raise
    except Exception as error:  # noqa: BLE001 - its caller hears it, and nobody else
        job.error = error
