"""The replica's own record of its batches, in the tenant's file.

A batch is *sealed* until production is known to have promoted it (*acknowledged*) or given it up (*withdrawn*).
The live batches, withdrawn ones left out, form the chain.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import orjson

from localstore.sqlite import marks
from sync.bundle import KEPT_FOLDER, SNAPSHOT, Sealed

KEPT_DAYS = 30
"""How long an acknowledged bundle can be sent again, should production be restored from a backup."""


@dataclass(frozen=True, slots=True)
class LocalBatch:
    """One sealed batch, as the tenant's file knows it."""

    batch: UUID
    seq: int
    parent: str | None
    hash: str
    marks_to: int
    state: str
    counts: dict[str, dict[str, int]]

    @property
    def snapshots(self) -> frozenset[str]:
        """Return the tables that the batch carries whole."""
        return frozenset(name for name, by_op in self.counts.items() if SNAPSHOT in by_op)


_COLUMNS = "batch, seq, parent, hash, marks_to, state, counts"


def _read(row: tuple[object, ...]) -> LocalBatch:
    batch, seq, parent, digest, marks_to, state, counts = row
    return LocalBatch(
        UUID(str(batch)),
        int(str(seq)),
        None if parent is None else str(parent),
        str(digest),
        int(str(marks_to)),
        str(state),
        orjson.loads(str(counts)),
    )


def live(connection: sqlite3.Connection, since: LocalBatch | None = None) -> list[LocalBatch]:
    """Return the chain as far as it is known, or from `since` on: every batch that was not withdrawn, oldest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM localstore_batches WHERE state <> 'withdrawn' "
        "AND rowid >= coalesce((SELECT rowid FROM localstore_batches WHERE batch = ?), 0) ORDER BY seq",
        (None if since is None else str(since.batch),),
    )
    return [_read(row) for row in rows]


def last_acknowledged(connection: sqlite3.Connection) -> LocalBatch | None:
    """Return the newest batch that production is known to have; nothing before it is open."""
    # Batches are recorded in the order of their chain, and a chain only grows.
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM localstore_batches WHERE state = 'acknowledged' ORDER BY rowid DESC LIMIT 1"
    ).fetchone()
    return None if row is None else _read(row)


def tail(connection: sqlite3.Connection) -> list[LocalBatch]:
    """Return the last acknowledged batch, if there is one, and the open ones, oldest first."""
    return live(connection, last_acknowledged(connection))


def opened(connection: sqlite3.Connection) -> list[LocalBatch]:
    """Return the batches that production is not known to have promoted, oldest first."""
    return [batch for batch in tail(connection) if batch.state == "sealed"]


def newest(connection: sqlite3.Connection) -> LocalBatch | None:
    """Return the last batch of the chain."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM localstore_batches WHERE state <> 'withdrawn' ORDER BY rowid DESC LIMIT 1"
    ).fetchone()
    return None if row is None else _read(row)


def record(connection: sqlite3.Connection, sealed: Sealed, target: str) -> bool:
    """Record a sealed bundle; False, and nothing done, if another seal came first."""
    last = newest(connection)
    if (last.hash if last else None) != sealed.head.parent:
        return False
    connection.execute(
        "INSERT INTO localstore_batches (batch, seq, parent, hash, marks_to, state, target, sealed_at, counts) "
        "VALUES (?, ?, ?, ?, ?, 'sealed', ?, ?, ?)",
        (
            str(sealed.head.batch),
            sealed.head.seq,
            sealed.head.parent,
            sealed.hash,
            sealed.head.marks_to,
            target,
            sealed.head.sealed_at.isoformat(),
            orjson.dumps(sealed.counts).decode(),
        ),
    )
    return True


def acknowledge(connection: sqlite3.Connection, batch: UUID) -> None:
    """Note that production has the batch, and trim its marks; doing it twice changes nothing."""
    connection.execute(
        "UPDATE localstore_batches SET state = 'acknowledged', acknowledged_at = ? "
        "WHERE batch = ? AND state = 'sealed'",
        (datetime.now(UTC).isoformat(), str(batch)),
    )
    (marks_to,) = connection.execute(
        "SELECT marks_to FROM localstore_batches WHERE batch = ?", (str(batch),)
    ).fetchone()
    marks.trim(connection, marks_to)
    connection.execute("DELETE FROM localstore_releases WHERE batch = ?", (str(batch),))


def withdraw(connection: sqlite3.Connection, batch: UUID) -> list[UUID]:
    """Give up a batch and every later one, which name it as their parent.

    What they carried is carried by the next seal: their marks remain, and snapshots and releases fall due again.
    """
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM localstore_batches WHERE state = 'sealed' AND seq >= "
        "(SELECT seq FROM localstore_batches WHERE batch = ?)",
        (str(batch),),
    ).fetchall()
    given_up = [_read(row) for row in rows]
    for one in given_up:
        due = [(name,) for name in one.snapshots]
        connection.executemany("UPDATE localstore_tables SET snapshot_due = 1 WHERE name = ?", due)
        connection.execute("UPDATE localstore_releases SET batch = NULL WHERE batch = ?", (str(one.batch),))
        connection.execute("UPDATE localstore_batches SET state = 'withdrawn' WHERE batch = ?", (str(one.batch),))
    return [one.batch for one in given_up]


def bundle_path(tenant: Path, batch: UUID) -> Path:
    """Return where the bundle of an open batch lies."""
    return tenant / "outbox" / f"{batch}.bundle"


def kept_path(tenant: Path, batch: UUID) -> Path:
    """Return where the bundle of an acknowledged batch lies."""
    return tenant / "outbox" / KEPT_FOLDER / f"{batch}.bundle"
