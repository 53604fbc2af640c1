"""A store on disk: what it makes, whom it lets in, and how many tenants it keeps open."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import localstore
from localstore import (
    ConfigurationError,
    ForeignFile,
    InvalidIdentifier,
    LocalStore,
    NotAStore,
    Settings,
    StoreError,
    TenantExists,
    TenantModel,
    TenantNotFound,
)
from localstore.sqlite.descriptors import Descriptors, descriptors_default
from localstore.sqlite.registry import registry


class Item(TenantModel, table=True):
    """The only model of these tests."""

    __tablename__ = "store_items"

    text: str


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    """Open an empty store."""
    async with LocalStore(tmp_path / "data", models=[Item]) as opened:
        yield opened


def mode(path: Path) -> int:
    """Return the permission bits."""
    return stat.S_IMODE(path.lstat().st_mode)


def loosen(path: Path) -> None:
    """Let everybody read a folder."""
    path.chmod(0o755)


def descriptors_of(folder: Path) -> int:
    """Return how many descriptors of this process lead into `folder`."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            found += str(link.readlink()).startswith(str(folder))
        except FileNotFoundError:
            continue
    return found


def test_every_public_name_exists_and_nothing_else_is_offered() -> None:
    """`__all__` is sorted, complete, and each of its names can be loaded."""
    assert list(localstore.__all__) == sorted(localstore.__all__)
    for name in localstore.__all__:
        assert getattr(localstore, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        localstore.Nonsense  # noqa: B018 - the access is the point


async def test_nothing_is_made_before_it_is_needed(tmp_path: Path) -> None:
    """Making a store object and a tenant object, and reading the list, leaves the disk alone."""
    async with LocalStore(tmp_path / "data", models=[Item]) as store:
        store.tenant("acme")
        assert await store.tenants() == []
        with pytest.raises(NotAStore, match="does not exist"):
            await store.check()
    assert not (tmp_path / "data").exists()


async def test_S4_folders_and_files_are_private(store: LocalStore) -> None:
    """Whatever the umask: folders 0700, files 0600, also the WAL and the index."""
    before = os.umask(0)
    try:
        tenant = await store.tenant("acme").open()
        await tenant.put(Item(text="x"))
    finally:
        os.umask(before)
    for path in (store.root, *store.root.rglob("*")):
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path
    assert {path.name for path in tenant.folder.iterdir()} >= {"store.db", "store.db-wal", "blobs", "cache", "outbox"}


async def test_S4_loosened_modes_are_tightened_and_said(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    """Opening takes away what others were given, once, and names each path."""
    tenant = await store.tenant("acme").open()
    folder = tenant.folder
    await store.close()
    for path in (store.root, folder, folder / "blobs"):
        path.chmod(0o755)
    (folder / "store.db").chmod(0o644)
    with caplog.at_level(logging.WARNING, "localstore"):
        async with LocalStore(store.root, models=[Item]) as again:
            await again.tenant("acme").open()
    assert [mode(path) for path in (store.root, folder, folder / "blobs")] == [0o700] * 3
    assert mode(folder / "store.db") == 0o600
    assert len([record for record in caplog.records if record.name == "localstore"]) == 4
    caplog.clear()
    async with LocalStore(store.root, models=[Item]) as once_more:
        await once_more.tenant("acme").open()
    assert [record for record in caplog.records if record.name == "localstore"] == []


async def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    """A store in somebody's own folder does not close that folder to others."""
    loosen(tmp_path)
    async with LocalStore(tmp_path, models=[Item]) as store:
        await store.tenant("acme").open()
    async with LocalStore(tmp_path, models=[Item]) as store:
        await store.tenant("acme").open()
    assert mode(tmp_path) == 0o755
    assert mode(tmp_path / "acme") == 0o700


async def test_only_a_folder_with_a_file_is_a_tenant(store: LocalStore) -> None:
    """Other folders, files and links in a store are none."""
    await store.create_tenant("beta")
    await store.create_tenant("acme")
    (store.root / "empty").mkdir()
    (store.root / "notes.txt").write_text("x")
    (store.root / "Upper").mkdir()
    (store.root / "Upper" / "store.db").write_bytes(b"x")
    (store.root / "link").symlink_to("acme")
    assert await store.tenants() == ["acme", "beta"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "", "A", "con", "a\0", "\u202ea"], ids=ascii)
async def test_S1_a_tenant_id_that_is_no_folder_name_reaches_no_disk(store: LocalStore, name: str) -> None:
    """It is refused before anything is made or read."""
    with pytest.raises(InvalidIdentifier):
        store.tenant(name)
    with pytest.raises(InvalidIdentifier):
        await store.create_tenant(name)
    assert not store.root.exists()


async def test_S1_a_linked_tenant_folder_is_refused(store: LocalStore, tmp_path: Path) -> None:
    """A link would lead a tenant's writes out of the store."""
    await store.create_tenant("acme")
    await store.close()
    (store.root / "acme").rename(tmp_path / "elsewhere")
    (store.root / "acme").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ForeignFile, match="not a folder"):
        await LocalStore(store.root, models=[Item]).tenant("acme").open()


async def test_a_missing_tenant_is_made_or_not_found(store: LocalStore) -> None:
    """`create=False` never makes one; creating one twice is an error that changes nothing."""
    with pytest.raises(TenantNotFound, match="acme"):
        store.tenant("acme", create=False)
    first = await store.create_tenant("acme")
    await first.put(Item(text="x"))
    with pytest.raises(TenantExists):
        await store.create_tenant("acme")
    assert len(await store.tenant("acme", create=False).find(Item)) == 1


async def test_tasks_that_create_one_tenant_at_once_make_one(tmp_path: Path) -> None:
    """Across store objects too: one file, one replica, every row in it."""
    stores = [LocalStore(tmp_path / "data", models=[Item]) for _ in range(4)]
    await asyncio.gather(*(store.tenant("acme").put(Item(text=str(n))) for n, store in enumerate(stores * 5)))
    replicas = {store.tenant("acme").database.identity.replica for store in stores}
    assert len(replicas) == 1
    assert len(await stores[0].tenant("acme").find(Item)) == 20
    for store in stores:
        await store.close()
    assert sorted(path.name for path in (tmp_path / "data" / "acme").glob(".*")) == []


async def test_two_stores_on_one_root_share_their_writer(tmp_path: Path) -> None:
    """Also by another spelling of the path; closing one leaves the other working."""
    (tmp_path / "link").symlink_to(tmp_path / "data")
    async with LocalStore(tmp_path / "data", models=[Item]) as first:
        one = await first.tenant("acme").open()
        async with LocalStore(tmp_path / "link", models=[Item]) as second:
            two = await second.tenant("acme").open()
            assert one.database is two.database
            await asyncio.gather(*(tenant.put(Item(text="x")) for tenant in (one, two) * 20))
        await one.put(Item(text="y"))
        assert len(await one.find(Item)) == 41
    assert descriptors_of(tmp_path) == 0


async def test_every_new_tenant_is_another_replica(store: LocalStore) -> None:
    """Copies of one template are not copies of one another."""
    tenants = [await store.create_tenant(f"t{number}") for number in range(5)]
    identities = [tenant.database.identity for tenant in tenants]
    assert len({identity.replica for identity in identities}) == 5
    assert [identity.company_id for identity in identities] == [f"t{number}" for number in range(5)]
    assert {(identity.epoch, identity.format, identity.mode) for identity in identities} == {(1, 1, "file")}


async def test_what_a_killed_creation_left_is_removed(store: LocalStore) -> None:
    """An unfinished file is no tenant, and the next creation cleans up."""
    folder = store.root / "acme"
    folder.mkdir(parents=True)
    (folder / ".store.db.0123456789abcdef").write_bytes(b"half")
    assert await store.tenants() == []
    await store.create_tenant("acme")
    assert list(folder.glob(".store.db.*")) == []


async def test_open_tenants_are_bounded_by_their_descriptors(tmp_path: Path) -> None:
    """Many more tenants than may be open are all used at once, and every one keeps working."""
    usual = registry().descriptors.limit
    settings = Settings.from_environment(localstore_descriptors_max=30)
    try:
        async with LocalStore(tmp_path / "data", models=[Item], settings=settings) as store:
            tenants = [store.tenant(f"t{number:02}") for number in range(40)]
            for _ in range(3):
                await asyncio.gather(*(tenant.put(Item(text="x")) for tenant in tenants))
                assert [len(await tenant.find(Item)) for tenant in tenants]
                assert descriptors_of(tmp_path) <= 30
                assert registry().descriptors.total <= 30
            assert [len(await tenant.find(Item)) for tenant in tenants] == [3] * 40
        assert descriptors_of(tmp_path) == 0
    finally:
        registry().descriptors.limit = usual


async def test_a_tenant_in_use_is_not_put_to_sleep(tmp_path: Path) -> None:
    """An open session and an open snapshot keep their connections, however short descriptors are."""
    usual = registry().descriptors.limit
    settings = Settings.from_environment(localstore_descriptors_max=9)
    try:
        async with LocalStore(tmp_path / "data", models=[Item], settings=settings) as store:
            busy, seen = store.tenant("busy"), await store.tenant("seen").open()
            async with busy.session() as session, seen.database.snapshot() as snapshot:
                session.add(Item(text="x"))
                await session.flush()
                for number in range(10):
                    await store.tenant(f"t{number}").put(Item(text="x"))
                assert await snapshot.run(lambda connection: connection.in_transaction)
                await session.commit()
            assert len(await busy.find(Item)) == 1
    finally:
        registry().descriptors.limit = usual


def test_the_bound_follows_the_process_limit() -> None:
    """Half of what the process may have is left to the application."""
    assert descriptors_default() >= 64
    budget = Descriptors(6)

    class Tired:
        used_at = 0.0
        asleep = False

        def sleep(self) -> bool:
            self.asleep = True
            budget.holds(self, 0)
            return True

    first, second = Tired(), Tired()
    budget.holds(first, 3)
    budget.holds(second, 3)
    budget.make_room(3, second)
    assert (first.asleep, second.asleep, budget.total, budget.awake) == (True, False, 3, 1)


async def test_a_file_describes_itself_to_a_store_without_models(store: LocalStore) -> None:
    """The command needs no user code: the catalogue has the tables."""
    tenant = await store.tenant("acme").open()
    await tenant.put(Item(text="x"))
    tables, ids = tenant.database.tables, tenant.database.table_ids
    await store.close()
    async with LocalStore(store.root, models=()) as plain, plain.tenant("acme", create=False) as opened:
        assert opened.database.tables == tables
        assert opened.database.table_ids == ids == {"store_items": 1}
        assert opened.database.identity.company_id == "acme"


async def test_models_given_later_get_their_tables(tmp_path: Path) -> None:
    """A tenant that the command made has the tables as soon as a program opens it, captured."""
    async with LocalStore(tmp_path, models=()) as plain:
        await plain.create_tenant("acme")
    async with LocalStore(tmp_path, models=[Item]) as store, store.tenant("acme") as tenant:
        await tenant.put(Item(text="x"))
        assert tenant.database.table_ids == {"store_items": 1}
        marks = await tenant.database.read(
            lambda connection: connection.execute("SELECT count(*) FROM localstore_marks").fetchone()[0]
        )
        assert marks == 1


async def test_a_table_that_lacks_a_models_column_is_refused(store: LocalStore) -> None:
    """Nothing is altered behind anybody's back; the error names the column and the command."""
    tenant = await store.tenant("acme").open()
    path = tenant.database.path
    await store.close()
    connection = sqlite3.connect(path)
    for trigger in [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'")]:
        connection.execute(f'DROP TRIGGER "{trigger}"')
    connection.execute("ALTER TABLE store_items DROP COLUMN text")
    connection.close()
    with pytest.raises(StoreError, match=r"store_items .* text") as caught:
        await LocalStore(store.root, models=[Item]).tenant("acme").open()
    assert "schema apply" in caught.value.hint
    assert descriptors_of(store.root) == 0


async def test_C16_triggers_that_somebody_dropped_are_back_after_the_next_open(store: LocalStore) -> None:
    """And the table is due for a snapshot, because nobody saw what was written meanwhile."""
    tenant = await store.tenant("acme").open()
    await tenant.put(Item(text="x"))
    path = tenant.database.path
    await store.close()
    connection = sqlite3.connect(path, isolation_level=None)
    triggers = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'")]
    for trigger in triggers:
        connection.execute(f'DROP TRIGGER "{trigger}"')
    connection.execute("UPDATE store_items SET text = 'unseen'")
    connection.close()
    async with LocalStore(store.root, models=()) as again, again.tenant("acme") as reopened:
        assert [entry.snapshot_due for entry in reopened.database.catalogue] == [True]
        present = await reopened.database.read(
            lambda connection: connection.execute(
                "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'"
            ).fetchone()[0]
        )
        assert present == len(triggers)


async def test_an_open_that_needs_no_change_takes_no_write_lock(store: LocalStore) -> None:
    """A reader can open a tenant while another process is writing it."""
    tenant = await store.tenant("acme").open()
    path = tenant.database.path
    await store.close()
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    settings = Settings.from_environment(localstore_busy_timeout=0)
    async with LocalStore(store.root, models=[Item], settings=settings) as again:
        assert await again.tenant("acme").find(Item) == []
    writer.execute("ROLLBACK")
    writer.close()


def test_two_models_of_one_table_are_refused(tmp_path: Path) -> None:
    """The file could hold only one of them."""
    with pytest.raises(ConfigurationError, match="store_items"):
        LocalStore(tmp_path, models=[Item, Item])


async def test_every_imported_model_is_the_default(tmp_path: Path) -> None:
    """Without a list a store has the tables of all tenant models."""
    async with LocalStore(tmp_path) as store, store.tenant("acme") as tenant:
        await tenant.put(Item(text="x"))
        assert "store_items" in tenant.database.table_ids


def test_one_store_serves_several_event_loops(tmp_path: Path) -> None:
    """Nothing of a store belongs to the loop that used it first."""
    store = LocalStore(tmp_path, models=[Item])
    for _ in range(3):
        asyncio.run(_put_some(store))

    async def count() -> int:
        try:
            return len(await store.tenant("acme").find(Item))
        finally:
            await store.close()

    assert asyncio.run(count()) == 30


async def _put_some(store: LocalStore) -> None:
    await asyncio.gather(*(store.tenant("acme").put(Item(text="x")) for _ in range(10)))


def test_settings_come_from_the_environment_and_never_show_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names as documented, secrets hidden, bad values refused without being repeated."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://ada:pa55word@db.example/app")
    monkeypatch.setenv("S3_SECRET_KEY", "hush-hush")
    monkeypatch.setenv("DATA_PATH", "/srv/data")
    monkeypatch.setenv("REDIS_URL", "")
    settings = Settings.from_environment()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value().endswith("@db.example/app")
    assert settings.data_path == Path("/srv/data")
    assert settings.redis_url is None
    for shown in (repr(settings), str(settings), str(settings.shown())):
        assert "pa55word" not in shown
        assert "hush-hush" not in shown
    monkeypatch.setenv("STORAGE_TYPE", "s3cret-type")
    with pytest.raises(ValueError, match="STORAGE_TYPE") as caught:
        Settings.from_environment()
    assert isinstance(caught.value, ConfigurationError)
    assert "s3cret-type" not in f"{caught.value} {caught.value.hint}"
