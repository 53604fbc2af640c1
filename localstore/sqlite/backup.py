"""Backups of a tenant's file: copied while it is in use, checked, and summed up in a sidecar that restoring trusts."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from localstore.errors import ForeignFile, StoreError
from localstore.sqlite import identity as identities
from localstore.sqlite.database import Database
from localstore.sqlite.identity import Identity
from localstore.sqlite.permissions import FILE_MODE, make_folder
from localstore.sqlite.threads import in_thread

FOLDER: Final = "backups"
SUFFIX: Final = ".db"

SCHEMA_BACKUPS_KEPT: Final = 3
"""Those made before a change of the schema; the ones that were asked for are never removed."""

_VERSION: Final = 1
_BLOCK: Final = 1024 * 1024

_PARTIAL: Final = ".partial"
_ABANDONED_SECONDS: Final = 86_400.0
"""No backup goes on for a day: what is unfinished for so long was left by a process that was killed."""

Reason = Literal["asked", "schema", "restore"]

Keep = Callable[[Path], Awaitable[tuple[int, int]]]
"""Keeps what a copy names beside it, and returns how many objects and bytes those are."""


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup: the copy, whose it is, the BLAKE2b-256 of its bytes, and how many blobs' objects lie beside it."""

    path: Path
    tenant: str
    replica: str
    epoch: int
    made_at: str
    reason: str
    bytes: int
    blake2b: str
    objects: int = 0
    object_bytes: int = 0

    def to_json(self) -> dict[str, object]:
        """Return the backup as plain values."""
        return {**asdict(self), "path": str(self.path)}


async def back_up(
    database: Database, folder: Path | None = None, *, reason: Reason = "asked", keep: Keep | None = None
) -> Backup:
    """Copy the tenant's file as it is now into `folder` (its own `backups/`), while others go on reading and writing.

    The copy holds everything committed before the call, also what is still in the WAL (F11). It appears, whole and
    checked, together with its sidecar and all that `keep` keeps of what it names, or not at all.
    """
    target = folder or database.path.parent / FOLDER
    copy = _Copy(database.identity, target, reason)
    try:
        async with database.snapshot() as snapshot:
            await snapshot.run(copy.write)
        objects, size = (0, 0) if keep is None else await keep(copy.path)
        return await in_thread(lambda: copy.place(objects, size))
    finally:
        await in_thread(copy.discard)


def write_backup(source: sqlite3.Connection, identity: Identity, folder: Path, reason: Reason) -> Backup:
    """Copy what `source` sees into `folder`, and return the backup."""
    copy = _Copy(identity, folder, reason)
    try:
        copy.write(source)
        return copy.place()
    finally:
        copy.discard()


class _Copy:
    """A backup that is being made: nobody takes it for one before it is placed."""

    def __init__(self, identity: Identity, folder: Path, reason: Reason) -> None:
        self._identity = identity
        self._folder = folder
        self._reason: Reason = reason
        self._made_at = datetime.now(UTC)
        self._stem = f"{self._made_at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        self._sum = ("", 0)
        self.path = folder / f".{self._stem}{_PARTIAL}"

    def write(self, source: sqlite3.Connection) -> None:
        """Copy what `source` sees, check it and sync it."""
        make_folder(self._folder)
        _remove_leftovers(self._folder)
        os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE))
        with closing(sqlite3.connect(self.path, isolation_level=None)) as copy:
            source.backup(copy)
            # One file that can be opened, moved and checked alone, without a WAL beside it.
            copy.execute("PRAGMA journal_mode = DELETE")
            _check_integrity(copy, self.path, self._identity.company_id)
        self._sum = _digest(self.path, sync=True)

    def place(self, objects: int = 0, object_bytes: int = 0) -> Backup:
        """Give the copy its name and its sidecar, which is the moment in which it becomes a backup."""
        digest, size = self._sum
        backup = Backup(
            path=self._folder / f"{self._stem}{SUFFIX}",
            tenant=self._identity.company_id,
            replica=self._identity.replica,
            epoch=self._identity.epoch,
            made_at=self._made_at.isoformat(timespec="seconds"),
            reason=self._reason,
            bytes=size,
            blake2b=digest,
            objects=objects,
            object_bytes=object_bytes,
        )
        self.path.rename(backup.path)
        _write_sidecar(backup)
        _sync_folder(self._folder)
        return backup

    def discard(self) -> None:
        """Remove what was not placed."""
        self.path.unlink(missing_ok=True)


def backups(folder: Path) -> list[Backup]:
    """Return the backups in a folder, oldest first; a copy without a sidecar was never finished and is left out."""
    found = [_read_sidecar(path) for path in folder.glob(f"*{SUFFIX}") if _sidecar(path).exists()]
    return sorted(found, key=lambda backup: (backup.made_at, backup.path.name))


def check_backup(path: Path, tenant: str) -> Backup:
    """Return the backup at `path` if it is this tenant's, byte for byte as it was made; ForeignFile otherwise."""
    if not path.is_file():
        raise StoreError(f"there is no backup {path}", hint=f"localstore backup --tenant {tenant}", tenant=tenant)
    backup = _read_sidecar(path)
    digest, size = _digest(path)
    if (digest, size) != (backup.blake2b, backup.bytes):
        raise _damaged(path, f"has other bytes than when it was made ({size} of {backup.bytes})", tenant)
    if backup.tenant != tenant:
        raise ForeignFile(
            f"{path} is a backup of tenant {backup.tenant}, not of {tenant}",
            hint=f"localstore restore {backup.tenant} --from {path}",
            tenant=tenant,
        )
    # Read-only and immutable: checking must not leave a byte or a file beside the backup.
    uri = path.absolute().as_uri() + "?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        _check_integrity(connection, path, tenant)
        identities.read(connection, path, tenant)
    return backup


def prune(folder: Path) -> list[Path]:
    """Remove all but the newest backups that were made before changes of the schema; return what went."""
    made = [backup for backup in backups(folder) if backup.reason == "schema"]
    gone = [backup.path for backup in made[:-SCHEMA_BACKUPS_KEPT]]
    for path in gone:
        # The sidecar goes first: without it the copy is no backup any more.
        _sidecar(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    return gone


async def prune_backups(tenant: Path) -> None:
    """Prune the backups of a tenant's folder in a thread."""
    await in_thread(lambda: prune(tenant / FOLDER))


def _check_integrity(connection: sqlite3.Connection, path: Path, tenant: str) -> None:
    try:
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise _damaged(path, f"is no sound database: {error}", tenant) from error
    if found != "ok":
        raise _damaged(path, f"is damaged: {found}", tenant)


def _damaged(path: Path, what: str, tenant: str) -> ForeignFile:
    return ForeignFile(f"{path} {what}", hint=f"take another backup from {path.parent}", tenant=tenant)


def _digest(path: Path, *, sync: bool = False) -> tuple[str, int]:
    """Return a closed file's BLAKE2b-256 and size; no connection of SQLite's may be open to it (F14)."""
    digest, size = hashlib.blake2b(digest_size=32), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
        if sync:
            os.fsync(file.fileno())
    return digest.hexdigest(), size


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".json")


def _write_sidecar(backup: Backup) -> None:
    path = _sidecar(backup.path)
    partial = path.with_name(f".{path.name}{_PARTIAL}")
    content = {"version": _VERSION, **backup.to_json(), "path": backup.path.name}
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def _read_sidecar(path: Path) -> Backup:
    try:
        content = json.loads(_sidecar(path).read_text(encoding="utf-8"))
        return Backup(
            path=path,
            tenant=str(content["tenant"]),
            replica=str(content["replica"]),
            epoch=int(content["epoch"]),
            made_at=str(content["made_at"]),
            reason=str(content["reason"]),
            bytes=int(content["bytes"]),
            blake2b=str(content["blake2b"]),
            objects=int(content.get("objects", 0)),
            object_bytes=int(content.get("object_bytes", 0)),
        )
    except FileNotFoundError:
        raise StoreError(
            f"{path} has no {_sidecar(path).name} beside it that says what it should hold",
            hint="keep a backup and its .json together",
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{_sidecar(path)} cannot be read: it was altered or cut off", hint="take another backup"
        ) from error


def _remove_leftovers(folder: Path) -> None:
    before = time.time() - _ABANDONED_SECONDS
    for path in folder.glob(f".*{_PARTIAL}"):
        # Another backup may be placing or removing its own at this very moment.
        with suppress(FileNotFoundError):
            if path.lstat().st_mtime < before:
                path.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
