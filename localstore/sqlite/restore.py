"""Put a backup in the place of a tenant's file, as a new epoch of the same replica, whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from localstore.errors import ForeignFile, StoreBusy
from localstore.sqlite import identity as identities
from localstore.sqlite.backup import FOLDER, Backup, check_backup, write_backup
from localstore.sqlite.checkpoint import folder_lock
from localstore.sqlite.mode import set_mode
from localstore.sqlite.permissions import FILE_MODE, make_folder
from localstore.sqlite.template import FILE_NAME, FOLDERS

_BUSY_SECONDS: Final = 2.0
"""How long a restore waits for others to close the file; who keeps it open is named as the cause."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put back, under which epoch, and the backup of what stood there before (None: nothing readable)."""

    backup: Backup
    epoch: int
    before: Backup | None

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "tenant": self.backup.tenant,
            "restored": str(self.backup.path),
            "epoch": self.epoch,
            "before": None if self.before is None else str(self.before.path),
            "next": self.next,
        }

    @property
    def next(self) -> str:
        """Return the command that tells, where the tenant is synced, whether production knows more than the backup."""
        return f"localstore sync pull --tenant {self.backup.tenant}"


def restore(folder: Path, tenant: str, path: Path) -> Restored:
    """Make the backup at `path` the file of `tenant`, whose folder is `folder`; nobody may have the file open.

    What stood there is backed up first where it can still be read. The old WAL never meets the new file (F10): the
    old file is taken out of WAL mode, and held, before the new one takes its name. The epoch becomes a new one, so
    that nothing made from the file that goes is taken for the new one's; the chain of batches goes on, and production
    refuses it where it is the shorter one (F17). Running it again does the same again.
    """
    backup = check_backup(path, tenant)
    make_folder(folder)
    target = folder / FILE_NAME
    with folder_lock(folder, wait=True):
        for name in FOLDERS:
            make_folder(folder / name)
        with _held_alone(target, tenant) as old:
            before, epoch, mode = (None, 0, None) if old is None else _back_up_old(old, target, tenant)
            epoch = max(epoch, backup.epoch) + 1
            fresh = folder / f".{FILE_NAME}.{secrets.token_hex(8)}"
            try:
                _prepare(fresh, path, epoch, mode)
                fresh.rename(target)
            finally:
                fresh.unlink(missing_ok=True)
            _sync(folder)
    return Restored(backup, epoch, before)


@contextmanager
def _held_alone(path: Path, tenant: str) -> Iterator[sqlite3.Connection | None]:
    """Hold the old file against every other connection, its WAL copied back and gone; None where it is unreadable."""
    if not path.exists() or path.stat().st_size == 0:
        _remove_wal(path)
        yield None
        return
    uri = path.absolute().as_uri() + "?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_SECONDS)) as connection:
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            # Leaving WAL mode succeeds only when nobody else has the file open, and removes both files beside it.
            mode = connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
            # In this locking mode the lock outlives the transaction that took it, up to the end of the connection.
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise _in_use(tenant) from error
            _remove_wal(path)
            yield None
            return
        if mode != "delete":
            raise _in_use(tenant)
        yield connection


def _back_up_old(old: sqlite3.Connection, path: Path, tenant: str) -> tuple[Backup | None, int, str | None]:
    """Return a backup of the file that is about to go, its epoch and its mode; a file that is not sound has none."""
    try:
        identity = identities.read(old, path, tenant)
        return write_backup(old, identity, path.parent / FOLDER, "restore"), identity.epoch, identity.mode
    except (sqlite3.DatabaseError, ForeignFile):
        return None, 0, None


def _prepare(fresh: Path, backup: Path, epoch: int, mode: str | None) -> None:
    """Copy the backup, set its epoch, and put it on the disk, ready to be renamed.

    A tenant's mode is where its truth is now, which no backup of its rows can say, so it outlives the restore.
    """
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(descriptor, "wb") as into, backup.open("rb") as source:
        shutil.copyfileobj(source, into)
    with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        connection.execute("UPDATE localstore_identity SET epoch = ?", (epoch,))
        if mode is not None:
            set_mode(connection, mode)
        connection.execute("PRAGMA journal_mode = WAL")
    _remove_wal(fresh)
    _sync(fresh)


def _remove_wal(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _in_use(tenant: str) -> StoreBusy:
    return StoreBusy(
        f"the file of tenant {tenant} is open in another program, or in this one",
        hint="stop whatever uses the store, then run the same command again",
        tenant=tenant,
    )
