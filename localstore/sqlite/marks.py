"""Marks: the captured writes of a tenant's file, how their keys are read, counted and trimmed.

An insert mark holds the new key, an update mark one column's old value and the key, a delete mark the whole old row,
and a free mark a key that no row had when another row's key was about to become it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from localstore.schema.tables import Table
from localstore.sqlite import generations
from localstore.sqlite.layout import read_catalogue

INSERT: Final = 1
UPDATE: Final = 2
DELETE: Final = 3
FREE: Final = 4


def key_terms(table: Table) -> tuple[str, ...]:
    """Return an SQL expression for each part of the key that a mark names, whatever its kind."""
    return tuple(
        f"CASE op WHEN {UPDATE} THEN v{part + 1} WHEN {DELETE} THEN v{table.ordinal[name]} ELSE v{part} END"
        for part, name in enumerate(table.key)
    )


def width(tables: Sequence[Table]) -> int:
    """Return how many v columns the marks of these tables need."""
    return max((max(len(table.columns), len(table.key) + 1) for table in tables), default=0)


def newest(connection: sqlite3.Connection) -> int:
    """Return the number of the newest mark, 0 where there is none yet."""
    row = connection.execute("SELECT max(seq) FROM localstore_marks").fetchone()
    return int(row[0] or 0)


def pending(connection: sqlite3.Connection, after: int) -> dict[str, int]:
    """Return how many rows of each table have marks newer than `after`; tables without any are left out."""
    counts: dict[str, int] = {}
    for entry in read_catalogue(connection):
        # 1 and 1.0 are one group to SQLite and two keys to us.
        terms = ", ".join(f"{term}, typeof({term})" for term in key_terms(entry.table))
        rows = connection.execute(
            f"SELECT count(*) FROM (SELECT DISTINCT {terms} FROM localstore_marks WHERE seq > ? AND tbl = ?)",
            (after, entry.id),
        ).fetchone()[0]
        if rows:
            counts[entry.table.name] = rows
    return counts


def trim(connection: sqlite3.Connection, up_to: int) -> int:
    """Delete the marks up to and including `up_to` but the newest, and return how many went.

    The newest mark stays because SQLite gives a new row the highest number plus one: with it gone, numbers would
    come back. How far each table was is kept, for what compares generations. Running this twice is safe.
    """
    generations.keep(connection, up_to)
    return connection.execute(
        "DELETE FROM localstore_marks WHERE seq <= ? AND seq < (SELECT max(seq) FROM localstore_marks)", (up_to,)
    ).rowcount


def count_on_from(connection: sqlite3.Connection, last: int) -> None:
    """See to it that the next mark's number is beyond `last`: a number that comes back would never be sealed."""
    if newest(connection) < last:
        connection.execute("INSERT INTO main.localstore_marks (seq) VALUES (?)", (last,))
