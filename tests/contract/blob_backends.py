"""The places where blobs are kept, one like the other: a disk, memory, and an object store over HTTP."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from localstore import Blobs, LocalStore, Tenant
from localstore.blobs.file_index import FileIndex
from localstore.blobs.index import BlobIndex
from localstore.blobs.local_objects import DiskObjects, MemoryObjects
from localstore.blobs.model import Blob
from localstore.blobs.objects import Objects
from localstore.blobs.postgres_index import PostgresIndex
from localstore.blobs.s3_objects import S3Objects
from localstore.blobs.store import Limits
from localstore.blobs.types import Types
from localstore.postgres.connect import Server, connection_to
from localstore.postgres.pool import Pool
from localstore.postgres.quoting import quote_identifier, quote_literal
from localstore.schema.reflect import table_from_model
from sync.production import prepare, register

if TYPE_CHECKING:
    from tests.contract.s3_server import S3Server

pytest_plugins = ["tests.contract.s3_server"]

LOCAL = ("disk", "memory", "s3")
"""Where objects may be whose rows are in the tenant's file; in production rows are in Postgres, objects in S3."""

MIB = 1024 * 1024

IndexOf = Callable[[str], BlobIndex]
"""Makes the index of a company."""

ObjectsOf = Callable[[str], Objects]
"""Makes the objects of a company, all of them in one place."""


def limits(**changed: Any) -> Limits:
    """Return generous limits, but for what is changed."""
    settings: dict[str, Any] = {"size_max": 64 * MIB, "quota": None, "types": Types(), "grace": timedelta(days=7)}
    return Limits(**(settings | changed))


def file_index(tenant: Tenant) -> FileIndex:
    """Return the index in a tenant's file."""

    async def opened() -> Any:
        return (await tenant.open()).database

    return FileIndex(tenant.id, opened)


@dataclass(frozen=True)
class World:
    """A place for rows and one for objects, in which every company has blobs."""

    index_of: IndexOf
    objects_of: ObjectsOf

    def blobs(self, company: str = "wedosoft", **changed: Any) -> Blobs:
        """Return a company's blobs with these limits."""
        return Blobs(self.index_of(company), self.objects_of(company), limits(**changed))


@pytest.fixture(scope="session")
def blobs_production(postgres_server: Server) -> Iterator[Server]:
    """Make a database with a table for blobs, as a member of app_user and of nothing else reaches it."""
    name, password = f"blobs_{secrets.token_hex(6)}", secrets.token_urlsafe(18)
    owner = postgres_server.with_database(name)

    async def make() -> None:
        async with connection_to(postgres_server) as connection:
            await connection.execute(f"CREATE DATABASE {quote_identifier(name)} TEMPLATE template0")
        async with connection_to(owner) as connection:
            await prepare(connection)
            await register(connection, "public", (table_from_model(Blob),))
            await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD {quote_literal(password)} IN ROLE app_user")

    async def drop() -> None:
        async with connection_to(postgres_server) as connection:
            await connection.execute(f"DROP DATABASE {quote_identifier(name)} WITH (FORCE)")
            await connection.execute(f"DROP ROLE {name}")

    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(make())).result()
        yield owner.with_login(name, password)
        thread.submit(lambda: asyncio.run(drop())).result()


@asynccontextmanager
async def world_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[World]:
    """Open one place after the other, in which nobody has anything yet."""
    # The bucket and the database are shared by all tests, as they are by all companies: names keep each test apart.
    apart = secrets.token_hex(4)
    kept: dict[str, MemoryObjects] = {}
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(LocalStore(folder, models=()))
        index_of: IndexOf = lambda company: file_index(store.tenant(company))  # noqa: E731
        objects_of: ObjectsOf
        if kind == "disk":
            objects_of = lambda company: DiskObjects(folder / company / "blobs")  # noqa: E731
        elif kind == "memory":
            objects_of = lambda company: kept.setdefault(company, MemoryObjects())  # noqa: E731
        else:
            server: S3Server = request.getfixturevalue("s3_server")
            bucket = await stack.enter_async_context(server.bucket)
            objects_of = lambda company: S3Objects(bucket, f"{company}-{apart}")  # noqa: E731
        if kind == "production":
            pool = Pool(request.getfixturevalue("blobs_production"))
            stack.push_async_callback(pool.close)
            index_of = lambda company: PostgresIndex(f"{company}-{apart}", pool)  # noqa: E731
        yield World(index_of, objects_of)


@pytest.fixture(params=[*LOCAL, "production"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """Give one place after the other."""
    async with world_of(request.param, request, tmp_path / "data") as world:
        yield world


@pytest.fixture(params=LOCAL)
async def local(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Blobs]:
    """Give one tenant's blobs in one place after the other, with rows in its file, which lets it sweep."""
    async with world_of(request.param, request, tmp_path / "data") as world:
        yield world.blobs()


@pytest.fixture
def blobs(world: World) -> Blobs:
    """Give one tenant's blobs."""
    return world.blobs()
