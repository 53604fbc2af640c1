"""One tenant's file as the rest of the toolkit sees it: reads, writes, snapshots, and what the file says of itself."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from threading import Lock, RLock
from time import monotonic
from typing import TypeVar

from localstore.errors import StoreError
from localstore.schema.tables import Table
from localstore.sqlite import identity as identities
from localstore.sqlite.checkpoint import Checkpoints, folder_lock
from localstore.sqlite.connection import FileId, Options, check_unmoved, connect, identify
from localstore.sqlite.descriptors import Descriptors
from localstore.sqlite.failures import translate
from localstore.sqlite.identity import Identity
from localstore.sqlite.layout import CatalogueEntry, read_catalogue
from localstore.sqlite.threads import acquire, in_thread
from localstore.sqlite.writer import Turn, Writer

T = TypeVar("T")

READERS_KEPT = 2
"""More readers than this are opened when needed and closed again, to save file descriptors."""

DESCRIPTORS_FIRST = 3
DESCRIPTORS_MORE = 2
"""The first connection to a file opens the database, its WAL and its index; each further one only the first two."""


class Snapshot:
    """A read transaction of its own: everything run on it sees the file as it was when the snapshot began."""

    def __init__(self, connection: sqlite3.Connection, tenant: str) -> None:
        self._connection = connection
        self._tenant = tenant
        self._alone = asyncio.Lock()

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run blocking `work` on the snapshot's connection in a thread; one at a time."""
        async with self._alone:
            try:
                return await in_thread(partial(work, self._connection), on_cancel=self._connection.interrupt)
            except sqlite3.Error as error:
                raise translate(error, self._tenant) from error


class _Reading:
    """One read that may be interrupted, but only as long as it has its connection: the next reader must not be hit."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None
        self._interrupted = False

    @contextmanager
    def using(self, connection: sqlite3.Connection) -> Iterator[None]:
        with self._lock:
            if self._interrupted:
                raise sqlite3.OperationalError("interrupted")
            self._connection = connection
        try:
            yield
        finally:
            with self._lock:
                self._connection = None

    def interrupt(self) -> None:
        with self._lock:
            self._interrupted = True
            if self._connection is not None:
                self._connection.interrupt()


class Database:
    """One tenant's file. All of a process's stores on that file share one `Database`, and so one writing connection.

    Its connections are closed when others need the file descriptors and opened again at the next use, so an object
    of this class stays valid until `close`. Work given to it runs in the shared pool of threads.
    """

    def __init__(self, path: Path, company_id: str, options: Options, descriptors: Descriptors) -> None:
        self.path = path
        self.company_id = company_id
        self.options = options
        self.file_id: FileId = identify(path, company_id)
        self.used_at = monotonic()
        self._budget = descriptors
        self._process = os.getpid()
        self._lock = RLock()
        self._writing: sqlite3.Connection | None = None
        self._idle_readers: list[sqlite3.Connection] = []
        self._readers = 0
        self._identity: Identity | None = None
        self._catalogue: tuple[CatalogueEntry, ...] = ()
        self._checkpoints = Checkpoints(path)
        self._writer = Writer(
            company_id, options.busy_timeout_seconds, self._writing_connection, self._checkpoints.after_commit
        )
        self._closing = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<Database of {self.company_id}>"

    @property
    def identity(self) -> Identity:
        """Return what the file's identity row said when it was last read."""
        if self._identity is None:
            raise StoreError(f"tenant {self.company_id} is not open", hint="await tenant.open() first")
        return self._identity

    @property
    def catalogue(self) -> tuple[CatalogueEntry, ...]:
        """Return the tracked tables with their ids, as they were when the file was last looked at."""
        return self._catalogue

    @property
    def tables(self) -> tuple[Table, ...]:
        """Return the tracked tables."""
        return tuple(entry.table for entry in self._catalogue)

    @property
    def table_ids(self) -> dict[str, int]:
        """Return each tracked table's id in the marks."""
        return {entry.table.name: entry.id for entry in self._catalogue}

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in one read transaction and return its result; other readers and the writer go on meanwhile."""
        self._check_process()
        reading = _Reading()
        return await in_thread(partial(self._read, work, reading), on_cancel=reading.interrupt)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a write transaction and return its result once it is committed to the disk.

        Concurrent calls commit together, yet one's error undoes only its own changes. `work` may run again when the
        others' commit failed, so it must have no effects but those on the connection.
        """
        self._check_process()
        return await self._writer.write(work)

    async def turn(self) -> Turn:
        """Wait for the sole use of the writing connection; the caller releases it."""
        self._check_process()
        return await self._writer.turn()

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        """Open a read-only connection inside one read transaction, for as long as the context lasts."""
        connection = await self.begin_reading()
        try:
            yield Snapshot(connection, self.company_id)
        finally:
            await in_thread(partial(self.end_reading, connection))

    async def begin_reading(self) -> sqlite3.Connection:
        """Return a reader inside a read transaction; `end_reading` takes it back."""
        self._check_process()
        return await acquire(self._begin_reading, self.end_reading)

    async def refresh(self) -> None:
        """Read the identity and the catalogue again, after something changed them."""
        await self.read(self.learn)

    def learn(self, connection: sqlite3.Connection) -> None:
        """Take the identity and the catalogue from `connection`; the identity must still be this tenant's."""
        self._identity = identities.read(connection, self.path, self.company_id)
        self._catalogue = tuple(read_catalogue(connection))

    async def close(self) -> None:
        """End what was begun and close every connection; a session left open is rolled back."""
        self._check_process()
        if self._closing:
            return
        self._closing = True
        await self._writer.close()
        self._closed = True
        await in_thread(self._close_connections)

    # What follows runs in threads of the pool.

    def open(self) -> None:
        """Check that the file is this tenant's and learn what it holds."""
        self._read(self.learn, _Reading())

    def sleep(self) -> bool:
        """Close the connections if nobody uses them; return whether they are closed."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if not self._writer.idle or self._readers > len(self._idle_readers):
                return False
            self._close_connections()
            return True
        finally:
            self._lock.release()

    def _begin_reading(self) -> sqlite3.Connection:
        with self._translated():
            connection = self._take_reader()
            try:
                connection.execute("BEGIN")
                # A transaction sees the file as of its first read, not as of its BEGIN.
                connection.execute("SELECT 1 FROM localstore_identity").fetchone()
            except BaseException:
                self.end_reading(connection)
                raise
            return connection

    def end_reading(self, connection: sqlite3.Connection) -> None:
        """End the read transaction and keep or close the reader."""
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connection.text_factory = str
        connection.row_factory = None
        with self._lock:
            if not self._closed and len(self._idle_readers) < READERS_KEPT:
                self._idle_readers.append(connection)
                return
            self._readers -= 1
            connection.close()
            self._count()

    def _read(self, work: Callable[[sqlite3.Connection], T], reading: _Reading) -> T:
        with self._translated():
            connection = self._take_reader()
            try:
                with reading.using(connection):
                    connection.execute("BEGIN")
                    return work(connection)
            finally:
                self.end_reading(connection)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise translate(error, self.company_id) from error

    def _take_reader(self) -> sqlite3.Connection:
        self._check_usable()
        with self._lock:
            if self._idle_readers:
                return self._idle_readers.pop()
            connection = self._connect(writes=False)
            self._readers += 1
            self._count()
            return connection

    def _check_usable(self) -> None:
        self.used_at = monotonic()
        if self._closed:
            raise StoreError(f"tenant {self.company_id} is closed", hint="open the store again", tenant=self.company_id)
        check_unmoved(self.path, self.file_id, self.company_id)

    def _check_process(self) -> None:
        # Before any lock is taken: a thread that held it is not there in a forked child to release it.
        if os.getpid() != self._process:
            raise StoreError(
                f"tenant {self.company_id} was opened by the parent of this process",
                hint="open the store after the fork; SQLite's connections cannot be shared across it",
                tenant=self.company_id,
            )

    def _count(self) -> None:
        connections = self._readers + (self._writing is not None)
        self._budget.holds(self, DESCRIPTORS_FIRST + DESCRIPTORS_MORE * (connections - 1) if connections else 0)

    def _writing_connection(self) -> sqlite3.Connection:
        self._check_usable()
        with self._lock:
            if self._writing is None:
                self._writing = self._connect(writes=True)
                self._checkpoints.opened()
                self._count()
            return self._writing

    def _connect(self, *, writes: bool) -> sqlite3.Connection:
        self._budget.make_room(DESCRIPTORS_FIRST, self)
        connection = connect(self.path, self.options, writes=writes)
        try:
            identities.read(connection, self.path, self.company_id)
        except BaseException:
            connection.close()
            raise
        return connection

    def _close_connections(self) -> None:
        with self._lock:
            readers, self._idle_readers = self._idle_readers, []
            self._readers -= len(readers)
            writing, self._writing = self._writing, None
            if not readers and writing is None:
                return
            # The last connection to close copies the WAL back, which only one process at a time may do.
            with folder_lock(self.path.parent, wait=True) if self.path.parent.exists() else nullcontext():
                for connection in (*readers, writing):
                    if connection is not None:
                        connection.close()
            self._count()
