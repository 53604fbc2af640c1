"""The backends of the storage interface on a real SQLite and a real Postgres, one by one and all side by side."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from localstore import FileStorage, PostgresStorage, Settings, StorageInterface
from localstore.postgres.connect import Server, connection_to
from localstore.postgres.quoting import quote_identifier, quote_literal
from localstore.storage.tables import storage_tables
from sync import HybridStorage
from sync.production import prepare, register
from tests.contract.caches import cache_backend, caches  # noqa: F401 - fixtures
from tests.contract.redis_server import redis_server  # noqa: F401 - a fixture
from tests.faults.wire import Fate, Message, wire_to
from tests.integration.pooler import NO_POOLER, PROGRAM, pooler_of

FILE, POSTGRESQL, POOLED = "file", "postgresql", "postgresql-pooled"
HYBRID, AWAY, FLAPPING = "hybrid", "hybrid-away", "hybrid-flapping"

BACKENDS = (FILE, POSTGRESQL, POOLED, HYBRID, AWAY, FLAPPING)
DATABASES = (POSTGRESQL, POOLED, HYBRID, FLAPPING)

BOX = ("localstore_stager", "localstore_promoter", "localstore_reader")

_FILLED = "SELECT EXISTS (SELECT FROM localstore.tenants)"
# New files for tables and indexes, as TRUNCATE makes them, take longer than deleting what these tests write.
_EMPTY = "SET LOCAL session_replication_role = replica; " + "; ".join(
    f"DELETE FROM {table}"
    for table in (
        *("conversations", "tickets", "knowledge_base", "processing_progress"),
        *(f"localstore.{name}" for name in ("feed", "chunks", "undo", "held", "replicas", "ledger", "tenants")),
    )
)


@dataclass(frozen=True, slots=True)
class Every:
    """A storage of each kind, empty at first: what one answers all others must answer."""

    all: tuple[StorageInterface, ...]

    @property
    def file(self) -> StorageInterface:
        """Return the one on files."""
        return self.all[0]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A database with the help desk's tables, as a superuser, a member of app_user, and a box that pushes reach it."""

    owner: Server
    app: Server
    box: Server

    async def empty(self) -> None:
        """Remove all that a test left."""
        async with connection_to(self.owner) as connection:
            if await connection.fetchval(_FILLED):
                await connection.execute(f"BEGIN; {_EMPTY}; COMMIT")


class Promoting(HybridStorage):
    """A hybrid storage that has pushed before it reads, so that its answers are production's."""

    async def _read(self, company_id: str, tables: Collection[str], call: Any) -> Any:
        if company_id in self.status.waiting:
            pushed = await self.push([company_id])
            assert pushed.exit_code == 0, pushed.to_json()
        return await super()._read(company_id, tables, call)


@pytest.fixture(scope="session")
def prepared(postgres_server: Server) -> Iterator[dict[str, Prepared]]:
    """Make one database, and copies of it, for all of these tests, since making it takes longer than most of them."""
    mark = secrets.token_hex(6)
    names = {backend: f"storage_{mark}_{backend.partition('-')[2] or backend}" for backend in DATABASES}
    first, *others = names.values()
    logins = {f"storage_{mark}_app": ("app_user",), f"storage_{mark}_box": BOX}
    password = secrets.token_urlsafe(18)

    async def make() -> None:
        owner = postgres_server.with_database(first)
        async with connection_to(postgres_server) as connection:
            await connection.execute(f"CREATE DATABASE {quote_identifier(first)} TEMPLATE template0 STRATEGY file_copy")
        async with connection_to(owner) as connection:
            await prepare(connection)
            await register(connection, "public", storage_tables())
            for login, roles in logins.items():
                await connection.execute(
                    f"CREATE ROLE {login} LOGIN PASSWORD {quote_literal(password)} IN ROLE {', '.join(roles)}"
                )
        async with connection_to(postgres_server) as connection:
            for name in others:
                await connection.execute(
                    f"CREATE DATABASE {quote_identifier(name)} TEMPLATE {quote_identifier(first)} STRATEGY file_copy"
                )

    async def drop() -> None:
        async with connection_to(postgres_server) as connection:
            for name in names.values():
                await connection.execute(f"DROP DATABASE {quote_identifier(name)} WITH (FORCE)")
            for login in logins:
                await connection.execute(f"DROP ROLE {login}")

    with ThreadPoolExecutor(1) as thread, ExitStack() as stack:
        thread.submit(lambda: asyncio.run(make())).result()
        found = {}
        for backend, name in names.items():
            owner = postgres_server.with_database(name)
            app, box = (owner.with_login(login, password) for login in logins)
            if backend == POOLED and PROGRAM is not None:
                (app,) = stack.enter_context(pooler_of([app]))
            found[backend] = Prepared(owner, app, box)
        yield found
        stack.close()
        thread.submit(lambda: asyncio.run(drop())).result()


@asynccontextmanager
async def storage_of(backend: str, folder: Path, prepared: dict[str, Prepared]) -> AsyncIterator[StorageInterface]:
    """Open an empty storage of one kind; what it leaves in production is removed."""
    reading = Settings(hybrid_use_postgres=True)
    async with AsyncExitStack() as stack, AsyncExitStack() as first:
        if backend in prepared:
            stack.push_async_callback(prepared[backend].empty)
        storage: StorageInterface
        if backend == FILE:
            storage = FileStorage(folder / backend)
        elif backend in (POSTGRESQL, POOLED):
            storage = PostgresStorage(prepared[backend].app.url)
        elif backend == HYBRID:
            storage = Promoting(folder / backend, prepared[backend].box.url, settings=reading)
        elif backend == AWAY:
            nobody = stack.enter_context(socket.socket())
            nobody.bind(("127.0.0.1", 0))
            away = replace(prepared[HYBRID].box, hosts=("127.0.0.1",), ports=(nobody.getsockname()[1],))
            storage = HybridStorage(folder / backend, away.url, settings=reading)
        else:
            wire = await stack.enter_async_context(wire_to(prepared[backend].box.url))
            wire.rule = flapping
            storage = HybridStorage(folder / backend, wire.url, settings=reading)
            # What a storage tries when it is closed is for others to see; here it would be tried through all of them.
            first.callback(setattr, wire, "rule", down)
        yield await stack.enter_async_context(storage)


def down(_: Message) -> Fate:
    """Be the rule of a wire on which nobody answers."""
    return Fate.CUT_BEFORE


def flapping(message: Message) -> Fate:
    """Be the rule of a wire that breaks after every forty messages, and is then down for ten connections."""
    return Fate.CUT_BEFORE if message.number % 50 >= 40 else Fate.PASS


@pytest.fixture
async def every(tmp_path: Path, prepared: dict[str, Prepared]) -> AsyncIterator[Every]:
    """Give a storage of each kind."""
    kinds = [backend for backend in BACKENDS if backend != POOLED or PROGRAM is not None]
    async with AsyncExitStack() as stack:
        yield Every(tuple([await stack.enter_async_context(storage_of(kind, tmp_path, prepared)) for kind in kinds]))


@pytest.fixture(
    params=[
        pytest.param(backend, marks=pytest.mark.skipif(PROGRAM is None, reason=NO_POOLER))
        if backend == POOLED
        else backend
        for backend in BACKENDS
    ]
)
def backend(request: pytest.FixtureRequest) -> str:
    """Name one backend after the other."""
    return str(request.param)


@pytest.fixture
async def storage(backend: str, tmp_path: Path, prepared: dict[str, Prepared]) -> AsyncIterator[StorageInterface]:
    """Give one backend after the other, empty."""
    async with storage_of(backend, tmp_path, prepared) as storage:
        yield storage
