"""The link to one production: where it is, which schema, and how often a lost connection is tried again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import asyncpg
import stamina

from localstore.errors import ObjectStoreUnavailable
from localstore.postgres.connect import close, connect, translate
from localstore.postgres.failures import is_retryable
from localstore.postgres.server import Server
from sync.errors import SyncError
from sync.pulse import pulse

T = TypeVar("T")

ATTEMPTS_MAX = 5
CONNECT_SECONDS = 20.0
"""A server that does not answer is given up after this long."""
RETRY_SECONDS = 20.0


@dataclass(slots=True)
class Idle:
    """Connections that the steps of a command hand on to each other, so that a small push logs in once."""

    connections: list[asyncpg.Connection] = field(default_factory=list)

    def take(self) -> asyncpg.Connection | None:
        """Return a connection that is still open, if there is one."""
        while self.connections:
            connection = self.connections.pop()
            if not connection.is_closed():
                return connection
        return None

    def put(self, connection: asyncpg.Connection) -> None:
        """Keep a connection for the next step."""
        self.connections.append(connection)

    async def close(self) -> None:
        """Close all of them."""
        while self.connections:
            await close(self.connections.pop())


@dataclass(frozen=True, slots=True)
class Link:
    """A production database and the schema in it that tenants are promoted into."""

    server: Server
    target: str
    timeout: float = CONNECT_SECONDS
    idle: Idle | None = field(default=None, compare=False, repr=False)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend a connection for a block, an idle one where the link keeps some; driver errors come out as ours.

        Whatever a step sets, it sets for its transaction only, so the next step finds the connection as new. After an
        error it is closed.
        """
        kept = self.idle.take() if self.idle is not None else None
        connection = kept or await connect(self.server, timeout=self.timeout)
        done = False
        try:
            async with pulse(self.server, connection, self.timeout):
                yield connection
            done = True
        except (asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError, TimeoutError) as error:
            raise translate(error, self.server) from error
        finally:
            if done and self.idle is not None and not connection.is_closed() and not connection.is_in_transaction():
                self.idle.put(connection)
            else:
                await close(connection)

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
    # The bucket has tried again already what was worth it: trying that again here would multiply the two.
    if isinstance(error, ObjectStoreUnavailable):
        return False
    # What sync itself refuses says so for itself, whatever lies beneath: a full disk here is no lost connection.
    return error.retryable if isinstance(error, SyncError) else is_retryable(error)
