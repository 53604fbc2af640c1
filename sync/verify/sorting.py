"""Sort a side that does not come in order, and keep differences until they are explained: on disk, not in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

from sync.verify.frames import LocalRow
from sync.verify.order import Place


def scratch() -> sqlite3.Connection:
    """Open a database that SQLite keeps in memory while it is small and else in a file without a name."""
    return sqlite3.connect("", isolation_level=None, check_same_thread=False)


def columns(parts: int, *others: str) -> str:
    """Return the names of the columns that hold a place, and of others, as a list."""
    return ", ".join((*(f"k{part}" for part in range(parts)), *others))


class Sorted:
    """Rows of one side, taken in any order and given back in the order of their places; those without one first."""

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._database = scratch()
        self._database.execute(f"CREATE TABLE rows ({columns(parts, 'frame', 'defects', 'shown')})")
        self._database.execute("BEGIN")

    def add(self, rows: Iterable[LocalRow]) -> None:
        """Take rows."""
        marks = ", ".join("?" * (self._parts + 3))
        self._database.executemany(f"INSERT INTO rows VALUES ({marks})", map(self._pack, rows))

    def __iter__(self) -> Iterator[LocalRow]:
        order = columns(self._parts) or "rowid"
        for *place, frame, defects, shown in self._database.execute(f"SELECT * FROM rows ORDER BY {order}"):
            if shown is not None:
                yield LocalRow(None, frame, self._defects(defects), tuple(orjson.loads(shown)))
            else:
                yield LocalRow(tuple(place), frame, self._defects(defects))

    def close(self) -> None:
        """Forget the rows."""
        self._database.close()

    def _pack(self, row: LocalRow) -> Sequence[Any]:
        place: Place = (None,) * self._parts if row.place is None else row.place
        defects = orjson.dumps(list(row.defects.items())) if row.defects else None
        return (*place, row.frame, defects, orjson.dumps(row.shown) if row.place is None else None)

    @staticmethod
    def _defects(packed: bytes | None) -> dict[int, tuple[str, str]]:
        return {at: (shown, message) for at, (shown, message) in orjson.loads(packed)} if packed else {}
