"""HybridStorage: each company is served where its truth is, and what is written to files goes on to production."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import stamina

from localstore.cache.backends import caches_at
from localstore.cache.interface import Cache
from localstore.config import Settings
from localstore.errors import ConfigurationError, StoreError, WrongMode
from localstore.identifiers import check_platform, check_tenant_id
from localstore.sqlite.mode import FILE, HYBRID, POSTGRESQL
from localstore.storage.interface import LIST_LIMIT, StorageInterface
from sync.config import TARGET_DEFAULT
from sync.hybrid.changes import HybridChanges
from sync.hybrid.files import Files
from sync.hybrid.migration import Migration, migrate
from sync.hybrid.production import NoAnswer, Production
from sync.hybrid.pusher import Pusher
from sync.hybrid.standing import Standing
from sync.results import Failure, Result

T = TypeVar("T")

Call = Callable[[StorageInterface], Awaitable[T]]

TICKETS: Final = ("tickets",)
PROGRESS: Final = ("tickets", "processing_progress")
ITEMS: Final = ("tickets", "knowledge_base")


@dataclass(frozen=True, slots=True)
class HybridStatus:
    """How a hybrid storage gets on with production; none of it is an error of a call.

    `waiting` are the companies whose files may hold what no push has carried yet, `failures` what the last push of a
    company met, until one succeeds, `held` how many of a company's rows production did not take, and `reads` why
    production did not answer the last read that it was asked for.
    """

    waiting: tuple[str, ...]
    failures: Mapping[str, Failure]
    held: Mapping[str, int]
    reads: Failure | None


class HybridStorage(StorageInterface):
    """Files where files are the truth, with production following; production where that is the truth.

    In the modes file and hybrid every call is the file's, so none depends on whether production answers; what was
    committed is pushed and promoted in the background. With HYBRID_USE_POSTGRES a read is production's as long as
    that has everything that the file has of the tables concerned. New companies begin in mode hybrid.
    """

    def __init__(
        self,
        base_path: str | os.PathLike[str] | None = None,
        connection_string: str | None = None,
        *,
        settings: Settings | None = None,
    ) -> None:
        settings = settings or Settings.from_environment()
        url = connection_string
        if url is None and settings.database_url is not None:
            url = settings.database_url.get_secret_value()
        if url is None:
            raise ConfigurationError("STORAGE_TYPE=hybrid needs DATABASE_URL", hint="set DATABASE_URL")
        self._files = Files(settings.data_path if base_path is None else base_path, settings=settings)
        self._production = Production(url, settings=settings)
        self._caches = caches_at(self._files.store.root, settings)
        self._pusher = Pusher(self._files.store, url)
        self._reads_copies = settings.hybrid_use_postgres
        self._mode_seconds = settings.localstore_busy_timeout
        self._elsewhere: set[str] = set()
        self._closed = False

    @classmethod
    def from_settings(cls, settings: Settings) -> HybridStorage:
        """Make the storage of DATA_PATH and DATABASE_URL."""
        return cls(settings=settings)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self._files.store.root)!r} {self._production.truth.server.redacted!r}>"

    @property
    def status(self) -> HybridStatus:
        """Return what the background met so far."""
        pusher = self._pusher
        held = {company: rows for company, rows in pusher.held.items() if rows}
        return HybridStatus(pusher.waiting, dict(pusher.failures), held, self._production.failure)

    async def save_ticket(self, company_id: str, platform: str, ticket_data: Mapping[str, Any]) -> str:
        """Save a ticket and return its id once it is committed where the company's truth is."""
        return await self._write(company_id, lambda storage: storage.save_ticket(company_id, platform, ticket_data))

    async def get_ticket(self, company_id: str, platform: str, ticket_id: str) -> dict[str, Any] | None:
        """Return a ticket with what its row says on top, or None."""
        return await self._read(
            company_id, TICKETS, lambda storage: storage.get_ticket(company_id, platform, ticket_id)
        )

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
        return await self._read(
            company_id,
            TICKETS,
            lambda storage: storage.list_tickets(
                company_id, platform, status, limit, offset, processing_status=processing_status
            ),
        )

    async def update_processing_status(self, company_id: str, platform: str, ticket_id: str, status: str) -> bool:
        """Set a ticket's processing status; return False when there is no such ticket."""
        return await self._write(
            company_id, lambda storage: storage.update_processing_status(company_id, platform, ticket_id, status)
        )

    async def save_summary(self, company_id: str, platform: str, item_id: str, summary_data: Any) -> bool:
        """Set the summary of the ticket with this id, else of the article; return False when neither is there."""
        return await self._write(
            company_id, lambda storage: storage.save_summary(company_id, platform, item_id, summary_data)
        )

    async def get_processing_progress(self, company_id: str, platform: str) -> dict[str, Any]:
        """Return how far processing has come: what was set, else what the tickets show."""
        return await self._read(
            company_id, PROGRESS, lambda storage: storage.get_processing_progress(company_id, platform)
        )

    async def set_processing_progress(self, company_id: str, platform: str, progress: Mapping[str, Any] | None) -> bool:
        """Let `get_processing_progress` answer this from now on, or count again (None)."""
        return await self._write(
            company_id, lambda storage: storage.set_processing_progress(company_id, platform, progress)
        )

    async def save_kb_article(self, company_id: str, platform: str, article_data: Mapping[str, Any]) -> str:
        """Save an article and return its id once it is committed where the company's truth is."""
        return await self._write(
            company_id, lambda storage: storage.save_kb_article(company_id, platform, article_data)
        )

    async def list_companies(self) -> list[str]:
        """Return the companies that have a file here and those that production lists, as far as it answers."""
        self._check_open()
        found = {*await self._files.list_companies(), *self._elsewhere}
        if not self._production.rests:
            with suppress(NoAnswer):
                found.update(await self._production.ask(self._production.copies.list_companies))
        return sorted(found)

    async def get_platform_stats(self, company_id: str) -> dict[str, dict[str, int]]:
        """Return how many items each platform has."""
        return await self._read(company_id, ITEMS, lambda storage: storage.get_platform_stats(company_id))

    async def push(self, companies: Sequence[str] | None = None) -> Result:
        """Push and promote these companies' files now (None: all of them) and return what that did.

        Raises LocalStoreError when production cannot be reached at all; what fails of a company is in the result.
        """
        self._check_open()
        return await self._pusher.push(await self._files.list_companies() if companies is None else companies)

    async def migrate_data(self, company_id: str | None = None, platform: str | None = None) -> Migration:
        """Bring a company's file, or all of them, whole to production, verify it, and say what was moved and what not.

        Nothing is thrown away: what production does not take is held, listed with its reason, and stays in the file.
        Cut anywhere, it goes on where it was when it is called again. A push is always whole; `platform` narrows what
        is reported. Raises LocalStoreError when production cannot be reached at all.
        """
        self._check_open()
        if platform is not None:
            check_platform(platform)
        names = await self._files.list_companies() if company_id is None else [check_tenant_id(company_id)]
        return await migrate(self._pusher, self._production, names, platform)

    def cache(self, company_id: str) -> Cache:
        """Return the company's cache: it follows the rows of the file and those of production."""
        self._check_open()
        changes = HybridChanges(self._files.changes(company_id), self._production, company_id)
        return self._caches.of(company_id, changes=changes)

    @property
    def closed(self) -> bool:
        """Whether the storage was closed."""
        return self._closed

    async def close(self) -> None:
        """Try for a moment to bring what is waiting to production, and give back what is open."""
        if not self._closed:
            self._closed = True
            async with AsyncExitStack() as stack:
                for held in (self._files, self._production, self._caches, self._pusher):
                    stack.push_async_callback(held.close)

    async def _write(self, company_id: str, call: Call[T]) -> T:
        """Return what the call did where the company's truth is."""
        self._check_open()
        check_tenant_id(company_id)
        async for attempt in self._while_modes_change():
            with attempt:
                if await self._is_elsewhere(company_id):
                    return await self._at(self._production.truth, company_id, call)
                answer = await self._at(self._files, company_id, call)
                if answer is not False:
                    self._pusher.notice(company_id)
                return answer
        raise AssertionError("the last attempt returns or raises")

    async def _read(self, company_id: str, tables: Collection[str], call: Call[T]) -> T:
        """Return what the call finds where the company's truth is, or in production's copy where that is as good."""
        self._check_open()
        check_tenant_id(company_id)
        async for attempt in self._while_modes_change():
            with attempt:
                standing = await self._files.standing(company_id, tables)
                mode = standing.mode if standing is not None else await self._mode_there(company_id)
                if mode == POSTGRESQL:
                    return await self._at(self._production.truth, company_id, call)
                if self._copy_will_do(company_id, standing, mode):
                    with suppress(NoAnswer):
                        return await self._production.ask(lambda: call(self._production.copies))
                    # Whatever production has when it comes back, it tells the file before it is read again.
                    self._pusher.lost()
                return await self._at(self._files, company_id, call)
        raise AssertionError("the last attempt returns or raises")

    def _copy_will_do(self, company_id: str, standing: Standing | None, mode: str | None) -> bool:
        """Return whether production's copy shows everything that was written here."""
        if standing is None:
            return self._reads_copies and mode in (FILE, HYBRID)
        in_contact = self._pusher.in_contact(company_id)
        if standing.pending or not in_contact:
            self._pusher.notice(company_id)
        return self._reads_copies and in_contact and standing.settled and standing.target == TARGET_DEFAULT

    async def _is_elsewhere(self, company_id: str) -> bool:
        """Return whether a write belongs to production; the file of a company that other boxes have is brought here."""
        mode = await self._files.mode(company_id)
        if mode is None and company_id not in self._elsewhere:
            mode = await self._production.mode(company_id)
            if mode == POSTGRESQL:
                self._elsewhere.add(company_id)
            elif mode is not None:
                await self._pusher.bring(company_id)
        return mode == POSTGRESQL or company_id in self._elsewhere

    async def _mode_there(self, company_id: str) -> str | None:
        """Return the mode of a company that has no file here, as far as production answers."""
        if company_id in self._elsewhere:
            return POSTGRESQL
        if self._production.rests:
            return None
        mode = await self._production.mode(company_id)
        if mode == POSTGRESQL:
            self._elsewhere.add(company_id)
        return mode

    async def _at(self, storage: StorageInterface, company_id: str, call: Call[T]) -> T:
        try:
            return await call(storage)
        except WrongMode:
            # The mode was changed since it was looked at.
            self._elsewhere.discard(company_id)
            await self._files.mode(company_id, anew=True)
            raise

    def _while_modes_change(self) -> AsyncIterator[stamina.Attempt]:
        """Return attempts at a call, since a change of mode takes a while in which neither side is the truth."""
        return stamina.retry_context(
            on=WrongMode,
            attempts=None,
            timeout=max(self._mode_seconds, 1),
            wait_initial=0.02,
            wait_max=0.5,
            wait_jitter=0.02,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the storage is closed", hint="make a new one, or call get_storage() again")
