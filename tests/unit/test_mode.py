"""Claims about a file that takes no writes: no tool gets one in, writers of ours wait, and nothing stays ajar."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from sqlmodel import SQLModel, select

from localstore.config import Settings
from localstore.errors import ModeChanging, StoreError, WrongMode
from localstore.interchange.json_export import export_json
from localstore.interchange.json_import import import_json
from localstore.models import TenantModel
from localstore.sqlite import capture
from localstore.sqlite.backup import back_up
from localstore.sqlite.database import Database
from localstore.sqlite.mode import ADVANCING, FILE, HYBRID, POSTGRESQL, opened, read_mode, set_mode
from localstore.sqlite.restore import restore
from localstore.storage.file import FileStorage
from localstore.storage.tables import MODELS
from localstore.store import LocalStore
from localstore.tenant import Tenant

TENANT = "acme"
A, B, C = ("a" * 32, "b" * 32, "c" * 32)
INSERT = "INSERT {} INTO guarded (company_id, id, text) VALUES ('acme', '{}', 'new')"
WRITES = {
    "insert": INSERT.format("", B),
    "insert or ignore": INSERT.format("OR IGNORE", B),
    "replace": INSERT.format("OR REPLACE", A),
    "upsert": INSERT.format("", A) + " ON CONFLICT (company_id, id) DO UPDATE SET text = 'new'",
    "update": "UPDATE guarded SET text = 'new'",
    "update or ignore": "UPDATE OR IGNORE guarded SET text = 'new'",
    "change of the key": f"UPDATE guarded SET id = '{C}'",
    "delete": "DELETE FROM guarded",
}


class Guarded(TenantModel, table=True):
    """A row that may be guarded."""

    __tablename__ = "guarded"
    text: str


class Later(TenantModel, table=True):
    """A row of a table that comes later."""

    __tablename__ = "guarded_later"
    text: str


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    """Give a store."""
    async with LocalStore(tmp_path / "data", models=[Guarded]) as opened_store:
        yield opened_store


@pytest.fixture
async def tenant(store: LocalStore) -> Tenant:
    """Give a tenant of one row."""
    tenant = await store.tenant(TENANT).open()
    await tenant.database.write(lambda file: file.execute(INSERT.format("", A)))
    return tenant


async def close(database: Database, mode: str) -> None:
    """Set the file's mode."""
    await database.write(partial(set_mode, mode=mode))


def shell(path: Path) -> sqlite3.Connection:
    """Connect as any other program does."""
    return sqlite3.connect(path, isolation_level=None, timeout=30)


@pytest.mark.parametrize("mode", [ADVANCING, POSTGRESQL])
async def test_no_statement_of_another_program_gets_in(tenant: Tenant, mode: str) -> None:
    """Every kind of write is refused in words that name the tenant and the command, and leaves no mark."""
    path = tenant.database.path
    await close(tenant.database, mode)
    with closing(shell(path)) as other:
        before = list(other.iterdump())
        for write in WRITES.values():
            with pytest.raises(
                sqlite3.IntegrityError, match=rf"localstore: tenant {TENANT} .*localstore mode \w+ acme"
            ):
                other.execute(write)
        assert list(other.iterdump()) == before
    await close(tenant.database, HYBRID)
    with closing(shell(path)) as other:
        other.execute(WRITES["insert"])
        triggers = "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'localstore_guard%'"
        assert other.execute(triggers).fetchone() == (0,)


async def test_a_copy_says_so_to_each_way_of_writing(tenant: Tenant) -> None:
    """The fast path, sessions and storages raise WrongMode with the command that helps, and reading goes on."""
    await close(tenant.database, POSTGRESQL)
    row = Guarded(text="refused")
    with pytest.raises(WrongMode, match="read-only copy") as caught:
        await tenant.put(row)
    assert f"localstore mode back {TENANT}" in caught.value.hint
    with pytest.raises(WrongMode):
        await tenant.delete(Guarded, A)
    async with tenant.session() as session:
        session.add(Guarded(text="refused"))
        with pytest.raises(WrongMode):
            await session.commit()
    async with tenant.session() as session:
        found = (await session.exec(select(Guarded))).one()
    assert found.text == "new"


async def test_who_refreshes_a_copy_gets_through_and_nothing_stays_open(tenant: Tenant) -> None:
    """Inside `opened` writes pass; its end, an error and a rollback each leave the file as closed as it was."""
    database = tenant.database
    await close(database, POSTGRESQL)

    def refresh(file: sqlite3.Connection, fail: bool) -> None:
        with opened(file):
            file.execute("UPDATE guarded SET text = 'refreshed'")
            if fail:
                raise StoreError("given up")

    with pytest.raises(StoreError, match="given up"):
        await database.write(partial(refresh, fail=True))
    await database.write(partial(refresh, fail=False))
    with closing(shell(database.path)) as other:
        assert other.execute("SELECT text, mode FROM guarded, localstore_identity").fetchall() == [
            ("refreshed", POSTGRESQL)
        ]
        other.execute("BEGIN")
        with opened(other):
            other.execute("DELETE FROM guarded")
            other.execute("ROLLBACK")
        with pytest.raises(sqlite3.IntegrityError):
            other.execute("DELETE FROM guarded")


async def test_writers_wait_for_the_end_of_a_change(store: LocalStore, tenant: Tenant) -> None:
    """Puts and sessions that find the mode changing are neither refused nor lost, and do not stop the change itself."""
    database = tenant.database
    await close(database, ADVANCING)

    async def by_session() -> None:
        async with tenant.session() as session:
            session.add(Guarded(text="by session"))
            await session.commit()

    async def by_put(number: int) -> None:
        await tenant.put(Guarded(text=f"put {number}"))

    writing = [asyncio.create_task(by_put(number)) for number in range(20)]
    writing.append(asyncio.create_task(by_session()))
    given_up = asyncio.create_task(tenant.put(Guarded(text="given up")))
    for _ in range(20):
        # What the change itself writes gets through between them.
        await database.write(lambda file: file.execute("UPDATE localstore_state SET value = value"))
    given_up.cancel()
    await asyncio.sleep(0.2)
    assert not any(task.done() for task in writing)
    await close(database, HYBRID)
    await asyncio.gather(*writing)
    texts = sorted(row.text for row in await tenant.find(Guarded, limit=None))
    assert texts == sorted(["new", "by session", *(f"put {number}" for number in range(20))])


async def test_a_change_that_does_not_end_is_an_error_that_can_be_retried(tmp_path: Path) -> None:
    """After the busy timeout every waiting writer hears what is going on and which commands end it."""
    settings = Settings(localstore_busy_timeout=0.2)
    async with LocalStore(tmp_path / "data", models=[Guarded], settings=settings) as store:
        tenant = await store.tenant(TENANT).open()
        await close(tenant.database, ADVANCING)
        with pytest.raises(ModeChanging, match="is changing its mode") as caught:
            await tenant.put(Guarded(text="late"))
        assert (caught.value.retryable, f"localstore mode advance {TENANT}" in caught.value.hint) == (True, True)
        async with tenant.session() as session:
            session.add(Guarded(text="late"))
            with pytest.raises(ModeChanging):
                await session.commit()
        assert await tenant.find(Guarded) == []


async def test_a_writer_that_waited_for_a_copy_hears_so(tmp_path: Path) -> None:
    """A storage reads while the mode changes; its writes wait, and are refused when the file has become a copy."""
    async with FileStorage(tmp_path) as storage, LocalStore(tmp_path, models=()) as store:
        await storage.save_ticket(TENANT, "jira", {"id": 1})
        database = (await store.tenant(TENANT).open()).database
        await close(database, ADVANCING)
        saving = asyncio.create_task(storage.save_ticket(TENANT, "jira", {"id": 2}))
        assert len(await storage.list_tickets(TENANT)) == 1
        await close(database, POSTGRESQL)
        with pytest.raises(WrongMode):
            await saving
        with pytest.raises(WrongMode):
            await storage.list_tickets(TENANT)


async def test_an_import_into_a_copy_is_refused_and_an_export_of_it_is_not(tmp_path: Path) -> None:
    """What would write says why it cannot, and the other tenants of the same import go on."""
    tree = tmp_path / "tree"
    for company in (TENANT, "beta"):
        (tree / company / "jira" / "tickets").mkdir(parents=True)
        (tree / company / "jira" / "tickets" / "1.json").write_text('{"id": "1", "subject": "s"}')
    async with LocalStore(tmp_path / "data", models=MODELS) as store:
        await store.create_tenant(TENANT, mode=POSTGRESQL)
        report = await import_json(store, tree)
        errors = {tenant.tenant: tenant.error for tenant in report.tenants}
        assert isinstance(errors[TENANT], WrongMode)
        assert (errors["beta"], report.exit_code) == (None, 1)
        await close((await store.tenant("beta").open()).database, POSTGRESQL)
        await export_json(store, tmp_path / "out")
        assert (tmp_path / "out" / "beta" / "jira" / "tickets" / "1.json").exists()


async def test_guards_follow_what_is_tracked(tmp_path: Path) -> None:
    """In a closed file dropped guards come back at the next open, and tables made later are guarded from the start."""
    root = tmp_path / "data"
    async with LocalStore(root, models=[Guarded]) as store:
        path = (await store.create_tenant(TENANT, mode=POSTGRESQL)).database.path
    with closing(shell(path)) as other:
        with pytest.raises(sqlite3.IntegrityError):
            other.execute(WRITES["insert"])
        other.execute("DROP TRIGGER localstore_guard_1_insert")
    async with LocalStore(root, models=[Guarded, Later]) as store:
        tenant = await store.tenant(TENANT).open()
        for row in (Guarded(text="refused"), Later(text="refused")):
            assert isinstance(row, SQLModel)
            with pytest.raises(WrongMode):
                await tenant.put(row)
        await tenant.database.write(partial(capture.uninstall, table="guarded_later"))
        await tenant.put(Later(text="nobody tracks this table any more"))


async def test_a_restore_brings_rows_back_but_not_a_mode(store: LocalStore, tenant: Tenant) -> None:
    """A backup of a file that took writes does not open the copy that it replaces, nor the other way round."""
    folder = tenant.folder
    open_backup = await back_up(tenant.database)
    await close(tenant.database, POSTGRESQL)
    closed_backup = await back_up(tenant.database)
    await store.close()
    for backup, expected in ((open_backup, POSTGRESQL), (closed_backup, FILE)):
        restore(folder, TENANT, backup.path)
        with closing(shell(folder / "store.db")) as other:
            assert read_mode(other) == expected
            if expected == POSTGRESQL:
                with pytest.raises(sqlite3.IntegrityError):
                    other.execute(WRITES["insert"])
                set_mode(other, FILE)
            else:
                other.execute(WRITES["insert"])
