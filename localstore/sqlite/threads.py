"""The one small pool of threads in which all blocking work on tenant files runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

THREADS_MAX = 8
"""SQLite's work is short and mostly waits for the disk; more threads than this only contend for the interpreter."""

HURRY_SECONDS = 0.02
"""How often work whose caller was cancelled is interrupted again."""

_pool = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="localstore")


def pool() -> ThreadPoolExecutor:
    """Return this process's pool; it starts threads when it is given work."""
    return _pool


def _begin_anew() -> None:
    global _pool  # noqa: PLW0603 - what is one a process has to change with the process
    _pool = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="localstore")


# Threads do not survive a fork, so a forked child has a pool of its own.
os.register_at_fork(after_in_child=_begin_anew)


async def in_thread(work: Callable[[], T], *, on_cancel: Callable[[], object] | None = None) -> T:
    """Run blocking work in the pool. A cancelled caller waits until the work has ended, then sees the cancellation.

    Without that wait a connection could be handed to the next user while the last one's statement still runs on it.
    With `on_cancel` the work may be given up: it does not begin any more, or `on_cancel` is called, again and again,
    to hurry it along. Without it the work is always done, as the end of a transaction must be.
    """
    running = pool().submit(work)
    future = asyncio.wrap_future(running)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if on_cancel is None or not running.cancel():
            await settled(future, on_cancel)
        raise


async def acquire(take: Callable[[], T], give_back: Callable[[T], object]) -> T:
    """Run `take` in the pool; what it took for a caller that was cancelled meanwhile is given back."""
    taken: list[T] = []
    try:
        await in_thread(lambda: taken.append(take()))
    except asyncio.CancelledError:
        for resource in taken:
            await in_thread(partial(give_back, resource))
        raise
    return taken[0]


async def settled(future: asyncio.Future[Any], hurry: Callable[[], object] | None = None) -> None:
    """Wait until `future` is done, whatever its outcome and however often the waiting task is cancelled."""
    while not future.done():
        if hurry is not None:
            # An interruption between two statements is lost on SQLite, so one is not enough.
            hurry()
        try:
            await asyncio.wait([future], timeout=HURRY_SECONDS if hurry is not None else None)
        except asyncio.CancelledError:
            continue
    if not future.cancelled():
        # Looking at the outcome keeps asyncio from reporting it as never retrieved.
        future.exception()
