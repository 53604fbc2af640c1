"""Boxes with blobs, a production and an object store behind a proxy, for tests of how bytes travel."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from localstore import Blobs, LocalStore, Settings
from localstore.blobs.s3 import Bucket
from localstore.blobs.s3_objects import S3Objects
from localstore.blobs.s3_source import PART_BYTES
from localstore.postgres.connect import Server, connection_to
from localstore.postgres.quoting import quote_identifier
from sync import SyncEngine
from sync.production import prepare
from sync.results import Result, TenantResult
from tests.s3_proxy import S3Proxy, s3_proxy_to

if TYPE_CHECKING:
    from tests.contract.s3_server import S3Server

pytest_plugins = ["tests.contract.s3_server"]


@dataclass(frozen=True, slots=True)
class Box:
    """One box: a store, its tenant's blobs, and an engine to production."""

    company: str
    store: LocalStore
    engine: SyncEngine

    @property
    def blobs(self) -> Blobs:
        """Return the tenant's blobs."""
        return self.store.tenant(self.company).blobs

    def object(self, digest: str) -> Path:
        """Return where the box keeps an object."""
        return self.store.root / self.company / "blobs" / "objects" / digest[:2] / digest

    async def push(self, exit_code: int = 0) -> TenantResult:
        """Push and promote, and return the tenant's result, which must end so."""
        return self.only(await self.engine.push([self.company], promote=True), exit_code)

    def only(self, result: Result, exit_code: int = 0) -> TenantResult:
        """Return the only tenant's result, which must end with this exit code."""
        assert result.exit_code == exit_code, [tenant.to_json() for tenant in result.tenants]
        return result.tenants[0]

    async def close(self) -> None:
        """Let go of everything, as at the end of a process."""
        await self.engine.close()
        await self.store.close()

    async def held(self) -> dict[str, str]:
        """Return what production holds of the tenant, by address: the reason."""
        return {item.address: item.reason for item in await self.engine.held([self.company])}


@dataclass(frozen=True, slots=True)
class World:
    """A production with an object store, reached through a proxy, and a company that nobody else uses."""

    url: str
    proxy: S3Proxy
    company: str
    folder: Path
    bucket: Bucket
    stack: AsyncExitStack

    async def box(self, name: str = "one", company: str | None = None, **s3: Any) -> Box:
        """Open a box; `s3_bucket_name=None` leaves it without an object store."""
        server = self.proxy.server
        named: dict[str, Any] = {name.lower(): value for name, value in server.environment.items()}
        settings = Settings.from_environment(**(named | s3))
        store = await self.stack.enter_async_context(LocalStore(self.folder / name, models=(), settings=settings))
        engine = await self.stack.enter_async_context(SyncEngine(store, to=self.url))
        return Box(company or self.company, store, engine)

    @staticmethod
    def large(parts: int = 3) -> bytes:
        """Return content that goes up in so many parts, the last of them small."""
        return random.Random(parts).randbytes((parts - 1) * PART_BYTES + 1000)

    def far(self, company: str | None = None) -> S3Objects:
        """Return the company's objects in the object store, not through the proxy."""
        return S3Objects(self.bucket, company or self.company)

    async def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Read from production as its superuser."""
        connection = await asyncpg.connect(self.url)
        try:
            return [tuple(row) for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()

    async def keys(self) -> list[str]:
        """Return the blobs' keys that production has of the company."""
        if (await self.rows("SELECT to_regclass('public.blobs')"))[0][0] is None:
            return []
        return [
            key for (key,) in await self.rows("SELECT key FROM blobs WHERE company_id = $1 ORDER BY 1", self.company)
        ]


@pytest.fixture(scope="session")
def blob_database(postgres_server: Server) -> Iterator[str]:
    """Make one prepared database for all tests of blobs, each of which has a company of its own."""
    name = f"blobs_{secrets.token_hex(6)}"

    async def make() -> None:
        async with connection_to(postgres_server) as connection:
            await connection.execute(f"CREATE DATABASE {quote_identifier(name)} TEMPLATE template0 STRATEGY file_copy")
        async with connection_to(postgres_server.with_database(name)) as connection:
            await prepare(connection)

    async def drop() -> None:
        async with connection_to(postgres_server) as connection:
            await connection.execute(f"DROP DATABASE {quote_identifier(name)} WITH (FORCE)")

    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(make())).result()
        yield postgres_server.with_database(name).url
        thread.submit(lambda: asyncio.run(drop())).result()


@pytest.fixture
async def blob_world(blob_database: str, s3_server: S3Server, tmp_path: Path) -> AsyncIterator[World]:
    """Give a world in which the company has nothing yet."""
    async with AsyncExitStack() as stack:
        bucket = await stack.enter_async_context(s3_server.bucket)
        proxy = await stack.enter_async_context(s3_proxy_to(s3_server))
        yield World(blob_database, proxy, f"acme-{secrets.token_hex(4)}", tmp_path, bucket, stack)
