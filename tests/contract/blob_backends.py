"""The places where blobs are kept, one like the other: a disk, memory, and an object store over HTTP."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from localstore import Blobs, LocalStore, Tenant
from localstore.blobs.file_index import FileIndex
from localstore.blobs.local_objects import DiskObjects, MemoryObjects
from localstore.blobs.objects import Objects
from localstore.blobs.s3_objects import S3Objects
from localstore.blobs.store import Limits
from localstore.blobs.types import Types

if TYPE_CHECKING:
    from tests.contract.s3_server import S3Server

pytest_plugins = ["tests.contract.s3_server"]

BACKENDS = ("disk", "memory", "s3")
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

    def blobs(self, company: str = "wedosoft", **changed: Any) -> Blobs:
        """Return a company's blobs with these limits."""
        return blobs_of(self.store.tenant(company), self._objects_of(company), **changed)


@pytest.fixture(params=BACKENDS)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """Give one place after the other, in which nobody has anything yet."""
    kept: dict[str, MemoryObjects] = {}
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(LocalStore(tmp_path / "data", models=()))
        if request.param == "disk":
            yield World(store, lambda company: DiskObjects(tmp_path / "data" / company / "blobs"))
        elif request.param == "memory":
            yield World(store, lambda company: kept.setdefault(company, MemoryObjects()))
        else:
            server: S3Server = request.getfixturevalue("s3_server")
            bucket = await stack.enter_async_context(server.bucket)
            # The bucket is shared by all tests, as it is by all companies: names of its own keep each test apart.
            apart = secrets.token_hex(4)
            yield World(store, lambda company: S3Objects(bucket, f"{company}-{apart}"))


@pytest.fixture
def blobs(world: World) -> Blobs:
    """Give one tenant's blobs."""
    return world.blobs()
