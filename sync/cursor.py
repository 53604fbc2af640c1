"""The cursor of a pull: which state of which production a tenant's file has taken in, and what is to be tried again."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import asyncpg
import orjson

from sync.staging import UNDO_DAYS

CURSOR: Final = "cursor"
"""The cursor's name among the small facts of a tenant's file."""

AGAIN_MAX: Final = 1_000
"""A table of which more rows were left alone than this is compared whole by the next pull instead."""

Again = Mapping[str, tuple[tuple[str, ...], ...]]
"""By table the keys, in production's text form, of rows that could not be taken over."""


@dataclass(frozen=True, slots=True)
class Origin:
    """One life of one production: a database restored elsewhere or to an earlier moment is another one."""

    system: str
    timeline: int
    database: int
    target: str


@dataclass(frozen=True, slots=True)
class Cursor:
    """What a file has taken in: every transaction visible in `snapshot`, of the tables in `tables` (by fingerprint)."""

    origin: Origin
    snapshot: str
    at: str
    tables: Mapping[str, str] = field(default_factory=dict)
    again: Again = field(default_factory=dict)

    def to_text(self) -> str:
        """Return the cursor as it is kept."""
        return orjson.dumps(
            {
                "system_identifier": self.origin.system,
                "timeline": self.origin.timeline,
                "database": self.origin.database,
                "target": self.origin.target,
                "snapshot": self.snapshot,
                "at": self.at,
                "tables": dict(self.tables),
                "again": {name: [list(key) for key in keys] for name, keys in self.again.items()},
            }
        ).decode()

    @classmethod
    def from_text(cls, text: str) -> Cursor:
        """Return the cursor that `to_text` wrote."""
        kept = orjson.loads(text)
        return cls(
            Origin(kept["system_identifier"], kept["timeline"], kept["database"], kept["target"]),
            kept["snapshot"],
            kept["at"],
            kept["tables"],
            {name: tuple(tuple(key) for key in keys) for name, keys in kept["again"].items()},
        )


def forget(connection: sqlite3.Connection, tables: Collection[str]) -> None:
    """Let the next pull compare these tables whole."""
    text = read(connection)
    if text is None:
        return
    cursor = Cursor.from_text(text)
    kept = {name: shape for name, shape in cursor.tables.items() if name not in tables}
    if len(kept) < len(cursor.tables):
        changed = replace(cursor, tables=kept).to_text()
        connection.execute("UPDATE localstore_state SET value = ? WHERE name = ?", (changed, CURSOR))


async def here(connection: asyncpg.Connection, target: str) -> Cursor:
    """Return the cursor of the state that the running transaction sees."""
    row = await connection.fetchrow(
        """
        SELECT (SELECT system_identifier::text FROM pg_control_system()) AS system,
            ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer AS timeline,
            (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS database,
            pg_current_snapshot()::text AS snapshot, now()::text AS at
        """
    )
    origin = Origin(row["system"], row["timeline"], row["database"], target)
    return Cursor(origin, row["snapshot"], row["at"])


async def reaches(connection: asyncpg.Connection, old: Cursor, new: Cursor) -> bool:
    """Return whether everything that happened since `old` is still written down.

    What is older than undo is kept by nobody, and a snapshot from the future is one of a production that was set back.
    """
    return old.origin == new.origin and bool(
        await connection.fetchval(
            "SELECT pg_snapshot_xmax($1::text::pg_snapshot) <= pg_snapshot_xmax($2::text::pg_snapshot) "
            "AND $3::text::timestamptz > now() - make_interval(days => $4)",
            old.snapshot,
            new.snapshot,
            old.at,
            UNDO_DAYS - 1,
        )
    )


def read(connection: sqlite3.Connection) -> str | None:
    """Return the file's cursor as it is kept, None where nothing was ever pulled."""
    row = connection.execute("SELECT value FROM localstore_state WHERE name = ?", (CURSOR,)).fetchone()
    return None if row is None else str(row[0])
