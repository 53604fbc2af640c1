"""The link to one production: where it is, which schema, and how often a lost connection is tried again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import asyncpg
import stamina

from localstore.postgres.connect import connection_to
from localstore.postgres.failures import is_retryable
from localstore.postgres.server import Server
from sync.errors import SyncError
from sync.pulse import pulse

T = TypeVar("T")

ATTEMPTS_MAX = 5
CONNECT_SECONDS = 20.0
"""A server that does not answer is given up after this long."""
RETRY_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Link:
    """A production database and the schema in it that tenants are promoted into."""

    server: Server
    target: str
    timeout: float = CONNECT_SECONDS

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """Open a connection for a block; driver errors come out as ours."""
        async with (
            connection_to(self.server, timeout=self.timeout, statement_cache_size=0) as connection,
            pulse(self.server, connection, self.timeout),
        ):
            yield connection

    async def run(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """Run `work` on a connection, again on a new one when it was lost or when others' locks were in the way.

        Every step of sync can run twice; each begins by asking what is there already, so an answer that was lost
        is found again.
        """
        async for attempt in stamina.retry_context(on=_worth_another_try, attempts=ATTEMPTS_MAX, timeout=RETRY_SECONDS):
            with attempt:
                async with self.connection() as connection:
                    return await work(connection)
        raise AssertionError("the last attempt returns or raises")


def _worth_another_try(error: Exception) -> bool:
    # What sync itself refuses says so for itself, whatever lies beneath: a full disk here is no lost connection.
    return error.retryable if isinstance(error, SyncError) else is_retryable(error)
