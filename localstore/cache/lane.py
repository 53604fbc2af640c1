"""A queue of work for one thing that only one thread may use at a time; what waits is done together in one go.

A busy cache thereby takes one thread of the shared pool, not all of them, and many small calls share one transaction.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, Generic, TypeVar

from localstore.sqlite.threads import pool

T = TypeVar("T")
R = TypeVar("R")

GROUP_MAX: Final = 256
"""Work done in one go; more would make the first of it wait noticeably."""


@dataclass(slots=True, eq=False)
class Job(Generic[R]):
    """A piece of work on an `R`, whether it writes, and its outcome for the loop that waits for it."""

    work: Callable[[R], Any]
    writes: bool
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Lane(Generic[R]):
    """Hands jobs in groups, in order of arrival, to `perform`, which runs in a thread and leaves their outcomes."""

    def __init__(self, perform: Callable[[Sequence[Job[R]]], None]) -> None:
        self._perform = perform
        self._lock = Lock()
        self._queue: deque[Job[R]] = deque()
        self._active = False

    @property
    def idle(self) -> bool:
        """Return whether nothing runs or waits."""
        return not self._active

    async def run(self, work: Callable[[R], T], *, writes: bool) -> T:
        """Have `work` done and return its result. A cancelled caller does not wait for it; it is done all the same."""
        loop = asyncio.get_running_loop()
        job: Job[R] = Job(work, writes, loop, loop.create_future())
        with self._lock:
            self._queue.append(job)
            start, self._active = not self._active, True
        if start:
            self._go_on()
        result: T = await job.future
        return result

    def _go_on(self) -> None:
        try:
            pool().submit(self._serve)
        except RuntimeError:
            # The interpreter is shutting down and takes no new work; this is the last of it.
            self._serve()

    def _serve(self) -> None:
        with self._lock:
            group = [self._queue.popleft() for _ in range(min(len(self._queue), GROUP_MAX))]
        try:
            self._perform(group)
        except BaseException as error:  # noqa: BLE001 - whatever it is, those who wait must hear it
            for job in group:
                job.error = error
        _deliver(group)
        with self._lock:
            if not self._queue:
                self._active = False
                return
        self._go_on()


def _deliver(jobs: Sequence[Job[Any]]) -> None:
    """Give every job's outcome to its loop, waking each loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Job[Any]]] = {}
    for job in jobs:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, those in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, those)
        except RuntimeError:
            # The loop was closed, so nobody waits any more.
            continue


def _settle(jobs: Sequence[Job[Any]]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is None:
            job.future.set_result(job.result)
        else:
            job.future.set_exception(job.error)
