"""Read a table's real shape from a SQLite file: columns, keys, unique indexes, affinities."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final

from localstore.postgres.quoting import quote_identifier
from localstore.schema.tables import COMPANY_COLUMN, Column, ForeignKey, Index, Kind, Table
from localstore.schema.types import kind_of_declared


class Affinity(StrEnum):
    """What SQLite tries to make of a value before it stores it in a column."""

    TEXT = "TEXT"
    NUMERIC = "NUMERIC"
    INTEGER = "INTEGER"
    REAL = "REAL"
    BLOB = "BLOB"


_ROWID_NAMES: Final = ("rowid", "_rowid_", "oid")
_KIND_OF_CLASS: Final = {"text": Kind.TEXT, "integer": Kind.INTEGER, "real": Kind.REAL, "blob": Kind.BLOB}


@dataclass(frozen=True, slots=True)
class ShapeColumn:
    """One column as the file has it. `key_place` counts from 1 in the primary key, 0 is outside of it."""

    name: str
    declared: str
    affinity: Affinity
    not_null: bool
    default: str | None
    key_place: int
    generated: bool


@dataclass(frozen=True, slots=True)
class ShapeIndex:
    """One index as the file has it; a column that is an expression has no name."""

    name: str
    origin: str
    unique: bool
    partial: bool
    columns: tuple[str | None, ...]
    collations: tuple[str, ...]

    @property
    def plain(self) -> bool:
        """Return whether the index covers every row, by columns alone."""
        return not self.partial and None not in self.columns


@dataclass(frozen=True)
class Shape:
    """A table as the file has it."""

    name: str
    columns: tuple[ShapeColumn, ...]
    indexes: tuple[ShapeIndex, ...]
    without_rowid: bool

    @cached_property
    def by_name(self) -> dict[str, ShapeColumn]:
        """Return the columns by name."""
        return {column.name: column for column in self.columns}

    @cached_property
    def key(self) -> tuple[str, ...]:
        """Return the declared primary key, in its own order."""
        members = sorted((column for column in self.columns if column.key_place), key=lambda column: column.key_place)
        return tuple(column.name for column in members)

    @cached_property
    def rowid_alias(self) -> str | None:
        """Return the column that is the rowid under another name (`INTEGER PRIMARY KEY DESC` is none)."""
        if self.without_rowid or len(self.key) != 1 or any(index.origin == "pk" for index in self.indexes):
            return None
        column = self.by_name[self.key[0]]
        return column.name if column.declared.upper() == "INTEGER" else None

    @cached_property
    def rowid(self) -> str | None:
        """Return a name by which the rowid can be had, unless there is none or columns took all its names."""
        if self.without_rowid:
            return None
        taken = {column.name.lower() for column in self.columns}
        return next((name for name in _ROWID_NAMES if name not in taken), None)

    def same_row(self, key: tuple[str, ...], one: Callable[[str], str], other: Callable[[str], str]) -> str:
        """Return a test that two rows have one key as stored, byte by byte, such that the key's index serves it.

        `one` gives the expression of a part of the row that is looked for, `other` of the row that is known.
        """
        tests: list[str] = []
        for name in key:
            collation = self._collation(key, name)
            tests.append(f"{one(name)} = {other(name)} COLLATE {quote_identifier(collation)}")
            if collation.upper() != "BINARY":
                tests.append(f"{one(name)} = {other(name)} COLLATE BINARY")
            if self.by_name[name].affinity is Affinity.BLOB:
                tests.append(f"typeof({one(name)}) = typeof({other(name)})")
        return " AND ".join(tests)

    def _collation(self, key: tuple[str, ...], name: str) -> str:
        for index in self.indexes:
            if index.unique and index.plain and set(index.columns) == set(key):
                return index.collations[index.columns.index(name)]
        return "BINARY"


def affinity(declared: str, *, strict: bool = False) -> Affinity:
    """Return the affinity of a declared type, by SQLite's rules in their order."""
    name = declared.upper()
    if strict and name == "ANY":
        return Affinity.BLOB
    if "INT" in name:
        return Affinity.INTEGER
    if any(part in name for part in ("CHAR", "CLOB", "TEXT")):
        return Affinity.TEXT
    if "BLOB" in name or not name:
        return Affinity.BLOB
    if any(part in name for part in ("REAL", "FLOA", "DOUB")):
        return Affinity.REAL
    return Affinity.NUMERIC


def read_shape(connection: sqlite3.Connection, name: str) -> Shape | None:
    """Return the shape of the main schema's ordinary table `name`, or None where there is no such table."""
    listed = connection.execute(
        "SELECT wr, strict FROM pragma_table_list(?) WHERE schema = 'main' AND type = 'table' AND name = ?",
        (name, name),
    ).fetchone()
    if listed is None:
        return None
    without_rowid, strict = bool(listed[0]), bool(listed[1])
    columns = tuple(
        ShapeColumn(
            column, declared, affinity(declared, strict=strict), bool(required), default, place, bool(generated)
        )
        for column, declared, required, default, place, generated in connection.execute(
            'SELECT name, type, "notnull", dflt_value, pk, hidden IN (2, 3) FROM pragma_table_xinfo(?)', (name,)
        )
    )
    indexes = tuple(
        ShapeIndex(index, origin, bool(unique), bool(partial), *_index_columns(connection, index))
        for index, origin, unique, partial in connection.execute(
            'SELECT name, origin, "unique", partial FROM pragma_index_list(?) ORDER BY name', (name,)
        ).fetchall()
    )
    return Shape(name, columns, indexes, without_rowid)


def table_from_sqlite(connection: sqlite3.Connection, name: str) -> Table | None:
    """Return the table `name` as the file declares it, or None where there is no such table.

    Where a declared type does not say what it means, the stored values decide, and a mixture is text.
    """
    shape = read_shape(connection, name)
    if shape is None:
        return None
    key = tuple(sorted(shape.key, key=lambda column: column != COMPANY_COLUMN))
    return Table(
        name=name,
        columns=tuple(column_from_sqlite(connection, shape, column) for column in shape.columns),
        key=key,
        uniques=tuple(
            sorted(
                {
                    _names(index)
                    for index in shape.indexes
                    if index.unique and index.plain and index.origin != "pk" and set(_names(index)) != set(key)
                }
            )
        ),
        foreign_keys=_foreign_keys(connection, name),
        indexes=tuple(
            Index(index.name, _names(index))
            for index in shape.indexes
            if not index.unique and index.plain and index.origin == "c"
        ),
        has_company=COMPANY_COLUMN in shape.by_name,
    )


def column_from_sqlite(connection: sqlite3.Connection, shape: Shape, column: ShapeColumn) -> Column:
    """Return one column of the file as a column of a `Table`."""
    return Column(
        name=column.name,
        kind=kind_of_declared(column.declared) or _kind_of_values(connection, shape.name, column.name),
        nullable=not (column.not_null or column.key_place),
        computed=column.generated,
        declared=column.declared,
    )


def _kind_of_values(connection: sqlite3.Connection, table: str, column: str) -> Kind:
    name = quote_identifier(column)
    classes = {
        row[0]
        for row in connection.execute(
            f"SELECT DISTINCT typeof({name}) FROM main.{quote_identifier(table)} WHERE {name} IS NOT NULL"
        )
    }
    if classes == {"integer", "real"}:
        return Kind.REAL
    return _KIND_OF_CLASS[classes.pop()] if len(classes) == 1 else Kind.TEXT


def _index_columns(connection: sqlite3.Connection, index: str) -> tuple[tuple[str | None, ...], tuple[str, ...]]:
    rows = connection.execute(
        'SELECT name, coll FROM pragma_index_xinfo(?) WHERE "key" = 1 ORDER BY seqno', (index,)
    ).fetchall()
    return tuple(row[0] for row in rows), tuple(row[1] for row in rows)


def _names(index: ShapeIndex) -> tuple[str, ...]:
    return tuple(column for column in index.columns if column is not None)


def _foreign_keys(connection: sqlite3.Connection, name: str) -> tuple[ForeignKey, ...]:
    found: dict[int, tuple[str, str, list[tuple[str, str | None]]]] = {}
    for number, parent, column, parent_column, on_delete in connection.execute(
        'SELECT id, "table", "from", "to", on_delete FROM pragma_foreign_key_list(?) ORDER BY id, seq', (name,)
    ):
        found.setdefault(number, (parent, on_delete, []))[2].append((column, parent_column))
    keys = []
    for parent, on_delete, pairs in found.values():
        named = tuple(parent_column for _, parent_column in pairs if parent_column is not None)
        if not named:  # a reference without columns means the parent's primary key
            shape = read_shape(connection, parent)
            named = shape.key if shape else ()
        keys.append(ForeignKey(tuple(column for column, _ in pairs), parent, named, on_delete))
    return tuple(sorted(keys, key=lambda key: (key.columns, key.parent)))
