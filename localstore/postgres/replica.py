"""Reads from a streaming replica, as soon as it has what was written here, and only as long as it answers."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import Final

import asyncpg

from localstore.errors import PostgresError
from localstore.postgres.connect import CLOSE_SECONDS
from localstore.postgres.connections import Connections

CONNECT_SECONDS: Final = 3.0
"""The primary can answer, too, so a replica is not waited for as long as a server that nothing stands in for."""

REST_SECONDS: Final = 5.0
"""How long a replica that failed is left alone, so that not every read waits for it."""

POSITION_SECONDS: Final = 5.0

# The answer's tag tells it all, so the test costs no trip of its own. A replica that was promoted is a server on its
# own, whose rows are no longer ours.
_HAS_REPLAYED: Final = "SELECT WHERE pg_is_in_recovery() AND coalesce(pg_last_wal_replay_lsn() >= '{}'::pg_lsn, false)"
_YES: Final = "SELECT 1"


class Replica:
    """A replica and the place in the log up to which it must have come to show every write of this pool."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._fence = 0
        self._fence_known = True
        self._rests_until = 0.0

    def __repr__(self) -> str:
        return f"<Replica {self._connections.server.redacted}>"

    async def begin(self, stack: AsyncExitStack, begin: str) -> asyncpg.Connection | None:
        """Begin a transaction that ends with `stack`, or return None where the primary has to answer."""
        if not self._fence_known or time.monotonic() < self._rests_until:
            return None
        attempt = AsyncExitStack()
        begins = f"{begin}; {_HAS_REPLAYED.format(_written(self._fence))}"
        try:
            connection, answer = await attempt.enter_async_context(self._connections.transaction(begins))
        except PostgresError:
            self.rest()
            return None
        if answer != _YES:
            await attempt.aclose()
            return None
        stack.push_async_exit(attempt)
        return connection

    def rest(self) -> None:
        """Leave the replica alone for a while."""
        self._rests_until = time.monotonic() + REST_SECONDS

    async def note(self, primary: asyncpg.Connection) -> None:
        """Note how far the primary's log has come; called after a commit, before the writer goes on."""
        # Until the answer is there, and for good if it never comes, only the primary shows the write for certain.
        self._fence_known = False
        try:
            position = await primary.fetchval("SELECT pg_current_wal_insert_lsn()::text", timeout=POSITION_SECONDS)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            # The write is committed, which is what its caller wants to know; the next note brings the position.
            return
        self._fence = max(self._fence, _read(position))
        self._fence_known = True

    @property
    def behind_unknown(self) -> bool:
        """Whether a write was committed whose place in the log could not be asked for."""
        return not self._fence_known

    async def close(self, *, timeout: float = CLOSE_SECONDS) -> None:
        """Close the connections."""
        await self._connections.close(timeout=timeout)


def _read(position: str) -> int:
    high, _, low = position.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def _written(position: int) -> str:
    return f"{position >> 32:X}/{position & 0xFFFF_FFFF:X}"
