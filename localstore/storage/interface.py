"""StorageInterface: what an application programs against, whatever holds the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from localstore.cache.interface import Cache
from localstore.config import Settings

LIST_LIMIT = 100
"""A forgotten limit must not read a whole tenant into memory; `limit=None` does."""


class StorageInterface(ABC):
    """Tickets, articles, summaries and progress of many companies.

    Every backend gives the same answers and raises the same errors; `None` and `False` mean that something is not
    there, and nothing else: what fails raises. Companies and platforms are checked (InvalidIdentifier). A company that
    nobody saved to reads as empty and is not made by reading. A payload that one of the backends could not hold
    (U+0000, a lone surrogate, NaN, a key that is no text) is refused by all of them with InvalidRow, and a tenant whose
    mode belongs to another backend with WrongMode. What a method has returned is committed. Payloads are never altered.

    Usable with and without `async with`, on one event loop after another. Nothing is opened before the first call. A
    storage that nobody closes neither keeps the process alive nor loses a commit.
    """

    @classmethod
    def from_settings(cls, settings: Settings) -> StorageInterface:
        """Make the storage that these settings describe; opens nothing."""
        del settings
        return cls()

    @abstractmethod
    async def save_ticket(self, company_id: str, platform: str, ticket_data: Mapping[str, Any]) -> str:
        """Save a ticket and return its id: the payload's `ticket_id`, else `key`, else `id`.

        The payload is kept as it is. Of a ticket that is there already, only the columns change to which the new
        payload gives another value than the old one did, so that a status set here outlives the next collection. Must
        be idempotent: a payload that is stored already changes nothing. Raises InvalidRow.
        """

    @abstractmethod
    async def get_ticket(self, company_id: str, platform: str, ticket_id: str) -> dict[str, Any] | None:
        """Return a ticket, or None: its payload with, on top, what the row says.

        That is `company_id, platform, ticket_id, processing_status, created_at, updated_at` (times as ISO 8601 in UTC)
        and, when set, `processed_data` and `summary`.
        """

    @abstractmethod
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
        """Return tickets as `get_ticket` gives them, the newest by `created_at` first, then by ticket_id and platform.

        `status` is the ticket's own, `processing_status` ours. `limit=None` gives all there are; a negative limit or
        offset is a ConfigurationError.
        """

    @abstractmethod
    async def update_processing_status(self, company_id: str, platform: str, ticket_id: str, status: str) -> bool:
        """Set a ticket's processing status; return False when there is no such ticket."""

    @abstractmethod
    async def save_summary(self, company_id: str, platform: str, item_id: str, summary_data: Any) -> bool:
        """Set the summary of the ticket with this id, else of the article; return False when neither is there.

        `None` takes the summary away.
        """

    @abstractmethod
    async def get_processing_progress(self, company_id: str, platform: str) -> dict[str, Any]:
        """Return `total_tickets, processed_tickets, failed_tickets, progress_percentage, last_updated`.

        Counted from the tickets, unless `set_processing_progress` or an imported progress.json says otherwise.
        Processed are those with `is_processed` or a processing status of completed, processed or done; failed those
        with failed or error.
        """

    @abstractmethod
    async def set_processing_progress(self, company_id: str, platform: str, progress: Mapping[str, Any] | None) -> bool:
        """Let `get_processing_progress` answer this from now on, or count again (None); return whether it was set."""

    @abstractmethod
    async def save_kb_article(self, company_id: str, platform: str, article_data: Mapping[str, Any]) -> str:
        """Save an article of the knowledge base, as `save_ticket` does, and return its id.

        That is the payload's `article_id`, else `key`, else `id`.
        """

    @abstractmethod
    async def list_companies(self) -> list[str]:
        """Return the ids of all companies, sorted."""

    @abstractmethod
    async def get_platform_stats(self, company_id: str) -> dict[str, dict[str, int]]:
        """Return how many items each platform has, by platform: `tickets, knowledge_base, total`."""

    @abstractmethod
    def cache(self, company_id: str) -> Cache:
        """Return the company's cache, in Redis where REDIS_URL is set, else in a folder below DATA_PATH.

        What is kept in it with `tables` follows the rows that this storage reads, and has to be made through it. Opens
        nothing.
        """

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether the storage was closed; every other call then raises StoreError."""

    @abstractmethod
    async def close(self) -> None:
        """Give back what the storage holds open; a second call does nothing."""

    async def __aenter__(self) -> Self:
        """Return the storage; it opens when it is used."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the storage."""
        await self.close()
