"""What makes a file a tenant's: the application id and the one identity row, checked at every open."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from localstore.errors import ForeignFile, StoreError

APPLICATION_ID = 0x4C53544F
"""The letters LSTO: what `file` and SQLite show of whose database this is."""

FORMAT = 1
"""Raised when an older version of the toolkit could no longer use the file."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose file it is, which copy of it (`replica`), which life of that copy (`epoch`), and where its truth is."""

    company_id: str
    replica: str
    epoch: int
    format: int
    mode: str


def write(connection: sqlite3.Connection, company_id: str, mode: str = "file") -> None:
    """Make the file this tenant's, as a new replica."""
    connection.execute(
        "INSERT INTO localstore_identity (company_id, replica, epoch, format, created_at, mode) "
        "VALUES (?, ?, 1, ?, ?, ?)",
        (company_id, str(uuid4()), FORMAT, datetime.now(UTC).isoformat(timespec="seconds"), mode),
    )


def read(connection: sqlite3.Connection, path: Path, company_id: str) -> Identity:
    """Return the file's identity; raises ForeignFile unless it is this tenant's."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != APPLICATION_ID:
        raise _foreign(path, "was not made by localstore", company_id)
    try:
        rows = connection.execute("SELECT company_id, replica, epoch, format, mode FROM localstore_identity").fetchall()
    except sqlite3.OperationalError as error:
        if "no such" not in str(error):
            raise
        rows = []
    if len(rows) != 1:
        raise _foreign(path, "holds no identity", company_id)
    found = Identity(*rows[0])
    if found.company_id != company_id:
        raise _foreign(path, f"belongs to tenant {found.company_id!a}, not {company_id!a}", company_id)
    if found.format > FORMAT:
        raise StoreError(
            f"{path} was written by a newer localstore (format {found.format}; this one knows {FORMAT})",
            hint="upgrade localstore",
            tenant=company_id,
        )
    return found


def _foreign(path: Path, what: str, tenant: str) -> ForeignFile:
    return ForeignFile(
        f"{path} {what}",
        hint="put the tenant's own file back",
        tenant=tenant,
    )
