"""Where tables of a tenant's file stand towards production, as the file itself knows it."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

import orjson

from localstore.sqlite.mode import read_mode
from sync.config import TARGET_DEFAULT
from sync.status import TARGET, remembered


@dataclass(frozen=True, slots=True)
class Standing:
    """A tenant's mode and production schema, and whether tables have changes that production lacks or holds back."""

    mode: str
    target: str
    pending: bool
    held: bool

    @property
    def settled(self) -> bool:
        """Whether production shows these tables as the file does, but for what others wrote there since."""
        return not self.pending and not self.held


def read_standing(connection: sqlite3.Connection, tables: Collection[str] | None = None) -> Standing:
    """Read how these tables stand (None: all), in the caller's transaction.

    A change is pending from its mark until its batch is acknowledged, and in that very transaction it becomes held
    where production did not take it, so that there is no moment at which it is neither and yet not in production.
    """
    known = {
        name: (number, due)
        for number, name, due in connection.execute("SELECT id, name, snapshot_due FROM localstore_tables")
        if tables is None or name in tables
    }
    return Standing(
        mode=read_mode(connection),
        target=remembered(connection, TARGET) or TARGET_DEFAULT,
        pending=any(due for _, due in known.values())
        or _is_waiting(connection, {name: number for name, (number, _) in known.items()}),
        held=any(name in known for (name,) in connection.execute("SELECT DISTINCT tbl FROM localstore_held")),
    )


def _is_waiting(connection: sqlite3.Connection, ids: dict[str, int]) -> bool:
    # Batches are recorded in the order of their chain, so nothing before the last acknowledged one is open.
    last = connection.execute(
        "SELECT rowid, marks_to FROM localstore_batches WHERE state = 'acknowledged' ORDER BY rowid DESC LIMIT 1"
    ).fetchone()
    row, marks_to = last or (0, 0)
    marks = ", ".join(str(number) for number in ids.values())
    if connection.execute(
        f"SELECT 1 FROM localstore_marks WHERE seq > ? AND tbl IN ({marks}) LIMIT 1", (marks_to,)
    ).fetchone():
        return True
    # Rows of a snapshot part travel without marks.
    opened = connection.execute("SELECT counts FROM localstore_batches WHERE rowid > ? AND state = 'sealed'", (row,))
    return any(name in ids for (counts,) in opened for name in orjson.loads(counts))
