"""Sweep: remove from production's place the objects that nothing there names any more, after a grace time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any, Final

import asyncpg

from localstore.blobs.objects import ObjectInfo, Objects
from sync.blobs import record
from sync.link import Link
from sync.staging import UNDO_DAYS

GRACE: Final = timedelta(days=UNDO_DAYS)
"""As long as a promotion can be taken back."""

TOGETHER: Final = 100
"""Objects that are judged and removed in one transaction, in which no push of the company begins to name any."""


@dataclass(frozen=True, slots=True)
class SweptTenant:
    """What a sweep did for one tenant: objects it saw, objects and bytes it removed, and uploads it gave up."""

    tenant: str
    seen: int
    removed: int
    bytes: int
    unfinished: int

    def to_json(self) -> dict[str, Any]:
        """Return the tenant's entry."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class SweptAll:
    """What a sweep did, tenant by tenant."""

    tenants: tuple[SweptTenant, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the command's JSON."""
        return {"version": 1, "tenants": [tenant.to_json() for tenant in self.tenants], "exit": 0}


async def sweep(link: Link, company: str, objects: Objects, grace: timedelta = GRACE) -> SweptTenant:
    """Compare a company's objects with all that production knows of, and remove what is older than the grace.

    Any error ends it, and it can run again: an object is forgotten before it is removed, so that a push which comes
    after a sweep that was cut off looks whether it is there.
    """
    before = datetime.now(UTC) - grace
    seen = removed = size = 0
    async for page in objects.pages():
        seen += len(page)
        old = iter([found for found in page if found.modified < before])
        while group := list(islice(old, TOGETHER)):
            gone = await link.run(partial(_sweep_some, company=company, objects=objects, group=group, before=before))
            removed += len(gone)
            size += sum(found.size for found in gone)
    return SweptTenant(company, seen, removed, size, await objects.remove_unfinished(before))


async def _sweep_some(
    connection: asyncpg.Connection, company: str, objects: Objects, group: Sequence[ObjectInfo], before: datetime
) -> list[ObjectInfo]:
    hashes = [found.hash for found in group]
    async with record.sweeping(connection, company):
        unnamed = await record.unnamed(connection, company, hashes, before)
        await record.forget(connection, company, unnamed)
    if not unnamed:
        return []
    async with record.sweeping(connection, company):
        # Whoever wanted one of them in between has found it gone from the record, and looks again when it has the lock.
        still = await record.unnamed(connection, company, unnamed, before)
        return [found for found in group if found.hash in still and await objects.remove(found.hash, before)]
