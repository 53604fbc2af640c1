"""The backends of the storage interface on a real SQLite and a real Postgres, and both of them side by side."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from localstore import FileStorage, PostgresStorage, StorageInterface
from localstore.postgres.connect import Server, connection_to
from localstore.postgres.quoting import quote_identifier, quote_literal
from localstore.storage.tables import storage_tables
from sync.production import prepare, register
from tests.contract.caches import cache_backend, caches  # noqa: F401 - fixtures
from tests.contract.redis_server import redis_server  # noqa: F401 - a fixture

BACKENDS = ("file", "postgresql")

_EMPTY = "TRUNCATE tickets, conversations, knowledge_base, processing_progress, localstore.feed, localstore.tenants"


@dataclass(frozen=True, slots=True)
class Both:
    """A storage of each kind, empty at first: what one answers the other must answer."""

    file: StorageInterface
    postgresql: StorageInterface

    @property
    def all(self) -> tuple[StorageInterface, ...]:
        """Return them all."""
        return (self.file, self.postgresql)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A database that has the help desk's tables: as a superuser reaches it, and as a member of app_user does."""

    owner: Server
    app: Server


@pytest.fixture(scope="session")
def prepared(postgres_server: Server) -> Iterator[Prepared]:
    """Make one database for all of these tests, since making it takes longer than most of them."""
    name, password = f"storage_{secrets.token_hex(6)}", secrets.token_urlsafe(18)
    owner = postgres_server.with_database(name)

    async def make() -> None:
        async with connection_to(postgres_server) as connection:
            await connection.execute(f"CREATE DATABASE {quote_identifier(name)} TEMPLATE template0")
        async with connection_to(owner) as connection:
            await prepare(connection)
            await register(connection, "public", storage_tables())
            await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD {quote_literal(password)} IN ROLE app_user")

    async def drop() -> None:
        async with connection_to(postgres_server) as connection:
            await connection.execute(f"DROP DATABASE {quote_identifier(name)} WITH (FORCE)")
            await connection.execute(f"DROP ROLE {name}")

    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(make())).result()
        yield Prepared(owner, owner.with_login(name, password))
        thread.submit(lambda: asyncio.run(drop())).result()


@pytest.fixture
async def file_storage(tmp_path: Path) -> AsyncIterator[FileStorage]:
    """Give a storage on a folder of its own."""
    async with FileStorage(tmp_path / "data") as storage:
        yield storage


@pytest.fixture
async def postgres_storage(prepared: Prepared) -> AsyncIterator[PostgresStorage]:
    """Give a storage of a login that is a member of app_user and nothing else; the database is emptied afterwards."""
    async with PostgresStorage(prepared.app.url) as storage:
        yield storage
    async with connection_to(prepared.owner) as connection:
        await connection.execute(_EMPTY)


@pytest.fixture
def both(file_storage: FileStorage, postgres_storage: PostgresStorage) -> Both:
    """Give a storage of each kind."""
    return Both(file_storage, postgres_storage)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Name one backend after the other."""
    return str(request.param)


@pytest.fixture
async def storage(backend: str, tmp_path: Path, prepared: Prepared) -> AsyncIterator[StorageInterface]:
    """Give one backend after the other, empty."""
    if backend == "file":
        async with FileStorage(tmp_path / "data") as storage:
            yield storage
        return
    async with PostgresStorage(prepared.app.url) as storage:
        yield storage
    async with connection_to(prepared.owner) as connection:
        await connection.execute(_EMPTY)
