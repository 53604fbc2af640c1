"""Status: where a tenant stands, read from its file alone, so that it works offline."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from localstore.postgres.quoting import quote_identifier
from localstore.sqlite import marks
from localstore.sqlite.layout import CatalogueEntry, read_catalogue
from sync import batches
from sync.listing import CONFLICTS

TARGET = "target"
VERIFIED_AT = "verified_at"


@dataclass(frozen=True, slots=True)
class TenantStatus:
    """One tenant. `pending` counts changed rows that production is not known to have; times are ISO texts or None."""

    tenant: str
    mode: str
    pending: int
    oldest_pending: str | None
    last_promoted: str | None
    conflicts: int
    quarantined: int
    verified_at: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the tenant's entry."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Status:
    """All tenants' status."""

    tenants: tuple[TenantStatus, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the command's JSON."""
        return {"version": 1, "tenants": [tenant.to_json() for tenant in self.tenants], "exit": 0}


def read_status(connection: sqlite3.Connection) -> TenantStatus:
    """Read one tenant's status from its file."""
    tenant, mode = connection.execute("SELECT company_id, mode FROM localstore_identity").fetchone()
    chain = batches.tail(connection)
    opened = [batch for batch in chain if batch.state == "sealed"]
    sealed_to = chain[-1].marks_to if chain else 0
    unsealed = sum(marks.pending(connection, sealed_to).values()) + sum(
        _rows(connection, entry) for entry in read_catalogue(connection) if entry.snapshot_due
    )
    waiting = sum(sum(counts.values()) for batch in opened for counts in batch.counts.values())
    oldest = connection.execute("SELECT min(sealed_at) FROM localstore_batches WHERE state = 'sealed'").fetchone()[
        0
    ] or _first_pending(connection, sealed_to)
    held = dict(connection.execute("SELECT reason, count(*) FROM localstore_held GROUP BY reason"))
    conflicts = sum(held.get(reason, 0) for reason in CONFLICTS)
    return TenantStatus(
        tenant=tenant,
        mode=mode,
        pending=unsealed + waiting,
        oldest_pending=oldest if unsealed + waiting else None,
        last_promoted=connection.execute("SELECT max(acknowledged_at) FROM localstore_batches").fetchone()[0],
        conflicts=conflicts,
        quarantined=sum(held.values()) - conflicts,
        verified_at=remembered(connection, VERIFIED_AT),
    )


def remembered(connection: sqlite3.Connection, name: str) -> str | None:
    """Return a small fact kept in the tenant's file."""
    row = connection.execute("SELECT value FROM localstore_state WHERE name = ?", (name,)).fetchone()
    return None if row is None or row[0] is None else str(row[0])


def remember(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Keep a small fact in the tenant's file."""
    connection.execute(
        "INSERT INTO localstore_state (name, value) VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )


def now_text() -> str:
    """Return the present as an ISO text in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _rows(connection: sqlite3.Connection, entry: CatalogueEntry) -> int:
    count: int = connection.execute(f"SELECT count(*) FROM {quote_identifier(entry.table.name)}").fetchone()[0]
    return count


def _first_pending(connection: sqlite3.Connection, after: int) -> str | None:
    """Return when the row of the oldest unsealed mark was last updated, where its table says so."""
    mark = connection.execute("SELECT * FROM localstore_marks WHERE seq > ? ORDER BY seq LIMIT 1", (after,)).fetchone()
    if mark is None:
        return None
    _, table_id, op, _, *values = mark
    entry = next((entry for entry in read_catalogue(connection) if entry.id == table_id), None)
    if entry is None or "updated_at" not in entry.table.by_name or op == 3:
        return None
    table = entry.table
    key = values[: len(table.key)] if op == 1 else values[1 : 1 + len(table.key)]
    where = " AND ".join(f"{quote_identifier(name)} IS ?" for name in table.key)
    row = connection.execute(f"SELECT updated_at FROM {quote_identifier(table.name)} WHERE {where}", key).fetchone()
    return None if row is None or row[0] is None else str(row[0])
