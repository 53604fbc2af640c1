"""The lock between sweeps of a tenant's folder and whoever copies many of its objects.

A sweep asks for it alone, for each group of objects that it removes, and removes nothing where it does not get it; a
backup and a restore share it. So all that a backup's snapshot names stays until it is copied, and what a restore found
in its place stays until the rows are there that name it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from localstore.errors import StoreBusy
from localstore.postgres.locks import FileLock
from localstore.sqlite.threads import in_thread

_ATTEMPTS_MAX: Final = 3000
_POLL_SECONDS: Final = 0.02
"""Together a minute: many times what the few objects take that a sweep removes at once."""


def sweep_lock(tenant: Path) -> FileLock:
    """Return the lock of a tenant's folder, not held yet."""
    return FileLock(tenant / "sweep.lock")


@asynccontextmanager
async def unswept(tenant: Path) -> AsyncIterator[None]:
    """Keep sweeps from removing objects of a tenant's folder for as long as the context lasts."""
    lock = sweep_lock(tenant)
    try:
        for _ in range(_ATTEMPTS_MAX):
            if await in_thread(partial(lock.try_acquire, shared=True)):
                break
            await asyncio.sleep(_POLL_SECONDS)
        else:
            raise StoreBusy(
                f"a sweep of {tenant.name} does not end",
                hint="run the same command again when it has",
                tenant=tenant.name,
            )
        yield
    finally:
        await in_thread(lock.release)
