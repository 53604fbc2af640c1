"""Production as a hybrid storage sees it: the truth of some companies, a copy of the others, and at times away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final, TypeVar

from localstore.config import Settings
from localstore.errors import PostgresError, PostgresUnavailable, WrongMode
from localstore.postgres.companies import MODE
from localstore.sqlite.mode import FILE, HYBRID
from localstore.storage.postgres import PostgresStorage
from sync.results import Failure

T = TypeVar("T")

ANSWER_SECONDS: Final = 5.0
"""What production does not answer in this time is answered by the file."""

REST_SECONDS: Final = 5.0
"""How long a production that did not answer is left alone by what can do without it."""


class NoAnswer(Exception):
    """Raised when production did not answer; `Production.failure` says why."""


class Copies(PostgresStorage):
    """Production's copies of companies whose truth is a file. They are only read, and never from a replica.

    A replica lags behind promotions, so that it would not show what was written here a moment ago.
    """

    modes = frozenset({FILE, HYBRID})

    async def mode(self, company_id: str) -> str | None:
        """Return the mode that production lists a company with, or None where it does not list it."""
        self._check_open()
        mode: str | None = await self._pool.read(company_id, lambda connection: connection.fetchval(MODE))
        return mode


class Production:
    """Two storages on one production: `truth` serves companies of mode postgresql, `copies` is read for the others."""

    def __init__(self, url: str, *, settings: Settings) -> None:
        replica = settings.database_replica_url
        self.truth = PostgresStorage(
            url, replica=None if replica is None else replica.get_secret_value(), settings=settings
        )
        self.copies = Copies(url, settings=settings)
        self.failure: Failure | None = None
        self._rests_until = 0.0

    def __repr__(self) -> str:
        return f"<Production {self.truth.server.redacted!r}>"

    @property
    def rests(self) -> bool:
        """Whether production failed to answer a moment ago."""
        return monotonic() < self._rests_until

    async def ask(self, work: Callable[[], Awaitable[T]]) -> T:
        """Return what `work` finds in production, in bounded time; raises NoAnswer, which its callers do without."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await work()
        except (PostgresError, WrongMode, TimeoutError) as error:
            told = (
                PostgresUnavailable(f"no answer within {ANSWER_SECONDS:g} s")
                if isinstance(error, TimeoutError)
                else error
            )
            self.failure = Failure.of(told)
            self._rests_until = monotonic() + REST_SECONDS
            raise NoAnswer from error
        self.failure = None
        return answer

    async def mode(self, company_id: str) -> str | None:
        """Return the mode that production lists a company with; None where it does not, or does not answer."""
        try:
            return await self.ask(lambda: self.copies.mode(company_id))
        except NoAnswer:
            return None

    async def close(self) -> None:
        """Close the connections."""
        await self.copies.close()
        await self.truth.close()
