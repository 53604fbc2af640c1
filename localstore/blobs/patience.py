"""How long an object store may let a call wait: counted while nothing moves, and never while something does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Final


class Patience:
    """What is left of the seconds in which nothing moved, through all attempts of one call.

    A byte that went out or came in begins them anew, so a transfer that is slow goes on, and one that stands still
    ends, however large it is.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.has_heard = False
        """Whether the server has answered anything."""
        self._left = seconds
        self._running: asyncio.Timeout | None = None

    @asynccontextmanager
    async def wait(self) -> AsyncIterator[None]:
        """Wait for an answer in the block, which ends with TimeoutError when nothing has moved for too long."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._left) as running:
            self._running = running
            try:
                yield
                self.has_heard = True
                self.moved()
            finally:
                self._running = None
                self._left = max(0.0, (running.when() or 0.0) - loop.time())

    def moved(self) -> None:
        """Note that bytes went out or came in."""
        if self._running is not None:
            self._running.reschedule(asyncio.get_running_loop().time() + self.seconds)


patience_of_call: Final[ContextVar[Patience]] = ContextVar("patience_of_call")
"""The patience of the call that the running task makes: the driver between it and the connection passes nothing on."""
