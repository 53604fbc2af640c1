"""Connections to a tenant's file: how they are opened and what every one of them is set to."""

from __future__ import annotations

import os
import sqlite3
import stat
from dataclasses import dataclass
from pathlib import Path

from localstore.errors import ForeignFile, TenantNotFound
from localstore.sqlite.alchemy import add_functions
from localstore.sqlite.checkpoint import has_wal_reset_bug

WAL_BYTES_KEPT = 64 * 1024 * 1024
"""A WAL that one large import made is cut back to this once its pages are in the database."""

CACHE_KIBIBYTES = 1024
"""Small, because thousands of tenants may be open at once."""


@dataclass(frozen=True, slots=True)
class Options:
    """How connections behave: seconds to wait for another process's lock, and how durable a commit is."""

    busy_timeout_seconds: float = 10.0
    synchronous: str = "FULL"


@dataclass(frozen=True, slots=True)
class FileId:
    """Which file a path led to; another file under the same path has another one."""

    device: int
    inode: int


def identify(path: Path, tenant: str) -> FileId:
    """Return which file `path` is, without opening it: closing it again would drop SQLite's locks."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise TenantNotFound(
            f"there is no tenant {tenant} in {path.parent.parent}",
            hint="`localstore tenants list` shows the tenants of a store",
            tenant=tenant,
        ) from None
    if not stat.S_ISREG(found.st_mode):
        raise ForeignFile(
            f"{path} is not an ordinary file", hint="put the tenant's own file back in its place", tenant=tenant
        )
    if found.st_size == 0:
        raise ForeignFile(
            f"{path} is empty: it was cut off, or another program made it",
            hint="restore it from a backup, or pull the tenant from production into an empty store",
            tenant=tenant,
        )
    return FileId(found.st_dev, found.st_ino)


def check_unmoved(path: Path, known: FileId, tenant: str) -> None:
    """Raise ForeignFile when `path` no longer is the file that was opened: deleted, replaced or emptied since."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        what = "was deleted"
    else:
        if (found.st_ino, found.st_dev) == (known.inode, known.device) and found.st_size:
            return
        what = "was emptied" if found.st_ino == known.inode else "was replaced"
    raise ForeignFile(
        f"{path} {what} while it was open; nothing more is written to it",
        hint="close the store and open it again; `localstore restore` is the way to replace a file",
        tenant=tenant,
    )


def connect(path: Path, options: Options, *, writes: bool) -> sqlite3.Connection:
    """Open an existing file in autocommit mode; its transactions are begun and ended by hand.

    A connection that does not write is still opened for writing, because a reader of a WAL file shares memory with
    the writers, but refuses every statement that would change something.
    """
    # `mode=rw` never creates: a missing file must be an error, not a new and empty tenant.
    uri = path.absolute().as_uri() + "?mode=rw"
    connection = sqlite3.connect(
        uri,
        uri=True,
        timeout=options.busy_timeout_seconds,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    try:
        configure(connection, options)
        add_functions(connection)
        if not writes:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def configure(connection: sqlite3.Connection, options: Options) -> None:
    """Set what SQLite keeps by connection."""
    # Below a fixed version checkpoints are made by hand, one process at a time.
    by_hand = has_wal_reset_bug(sqlite3.sqlite_version_info)
    for pragma in (
        f"synchronous = {options.synchronous}",
        "foreign_keys = ON",
        "recursive_triggers = ON",
        "trusted_schema = OFF",
        f"cache_size = -{CACHE_KIBIBYTES}",
        f"journal_size_limit = {WAL_BYTES_KEPT}",
        f"wal_autocheckpoint = {0 if by_hand else 1000}",
    ):
        connection.execute(f"PRAGMA {pragma}")
