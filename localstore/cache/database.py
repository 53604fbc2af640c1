"""The database of one cache folder: how it is made, opened, checked, and set aside when it is damaged."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import stat
import tempfile
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

import diskcache

from localstore.cache.disk import Disk
from localstore.cache.entries import SETTINGS, add_counts
from localstore.cache.failures import CacheFailure
from localstore.errors import LocalStoreError
from localstore.sqlite.checkpoint import folder_lock, has_wal_reset_bug
from localstore.sqlite.connection import FileId
from localstore.sqlite.permissions import FILE_MODE, FOLDER_MODE, check_folder, make_folder, tighten

FILE_NAME: Final = "cache.db"
DAMAGED: Final = "cache.db.damaged"
"""Where a damaged database is put; the next one takes its place there."""

_UNFINISHED: Final = ".cache.db."
_APPLICATION_ID: Final = 0x4C535443
"""The letters LSTC."""

BUSY_SECONDS: Final = 1.0
"""Another process that writes for longer than this is not worth waiting for: a miss is cheaper."""


class Damaged(CacheFailure):
    """Raised when the database is no sound cache of ours."""


@dataclass(frozen=True, slots=True)
class Template:
    """What diskcache makes of an empty folder: the file's bytes, and its schema, by which a copy is known."""

    content: bytes
    schema: tuple[tuple[object, ...], ...]


@lru_cache(maxsize=1)
def template() -> Template:
    """Return the file that all caches begin as; diskcache takes a tenth of a second to make one."""
    with tempfile.TemporaryDirectory(prefix="localstore-") as folder:
        diskcache.Cache(folder, disk=Disk, **SETTINGS).close()
        path = Path(folder) / FILE_NAME
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as made:
            add_counts(made, ("evictions",))
            made.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            schema = _schema(made)
        return Template(path.read_bytes(), schema)


def exists(folder: Path) -> bool:
    """Return whether the folder has a database; raises OSError where nobody may look, which is not the same as none."""
    try:
        os.lstat(folder / FILE_NAME)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def identify(folder: Path) -> FileId | None:
    """Return which file the folder's database is at the moment, without opening it; None where there is none."""
    try:
        found = os.lstat(folder / FILE_NAME)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise Damaged(f"{folder / FILE_NAME} is no ordinary file")
    return FileId(found.st_dev, found.st_ino)


def create(folder: Path) -> None:
    """Make the folder and its database where they are missing; the file appears whole or not at all."""
    for path in (folder.parent.parent, folder.parent, folder):
        # The store itself may be reached through a link; what is in it may not.
        if path != folder.parent.parent or not path.exists():
            make_folder(path)
    content = template().content
    with folder_lock(folder, wait=True):
        if exists(folder):
            return
        # The lock is ours, so whatever is unfinished here was left by a process that was killed.
        for leftover in folder.glob(f"{_UNFINISHED}*"):
            leftover.unlink()
        for suffix in ("-wal", "-shm"):
            # Those of a database that is gone would be taken for the new one's.
            (folder / f"{FILE_NAME}{suffix}").unlink(missing_ok=True)
        unfinished = folder / f"{_UNFINISHED}{secrets.token_hex(8)}"
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        unfinished.rename(folder / FILE_NAME)


def connect(folder: Path) -> tuple[sqlite3.Connection, FileId]:
    """Open the folder's database; raises Damaged unless it is a sound copy of what `create` makes."""
    check_folder(folder.parent)
    check_folder(folder)
    tighten(folder, FOLDER_MODE)
    file_id = identify(folder)
    if file_id is None:
        raise CacheFailure(f"{folder / FILE_NAME} went away")
    for suffix in ("", "-wal", "-shm"):
        path = folder / f"{FILE_NAME}{suffix}"
        if path.is_symlink():
            raise Damaged(f"{path} is a link")
        tighten(path, FILE_MODE)
    # `mode=rw` never creates: a file that went away is made anew as a whole or not at all.
    uri = (folder / FILE_NAME).absolute().as_uri() + "?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        _configure(connection)
        if _schema(connection) != template().schema:
            raise Damaged(f"{folder / FILE_NAME} has other tables than a cache of ours")
    except BaseException:
        connection.close()
        raise
    return connection, file_id


def set_aside(folder: Path, found: FileId | None) -> None:
    """Put the damaged database that was found out of the way, unless another process has done so already."""
    with folder_lock(folder, wait=True):
        path = folder / FILE_NAME
        with contextlib.suppress(Damaged):
            if found is not None and identify(folder) != found:
                return
        for suffix in ("-wal", "-shm"):
            (folder / f"{FILE_NAME}{suffix}").unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.replace(folder / DAMAGED)


def failure(error: BaseException) -> CacheFailure | None:
    """Return what an error while using the database means, or None for one that is a bug and must be seen."""
    if isinstance(error, CacheFailure):
        return error
    name: str = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return Damaged(f"the database is damaged: {error}")
    if isinstance(error, sqlite3.Error | OSError | LocalStoreError):
        return CacheFailure(f"{type(error).__name__}: {error}")
    return None


def _configure(connection: sqlite3.Connection) -> None:
    # Ours are no texts, and one that was planted must not fail the call that meets it.
    connection.text_factory = partial(str, encoding="utf-8", errors="replace")
    by_hand = has_wal_reset_bug(sqlite3.sqlite_version_info)
    for pragma in (
        "trusted_schema = OFF",
        # A power cut may cost the last entries, never the file.
        "synchronous = NORMAL",
        "cache_size = -1024",
        "mmap_size = 0",
        "journal_size_limit = 4194304",
        f"wal_autocheckpoint = {0 if by_hand else 1000}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _schema(connection: sqlite3.Connection) -> tuple[tuple[object, ...], ...]:
    """Return what tells a cache of ours from any other file: a trigger or a view too many would work for somebody."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").fetchall()
    return ((application_id,), *rows)
