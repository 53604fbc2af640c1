"""One caller makes a value while the others wait for it, in this process and in others.

In a process the callers share one task. Between processes a lock is an entry that expires by itself: whoever adds it
makes the value, the others look again and again, and take over when the lock goes or the time is up. A value may
so be made twice, where its maker is slow or was killed; it is never waited for in vain.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from localstore.cache import values
from localstore.cache.backend import Backend
from localstore.cache.failures import CacheFailure

LOCK_SECONDS: Final = 30.0
"""After this a maker is taken for gone."""

WAIT_SECONDS: Final = 10.0
"""Whoever has waited for so long makes the value alone."""

LOOK_SECONDS: Final = 0.01
LOOK_SECONDS_MAX: Final = 0.25
"""How soon to look again, at first and at most."""


Look = Callable[[], Awaitable[tuple[bytes, Any] | None]]
"""Looks whether there is a value by now, and returns its bytes and itself."""


@dataclass(slots=True)
class Computations:
    """What is being made in this process at the moment."""

    running: dict[Any, asyncio.Task[bytes]] = field(default_factory=dict)

    async def once(self, key: object, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return what `make` makes, or what it is making already for another caller with this key.

        The work goes on when the caller that began it is cancelled: others may wait for it.
        """
        loop = asyncio.get_running_loop()
        place = (loop, key)
        task = self.running.get(place)
        if task is None:
            task = self.running[place] = loop.create_task(_as_coroutine(make))
            task.add_done_callback(lambda done: self._ended(place, done))
        return await asyncio.shield(task)

    def _ended(self, place: object, task: asyncio.Task[bytes]) -> None:
        self.running.pop(place, None)
        if not task.cancelled():
            # Looking at the outcome keeps asyncio from reporting it where all callers were cancelled.
            task.exception()


async def compute(
    backend: Backend,
    lock: str,
    make: Callable[[], Awaitable[Any]],
    *,
    look: Look,
    keep: Callable[[bytes], Awaitable[None]],
) -> bytes:
    """Return the value as bytes: made here and kept, or found because another process made it meanwhile."""
    owner = secrets.token_hex(16).encode()
    locked = False
    try:
        found, locked = await _found_or_locked(backend, lock, owner, look)
    except CacheFailure as error:
        # Without a cache there is nobody to wait for.
        backend.failures.note(error)
        found = None
    try:
        if found is not None:
            return found
        data = values.encode(await make())
        try:
            await keep(data)
        except CacheFailure as error:
            backend.failures.note(error)
        return data
    finally:
        if locked:
            try:
                await backend.release(lock, owner)
            except CacheFailure as error:
                backend.failures.note(error)


async def _found_or_locked(backend: Backend, lock: str, owner: bytes, look: Look) -> tuple[bytes | None, bool]:
    """Return the value that another process made, or whether the lock is ours; neither when the time is up."""
    give_up, pause = monotonic() + WAIT_SECONDS, LOOK_SECONDS
    while True:
        locked = await backend.add(lock, owner, LOCK_SECONDS)
        try:
            # It may have been made between the caller's look and this lock.
            found = await look()
        except CacheFailure as error:
            backend.failures.note(error)
            return None, locked
        if found is not None or locked or monotonic() >= give_up:
            return None if found is None else found[0], locked
        await asyncio.sleep(pause)
        pause = min(pause * 2, LOOK_SECONDS_MAX)


async def _as_coroutine(make: Callable[[], Awaitable[bytes]]) -> bytes:
    return await make()
