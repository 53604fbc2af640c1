"""Backups with their blobs: what the copied rows name is kept beside the copies, and put back before a copy is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from localstore.blobs.named import Missing, NamedObject, named_objects
from localstore.blobs.unswept import unswept
from localstore.sqlite import backup as files
from localstore.sqlite.backup import FOLDER, Backup
from localstore.sqlite.database import Database
from localstore.sqlite.permissions import make_folder
from localstore.sqlite.restore import Restored
from localstore.sqlite.restore import restore as put_back
from localstore.sqlite.threads import in_thread

_ABANDONED: Final = timedelta(hours=1)
"""Unfinished objects of this age are removed, unless whoever writes them still has them locked."""


@dataclass(frozen=True, slots=True)
class BackedUp:
    """A backup, and the objects that its rows name and that are nowhere to be had."""

    backup: Backup
    missing: tuple[Missing, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**self.backup.to_json(), "missing": [lost.to_json() for lost in self.missing]}


@dataclass(frozen=True, slots=True)
class PutBack:
    """A restored file, how many objects and bytes came back with it, and those that are nowhere to be had."""

    restored: Restored
    objects: int
    bytes: int
    missing: tuple[Missing, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            **self.restored.to_json(),
            "objects": self.objects,
            "object_bytes": self.bytes,
            "missing": [lost.to_json() for lost in self.missing],
        }


async def back_up(database: Database, blobs: Path, folder: Path | None = None) -> BackedUp:
    """Copy the tenant's file into `folder` (its own `backups/`), and the objects in `blobs` that its rows name.

    They go to `objects/` in that folder, once for all of its backups, after the snapshot was taken: what that names
    was there then, and no sweep removes anything meanwhile. The backup counts as one only when they are there.
    """
    target = folder or database.path.parent / FOLDER
    missing: list[Missing] = []

    async def keep(copy: Path) -> tuple[int, int]:
        named = await in_thread(partial(named_objects, copy, database.company_id))
        if not named:
            return 0, 0
        # A store without blobs does not wait for what handles them to be loaded.
        from localstore.blobs.bring import bring
        from localstore.blobs.local_objects import DiskObjects

        kept = DiskObjects(target)
        await kept.remove_unfinished(datetime.now(UTC) - _ABANDONED)
        brought = await bring(kept, DiskObjects(blobs), named, reread=False)
        missing.extend(brought.missing)
        return brought.objects, brought.bytes

    async with unswept(database.path.parent):
        backup = await files.back_up(database, target, keep=keep)
    return BackedUp(backup, tuple(missing))


async def restore(folder: Path, backup: Backup, blobs: Path) -> PutBack:
    """Make a checked backup the file of the tenant whose folder is `folder`, after what its rows name is in `blobs`.

    Objects that are there are read, and replaced where they are damaged. What the backup lacks, too, does not keep the
    file from coming back. Running it again goes on.
    """
    await in_thread(partial(make_folder, folder))
    named: list[NamedObject] = await in_thread(partial(named_objects, backup.path, backup.tenant))
    async with unswept(folder):
        objects, size, missing = 0, 0, tuple[Missing, ...]()
        if named:
            from localstore.blobs.bring import bring
            from localstore.blobs.local_objects import DiskObjects

            brought = await bring(DiskObjects(blobs), DiskObjects(backup.path.parent), named, reread=True)
            objects, size, missing = brought.new_objects, brought.new_bytes, brought.missing
        restored = await in_thread(partial(put_back, folder, backup.tenant, backup.path))
    return PutBack(restored, objects, size, missing)
