"""PostgresStorage: all companies in production, kept apart by row-level security."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar

import asyncpg
import stamina

from localstore.cache.backends import caches_at
from localstore.cache.interface import Cache
from localstore.cache.production import ProductionChanges
from localstore.config import Settings
from localstore.errors import ConfigurationError, LocalStoreError, PostgresError, StoreError
from localstore.identifiers import check_platform, check_tenant_id
from localstore.interchange.items import ARTICLE, PROGRESS, TICKET, ItemKind
from localstore.interchange.rows import CONVERSATION_ROWS
from localstore.postgres.companies import COMPANIES, MODE, REGISTER
from localstore.postgres.failures import sqlstate
from localstore.postgres.pool import Pool
from localstore.postgres.server import Server
from localstore.storage.answers import (
    FAILED,
    PROCESSED,
    check_mode,
    counted_progress,
    platform_stats,
    ticket_answer,
    told_progress,
)
from localstore.storage.changes import changed_columns, changed_conversations, mapped, new_row, same
from localstore.storage.interface import LIST_LIMIT, StorageInterface
from localstore.storage.page import Page
from localstore.storage.payload import Incoming, check_status, key_of, normal, read_payload
from localstore.storage.rows import ProductionRows

T = TypeVar("T")

TARGET_DEFAULT = "public"

ATTEMPTS_MAX = 4
"""Others' transactions may stand in the way of one; four in a row do not."""

_COLLISIONS = frozenset({"40001", "40P01"})
_NOT_THERE = frozenset({"42P01", "42883", "3F000", "42703"})

_ORDER = 'created_at DESC, ticket_id COLLATE "C", platform COLLATE "C"'
_PLATFORMS = """
WITH RECURSIVE found (platform) AS (
    (SELECT platform FROM {0} WHERE company_id = $1 ORDER BY platform LIMIT 1)
    UNION ALL
    SELECT (SELECT t.platform FROM {0} t WHERE t.company_id = $1 AND t.platform > f.platform ORDER BY 1 LIMIT 1)
    FROM found f WHERE f.platform IS NOT NULL
)
SELECT platform FROM found WHERE platform IS NOT NULL
"""
_PROGRESS = """
SELECT count(*), count(*) FILTER (WHERE is_processed OR processing_status = ANY ($3::text[])),
    count(*) FILTER (WHERE processing_status = ANY ($4::text[])), max(updated_at)
FROM {0} WHERE company_id = $1 AND platform = $2
"""


class PostgresStorage(StorageInterface):
    """The help desk's tables in one schema of production, through a pool of connections.

    Every call is one transaction as `app_user`, whose company is set for that transaction alone, so that a pooler may
    stand between. The login needs to be a member of `app_user` and nothing else. Reads go to the replica, if there is
    one, as soon as it has what this storage wrote.
    """

    modes: ClassVar[frozenset[str]] = frozenset({"postgresql"})

    def __init__(
        self,
        connection_string: str,
        *,
        schema: str = TARGET_DEFAULT,
        replica: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        settings = settings or Settings.from_environment()
        self.server = Server.parse(connection_string)
        self._pool = Pool.from_settings(
            self.server, settings, replica=None if replica is None else Server.parse(replica)
        )
        self._target = schema
        self._caches = caches_at(settings.data_path, settings)
        self._rows = {
            rows.table.name: ProductionRows(rows, schema)
            for rows in (TICKET.rows, ARTICLE.rows, PROGRESS.rows, CONVERSATION_ROWS)
        }
        self._closed = False

    @classmethod
    def from_settings(cls, settings: Settings) -> PostgresStorage:
        """Make the storage of DATABASE_URL, which reads from DATABASE_REPLICA_URL where that is set."""
        if settings.database_url is None:
            raise ConfigurationError("STORAGE_TYPE=postgresql needs DATABASE_URL", hint="set DATABASE_URL")
        replica = settings.database_replica_url
        return cls(
            settings.database_url.get_secret_value(),
            replica=None if replica is None else replica.get_secret_value(),
            settings=settings,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.server.redacted!r}>"

    async def save_ticket(self, company_id: str, platform: str, ticket_data: Mapping[str, Any]) -> str:
        """Save a ticket and return its id; the company is registered with its first item."""
        return await self._save(TICKET, company_id, platform, ticket_data)

    async def get_ticket(self, company_id: str, platform: str, ticket_id: str) -> dict[str, Any] | None:
        """Return a ticket with what its row says on top, or None."""
        check_platform(platform)
        key = key_of(ticket_id)

        async def find(connection: asyncpg.Connection) -> dict[str, Any] | None:
            row = None if key is None else await self._of(TICKET).find(connection, (company_id, platform, key))
            return None if row is None else ticket_answer(row)

        return await self._read(company_id, find)

    async def list_tickets(
        self,
        company_id: str,
        platform: str | None = None,
        status: str | None = None,
        limit: int | None = LIST_LIMIT,
        offset: int = 0,
        *,
        processing_status: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return tickets, the newest first."""
        page = Page(
            platform if platform is None else check_platform(platform), status, processing_status, limit, offset
        )
        tickets = self._of(TICKET)

        async def find(connection: asyncpg.Connection) -> list[dict[str, Any]]:
            if page.is_empty:
                return []
            platforms = [] if platform is None else [platform]
            if platform is None:
                found = await connection.fetch(_PLATFORMS.format(tickets.relation), company_id)
                platforms = [record["platform"] for record in found]
            if not platforms:
                return []
            condition, values = page.condition(
                tickets.relation, company_id, platforms, _ORDER, lambda place: f"${place}"
            )
            rows = await tickets.select(connection, f"WHERE {condition} ORDER BY {_ORDER}", values)
            return [ticket_answer(row) for row in rows]

        return await self._read(company_id, find)

    async def update_processing_status(self, company_id: str, platform: str, ticket_id: str, status: str) -> bool:
        """Set a ticket's processing status; return False when there is no such ticket."""
        return await self._set(company_id, platform, ticket_id, (TICKET,), "processing_status", check_status(status))

    async def save_summary(self, company_id: str, platform: str, item_id: str, summary_data: Any) -> bool:
        """Set the summary of the ticket with this id, else of the article; return False when neither is there."""
        return await self._set(
            company_id, platform, item_id, (TICKET, ARTICLE), "summary", normal(summary_data, "summary")
        )

    async def get_processing_progress(self, company_id: str, platform: str) -> dict[str, Any]:
        """Return how far processing has come: what was set, else what the tickets show."""
        check_platform(platform)

        async def find(connection: asyncpg.Connection) -> dict[str, Any]:
            told = await self._of(PROGRESS).find(connection, (company_id, platform))
            if told is not None:
                return told_progress(told)
            statement = _PROGRESS.format(self._of(TICKET).relation)
            return counted_progress(
                *await connection.fetchrow(statement, company_id, platform, list(PROCESSED), list(FAILED))
            )

        return await self._read(company_id, find)

    async def set_processing_progress(self, company_id: str, platform: str, progress: Mapping[str, Any] | None) -> bool:
        """Let `get_processing_progress` answer this from now on, or count again (None)."""
        if progress is not None:
            await self._save(PROGRESS, company_id, platform, progress)
            return True
        key = (check_tenant_id(company_id), check_platform(platform))
        return await self._write(
            company_id, lambda connection: self._of(PROGRESS).delete(connection, key), create=False
        )

    async def save_kb_article(self, company_id: str, platform: str, article_data: Mapping[str, Any]) -> str:
        """Save an article and return its id."""
        return await self._save(ARTICLE, company_id, platform, article_data)

    async def list_companies(self) -> list[str]:
        """Return the companies that the login may know of."""
        self._check_open()
        with _Explained(self.server):
            async with self._pool.transaction(None) as connection:
                return [record[0] for record in await connection.fetch(COMPANIES)]

    async def get_platform_stats(self, company_id: str) -> dict[str, dict[str, int]]:
        """Return how many items each platform has."""

        async def count(connection: asyncpg.Connection) -> dict[str, dict[str, int]]:
            tickets, articles = [
                await connection.fetch(
                    f"SELECT platform, count(*) FROM {self._of(kind).relation} WHERE company_id = $1 GROUP BY platform",
                    company_id,
                )
                for kind in (TICKET, ARTICLE)
            ]
            return platform_stats(map(tuple, tickets), map(tuple, articles))

        return await self._read(company_id, count)

    def cache(self, company_id: str) -> Cache:
        """Return the company's cache, in Redis where REDIS_URL is set, else below DATA_PATH.

        It follows production's rows. What is kept in it with `tables` has to be made through this storage.
        """
        self._check_open()
        return self._caches.of(company_id, changes=self.changes(company_id))

    def changes(self, company_id: str) -> ProductionChanges:
        """Return what tells whether the company's rows in production have changed."""
        return ProductionChanges(self._pool, company_id, self._target)

    @property
    def closed(self) -> bool:
        """Whether the storage was closed."""
        return self._closed

    async def close(self) -> None:
        """Close the connections."""
        if not self._closed:
            self._closed = True
            await self._caches.close()
            await self._pool.close()

    async def _save(self, kind: ItemKind, company_id: str, platform: str, payload: Mapping[str, Any]) -> str:
        key = (check_tenant_id(company_id), check_platform(platform))
        incoming = read_payload(kind, platform, payload)
        row_key = kind.key(key, incoming.item_id)

        async def put(connection: asyncpg.Connection) -> bool:
            return await self._put(connection, kind, row_key, incoming)

        await self._write(company_id, put, create=True)
        return incoming.item_id

    async def _put(
        self, connection: asyncpg.Connection, kind: ItemKind, key: tuple[str, ...], incoming: Incoming
    ) -> bool:
        """Write what the payload changes; the row is ours until the transaction's end, its conversations with it."""
        rows, moment = self._of(kind), datetime.now(UTC)
        row = await rows.find(connection, key, lock=True)
        if row is None and not await rows.insert(connection, new_row(kind, key, incoming, moment)):
            # Somebody else inserted it in this very moment; now it can be seen, unless it is gone again.
            row = await rows.find(connection, key, lock=True)
            if row is None:
                raise _Collision
        changes = {} if row is None else changed_columns(kind, row, incoming, moment)
        if changes:
            await rows.update(connection, key, changes)
        before = {} if row is None else mapped(kind, row).conversations
        after = incoming.mapped.conversations
        if before or after:
            conversations = self._rows[CONVERSATION_ROWS.table.name]
            stored = await conversations.children(connection, key)
            found = changed_conversations(key, before, after, stored)
            for new in found.new:
                await conversations.insert(connection, new)
            for conversation_id, columns in found.changed:
                await conversations.update(connection, (*key, conversation_id), columns)
            for conversation_id in found.gone:
                await conversations.delete(connection, (*key, conversation_id))
        return row is None or bool(changes)

    async def _set(
        self, company_id: str, platform: str, item_id: object, kinds: tuple[ItemKind, ...], column: str, value: Any
    ) -> bool:
        """Set a column of the item with this id, of the first kind that has one; return whether there was one."""
        check_tenant_id(company_id)
        check_platform(platform)
        found = key_of(item_id)

        async def work(connection: asyncpg.Connection) -> bool:
            if found is None:
                return False
            key = (company_id, platform, found)
            for kind in kinds:
                row = await self._of(kind).find(connection, key, lock=True)
                if row is not None:
                    if not same(row[column], value):
                        changes = {column: value, "updated_at": datetime.now(UTC)}
                        await self._of(kind).update(connection, key, changes)
                    return True
            return False

        return await self._write(company_id, work, create=False)

    async def _read(self, company_id: str, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        self._check_open()

        async def checked(connection: asyncpg.Connection) -> T:
            self._check_mode(company_id, await connection.fetchval(MODE))
            return await work(connection)

        with _Explained(self.server):
            return await self._pool.read(check_tenant_id(company_id), checked)

    async def _write(
        self, company_id: str, work: Callable[[asyncpg.Connection], Awaitable[bool]], *, create: bool
    ) -> bool:
        """Run `work` in one transaction, again where another transaction stood in its way.

        The company's mode holds until the transaction's end. With `create` a new company is registered.
        """
        self._check_open()
        with _Explained(self.server):
            async for attempt in stamina.retry_context(on=_collided, attempts=ATTEMPTS_MAX, wait_initial=0.02):
                with attempt:
                    async with self._pool.transaction(company_id) as connection:
                        mode = await connection.fetchval(REGISTER, self._target if create else None)
                        self._check_mode(company_id, mode)
                        return await work(connection)
        raise AssertionError("the last attempt returns or raises")

    def _of(self, kind: ItemKind) -> ProductionRows:
        return self._rows[kind.rows.table.name]

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the storage is closed", hint="make a new one, or call get_storage() again")

    def _check_mode(self, company_id: str, mode: str | None) -> None:
        check_mode(company_id, mode, self.modes, type(self).__name__)


class _Collision(Exception):
    """Raised inside a transaction that another one kept from its row, to begin it anew."""


class _Explained:
    """Says of a table or a function that is missing how it is made."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        """Raise a better error for what only looks like a fault of the statement."""
        if isinstance(error, _Collision):
            raise PostgresError(
                f"{self._server.redacted}: others insert and delete the same row all the time",
                hint="save it again later",
            ) from error
        if isinstance(error, LocalStoreError) and sqlstate(error.__cause__ or error) in _NOT_THERE:
            raise PostgresError(
                f"{self._server.redacted} lacks the help desk's tables or our functions, as they are now",
                hint="localstore sync init --to URL (without a tenant's file it makes the help desk's tables)",
            ) from error


def _collided(error: Exception) -> bool:
    return isinstance(error, _Collision) or sqlstate(error.__cause__ or error) in _COLLISIONS
