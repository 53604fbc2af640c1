"""The marks of rows that a pull touched: its own go, and what stays pending begins from what production holds now."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from localstore.codec import Bindable, Value
from localstore.sqlite.marks import DELETE, INSERT, UPDATE, key_terms
from sync.batches import LocalBatch
from sync.pull.rows import LocalTable, placeholder, read


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark to be written: an update of the column at `ordinal` if there is one, else an insert or a delete.

    `values` are what follows in the mark: the old value and the key, the key, or the whole old row by ordinals.
    """

    op: int
    ordinal: int | None
    values: tuple[Value | Bindable | None, ...]


def update_mark(
    table: LocalTable, place: int, old: Value | Bindable | None, key: Sequence[Value | Bindable | None]
) -> Mark:
    """Return the mark that says a column was `old` before."""
    return Mark(UPDATE, table.table.ordinal[table.columns[place].name], (old, *key))


def insert_mark(key: Sequence[Value | Bindable | None]) -> Mark:
    """Return the mark that says there was no row before."""
    return Mark(INSERT, None, tuple(key))


def delete_mark(table: LocalTable, row: Sequence[Value | Bindable | None]) -> Mark:
    """Return the mark that says the row was there before."""
    by_ordinal: list[Value | Bindable | None] = [None] * len(table.table.columns)
    for column, value in zip(table.columns, row, strict=True):
        by_ordinal[table.table.ordinal[column.name]] = value
    return Mark(DELETE, None, tuple(by_ordinal))


def write(connection: sqlite3.Connection, table: LocalTable, written: Sequence[Mark]) -> None:
    """Write marks."""
    for mark in written:
        holes, bound = zip(*(placeholder(value) for value in mark.values), strict=True)
        names = ", ".join(f"v{number}" for number in range(len(mark.values)))
        connection.execute(
            f"INSERT INTO main.localstore_marks (tbl, op, col, {names}) VALUES (?, ?, ?, {', '.join(holes)})",
            (table.entry.id, mark.op, mark.ordinal, *bound),
        )


def marked(connection: sqlite3.Connection, table: LocalTable, after: int, up_to: int) -> Iterator[tuple[int, str]]:
    """Yield the number of each mark in (after, up_to] with the row's identity, as far as production can have it."""
    terms = ", ".join(key_terms(table.table))
    for seq, *key in read(
        connection,
        f"SELECT seq, {terms} FROM main.localstore_marks WHERE seq > ? AND seq <= ? AND tbl = ?",
        (after, up_to, table.entry.id),
    ):
        ident = table.keys.of_stored(key)
        if ident is not None:
            yield seq, ident


def sealed_in(
    connection: sqlite3.Connection, table: LocalTable, after: int, opened: Sequence[LocalBatch], among: Collection[str]
) -> dict[str, LocalBatch]:
    """Return for each of the rows `among` the first open batch that carries it."""
    found: dict[str, LocalBatch] = {}
    for batch in opened:
        for _, ident in marked(connection, table, after, batch.marks_to):
            if ident in among:
                found.setdefault(ident, batch)
        after = max(after, batch.marks_to)
    return found


def drop(connection: sqlite3.Connection, seqs: Sequence[int]) -> None:
    """Delete marks by number."""
    connection.executemany("DELETE FROM main.localstore_marks WHERE seq = ?", [(seq,) for seq in seqs])
