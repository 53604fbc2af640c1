"""One caller makes a value while the others wait for it, in this process and in others.

In a process the callers share one task. Between processes a lock is an entry that expires by itself: whoever adds it
makes the value, the others look again and again, and take over when the lock goes or the time is up. A value may
so be made twice, where its maker is slow or was killed; it is never waited for in vain. A maker that asks for what it
is making gets it made at once: it would wait for itself.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from localstore.cache.backend import Backend
from localstore.cache.failures import CacheFailure

LOCK_SECONDS: Final = 30.0
"""After this a maker is taken for gone."""

WAIT_SECONDS: Final = 10.0
"""Whoever has waited for so long, for another caller or for another process, makes the value alone."""

LOOK_SECONDS: Final = 0.01
LOOK_SECONDS_MAX: Final = 0.25
"""How soon to look again, at first and at most."""


Look = Callable[[], Awaitable[tuple[bytes, Any] | None]]
"""Looks whether there is a value by now, and returns its bytes and itself."""


States = Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    """A value that is being made, and from which states of the tables."""

    task: asyncio.Task[bytes]
    states: States


_makes: ContextVar[tuple[object, ...]] = ContextVar("localstore_cache_makes", default=())
"""The places whose values are being made by whoever runs now: the tasks that a maker begins inherit it."""


@dataclass(slots=True, eq=False)
class Computations:
    """What is being made in this process at the moment."""

    running: dict[Any, _Running] = field(default_factory=dict)

    async def once(
        self,
        key: str,
        make: Callable[[], Awaitable[bytes]],
        alone: Callable[[], Awaitable[bytes]],
        *,
        states: States,
        hold: Callable[[States], Awaitable[bool]],
    ) -> bytes:
        """Return what `make` makes, or what is being made for another caller with this key, unless that is too old.

        The work goes on when the caller that began it is cancelled: others may wait for it. Who has waited for it in
        vain, or would wait for itself, has the value made by `alone`.
        """
        loop = asyncio.get_running_loop()
        place = (self, loop, key)
        while (running := self.running.get(place)) is not None:
            if place in _makes.get():
                return await alone()
            if await hold(running.states):
                done, _ = await asyncio.wait([running.task], timeout=WAIT_SECONDS)
                return running.task.result() if done else await alone()
            if self.running.get(place) is running:
                break
        task = loop.create_task(_making(place, make))
        self.running[place] = _Running(task, states)
        task.add_done_callback(lambda done: self._ended(place, done))
        return await asyncio.shield(task)

    def _ended(self, place: object, task: asyncio.Task[bytes]) -> None:
        running = self.running.get(place)
        if running is not None and running.task is task:
            del self.running[place]
        if not task.cancelled():
            # Looking at the outcome keeps asyncio from reporting it where all callers were cancelled.
            task.exception()


async def compute(
    backend: Backend,
    lock: str,
    make: Callable[[], Awaitable[bytes]],
    look: Look,
) -> bytes:
    """Return the value as bytes: made here, or found because another process made it meanwhile."""
    owner = secrets.token_hex(16).encode()
    locked = False
    try:
        found, locked = await _found_or_locked(backend, lock, owner, look)
    except CacheFailure as error:
        # Without a cache there is nobody to wait for.
        backend.failures.note(error)
        found = None
    try:
        return await make() if found is None else found
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
        locked = await backend.lock(lock, owner, LOCK_SECONDS)
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


async def _making(place: object, make: Callable[[], Awaitable[bytes]]) -> bytes:
    # A task has a context of its own, so this ends with it.
    _makes.set((*_makes.get(), place))
    return await make()
