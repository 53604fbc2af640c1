"""Notice a server that falls silent in the middle of a statement, without ever cutting one that is only slow.

A half-open connection looks like a long statement: nothing comes, nothing is refused. So while work goes on, a second
connection is tried now and then. Where nobody answers that one either, the first is cut, and the wait has an end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from localstore.errors import PostgresUnavailable
from localstore.postgres.connect import connection_to, translate
from localstore.postgres.server import Server


@asynccontextmanager
async def pulse(server: Server, connection: asyncpg.Connection, seconds: float) -> AsyncIterator[None]:
    """Cut `connection` when the server does not answer for `seconds`, asked again each so many seconds.

    Raises PostgresUnavailable instead of what the cut made of the block.
    """
    watch = asyncio.create_task(_watch(server, connection, seconds))
    try:
        yield
    except Exception as error:
        if watch.done() and not watch.cancelled() and watch.exception() is None:
            raise translate(TimeoutError(), server) from error
        raise
    finally:
        watch.cancel()
        # Waiting for the task itself would take a cancellation of the caller for the watch's.
        await asyncio.wait([watch])


async def _watch(server: Server, connection: asyncpg.Connection, seconds: float) -> None:
    """Return once the server was silent and the connection is cut."""
    while True:
        await asyncio.sleep(seconds)
        if await _is_silent(server, seconds):
            # Cancelling the statement would ask the silent server to agree.
            connection.terminate()
            return


async def _is_silent(server: Server, seconds: float) -> bool:
    """Return whether a new connection gets no answer; one that is refused has got one."""
    try:
        async with asyncio.timeout(seconds), connection_to(server, timeout=seconds) as second:
            await second.execute("SELECT 1")
    except TimeoutError:
        return True
    except PostgresUnavailable as error:
        return isinstance(error.__cause__, TimeoutError)
    except Exception:  # noqa: BLE001 - whatever it is, it is an answer, and the work itself will meet it
        return False
    return False
