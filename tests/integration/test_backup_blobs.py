"""Claims about backups with blobs: every byte comes back, nothing is half, and what cannot be had is named."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from localstore import LocalStore, Tenant
from localstore.blobs import bring
from localstore.blobs.backup import back_up, restore
from localstore.blobs.objects import new_hasher
from localstore.blobs.sweep import Swept
from localstore.blobs.unswept import sweep_lock
from localstore.helpdesk.models import Ticket
from localstore.sqlite.backup import FOLDER, Backup, backups, check_backup
from localstore.tenant import BLOBS
from tests.faults.killing import _wrap
from tests.forked import processes
from tests.integration.command import command

NOW = timedelta(seconds=-5)
"""A grace that makes everything old enough for a sweep."""

CONTENTS = {
    "large": random.Random(1).randbytes(9_000_000),
    "지원/report.pdf": b"%PDF-1.7 report",
    "again/report.pdf": b"%PDF-1.7 report",
    "empty": b"",
}
OBJECTS, OBJECT_BYTES = 3, 9_000_000 + 15

INCOMING, PLACE = "localstore.blobs.incoming:Incoming", "localstore.blobs.disk:DiskFileSystem"


def digest(content: bytes) -> str:
    """Return the name of the object that has this content."""
    return str(new_hasher().update(content).hexdigest())


def objects(folder: Path) -> dict[str, Path]:
    """Return the objects in a folder by their hashes, each of which must be what its name says."""
    found = {path.name: path for path in (folder / "objects").glob("*/*")}
    assert all(digest(path.read_bytes()) == name for name, path in found.items())
    return found


async def fill(tenant: Tenant) -> None:
    """Put all the blobs."""
    for key, content in CONTENTS.items():
        await tenant.blobs.put(key, content)


async def lose(root: Path) -> Swept:
    """Delete every blob of acme and sweep without any grace."""
    async with LocalStore(root, models=()) as store:
        blobs = store.tenant("acme", create=False).blobs
        for key in CONTENTS:
            await blobs.delete(key)
        return await blobs.sweep(NOW)


async def read(root: Path) -> dict[str, bytes | None]:
    """Return the contents of all of acme's blobs."""
    async with LocalStore(root, models=()) as store:
        blobs = store.tenant("acme", create=False).blobs
        return {blob.key: await blobs.get(blob.key) for blob in await blobs.list()}


async def test_every_blob_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """Deleted and swept blobs are read again after a restore, from `--out` as from the tenant's own backups."""
    root, out = tmp_path / "data", tmp_path / "out"
    async with LocalStore(root, models=()) as store:
        await fill(store.tenant("acme"))
    made = command("backup", "--data", root, "--out", out, "--json")
    assert made.code == 0, made.all
    entry = made.json["tenants"][0]
    assert (entry["objects"], entry["object_bytes"], entry["missing"]) == (OBJECTS, OBJECT_BYTES, [])
    sidecar = json.loads(Path(entry["path"]).with_suffix(".json").read_text())
    assert (sidecar["objects"], sidecar["object_bytes"]) == (OBJECTS, OBJECT_BYTES)
    kept = {path: path.stat() for path in objects(out / "acme").values()}
    assert {found.st_mode & 0o777 for found in kept.values()} == {0o600}
    # A second backup of the folder finds its objects there and writes none of them again.
    assert command("backup", "--data", root, "--out", out).code == 0
    assert {path: (found.st_ino, found.st_mtime_ns) for path, found in kept.items()} == {
        path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in objects(out / "acme").values()
    }
    own = command("backup", "--data", root, "--json").json["tenants"][0]
    for source in (entry["path"], own["path"]):
        assert (await lose(root)).removed == OBJECTS
        assert objects(root / "acme" / BLOBS) == {}
        done = command("restore", "acme", "--yes", "--data", root, "--json", "--from", source)
        assert done.code == 0, done.all
        assert (done.json["objects"], done.json["object_bytes"], done.json["missing"]) == (OBJECTS, OBJECT_BYTES, [])
        assert await read(root) == CONTENTS


async def test_a_store_without_blobs_has_no_folder_for_them(tmp_path: Path) -> None:
    """Rows alone make a backup that is its two files."""
    async with LocalStore(tmp_path / "data") as store:
        tenant = store.tenant("acme")
        await tenant.put(Ticket(platform="jira", ticket_id="1", title="one"))
        made = await back_up(tenant.database, tenant.folder / BLOBS)
    assert (made.backup.objects, made.missing) == (0, ())
    assert len(list(made.backup.path.parent.iterdir())) == 2
    assert (await restore(tmp_path / "data" / "acme", made.backup, tmp_path / "data" / "acme" / BLOBS)).objects == 0


async def test_bytes_that_cannot_be_had_are_named(tmp_path: Path) -> None:
    """Missing and damaged objects are named by their keys with exit 3, here and in the backup; all others travel."""
    root = tmp_path / "data"
    async with LocalStore(root, models=()) as store:
        await fill(store.tenant("acme"))
        await store.tenant("acme").blobs.put("gone", b"gone")
    here = objects(root / "acme" / BLOBS)
    here[digest(b"gone")].unlink()
    damaged = here[digest(CONTENTS["large"])]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    made = command("backup", "--data", root, "--json")
    (entry,) = made.json["tenants"]
    assert (made.code, entry["objects"]) == (3, OBJECTS - 1)
    assert sorted((lost["key"], lost["hash"]) for lost in entry["missing"]) == [
        ("gone", digest(b"gone")),
        ("large", digest(CONTENTS["large"])),
    ]
    kept = objects(root / "acme" / FOLDER)
    assert kept.keys() == here.keys() - {digest(b"gone"), digest(CONTENTS["large"])}
    # The damaged one is put right, so that an earlier backup's objects make the next one whole; another breaks there.
    damaged.write_bytes(CONTENTS["large"])
    command("backup", "--data", root)
    await lose(root)
    broken = kept[digest(b"%PDF-1.7 report")]
    broken.write_bytes(b"%PDF-1.7 resort")
    done = command("restore", "acme", "--yes", "--data", root)
    assert done.code == 3, done.all
    assert "acme: gone did not come back: " in done.err
    assert "acme: again/report.pdf did not come back: " in done.err
    assert "Try: " in done.err
    assert objects(root / "acme" / BLOBS).keys() == {digest(CONTENTS["large"]), digest(b"")}


async def test_a_restore_mends_damaged_objects(tmp_path: Path) -> None:
    """An object whose bytes changed in its place is replaced by the backup's; a damaged copy replaces nothing."""
    folder = tmp_path / "data" / "acme"
    async with LocalStore(tmp_path / "data", models=()) as store:
        tenant = store.tenant("acme")
        await fill(tenant)
        made = await back_up(tenant.database, folder / BLOBS)
    here = objects(folder / BLOBS)[digest(CONTENTS["large"])]
    here.write_bytes(b"?" + CONTENTS["large"][1:])
    done = await restore(folder, made.backup, folder / BLOBS)
    assert (done.objects, done.missing) == (1, ())
    assert await read(tmp_path / "data") == CONTENTS
    here.write_bytes(b"?" + CONTENTS["large"][1:])
    objects(folder / FOLDER)[digest(CONTENTS["large"])].write_bytes(CONTENTS["large"][:-1] + b"?")
    done = await restore(folder, made.backup, folder / BLOBS)
    assert (done.objects, [lost.key for lost in done.missing]) == (0, ["large"])
    assert here.read_bytes()[:1] == b"?"


async def test_a_sweep_takes_nothing_from_a_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blobs that are deleted and swept between the snapshot and the copying are in the backup all the same."""
    bring_all: Callable[..., Any] = bring.bring
    async with LocalStore(tmp_path / "data", models=()) as store:
        tenant = store.tenant("acme")
        await fill(tenant)

        async def late(*arguments: Any, **named: Any) -> Any:
            swept = await asyncio.create_task(lose(tmp_path / "data"))
            assert (swept.seen, swept.removed) == (OBJECTS, 0)
            return await bring_all(*arguments, **named)

        monkeypatch.setattr(bring, "bring", late)
        made = await back_up(tenant.database, tenant.folder / BLOBS)
        assert (made.backup.objects, made.missing) == (OBJECTS, ())
        assert (await tenant.blobs.sweep(NOW)).removed == OBJECTS
        # The other way round: while a sweep removes a group of objects, no backup begins.
        async with AsyncExitStack() as sweeping:
            await sweeping.enter_async_context(tenant.blobs._index.sweeping([digest(b"")]))
            assert not sweep_lock(tenant.folder).try_acquire(shared=True)
        again = await back_up(tenant.database, tenant.folder / BLOBS)
    assert again.backup.objects == 0


@pytest.mark.parametrize(
    ("owner", "name", "nth"),
    [(INCOMING, "_write", 2), (PLACE, "place", 2), ("localstore.sqlite.backup:_Copy", "place", 1)],
)
async def test_F25_a_killed_backup_is_none(tmp_path: Path, owner: str, name: str, nth: int) -> None:
    """SIGKILL while objects are copied, named or about to be summed up: no backup, no half object, and the next is."""
    root = tmp_path / "data"
    async with LocalStore(root, models=()) as store:
        await fill(store.tenant("acme"))
    await killed(_back_up_and_die, root, owner, name, nth)
    folder = root / "acme" / FOLDER
    assert backups(folder) == []
    assert len(objects(folder)) <= OBJECTS
    async with LocalStore(root, models=()) as store:
        tenant = await store.tenant("acme", create=False).open()
        made = await back_up(tenant.database, tenant.folder / BLOBS)
    assert (made.backup.objects, made.missing) == (OBJECTS, ())
    assert check_backup(made.backup.path, "acme") == made.backup
    assert len(objects(folder)) == OBJECTS


@pytest.mark.parametrize(
    ("owner", "name", "nth"),
    [(INCOMING, "_write", 2), (PLACE, "place", 2), ("localstore.blobs.backup", "put_back", 1)],
)
async def test_F25_a_killed_restore_leaves_the_old_file(tmp_path: Path, owner: str, name: str, nth: int) -> None:
    """SIGKILL while objects come back: the tenant is as it was, nothing is half, and the next restore ends it."""
    root, folder = tmp_path / "data", tmp_path / "data" / "acme"
    async with LocalStore(root, models=()) as store:
        tenant = store.tenant("acme")
        await fill(tenant)
        made = await back_up(tenant.database, folder / BLOBS)
    await lose(root)
    await killed(_restore_and_die, folder, made.backup, owner, name, nth)
    assert await read(root) == {}
    assert len(objects(folder / BLOBS)) <= OBJECTS
    done = await restore(folder, made.backup, folder / BLOBS)
    assert done.missing == ()
    assert await read(root) == CONTENTS


async def killed(work: Callable[..., None], *arguments: Any) -> None:
    """Run work in a process that must end by its own SIGKILL."""
    process = processes.Process(target=work, args=arguments)
    process.start()
    await asyncio.to_thread(process.join, 120)
    assert process.exitcode == -signal.SIGKILL
    process.close()


# What follows runs in processes of their own.


def _back_up_and_die(root: Path, owner: str, name: str, nth: int) -> None:
    async def work() -> None:
        async with LocalStore(root, models=()) as store:
            tenant = await store.tenant("acme", create=False).open()
            _wrap(owner, name, nth=nth)
            await back_up(tenant.database, tenant.folder / BLOBS)

    asyncio.run(work())


def _restore_and_die(folder: Path, backup: Backup, owner: str, name: str, nth: int) -> None:
    _wrap(owner, name, nth=nth)
    asyncio.run(restore(folder, backup, folder / BLOBS))
