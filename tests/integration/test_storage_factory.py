"""get_storage(): only the environment says which storage an application gets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from localstore import ConfigurationError, FileStorage, LocalStore, PostgresStorage, StorageFactory, get_storage
from tests.integration.command import environment, sync

URL = "postgresql://someone:s3cret-word@127.0.0.1:1/nowhere"

PROGRAM = """
import asyncio
from localstore import get_storage

storage = get_storage()

async def save():
    print(await storage.save_ticket("wedosoft", "freshdesk", {"id": 1, "status": 4}))

async def read():
    print([t["ticket_id"] for t in await storage.list_tickets("wedosoft", "freshdesk", status="resolved")])
    print((await storage.get_processing_progress("wedosoft", "freshdesk"))["total_tickets"])

asyncio.run(save())
asyncio.run(read())
"""


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start without any of the settings, in an empty folder."""
    for name in ("STORAGE_TYPE", "DATA_PATH", "DATABASE_URL", "DATABASE_REPLICA_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_files_are_the_default_and_nothing_is_opened(tmp_path: Path) -> None:
    """Without any setting, and without a running loop, the storage is of ./data, which is not made yet."""
    storage = StorageFactory.create_storage()
    assert isinstance(storage, FileStorage)
    assert storage.store.root == tmp_path / "data"
    assert list(tmp_path.iterdir()) == []


def test_the_environment_picks_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """STORAGE_TYPE in any case, with DATABASE_URL, is production; a server that is not there is no matter yet."""
    monkeypatch.setenv("STORAGE_TYPE", "PostgreSQL")
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv("DATABASE_REPLICA_URL", URL)
    storage = StorageFactory.create_storage()
    assert isinstance(storage, PostgresStorage)
    assert "s3cret-word" not in repr(storage)


def test_production_needs_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """STORAGE_TYPE=postgresql without DATABASE_URL is a ConfigurationError that names it."""
    monkeypatch.setenv("STORAGE_TYPE", "postgresql")
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        StorageFactory.create_storage()


@pytest.mark.parametrize("wanted", ["oracle", "postgres", "file,hybrid"])
def test_an_unsupported_type_is_a_value_error(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    """A STORAGE_TYPE that nobody knows is a ConfigurationError, which is also a ValueError."""
    monkeypatch.setenv("STORAGE_TYPE", wanted)
    for make in (StorageFactory.create_storage, get_storage):
        with pytest.raises(ValueError, match="STORAGE_TYPE") as caught:
            make()
        assert isinstance(caught.value, ConfigurationError)


def test_supported_types_are_those_that_are_installed() -> None:
    """The types come from entry points, ours among them, sorted."""
    types = StorageFactory.get_supported_types()
    assert types == sorted(types)
    assert {"file", "hybrid", "postgresql"} <= set(types)


async def test_there_is_one_storage_until_it_is_closed_or_the_environment_changes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """get_storage gives the same object again and again, and a new one where that would be the wrong one."""
    first = get_storage()
    assert get_storage() is first
    await first.close()
    second = get_storage()
    assert second is not first
    monkeypatch.setenv("DATA_PATH", str(tmp_path / "other"))
    third = get_storage()
    assert isinstance(third, FileStorage)
    assert third.store.root == tmp_path / "other"
    assert get_storage() is third


def test_a_program_that_closes_nothing_ends_and_loses_nothing_in_files(tmp_path: Path) -> None:
    """Over two event loops and without a close, the process ends by itself, says nothing, and the ticket is there."""
    done = run(STORAGE_TYPE="file", DATA_PATH=str(tmp_path / "data"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n['1']\n1\n", "")

    async def count() -> int:
        async with FileStorage(tmp_path / "data") as storage:
            return len(await storage.list_tickets("wedosoft"))

    assert asyncio.run(count()) == 1


def test_the_same_program_runs_on_a_database_that_only_sync_init_has_touched(
    production: str, login: Callable[..., str], tmp_path: Path
) -> None:
    """After `sync init` on a machine without a store, a member of app_user needs nothing but the environment."""
    init = sync("init", "--to", production, "--json", DATA_PATH=str(tmp_path / "missing"))
    assert init.json["tables"] == ["blobs", "conversations", "knowledge_base", "processing_progress", "tickets"]
    done = run(STORAGE_TYPE="postgresql", DATABASE_URL=login("app_user"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n['1']\n1\n", "")
    assert not (tmp_path / "missing").exists()


def test_the_same_program_runs_on_files_that_production_follows(
    production: str, login: Callable[..., str], tmp_path: Path
) -> None:
    """Hybrid, with production there and away: over two loops and without a close, the ticket is in the file."""
    sync("init", "--to", production, "--json", DATA_PATH=str(tmp_path / "missing"))
    box = login("localstore_stager", "localstore_promoter", "localstore_reader")
    for name, url in (("there", box), ("away", URL)):
        folder = tmp_path / name
        done = run(STORAGE_TYPE="hybrid", DATA_PATH=str(folder), DATABASE_URL=url, HYBRID_USE_POSTGRES="true")
        assert (done.returncode, done.stdout, done.stderr) == (0, "1\n['1']\n1\n", "")
        assert (folder / "wedosoft" / "store.db").exists()


def test_an_init_with_tenants_makes_their_tables_and_no_others(production: str, tmp_path: Path) -> None:
    """Where a store has tenants, production gets what they have."""

    async def make() -> None:
        async with LocalStore(tmp_path / "data", models=()) as store:
            await store.create_tenant("alpha")

    asyncio.run(make())
    assert sync("init", "--to", production, "--data", tmp_path / "data", "--json").json["tables"] == []


def run(**settings: str) -> subprocess.CompletedProcess[str]:
    """Run the program with these settings and nothing else of ours."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
