"""The one place where SQLite's errors become the toolkit's."""

from __future__ import annotations

import sqlite3

from localstore.errors import ForeignFile, InvalidRow, LocalStoreError, StoreBusy, StoreError
from localstore.sqlite.mode import refusal

_DAMAGED = {"SQLITE_NOTADB", "SQLITE_CORRUPT"}
_BUSY = {"SQLITE_BUSY", "SQLITE_LOCKED"}


def translate(error: BaseException, tenant: str) -> BaseException:
    """Return the toolkit's error for what SQLite raised, or `error` itself when it is not SQLite's."""
    if isinstance(error, LocalStoreError) or not isinstance(error, sqlite3.Error):
        return error
    name: str = getattr(error, "sqlite_errorname", "") or ""
    family = "_".join(name.split("_")[:2])
    if family in _BUSY:
        return busy(tenant)
    if family in _DAMAGED:
        return ForeignFile(
            f"the file of tenant {tenant} is damaged or no SQLite database: {error}",
            hint="restore it from a backup, or pull the tenant from production into an empty store",
            tenant=tenant,
        )
    if family == "SQLITE_FULL":
        return StoreError(
            f"no space is left for the file of tenant {tenant}; what was committed is intact",
            hint="free some disk space and run the same command again",
            tenant=tenant,
        )
    if (refused := refusal(error, tenant)) is not None:
        return refused
    if isinstance(error, sqlite3.IntegrityError):
        return InvalidRow(
            f"tenant {tenant} refuses the row: {error}", hint="correct the row and write it again", tenant=tenant
        )
    if family in {"SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM"}:
        return StoreError(
            f"the file of tenant {tenant} cannot be used: {error} ({name})",
            hint="check the disk and the permissions of the store's folder",
            tenant=tenant,
        )
    return StoreError(f"SQLite refused a statement on tenant {tenant}: {error}", tenant=tenant)


def busy(tenant: str) -> StoreBusy:
    """Return the error for a file that another process kept locked."""
    return StoreBusy(
        f"another process is writing the file of tenant {tenant} and did not finish in time",
        hint="run the same command again, or raise LOCALSTORE_BUSY_TIMEOUT (seconds)",
        tenant=tenant,
    )


def busy_session(tenant: str) -> StoreBusy:
    """Return the error for a write that waits for a session of this very process."""
    return StoreBusy(
        f"a session of this process is writing to tenant {tenant} and has not ended its transaction",
        hint="commit or close that session first, or write through it",
        tenant=tenant,
    )
