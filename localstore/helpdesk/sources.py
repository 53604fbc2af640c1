"""Where a repository finds its rows: a store's or a tenant's file, a session of the caller's, or production."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import asyncpg
from sqlalchemy.exc import StatementError
from sqlalchemy.orm.attributes import flag_modified
from sqlmodel.ext.asyncio.session import AsyncSession

from localstore.errors import ConfigurationError, InvalidRow, LocalStoreError, TenantNotFound, WrongTenant
from localstore.helpdesk import production
from localstore.helpdesk.fields import invalid, taken
from localstore.helpdesk.models import Ticket
from localstore.helpdesk.queries import Place, ticket
from localstore.postgres.failures import sqlstate
from localstore.postgres.pool import Pool
from localstore.sqlite.failures import translate
from localstore.store import LocalStore
from localstore.tenant import Tenant

T = TypeVar("T")
M = TypeVar("M")

_SQLITE_COLLATION: Final = "BINARY"
_UNIQUE_VIOLATION: Final = "23505"
_REFUSED_VALUES: Final = ("22", "23")  # The classes of data exceptions and of broken constraints.


class Reader(ABC):
    """What runs queries inside one transaction."""

    @abstractmethod
    async def rows(self, model: type[M], statement: Any) -> list[M]:
        """Return the rows of a model that the query selects."""

    @abstractmethod
    async def values(self, statement: Any) -> list[tuple[Any, ...]]:
        """Return what the query selects."""


class Source(ABC):
    """A place of help-desk rows. Every call is one transaction, unless a session of the caller's is the source."""

    collation: str
    spelled: bool
    """Whether times are texts there."""

    @abstractmethod
    async def read(self, company_id: str, work: Callable[[Reader], Awaitable[T]]) -> T | None:
        """Return what `work` reads, which may run twice; None where there is no such company."""

    @abstractmethod
    async def create(self, row: Ticket) -> Ticket:
        """Insert the ticket and return it as stored; raises InvalidRow when it is there or cannot be."""

    @abstractmethod
    async def update(self, key: Mapping[str, str], values: Mapping[str, Any]) -> Ticket | None:
        """Set columns of the ticket and return it as stored, or None where there is no such ticket."""


def source_of(given: object, schema: str) -> Source:
    """Return the source for what a repository was made of."""
    if isinstance(given, Pool):
        return ProductionSource(given, schema)
    if isinstance(given, AsyncSession):
        return SessionSource(given)
    if isinstance(given, Tenant | LocalStore):
        return FileSource(given)
    raise ConfigurationError(
        f"a repository cannot read from {type(given).__name__}",
        hint="give a LocalStore, a Tenant, one of its sessions, or a Pool",
    )


class SessionSource(Source):
    """A session of a tenant's file, whose caller commits."""

    collation = _SQLITE_COLLATION
    spelled = True

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def read(self, company_id: str, work: Callable[[Reader], Awaitable[T]]) -> T | None:
        """Read in the session's transaction."""
        try:
            return await work(_SessionReader(self._session))
        except StatementError as error:
            raise _of_sqlite(error, company_id) from error

    async def create(self, row: Ticket) -> Ticket:
        """Add the ticket and flush it."""
        key = row.company_id, row.platform, row.ticket_id
        # The session holds the writer's turn, so nobody comes between looking and writing.
        if await self._find(*key) is not None:
            raise taken(row.platform, row.ticket_id, row.company_id)
        return await self._flushed(row)

    async def update(self, key: Mapping[str, str], values: Mapping[str, Any]) -> Ticket | None:
        """Change the ticket and flush it."""
        row = await self._find(key["company_id"], key["platform"], key["ticket_id"])
        if row is None:
            return None
        for name, value in values.items():
            setattr(row, name, value)
        # Set to what it was, it would count as left alone, and so become the present moment.
        flag_modified(row, "updated_at")
        return await self._flushed(row)

    async def _find(self, company_id: str, platform: str, ticket_id: str) -> Ticket | None:
        statement = ticket(Place(company_id, platform, self.collation, self.spelled), ticket_id)
        found = await self.read(company_id, lambda reader: reader.rows(Ticket, statement))
        return found[0] if found else None

    async def _flushed(self, row: Ticket) -> Ticket:
        try:
            self._session.add(row)
            await self._session.flush()
            # Read back, so that values are those that every later reader gets.
            await self._session.refresh(row)
        except StatementError as error:
            raise _of_sqlite(error, row.company_id) from error
        except UnicodeEncodeError as error:
            raise invalid(row.platform, row.ticket_id, "a text holds a lone surrogate") from error
        return row


class FileSource(Source):
    """The files of a store's tenants, or the one of a tenant."""

    collation = _SQLITE_COLLATION
    spelled = True

    def __init__(self, place: LocalStore | Tenant) -> None:
        self._place = place

    async def read(self, company_id: str, work: Callable[[Reader], Awaitable[T]]) -> T | None:
        """Read beside the writer, in one snapshot."""
        try:
            tenant = await self._tenant(company_id, create=False)
        except TenantNotFound:
            return None
        if tenant.company_id != company_id:
            return None
        async with tenant.session(readonly=True) as session:
            return await SessionSource(session).read(company_id, work)

    async def create(self, row: Ticket) -> Ticket:
        """Insert and commit."""
        async with self._writing(row.company_id, create=True) as session:
            return await SessionSource(session).create(row)

    async def update(self, key: Mapping[str, str], values: Mapping[str, Any]) -> Ticket | None:
        """Change and commit."""
        try:
            async with self._writing(key["company_id"], create=False) as session:
                return await SessionSource(session).update(key, values)
        except TenantNotFound:
            return None

    @asynccontextmanager
    async def _writing(self, company_id: str, *, create: bool) -> AsyncIterator[AsyncSession]:
        tenant = await self._tenant(company_id, create=create)
        if tenant.company_id != company_id:
            raise WrongTenant(
                f"tenant {tenant.company_id} holds no rows of {company_id}",
                hint="make the repository of a store, or of that tenant",
                tenant=tenant.company_id,
            )
        async with tenant.session() as session:
            yield session
            await session.commit()

    async def _tenant(self, company_id: str, *, create: bool) -> Tenant:
        tenant = self._place.tenant(company_id, create) if isinstance(self._place, LocalStore) else self._place
        return await tenant.open()


class ProductionSource(Source):
    """Production's tables, through a pool whose row-level security holds each call to its company."""

    collation = production.COLLATION
    spelled = False

    def __init__(self, pool: Pool, schema: str) -> None:
        self._pool = pool
        self._schema = schema

    async def read(self, company_id: str, work: Callable[[Reader], Awaitable[T]]) -> T | None:
        """Read in one transaction, on the replica where there is one that can answer."""
        return await self._pool.read(company_id, lambda connection: work(_ProductionReader(connection, self._schema)))

    async def create(self, row: Ticket) -> Ticket:
        """Insert and commit."""
        stored = await self._write(row.company_id, row.platform, row.ticket_id, *production.insert(row, self._schema))
        return stored[0]

    async def update(self, key: Mapping[str, str], values: Mapping[str, Any]) -> Ticket | None:
        """Change and commit."""
        statement = production.update(Ticket, key, values, self._schema)
        stored = await self._write(key["company_id"], key["platform"], key["ticket_id"], *statement)
        return stored[0] if stored else None

    async def _write(
        self, company_id: str, platform: str, ticket_id: str, text: str, values: list[Any]
    ) -> list[Ticket]:
        async with self._pool.transaction(company_id) as connection:
            try:
                return production.instances(Ticket, await connection.fetch(text, *values))
            except (asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
                state = sqlstate(error) or ""
                if state == _UNIQUE_VIOLATION:
                    raise taken(platform, ticket_id, company_id) from error
                if state.startswith(_REFUSED_VALUES) or isinstance(error, ValueError):
                    raise invalid(platform, ticket_id, f"production cannot hold a value ({state or 'text'})") from error
                raise


class _SessionReader(Reader):
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def rows(self, model: type[M], statement: Any) -> list[M]:
        try:
            return list((await self._session.exec(statement)).all())
        except (ValueError, TypeError) as error:
            raise InvalidRow(
                f"a row of {model.__name__} cannot be read: {error}", hint="correct the value with the sqlite3 shell"
            ) from error

    async def values(self, statement: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in (await self._session.exec(statement)).all()]


class _ProductionReader(Reader):
    def __init__(self, connection: asyncpg.Connection, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    async def rows(self, model: type[M], statement: Any) -> list[M]:
        return production.instances(model, await production.fetch(self._connection, statement, self._schema))

    async def values(self, statement: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await production.fetch(self._connection, statement, self._schema)]


def _of_sqlite(error: StatementError, company_id: str) -> BaseException:
    if isinstance(error.orig, sqlite3.Error):
        return translate(error.orig, company_id)
    return error.orig if isinstance(error.orig, LocalStoreError) else error
