"""New tenants' files: made once as a template, then copied, named and put in place in one step."""

from __future__ import annotations

import os
import secrets
import sqlite3
import tempfile
from functools import lru_cache
from pathlib import Path

from localstore.errors import TenantExists
from localstore.sqlite import identity
from localstore.sqlite.alchemy import add_functions
from localstore.sqlite.checkpoint import folder_lock
from localstore.sqlite.layout import create
from localstore.sqlite.mode import keep_guards
from localstore.sqlite.permissions import FILE_MODE, make_folder
from localstore.sqlite.prepare import Models, prepare

FILE_NAME = "store.db"
_UNFINISHED = ".store.db."
FOLDERS = ("blobs", "cache", "outbox")


def create_tenant(folder: Path, company_id: str, models: Models, mode: str = "file") -> None:
    """Make a tenant's folder and file. The file appears complete or not at all, whatever is killed meanwhile."""
    make_folder(folder)
    path = folder / FILE_NAME
    with folder_lock(folder, wait=True):
        if os.path.lexists(path):
            raise TenantExists(
                f"tenant {company_id} exists already", hint=f"localstore tenants show {company_id}", tenant=company_id
            )
        for name in FOLDERS:
            make_folder(folder / name)
        # The lock is ours, so whatever is unfinished here was left by a process that was killed.
        for leftover in folder.glob(f"{_UNFINISHED}*"):
            leftover.unlink()
        unfinished = folder / f"{_UNFINISHED}{secrets.token_hex(8)}"
        _write(unfinished, template(models))
        _name(unfinished, company_id, mode)
        _sync(unfinished)
        unfinished.rename(path)
        # The file is safe from a power cut only when its name is, and its folder's name.
        _sync(folder)
        _sync(folder.parent)


@lru_cache(maxsize=16)
def template(models: Models) -> bytes:
    """Return the bytes of a file that has all tables and no identity."""
    with tempfile.TemporaryDirectory(prefix="localstore-") as folder:
        path = Path(folder) / FILE_NAME
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute(f"PRAGMA application_id = {identity.APPLICATION_ID}")
            add_functions(connection)
            connection.execute("BEGIN IMMEDIATE")
            create(connection)
            prepare(connection, models)
            connection.execute("COMMIT")
        finally:
            connection.close()
        return path.read_bytes()


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _name(path: Path, company_id: str, mode: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        # Nobody else knows this file yet: without shared memory, and without waiting for the disk, it is quicker.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA synchronous = OFF")
        identity.write(connection, company_id, mode)
        keep_guards(connection)
    finally:
        connection.close()


def _sync(path: Path) -> None:
    # SQLite has no connection to this file, so closing the descriptor drops no lock of its own.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
