"""Connections to one server, opened when they are needed, kept open and lent for one transaction each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import asyncpg

from localstore.errors import ConfigurationError, PostgresError, PostgresUnavailable
from localstore.postgres.connect import CLOSE_SECONDS, connect
from localstore.postgres.failures import is_connection_error, sqlstate, translate
from localstore.postgres.server import Server

ROLLBACK_SECONDS: Final = 5.0
"""A server that takes longer to end a transaction is taken for gone, and the connection is cut."""

_FAILURES: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, EOFError)
_NO_SUCH_ROLE: Final = "22023"

Then = Callable[[asyncpg.Connection], Awaitable[None]]


class Connections:
    """Up to `max_size` connections for each event loop that uses them; nothing is opened before the first use.

    Nothing is left on a connection when a transaction ends, so it goes to the next one as it is, also through a
    transaction pooler.
    """

    def __init__(
        self, server: Server, *, min_size: int, max_size: int, statement_cache_size: int, timeout: float
    ) -> None:
        if not 0 <= min_size <= max_size or max_size < 1:
            raise ConfigurationError(
                f"a pool cannot hold from {min_size} to {max_size} connections",
                hint="give sizes with 0 <= min_size <= max_size and max_size of at least 1",
            )
        self.server = server
        self._min_size = min_size
        self._max_size = max_size
        self._statement_cache_size = statement_cache_size
        self._timeout = timeout
        self._closed = False
        # A connection belongs to the loop that opened it; a program may well run one loop after another.
        self._pools: dict[asyncio.AbstractEventLoop, asyncio.Task[Any]] = {}

    def __repr__(self) -> str:
        return f"<Connections to {self.server.redacted}>"

    @asynccontextmanager
    async def transaction(
        self, begin: str, *, then: Then | None = None
    ) -> AsyncIterator[tuple[asyncpg.Connection, str]]:
        """Run a block in one transaction, which the statements `begin` open in one round trip.

        Give the connection and what the last of these statements answered. The transaction is committed at the end
        of the block and rolled back when the block raises; errors of the driver come out as ours. `then` gets the
        connection after the commit.
        """
        pool = await self._opened()
        connection, answer = await self._begin(pool, begin)
        try:
            yield connection, answer
            await self._commit(connection)
            if then is not None:
                await then(connection)
        except _FAILURES as error:
            raise translate(error, self.server) from error
        except asyncpg.InternalClientError as error:
            connection.terminate()
            raise PostgresUnavailable(
                f"{self.server.redacted} went away in the middle of a transaction", hint="run the same call again"
            ) from error
        finally:
            await _give_back(pool, connection)

    async def close(self, *, timeout: float = CLOSE_SECONDS) -> None:
        """Close every connection; one that is still lent after `timeout` seconds is cut."""
        self._closed = True
        pools, self._pools = self._pools, {}
        for loop, opening in pools.items():
            if loop is asyncio.get_running_loop():
                pool = await opening
                try:
                    async with asyncio.timeout(timeout):
                        await pool.close()
                except _FAILURES:
                    pool.terminate()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(opening.result().terminate)

    async def _opened(self) -> Any:
        """Return this loop's pool; those of loops that are closed are forgotten, since nothing can run on them."""
        if self._closed:
            raise PostgresError(f"the pool of {self.server.redacted} is closed", hint="make a new one")
        loop = asyncio.get_running_loop()
        opening = self._pools.get(loop)
        if opening is None or (opening.done() and (opening.cancelled() or opening.exception() is not None)):
            self._pools = {other: pool for other, pool in self._pools.items() if not other.is_closed()}
            # A task of its own, so that the first caller's being cancelled does not take the pool from the others.
            opening = self._pools[loop] = loop.create_task(self._open())
        try:
            return await asyncio.shield(opening)
        except _FAILURES as error:
            raise translate(error, self.server) from error

    async def _open(self) -> Any:
        return await asyncpg.create_pool(
            min_size=self._min_size,
            max_size=self._max_size,
            connect=self._connect,
            reset=_nothing_to_reset,
        )

    async def _connect(self, *_arguments: Any, **_options: Any) -> asyncpg.Connection:
        return await connect(self.server, timeout=self._timeout, statement_cache_size=self._statement_cache_size)

    async def _begin(self, pool: Any, begin: str) -> tuple[asyncpg.Connection, str]:
        for last in (False, True):
            connection = await self._acquire(pool)
            try:
                return connection, await connection.execute(begin)
            except (*_FAILURES, asyncpg.InternalClientError) as error:
                # The driver takes a goodbye that the server sent to an idle connection for an operation under way.
                confused = isinstance(error, asyncpg.InternalClientError)
                if confused:
                    connection.terminate()
                lost = confused or is_connection_error(error)
                await _give_back(pool, connection)
                if lost and not last:
                    # The server was restarted since: all the connections kept are dead, and nothing has happened yet.
                    await pool.expire_connections()
                    continue
                raise self._refused(error) from error
            except BaseException:
                await _give_back(pool, connection)
                raise
        raise AssertionError("unreachable")

    async def _acquire(self, pool: Any) -> asyncpg.Connection:
        try:
            return await pool.acquire(timeout=self._timeout)
        except TimeoutError as error:
            if pool.get_size() == self._max_size and pool.get_idle_size() == 0:
                raise PostgresUnavailable(
                    f"all {self._max_size} connections to {self.server.redacted} were in use for {self._timeout:g} s",
                    hint="end transactions sooner, or make the pool larger",
                ) from error
            raise translate(error, self.server) from error
        except _FAILURES as error:
            raise translate(error, self.server) from error

    async def _commit(self, connection: asyncpg.Connection) -> None:
        try:
            answer = await connection.execute("COMMIT")
        except _FAILURES as error:
            if not is_connection_error(error):
                raise
            raise PostgresUnavailable(
                f"{self.server.redacted} went away during a commit, so it is not known whether that was done",
                hint="look whether the rows are there, and write again if not",
            ) from error
        if answer != "COMMIT":
            # Postgres answers so, without an error, where a statement before had failed and nobody said so.
            raise PostgresError(
                f"{self.server.redacted} rolled a transaction back because a statement in it had failed",
                hint="let the error of that statement through",
            )

    def _refused(self, error: BaseException) -> Exception:
        if sqlstate(error) == _NO_SUCH_ROLE:
            return PostgresError(
                f"{self.server.redacted} was never prepared: its roles are missing", hint="localstore sync init"
            )
        return translate(error, self.server)


async def _give_back(pool: Any, connection: asyncpg.Connection) -> None:
    """End what is left of a transaction and give the connection back; cut it where that does not work in time."""
    try:
        if connection.is_in_transaction():
            await connection.execute("ROLLBACK", timeout=ROLLBACK_SECONDS)
    except BaseException as error:
        # A connection that was lost has left the pool by itself and knows nothing of being cut.
        with suppress(asyncpg.InterfaceError):
            connection.terminate()
        if not isinstance(error, _FAILURES):
            raise
    finally:
        with suppress(*_FAILURES):
            await pool.release(connection, timeout=ROLLBACK_SECONDS)


async def _nothing_to_reset(_connection: asyncpg.Connection) -> None:
    """Do nothing: whatever a transaction set, it set for itself alone."""
