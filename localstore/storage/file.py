"""FileStorage: every company in its own SQLite file."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar, TypeVar

from localstore.cache.backends import caches_at
from localstore.cache.changes import FileChanges
from localstore.cache.interface import Cache
from localstore.config import DATA_PATH_DEFAULT, Settings
from localstore.errors import StoreError, TenantNotFound
from localstore.identifiers import check_platform, check_tenant_id
from localstore.interchange.items import ARTICLE, PROGRESS, TICKET, ItemKind
from localstore.interchange.rows import CONVERSATION_ROWS
from localstore.interchange.values import time_of
from localstore.moments import ordered, otherwise
from localstore.sqlite.database import Database
from localstore.sqlite.mode import ADVANCING, FILE, HYBRID, read_mode
from localstore.storage.answers import (
    FAILED,
    PROCESSED,
    check_mode,
    counted_progress,
    platform_stats,
    ticket_answer,
    told_progress,
)
from localstore.storage.changes import changed_columns, changed_conversations, mapped, new_row, same, written
from localstore.storage.interface import LIST_LIMIT, StorageInterface
from localstore.storage.page import Page
from localstore.storage.payload import Incoming, check_status, key_of, normal, read_payload
from localstore.storage.tables import MODELS
from localstore.store import LocalStore

T = TypeVar("T")

_ORDER = "created_at DESC NULLS FIRST, ticket_id, platform"
_ORDER_OF_ANY = f"{ordered('created_at')} DESC NULLS FIRST, ticket_id, platform"
_MIXED = f"SELECT ticket_id FROM tickets WHERE company_id = ? AND platform = ? AND {otherwise('created_at')} LIMIT 1"
_PLATFORMS = """
WITH RECURSIVE found (platform) AS (
    SELECT min(platform) FROM {0} WHERE company_id = ?1
    UNION ALL
    SELECT (SELECT min(platform) FROM {0} WHERE company_id = ?1 AND platform > found.platform)
    FROM found WHERE found.platform IS NOT NULL
)
SELECT platform FROM found WHERE platform IS NOT NULL
"""
_PROGRESS = f"""
SELECT count(*), count(*) FILTER (WHERE is_processed = 1 OR processing_status IN (?, ?, ?)),
    count(*) FILTER (WHERE processing_status IN (?, ?)), max({ordered("updated_at")})
FROM tickets WHERE company_id = ? AND platform = ?
"""


class FileStorage(StorageInterface):
    """Tenants' files below `base_path`, as LocalStore keeps them: several storages and stores may share them."""

    modes: ClassVar[frozenset[str]] = frozenset({FILE, HYBRID, ADVANCING})
    """In them the file is the truth; what is written here travels with the next push. While it is advancing, reads go
    on and writes wait."""

    def __init__(
        self, base_path: str | os.PathLike[str] = DATA_PATH_DEFAULT, *, settings: Settings | None = None
    ) -> None:
        self.store = LocalStore(base_path, MODELS, settings=settings)
        self._caches = caches_at(self.store.root, self.store.settings)
        self._closed = False

    @classmethod
    def from_settings(cls, settings: Settings) -> FileStorage:
        """Make the storage of DATA_PATH."""
        return cls(settings.data_path, settings=settings)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self.store.root)!r}>"

    async def save_ticket(self, company_id: str, platform: str, ticket_data: Mapping[str, Any]) -> str:
        """Save a ticket and return its id; what is new or changed is one transaction of the file."""
        return await self._save(TICKET, company_id, platform, ticket_data)

    async def get_ticket(self, company_id: str, platform: str, ticket_id: str) -> dict[str, Any] | None:
        """Return a ticket with what its row says on top, or None."""
        check_platform(platform)
        key = key_of(ticket_id)

        def find(file: sqlite3.Connection) -> dict[str, Any] | None:
            row = TICKET.rows.find(file, (company_id, platform, key or ""))
            return None if row is None else ticket_answer(row)

        return await self._read(company_id, find, None)

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

        def find(file: sqlite3.Connection) -> list[dict[str, Any]]:
            platforms = [platform] if platform is not None else list(_platforms(file, company_id))
            if page.is_empty or not platforms:
                return []
            mixed = [name for name in platforms if file.execute(_MIXED, (company_id, name)).fetchone()]
            condition, values = page.condition("tickets", company_id, platforms, _ORDER, lambda _place: "?", mixed)
            found = TICKET.rows.select(file, f"WHERE {condition} ORDER BY {_ORDER_OF_ANY}", values)
            return [ticket_answer(row) for row in found]

        return await self._read(company_id, find, [])

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

        def find(file: sqlite3.Connection) -> dict[str, Any]:
            told = PROGRESS.rows.find(file, (company_id, platform))
            if told is not None:
                return told_progress(told)
            total, processed, failed, last = file.execute(
                _PROGRESS, (*PROCESSED, *FAILED, company_id, platform)
            ).fetchone()
            return counted_progress(total, processed, failed, time_of(last) or last)

        return await self._read(company_id, find, counted_progress(0, 0, 0, None))

    async def set_processing_progress(self, company_id: str, platform: str, progress: Mapping[str, Any] | None) -> bool:
        """Let `get_processing_progress` answer this from now on, or count again (None)."""
        if progress is not None:
            await self._save(PROGRESS, company_id, platform, progress)
            return True
        key = (check_tenant_id(company_id), check_platform(platform))
        return await self._write(company_id, lambda file: PROGRESS.rows.delete(file, key))

    async def save_kb_article(self, company_id: str, platform: str, article_data: Mapping[str, Any]) -> str:
        """Save an article and return its id."""
        return await self._save(ARTICLE, company_id, platform, article_data)

    async def list_companies(self) -> list[str]:
        """Return the tenants of the store."""
        self._check_open()
        return await self.store.tenants()

    async def get_platform_stats(self, company_id: str) -> dict[str, dict[str, int]]:
        """Return how many items each platform has."""

        def count(file: sqlite3.Connection) -> dict[str, dict[str, int]]:
            tickets, articles = (
                file.execute(
                    f"SELECT platform, count(*) FROM {kind.rows.name} WHERE company_id = ? GROUP BY platform",
                    (company_id,),
                ).fetchall()
                for kind in (TICKET, ARTICLE)
            )
            return platform_stats(tickets, articles)

        return await self._read(company_id, count, {})

    def cache(self, company_id: str) -> Cache:
        """Return the company's cache, which is its tenant's, too: it follows the rows of the file."""
        self._check_open()
        return self._caches.of(company_id, changes=self.changes(company_id))

    def changes(self, company_id: str) -> FileChanges:
        """Return what tells whether the rows of the company's file have changed; it makes no file."""
        return FileChanges(partial(self._database, company_id, create=False))

    @property
    def closed(self) -> bool:
        """Whether the storage was closed."""
        return self._closed

    async def close(self) -> None:
        """Close the files that this storage opened."""
        if not self._closed:
            self._closed = True
            await self._caches.close()
            await self.store.close()

    async def _save(self, kind: ItemKind, company_id: str, platform: str, payload: Mapping[str, Any]) -> str:
        key = (check_tenant_id(company_id), check_platform(platform))
        incoming = read_payload(kind, platform, payload)
        row_key = kind.key(key, incoming.item_id)
        await self._write(company_id, partial(_put, kind, row_key, incoming, datetime.now(UTC)), create=True)
        return incoming.item_id

    async def _set(
        self, company_id: str, platform: str, item_id: object, kinds: tuple[ItemKind, ...], column: str, value: Any
    ) -> bool:
        """Set a column of the item with this id, of the first kind that has one; return whether there was one."""
        key = (check_tenant_id(company_id), check_platform(platform), key_of(item_id) or "")
        moment = datetime.now(UTC)

        def work(file: sqlite3.Connection) -> bool:
            for kind in kinds:
                row = kind.rows.find(file, key)
                if row is not None:
                    if not same(row[column], value):
                        kind.rows.update(file, key, written(kind.rows, {column: value, "updated_at": moment}))
                    return True
            return False

        return await self._write(company_id, work)

    async def _read(self, company_id: str, work: Callable[[sqlite3.Connection], T], absent: T) -> T:
        """Return what `work` finds in the company's file, or `absent` where there is none."""
        database = await self._database(company_id, create=False)
        if database is None:
            return absent

        def checked(file: sqlite3.Connection) -> T:
            self._check_mode(file, company_id)
            return work(file)

        return await database.read(checked)

    async def _write(
        self, company_id: str, work: Callable[[sqlite3.Connection], bool], *, create: bool = False
    ) -> bool:
        """Return what `work` did to the company's file, False where there is none; its mode holds until the commit."""
        database = await self._database(company_id, create=create)
        if database is None:
            return False

        def checked(file: sqlite3.Connection) -> bool:
            self._check_mode(file, company_id)
            return work(file)

        return await database.write(checked)

    async def _database(self, company_id: str, *, create: bool) -> Database | None:
        self._check_open()
        try:
            tenant = self.store.tenant(company_id, create=create)
        except TenantNotFound:
            return None
        return (await tenant.open()).database

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the storage is closed", hint="make a new one, or call get_storage() again")

    def _check_mode(self, file: sqlite3.Connection, company_id: str) -> None:
        check_mode(company_id, read_mode(file), self.modes, type(self).__name__)


def _put(kind: ItemKind, key: tuple[str, ...], incoming: Incoming, moment: datetime, file: sqlite3.Connection) -> bool:
    """Write what the payload changes; return whether that was anything."""
    row = kind.rows.find(file, key)
    if row is None:
        kind.rows.insert(file, written(kind.rows, new_row(kind, key, incoming, moment)))
    changes = {} if row is None else changed_columns(kind, row, incoming, moment)
    if changes:
        kind.rows.update(file, key, written(kind.rows, changes))
    before = {} if row is None else mapped(kind, row).conversations
    after = incoming.mapped.conversations
    if before or after:
        stored = CONVERSATION_ROWS.select(file, "WHERE company_id = ? AND platform = ? AND ticket_id = ?", key)
        found = changed_conversations(key, before, after, list(stored))
        for new in found.new:
            CONVERSATION_ROWS.insert(file, written(CONVERSATION_ROWS, new))
        for conversation_id, columns in found.changed:
            CONVERSATION_ROWS.update(file, (*key, conversation_id), written(CONVERSATION_ROWS, columns))
        for conversation_id in found.gone:
            CONVERSATION_ROWS.delete(file, (*key, conversation_id))
    return row is None or bool(changes)


def _platforms(file: sqlite3.Connection, company_id: str) -> Iterator[str]:
    for (platform,) in file.execute(_PLATFORMS.format(TICKET.rows.name), (company_id,)):
        yield platform
