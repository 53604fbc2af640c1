"""The differences of one table, kept on disk until they can be explained, and the rows that are waiting to be sent."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import orjson

from sync.verify.order import Place
from sync.verify.sorting import columns, scratch

WRITE_AT_A_TIME: Final = 500


class Finding(NamedTuple):
    """A difference before it is explained.

    `exact` says that `key` is production's text form and can be looked up there. `column` is a place in the columns
    that travel, None for a whole row; `op` and `changed` say how the row is waiting to be sent, if it is.
    """

    key: tuple[str, ...]
    exact: bool
    column: int | None
    local: str | None
    production: str | None
    note: str
    op: str | None = None
    changed: frozenset[int] = frozenset()


class Findings:
    """What was found in one table. Opens nothing until there is something to keep."""

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._database: sqlite3.Connection | None = None
        self._waiting: list[tuple[object, ...]] = []

    def add(self, place: Place | None, finding: Finding) -> None:
        """Keep a difference. `place` is where its row stands; a key that has none is told by its looks."""
        self._waiting.append(
            (
                *(finding.key if place is None else place),
                orjson.dumps(finding.key).decode(),
                finding.exact,
                finding.column,
                finding.local,
                finding.production,
                finding.note,
            )
        )
        if len(self._waiting) >= WRITE_AT_A_TIME:
            self._write()

    def __bool__(self) -> bool:
        return bool(self._waiting) or self._database is not None

    def note_pending(self, rows: Iterable[tuple[Place | None, tuple[str, ...], str, Iterable[int]]]) -> None:
        """Take the rows that are waiting to be sent: place, key's looks, operation, places of the changed columns."""
        marks = ", ".join("?" * (self._parts + 2))
        # Two spellings of one key are two rows to the file and one to production: then the whole row is waiting.
        both = f"ON CONFLICT ({columns(self._parts)}) DO UPDATE SET op = 'i'" if self._parts else ""
        self._open().executemany(
            f"INSERT INTO pending VALUES ({marks}) {both}",
            (
                (*(shown if place is None else place), op, orjson.dumps(list(changed)).decode())
                for place, shown, op, changed in rows
            ),
        )

    def batches(self, size: int) -> Iterator[list[Finding]]:
        """Yield what was found, with how it is waiting to be sent."""
        self._write()
        if self._database is None:
            return
        database = self._database
        join = " AND ".join(f"p.k{part} IS f.k{part}" for part in range(self._parts)) or "true"
        cursor = database.execute(
            "SELECT f.key, f.exact, f.place, f.local, f.production, f.note, p.op, p.changed "
            f"FROM found f LEFT JOIN pending p ON {join} ORDER BY f.rowid"
        )
        while rows := cursor.fetchmany(size):
            yield [
                Finding(
                    tuple(orjson.loads(key)),
                    bool(exact),
                    column,
                    local,
                    production,
                    note,
                    op,
                    frozenset(orjson.loads(changed)) if changed else frozenset(),
                )
                for key, exact, column, local, production, note, op, changed in rows
            ]

    def close(self) -> None:
        """Forget everything."""
        if self._database is not None:
            self._database.close()

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = scratch()
            found = columns(self._parts, "key", "exact", "place", "local", "production", "note")
            self._database.execute(f"CREATE TABLE found ({found})")
            self._database.execute(f"CREATE TABLE pending ({columns(self._parts, 'op', 'changed')})")
            if self._parts:
                self._database.execute(f"CREATE UNIQUE INDEX pending_place ON pending ({columns(self._parts)})")
            self._database.execute("BEGIN")
        return self._database

    def _write(self) -> None:
        if self._waiting:
            marks = ", ".join("?" * (self._parts + 6))
            self._open().executemany(f"INSERT INTO found VALUES ({marks})", self._waiting)
            self._waiting.clear()
