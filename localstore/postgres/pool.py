"""A pool of connections that do an application's work: each transaction is one company's and nothing outlives it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Final, Self, TypeVar

import asyncpg

from localstore.config import Settings
from localstore.errors import LocalStoreError
from localstore.identifiers import check_tenant_id
from localstore.postgres import replica as replicas
from localstore.postgres.connect import CLOSE_SECONDS, CONNECT_SECONDS
from localstore.postgres.connections import Connections
from localstore.postgres.failures import is_retryable
from localstore.postgres.policies import APP, COMPANY_SETTING
from localstore.postgres.quoting import quote_literal
from localstore.postgres.replica import Replica
from localstore.postgres.server import Server

T = TypeVar("T")

MIN_SIZE: Final = 0
"""Connections are opened when they are needed, so that a program that only starts up costs the server nothing."""

MAX_SIZE: Final = 10
"""A process rarely keeps more transactions going than this; a hundred of them still fit a server behind a pooler."""


class Pool:
    """Connections to production, opened at the first use, on whichever event loop that is.

    Every transaction acts as `app_user` for one company, both set for that transaction alone, so row-level security
    binds it and a pooler may hand the connection to anybody afterwards. Prepared statements are kept only where
    `statement_cache_size` says so, which a transaction pooler would not stand.

    With a `replica`, reads go there as soon as it has replayed the last write of this pool, and to the primary while it
    is behind or does not answer.
    """

    def __init__(
        self,
        server: Server,
        *,
        replica: Server | None = None,
        min_size: int = MIN_SIZE,
        max_size: int = MAX_SIZE,
        statement_cache_size: int = 0,
        timeout: float = CONNECT_SECONDS,
    ) -> None:
        self.server = server
        self._primary = Connections(
            server,
            min_size=min_size,
            max_size=max_size,
            statement_cache_size=statement_cache_size,
            timeout=timeout,
        )
        self._replica: Replica | None = None
        if replica is not None:
            self._replica = Replica(
                Connections(
                    replica,
                    min_size=0,
                    max_size=max_size,
                    statement_cache_size=statement_cache_size,
                    timeout=min(timeout, replicas.CONNECT_SECONDS),
                )
            )

    @classmethod
    def from_settings(cls, server: Server, settings: Settings, *, replica: Server | None = None) -> Self:
        """Make a pool of the size that the settings give."""
        return cls(
            server,
            replica=replica,
            min_size=settings.localstore_pool_min,
            max_size=settings.localstore_pool_max,
            statement_cache_size=settings.localstore_statement_cache,
        )

    def __repr__(self) -> str:
        return f"<Pool of {self.server.redacted}>"

    @asynccontextmanager
    async def transaction(self, company_id: str | None, *, readonly: bool = False) -> AsyncIterator[asyncpg.Connection]:
        """Run a block in one transaction of a company (None: of no company) and commit it at the end.

        An error rolls back; the driver's come out as ours. A read-only transaction may be on the replica; a block that
        loses it there fails, which `read` spares its callers.
        """
        begin = _begin(company_id, readonly=readonly)
        async with AsyncExitStack() as stack:
            connection = await self._replica.begin(stack, begin) if readonly and self._replica else None
            if connection is None:
                connection = await stack.enter_async_context(self._on_primary(begin, readonly=readonly))
            yield connection

    async def read(self, company_id: str | None, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """Return what `work` reads in a read-only transaction; on the primary again where the replica fails on it.

        `work` may run twice, so it must do nothing but read.
        """
        begin = _begin(company_id, readonly=True)
        if self._replica is not None:
            try:
                async with AsyncExitStack() as stack:
                    connection = await self._replica.begin(stack, begin)
                    if connection is not None:
                        return await work(connection)
            except LocalStoreError as error:
                if not is_retryable(error):
                    raise
                self._replica.rest()
        async with self._on_primary(begin, readonly=True) as connection:
            return await work(connection)

    async def close(self, *, timeout: float = CLOSE_SECONDS) -> None:
        """Close every connection, cutting those that are still in use after `timeout` seconds; may be called twice."""
        await self._primary.close(timeout=timeout)
        if self._replica is not None:
            await self._replica.close(timeout=timeout)

    async def __aenter__(self) -> Self:
        """Return the pool; it opens by itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the pool."""
        await self.close()

    @asynccontextmanager
    async def _on_primary(self, begin: str, *, readonly: bool) -> AsyncIterator[asyncpg.Connection]:
        replica = self._replica
        note = replica.note if replica is not None and (not readonly or replica.behind_unknown) else None
        async with self._primary.transaction(begin, then=note) as (connection, _):
            yield connection


def _begin(company_id: str | None, *, readonly: bool) -> str:
    """Return the statements that begin a transaction of a company, sent together as one.

    The setting is made for no company, too: behind a pooler another program may have left its own.
    """
    company = "" if company_id is None else check_tenant_id(company_id)
    return (
        f"BEGIN{' READ ONLY' if readonly else ''}; SET LOCAL ROLE {APP}; "
        f"SELECT set_config('{COMPANY_SETTING}', {quote_literal(company)}, true), set_config('TimeZone', 'UTC', true)"
    )
