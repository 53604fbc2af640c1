"""The places where blobs are kept, one like the other: a disk, memory, and an object store over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from localstore import Blobs, LocalStore, Tenant
from localstore.blobs.file_index import FileIndex
from localstore.blobs.objects import Objects
from localstore.blobs.store import Limits
from localstore.blobs.types import Types

MIB = 1024 * 1024

ObjectsOf = Callable[[str], Objects]
"""Makes the objects of a company, all of them in one place."""


def limits(**changed: Any) -> Limits:
    """Return generous limits, but for what is changed."""
    settings: dict[str, Any] = {"size_max": 64 * MIB, "quota": None, "types": Types(), "grace": timedelta(days=7)}
    return Limits(**(settings | changed))


def blobs_of(tenant: Tenant, objects: Objects, **changed: Any) -> Blobs:
    """Return a tenant's blobs with their bytes in this place."""

    async def opened() -> Any:
        return (await tenant.open()).database

    return Blobs(FileIndex(tenant.id, opened), objects, limits(**changed))


class World:
    """A store and a place for objects, in which every company has blobs."""

    def __init__(self, store: LocalStore, objects_of: ObjectsOf) -> None:
        self.store = store
        self._objects_of = objects_of
        self._made: list[Blobs] = []

    def blobs(self, company: str = "wedosoft", **changed: Any) -> Blobs:
        """Return a company's blobs with these limits."""
        made = blobs_of(self.store.tenant(company), self._objects_of(company), **changed)
        self._made.append(made)
        return made

    async def close(self) -> None:
        """Close what was made."""
        for blobs in self._made:
            await blobs.close()
