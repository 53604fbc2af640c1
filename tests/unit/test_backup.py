"""Claims about backups: whole, checked, and put back without anything of the old file's meeting the new one."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from localstore.errors import ForeignFile, StoreBusy, StoreError
from localstore.models import TenantModel
from localstore.sqlite.backup import SCHEMA_BACKUPS_KEPT, back_up, backups, check_backup, prune
from localstore.sqlite.restore import restore
from localstore.store import LocalStore
from localstore.tenant import Tenant


class Kept(TenantModel, table=True):
    """A row that a backup keeps."""

    __tablename__ = "backup_rows"
    text: str


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Give a folder for a store."""
    return tmp_path / "data"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[LocalStore]:
    """Give an open store."""
    async with LocalStore(root, models=[Kept]) as opened:
        yield opened


@pytest.fixture
async def tenant(store: LocalStore) -> Tenant:
    """Give an open tenant with one row."""
    tenant = await store.tenant("acme").open()
    await tenant.put(Kept(text="one"))
    return tenant


async def texts(root: Path) -> list[str]:
    """Return the rows of the tenant's file as a new store sees them."""
    async with LocalStore(root, models=[Kept]) as anew:
        return sorted(row.text for row in await anew.tenant("acme").find(Kept))


async def test_F11_a_backup_holds_what_only_the_wal_has(tenant: Tenant) -> None:
    """The row is in the WAL alone, and in the backup, which is one file with nothing beside it."""
    with closing(sqlite3.connect(f"file:{tenant.database.path}?immutable=1", uri=True)) as without_wal:
        assert without_wal.execute("SELECT count(*) FROM backup_rows").fetchone() == (0,)
    backup = await back_up(tenant.database)
    assert sorted(path.name for path in backup.path.parent.iterdir()) == [
        backup.path.name,
        backup.path.with_suffix(".json").name,
    ]
    with closing(sqlite3.connect(f"file:{backup.path}?immutable=1", uri=True)) as connection:
        assert connection.execute("SELECT text FROM backup_rows").fetchall() == [("one",)]


async def test_a_backup_waits_for_nobody_and_nobody_for_it(tenant: Tenant) -> None:
    """While a session holds the writer's turn a backup is made, of what was committed before."""
    async with tenant.session() as session:
        session.add(Kept(text="not yet"))
        await session.flush()
        backup = await back_up(tenant.database)
        await session.commit()
    with closing(sqlite3.connect(f"file:{backup.path}?immutable=1", uri=True)) as connection:
        assert connection.execute("SELECT text FROM backup_rows").fetchall() == [("one",)]


async def test_backups_are_private(tenant: Tenant) -> None:
    """The folder is its owner's alone, and so are the copy and the sidecar."""
    backup = await back_up(tenant.database)
    assert backup.path.parent.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in backup.path.parent.iterdir()} == {0o600}


async def test_F13_any_flipped_bit_is_found(tenant: Tenant) -> None:
    """One bit, wherever it flips, makes the backup another one than its sidecar speaks of."""
    backup = await back_up(tenant.database)
    content = backup.path.read_bytes()
    for place in range(100, len(content), len(content) // 40):
        backup.path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        with pytest.raises(ForeignFile, match="other bytes"):
            check_backup(backup.path, "acme")
    backup.path.write_bytes(content)
    assert check_backup(backup.path, "acme") == backup


async def test_F10_a_restore_brings_back_the_rows_and_begins_an_epoch(
    root: Path, store: LocalStore, tenant: Tenant
) -> None:
    """What came later is gone from the file but kept in a backup of its own; the replica stays, the epoch is new."""
    backup = await back_up(tenant.database)
    await tenant.put(Kept(text="later"))
    replica = tenant.database.identity.replica
    folder = tenant.folder
    with pytest.raises(StoreBusy):
        await asyncio.to_thread(restore, folder, "acme", backup.path)
    await store.close()
    done = restore(folder, "acme", backup.path)
    assert await texts(root) == ["one"]
    async with LocalStore(root, models=[Kept]) as anew, anew.tenant("acme") as again:
        assert (again.database.identity.replica, again.database.identity.epoch) == (replica, 2)
    assert done.before is not None
    restored = restore(folder, "acme", done.before.path)
    assert restored.epoch == 3
    assert await texts(root) == ["later", "one"]


async def test_F10_a_stale_wal_never_meets_the_new_file(root: Path) -> None:
    """A WAL that a killed process left is copied into the old file first, or removed with it, and then gone."""
    async with LocalStore(root, models=[Kept]) as store, store.tenant("acme") as opened:
        await opened.put(Kept(text="one"))
        backup = await back_up(opened.database)
        await opened.put(Kept(text="later"))
        beside = {name: (opened.folder / name).read_bytes() for name in ("store.db", "store.db-wal")}
    folder = root / "acme"
    for name, content in beside.items():
        (folder / name).write_bytes(content)
    done = restore(folder, "acme", backup.path)
    assert not (folder / "store.db-wal").exists()
    assert await texts(root) == ["one"]
    assert done.before is not None
    with closing(sqlite3.connect(f"file:{done.before.path}?immutable=1", uri=True)) as connection:
        assert connection.execute("SELECT count(*) FROM backup_rows").fetchone() == (2,)


@pytest.mark.parametrize("ruin", ["missing", "F12_empty", "garbage"])
async def test_a_ruined_file_is_replaced(root: Path, store: LocalStore, tenant: Tenant, ruin: str) -> None:
    """A restore is for files that cannot be read any more, too."""
    backup = await back_up(tenant.database)
    await store.close()
    path = root / "acme" / "store.db"
    if ruin == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if ruin == "F12_empty" else b"no database at all" * 999)
        (root / "acme" / "store.db-wal").write_bytes(b"old")
    assert restore(root / "acme", "acme", backup.path).before is None
    assert await texts(root) == ["one"]


async def test_another_tenants_backup_is_refused(root: Path, tenant: Tenant) -> None:
    """A backup names its tenant; nothing of another one's is put in its place, nor what has no sidecar."""
    backup = await back_up(tenant.database)
    with pytest.raises(ForeignFile, match="backup of tenant acme"):
        restore(root / "other", "other", backup.path)
    assert not (root / "other").exists()
    sidecar = backup.path.with_suffix(".json")
    content = json.loads(sidecar.read_text())
    sidecar.unlink()
    with pytest.raises(StoreError, match="beside it"):
        check_backup(backup.path, "acme")
    sidecar.write_text(json.dumps(content)[:40])
    with pytest.raises(StoreError, match="cannot be read"):
        check_backup(backup.path, "acme")


async def test_only_backups_of_schema_changes_are_pruned(tenant: Tenant) -> None:
    """The newest few of those are kept, and every one that somebody asked for."""
    asked = await back_up(tenant.database)
    made = [await back_up(tenant.database, reason="schema") for _ in range(SCHEMA_BACKUPS_KEPT + 2)]
    gone = prune(asked.path.parent)
    kept = backups(asked.path.parent)
    assert len(gone) == 2
    assert set(gone) < {backup.path for backup in made}
    assert asked in kept
    assert len(kept) == SCHEMA_BACKUPS_KEPT + 1


async def test_what_a_killed_backup_left_is_removed_after_a_day(tenant: Tenant) -> None:
    """An unfinished copy goes with the next backup once nobody can be writing it any more; a younger one stays."""
    folder = (await back_up(tenant.database)).path.parent
    old, young = folder / ".old.partial", folder / ".young.partial"
    for path in (old, young):
        path.write_bytes(b"half")
    day_before = young.stat().st_mtime - 86_500
    os.utime(old, (day_before, day_before))
    await back_up(tenant.database)
    assert [path.exists() for path in (old, young)] == [False, True]
