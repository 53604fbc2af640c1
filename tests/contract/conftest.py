"""The backends of the storage interface on a real SQLite and a real Postgres, and both of them side by side."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from localstore import FileStorage, PostgresStorage, StorageInterface
from localstore.postgres.connect import Server, connection_to
from localstore.storage.tables import storage_tables
from sync.production import prepare, register

BACKENDS = ("file", "postgresql")


@dataclass(frozen=True, slots=True)
class Both:
    """A storage of each kind, empty at first: what one answers the other must answer."""

    file: StorageInterface
    postgresql: StorageInterface

    @property
    def all(self) -> tuple[StorageInterface, ...]:
        """Return them all."""
        return (self.file, self.postgresql)


@pytest.fixture
async def prepared(production: str) -> str:
    """Return the URL of a production that has the help desk's tables and nothing in them."""
    async with connection_to(Server.parse(production)) as connection:
        await prepare(connection)
        await register(connection, "public", storage_tables())
    return production


@pytest.fixture
def app_url(prepared: str, login: Callable[..., str]) -> str:
    """Return the URL of a login that is a member of app_user and nothing else."""
    return login("app_user")


@pytest.fixture
async def both(tmp_path: Path, app_url: str) -> AsyncIterator[Both]:
    """Give a storage of each kind; Postgres is reached by a login that is only a member of app_user."""
    async with AsyncExitStack() as stack:
        file = await stack.enter_async_context(FileStorage(tmp_path / "data"))
        yield Both(file, await stack.enter_async_context(PostgresStorage(app_url)))


@pytest.fixture(params=BACKENDS)
def storage(request: pytest.FixtureRequest, both: Both) -> StorageInterface:
    """Give one backend after the other."""
    found: StorageInterface = getattr(both, request.param)
    return found
