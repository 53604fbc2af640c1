"""Read what changed: coalesce a table's marks into at most one change a row.

Everything is read inside the caller's snapshot and streamed in key order. Two queries run side by side over the same
marks in the same order: one has a line for each key with the row as it is now, the other the old values of updated
columns. SQLite's sorter, which spills to disk, does the grouping, so memory does not grow with the marks.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal, TypeAlias

from localstore.codec import Text, Value
from localstore.errors import MissingTable
from localstore.postgres.quoting import quote_identifier
from localstore.schema.sqlite import Shape, read_shape
from localstore.schema.tables import Table
from localstore.sqlite.layout import CatalogueEntry
from localstore.sqlite.marks import DELETE, FREE, INSERT, UPDATE, key_terms

Row: TypeAlias = tuple[Value | None, ...]

# Rows in memory at once. A help-desk row may have megabytes, and fetching more at a time is hardly faster.
FETCH_ROWS: Final = 32


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one row; all values in SQLite's own storage classes, text undecoded.

    `op` is `i` (new), `u` (changed), `d` (gone) or `s` (a snapshot's row); `r` and `l` release a held row, to be tried
    again as it is or with what production holds as its base. `row` holds the sent columns of i, u and s. `changed`
    holds the places of a u's changed columns in `table.sent`. `base` holds what was there before: the whole row for
    d, the changed places for u. A key with a NULL part names no row for certain: it comes as i,
    and as d once no row has it. Of a `shared` change another row of the file has the same key in production: it is
    held under the file's spelling, and as d only ends what is held so.
    """

    op: Literal["i", "u", "d", "s", "r", "l"]
    key: Row
    row: Row | None
    changed: tuple[int, ...]
    base: Row | None
    shared: bool = False


@contextmanager
def undecoded(connection: sqlite3.Connection) -> Iterator[None]:
    """Let the connection give text as the bytes that are stored, valid UTF-8 or not."""
    before = connection.text_factory
    connection.text_factory = Text
    try:
        yield
    finally:
        connection.text_factory = before


def changes(connection: sqlite3.Connection, entry: CatalogueEntry, after: int, up_to: int) -> Iterator[Change]:
    """Yield the changes of one table from the marks in (after, up_to], in the order of their keys.

    A mark too many is harmless: a row that is as it was gives no change.
    """
    if after == 0 and _all_new(connection, entry, up_to):
        yield from snapshot_rows(connection, entry, "i")
        return
    table = entry.table
    queries = _Queries(connection, table)
    window = (after, up_to, entry.id)
    olds = _rows(connection, queries.olds, window)
    parts = len(table.key)
    for line in _rows(connection, queries.keys, window):
        key: Row = line[:parts]
        first_free, first_delete, updates, balance, present = line[parts : parts + 5]
        row: Row = line[parts + 5 :]
        earliest = _earliest(islice(olds, updates), key, first_delete)
        if None in key:
            gone = True
            for nameless in _rows(connection, *queries.of_key(key)):
                gone = False
                yield Change("i", key, nameless, (), None)
            if gone:
                yield Change("d", key, None, (), (None,) * len(table.sent))
        elif _is_new(first_free, first_delete, balance, present):
            if present:
                yield Change("i", key, row, (), None)
        elif first_delete is not None:
            base = list(next(_rows(connection, queries.deleted, (first_delete,))))
            for ordinal, old in earliest.items():
                base[queries.sent_place[ordinal]] = old
            if not present:
                yield Change("d", key, None, (), tuple(base))
            else:
                yield from _update(key, row, dict(enumerate(base)))
        elif present:
            yield from _update(key, row, {queries.sent_place[ordinal]: old for ordinal, old in earliest.items()})


def _all_new(connection: sqlite3.Connection, entry: CatalogueEntry, up_to: int) -> bool:
    """Return whether every row of a table that was never sealed was inserted within the marks, as on a first push.

    With no marks but of inserts no row has gone, so as many rows as marks means that there was none before them. To
    read the table is twice as fast as to ask the marks of every row.
    """
    marked, inserted = connection.execute(
        f"SELECT count(*), coalesce(sum(op = {INSERT}), 0) FROM main.localstore_marks WHERE seq <= ? AND tbl = ?",
        (up_to, entry.id),
    ).fetchone()
    if marked == 0 or marked != inserted:
        return False
    (rows,) = connection.execute(f"SELECT count(*) FROM main.{quote_identifier(entry.table.name)}").fetchone()
    return bool(rows == inserted)


def snapshot_rows(
    connection: sqlite3.Connection, entry: CatalogueEntry, op: Literal["s", "i"] = "s"
) -> Iterator[Change]:
    """Yield every row of the table, in the order of its key."""
    table = entry.table
    places = [column.name for column in table.sent]
    key_places = [places.index(name) for name in table.key]
    order = ", ".join(f"{quote_identifier(name)} COLLATE BINARY" for name in table.key)
    columns = ", ".join(quote_identifier(name) for name in places)
    for row in _rows(connection, f"SELECT {columns} FROM main.{quote_identifier(table.name)} ORDER BY {order}", ()):
        yield Change(op, tuple(row[place] for place in key_places), row, (), None)


def stored_row(connection: sqlite3.Connection, table: Table, key: Row) -> Row | None:
    """Return the row of that key as it is stored, None where there is none."""
    queries = _Queries(connection, table)
    return next(_rows(connection, *queries.of_key(key)), None)


def _earliest(olds: Iterable[Any], key: Row, first_delete: int | None) -> dict[int, Value | None]:
    """Return the earliest old value of each updated column; a delete mark tells all that comes after it."""
    earliest: dict[int, Value | None] = {}
    for ordinal, old, seq, *marked in olds:
        if tuple(marked) != key:
            raise AssertionError("the marks of a table were read in two orders")
        if first_delete is None or seq < first_delete:
            earliest.setdefault(ordinal, old)
    return earliest


def _is_new(first_free: int | None, first_delete: int | None, balance: int, present: int) -> bool:
    """Return whether no row had this key before.

    The first mark tells: it saw the key free, or the row that had it. Only an insert mark may come late, when a
    trigger on the table deletes or replaces the row that was just inserted. Then counting helps: every removal left
    a delete mark at least, every insert one insert mark, so that a row from before would not leave enough of them.
    """
    if first_free is not None and (first_delete is None or first_free < first_delete):
        return True
    return first_delete is not None and balance + present <= 0


def _update(key: Row, row: Row, earliest: dict[int, Value | None]) -> Iterator[Change]:
    changed = tuple(sorted(place for place, old in earliest.items() if not _same(old, row[place])))
    if changed:
        base: list[Value | None] = [None] * len(row)
        for place in changed:
            base[place] = earliest[place]
        yield Change("u", key, row, changed, tuple(base))


def _same(one: Value | None, other: Value | None) -> bool:
    """Return whether two values are stored alike; to Python 1 equals 1.0, and text equals the blob of its bytes."""
    return type(one) is type(other) and one == other


def _rows(connection: sqlite3.Connection, statement: str, values: Sequence[Any]) -> Iterator[Any]:
    """Yield rows with undecoded text; the connection is only changed while it fetches."""
    cursor = connection.cursor()
    cursor.row_factory = None
    try:
        with undecoded(connection):
            cursor.execute(statement, values)
            rows = cursor.fetchmany(FETCH_ROWS)
        while rows:
            yield from rows
            with undecoded(connection):
                rows = cursor.fetchmany(FETCH_ROWS)
    finally:
        cursor.close()


class _Queries:
    """The statements that read one table's changes."""

    def __init__(self, connection: sqlite3.Connection, table: Table) -> None:
        shape = read_shape(connection, table.name)
        if shape is None:
            raise MissingTable(f"the file has no table {table.name}", hint="localstore schema apply --models MODULE")
        self.table = table
        self.name = f"main.{quote_identifier(table.name)}"
        sent = [column.name for column in table.sent]
        self.sent_place = {table.ordinal[name]: place for place, name in enumerate(sent)}
        columns = ", ".join(f"t.{quote_identifier(name)}" for name in sent)
        self.keys = self._keys(shape, columns)
        self.olds = self._olds()
        olds = ", ".join(f"v{table.ordinal[name]}" for name in sent)
        self.deleted = f"SELECT {olds} FROM main.localstore_marks WHERE seq = ?"
        self.columns = columns

    def of_key(self, key: Row) -> tuple[str, list[Value | str | None]]:
        """Return the query for all rows with this key, which may have NULL parts, and the values it binds."""
        tests: list[str] = []
        bound: list[Value | str | None] = []
        for name, value in zip(self.table.key, key, strict=True):
            column = f"t.{quote_identifier(name)}"
            hole, given = _hole(value)
            tests.append(f"{column} IS {hole} COLLATE BINARY AND typeof({column}) = typeof({hole})")
            bound += [given, given]
        return f"SELECT {self.columns} FROM {self.name} AS t WHERE {' AND '.join(tests)}", bound

    def _keys(self, shape: Shape, columns: str) -> str:
        terms = ", ".join(f"{term} AS k{part}" for part, term in enumerate(key_terms(self.table)))
        parts = range(len(self.table.key))
        places = {name: part for part, name in enumerate(self.table.key)}
        join = shape.same_row(
            self.table.key, lambda name: f"t.{quote_identifier(name)}", lambda name: f"g.k{places[name]}"
        )
        return (
            f"SELECT {', '.join(f'g.k{part}' for part in parts)}, g.first_free, g.first_delete, g.updates, g.balance,"
            f" t.{quote_identifier(self.table.key[0])} IS NOT NULL, {columns}"
            f" FROM (SELECT {', '.join(f'k{part}' for part in parts)},"
            f" min(CASE WHEN op IN ({INSERT}, {FREE}) THEN seq END) AS first_free,"
            f" min(CASE op WHEN {DELETE} THEN seq END) AS first_delete,"
            f" sum(op = {UPDATE}) AS updates, sum(op = {DELETE}) - sum(op = {INSERT}) AS balance"
            f" FROM (SELECT seq, op, {terms} FROM main.localstore_marks WHERE seq > ? AND seq <= ? AND tbl = ?)"
            f" GROUP BY {_grouping(f'k{part}' for part in parts)}) AS g"
            f" LEFT JOIN {self.name} AS t ON {join}"
        )

    def _olds(self) -> str:
        key = [f"v{part + 1}" for part in range(len(self.table.key))]
        return (
            f"SELECT col, v0, seq, {', '.join(key)} FROM main.localstore_marks"
            f" WHERE seq > ? AND seq <= ? AND tbl = ? AND op = {UPDATE} ORDER BY {_grouping(key)}, seq"
        )


def _hole(value: Value | None) -> tuple[str, Value | str | None]:
    """Return a placeholder and what to bind to it: undecoded text would be bound as a BLOB."""
    if not isinstance(value, Text):
        return "?", value
    try:
        return "?", value.decode()
    except UnicodeDecodeError:
        return "CAST(? AS TEXT)", bytes(value)


def _grouping(terms: Iterable[str]) -> str:
    """Return terms that keep apart what SQLite compares as equal but stores as different: 1 and 1.0."""
    return ", ".join(f"{term}, typeof({term})" for term in terms)
