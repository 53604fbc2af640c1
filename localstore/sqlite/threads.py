"""The one small pool of threads in which all blocking work on tenant files runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

THREADS_MAX = 8
"""SQLite's work is short and mostly waits for the disk; more threads than this only contend for the interpreter."""

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
    `on_cancel` may hurry the work along.
    """
    future = asyncio.get_running_loop().run_in_executor(pool(), work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if on_cancel is not None and not future.done():
            on_cancel()
        await settled(future)
        raise


async def settled(future: asyncio.Future[Any]) -> None:
    """Wait until `future` is done, whatever its outcome and however often the waiting task is cancelled."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    if not future.cancelled():
        # Looking at the outcome keeps asyncio from reporting it as never retrieved.
        future.exception()
