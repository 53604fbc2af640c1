"""Ordinary SQLModel sessions that take turns with the fast path on a tenant's one writing connection.

SQLAlchemy is given a driver connection of ours that runs in the shared threads. A session's transaction begins with
its first statement, and takes the writer's turn with BEGIN IMMEDIATE; it ends with commit, rollback or close.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import cached_property, partial
from time import monotonic
from typing import Any, Self, TypeVar

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import UOWTransaction
from sqlalchemy.pool import NullPool
from sqlmodel import Session
from sqlmodel.ext.asyncio.session import AsyncSession

from localstore.errors import ModeChanging, StoreError
from localstore.sqlite.company import claim
from localstore.sqlite.database import Database
from localstore.sqlite.failures import translate
from localstore.sqlite.mode import ADVANCING, held_off, read_mode, refusal
from localstore.sqlite.threads import in_thread
from localstore.sqlite.writer import HELD_OFF_SECONDS, Turn

T = TypeVar("T")

FETCHED_AT_ONCE = 256
"""Rows that come along with the statement, which spares a small result its second trip to a thread."""

_COMPANY = "company_id"
_READONLY = "readonly"


class Sessions:
    """Makes the sessions of one tenant; its engines are made when the first session is."""

    def __init__(self, company_id: str, database: Callable[[], Awaitable[Database]]) -> None:
        self._company_id = company_id
        self._database = database

    def open(self, *, readonly: bool) -> AsyncSession:
        """Return a new session; a read-only one reads beside the writer and refuses to write."""
        return AsyncSession(
            self._reading if readonly else self._writing,
            sync_session_class=TenantSession,
            expire_on_commit=False,
            info={_COMPANY: self._company_id, _READONLY: readonly},
        )

    @cached_property
    def _writing(self) -> AsyncEngine:
        return _engine(self._take_turn)

    @cached_property
    def _reading(self) -> AsyncEngine:
        return _engine(self._begin_reading)

    async def _take_turn(self) -> DriverConnection:
        database = await self._database()
        return _WritingConnection(await database.turn(), database)

    async def _begin_reading(self) -> DriverConnection:
        database = await self._database()
        return _ReadingConnection(await database.begin_reading(), database)


class TenantSession(Session):
    """The synchronous session inside: it knows its tenant."""


@event.listens_for(TenantSession, "before_flush")
def _claim_rows(session: TenantSession, _flush: UOWTransaction, _instances: Any) -> None:
    """Fill in the company of new rows and refuse another tenant's."""
    if session.info[_READONLY] and (session.new or session.deleted or any(map(session.is_modified, session.dirty))):
        raise StoreError(
            "this session is read-only",
            hint="open one that may write: tenant.session()",
            tenant=session.info[_COMPANY],
        )
    for row in _changing(session):
        claim(row, session.info[_COMPANY])


def _changing(session: TenantSession) -> Iterator[Any]:
    yield from session.new
    yield from session.dirty
    yield from session.deleted


def _engine(connect: Callable[[], Awaitable[DriverConnection]]) -> AsyncEngine:
    # No pool: a connection is checked out for one transaction, which is exactly as long as a turn lasts.
    return create_async_engine("sqlite+aiosqlite://", async_creator=connect, poolclass=NullPool)


class DriverConnection:
    """What SQLAlchemy's aiosqlite dialect expects of a connection, over one of ours and the shared threads."""

    isolation_level = None
    begin = "BEGIN"

    def __init__(self, connection: sqlite3.Connection, tenant: str) -> None:
        self._connection: sqlite3.Connection | None = connection
        self._tenant = tenant

    @property
    def connection(self) -> sqlite3.Connection:
        """Return the connection, as long as it is this object's to use."""
        if self._connection is None:
            raise sqlite3.ProgrammingError("connection closed")
        return self._connection

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run blocking work in a thread; a cancelled session interrupts its statement."""
        connection = self.connection
        try:
            return await in_thread(partial(work, connection), on_cancel=connection.interrupt)
        except sqlite3.IntegrityError as error:
            raise refusal(error, self._tenant) or error from error.__cause__

    def enter(self, connection: sqlite3.Connection) -> None:
        """Begin the transaction unless it has begun."""
        if connection.in_transaction:
            return
        try:
            connection.execute(self.begin)
        except sqlite3.OperationalError as error:
            raise translate(error, self._tenant) from error

    def cursor(self) -> DriverCursor:
        """Return a cursor."""
        return DriverCursor(self)

    async def create_function(self, *_arguments: Any, **_options: Any) -> None:
        """Leave the functions as they are: every connection of ours has them already."""

    async def commit(self) -> None:
        """Commit."""
        await self.run(self._commit)

    async def rollback(self) -> None:
        """Roll back."""
        await self.run(_roll_back)

    async def close(self) -> None:
        """Give the connection back; what was not committed is rolled back."""
        await in_thread(self.stop)

    def stop(self) -> None:
        """Give the connection back from wherever this is called, also by the garbage collector."""
        if self._connection is not None:
            self._connection = None
            self._give_back()

    def _commit(self, connection: sqlite3.Connection) -> None:
        raise NotImplementedError

    def _give_back(self) -> None:
        raise NotImplementedError


class _WritingConnection(DriverConnection):
    """The writing connection for the length of a turn."""

    begin = "BEGIN IMMEDIATE"

    def __init__(self, turn: Turn, database: Database) -> None:
        super().__init__(turn.connection, database.company_id)
        self._turn = turn
        self._database = database
        self._aside = False

    @property
    def connection(self) -> sqlite3.Connection:
        """Return the connection, as long as the turn lasts."""
        return self._turn.connection

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run blocking work; a transaction that begins while the tenant's mode changes waits for the change's end."""
        until = monotonic() + self._database.options.busy_timeout_seconds
        while True:
            try:
                return await super().run(work)
            except ModeChanging:
                if self._turn.connection.in_transaction or monotonic() >= until:
                    raise
            # Whoever changes the mode may be in this process, and needs the writing connection for it.
            await in_thread(self._turn.release)
            self._aside = True
            await asyncio.sleep(HELD_OFF_SECONDS)
            self._turn = await self._database.turn()
            self._aside = False

    def enter(self, connection: sqlite3.Connection) -> None:
        """Begin the transaction unless it has begun; raises ModeChanging, with none begun, while the mode changes."""
        if connection.in_transaction:
            return
        super().enter(connection)
        if read_mode(connection) == ADVANCING:
            connection.execute("ROLLBACK")
            raise held_off(self._tenant)

    async def rollback(self) -> None:
        """Roll back; there is nothing to, if the wait for another turn was cut short."""
        if not self._aside:
            await super().rollback()

    def _commit(self, _connection: sqlite3.Connection) -> None:
        self._turn.commit()

    def _give_back(self) -> None:
        self._turn.release()


class _ReadingConnection(DriverConnection):
    """A reader inside its transaction."""

    def __init__(self, connection: sqlite3.Connection, database: Database) -> None:
        super().__init__(connection, database.company_id)
        self._database = database
        self._reader = connection

    def _commit(self, connection: sqlite3.Connection) -> None:
        _roll_back(connection)

    def _give_back(self) -> None:
        self._database.end_reading(self._reader)


class DriverCursor:
    """What SQLAlchemy expects of an asynchronous cursor."""

    arraysize = 1

    def __init__(self, connection: DriverConnection) -> None:
        self._connection = connection
        self._cursor: sqlite3.Cursor | None = None
        self._fetched: list[Any] = []
        self._exhausted = True

    async def __aenter__(self) -> Self:
        """Return the cursor."""
        return self

    @property
    def description(self) -> Any:
        """Return the columns of the result, or None where there is no result."""
        return self._cursor.description if self._cursor is not None else None

    @property
    def rowcount(self) -> int:
        """Return how many rows the statement changed."""
        return self._cursor.rowcount if self._cursor is not None else -1

    @property
    def lastrowid(self) -> int | None:
        """Return the rowid of the last inserted row."""
        return self._cursor.lastrowid if self._cursor is not None else None

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        """Run one statement and fetch the beginning of its result."""
        await self._connection.run(lambda connection: self._execute(connection, statement, parameters))

    async def executemany(self, statement: str, parameters: Sequence[Sequence[Any]]) -> None:
        """Run one statement for each set of parameters."""
        await self._connection.run(lambda connection: self._executemany(connection, statement, parameters))

    async def fetchone(self) -> Any:
        """Return the next row, or None."""
        rows = await self.fetchmany(1)
        return rows[0] if rows else None

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        """Return the next rows."""
        wanted = size or self.arraysize
        if len(self._fetched) < wanted and not self._exhausted:
            await self._connection.run(lambda _connection: self._fetch(max(wanted, FETCHED_AT_ONCE)))
        rows, self._fetched = self._fetched[:wanted], self._fetched[wanted:]
        return rows

    async def fetchall(self) -> list[Any]:
        """Return all rows that are left."""
        if not self._exhausted:
            await self._connection.run(lambda _connection: self._fetch(None))
        rows, self._fetched = self._fetched, []
        return rows

    async def close(self) -> None:
        """End the statement."""
        if self._cursor is not None:
            if not self._exhausted:
                await in_thread(self._cursor.close)
            self._exhausted = True

    def _execute(self, connection: sqlite3.Connection, statement: str, parameters: Sequence[Any]) -> None:
        self._connection.enter(connection)
        self._fetched = []
        self._cursor = connection.execute(statement, parameters)
        self._exhausted = self._cursor.description is None
        if not self._exhausted:
            self._fetch(FETCHED_AT_ONCE)

    def _executemany(self, connection: sqlite3.Connection, statement: str, parameters: Sequence[Sequence[Any]]) -> None:
        self._connection.enter(connection)
        self._fetched, self._exhausted = [], True
        self._cursor = connection.executemany(statement, parameters)

    def _fetch(self, count: int | None) -> None:
        if self._cursor is None:
            return
        rows = self._cursor.fetchall() if count is None else self._cursor.fetchmany(count)
        self._fetched.extend(rows)
        self._exhausted = count is None or len(rows) < count


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")
