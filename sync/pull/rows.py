"""One table of the tenant's file, row by row: found by production's key, read undecoded, written by column."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from localstore.codec import Bindable, Text, Value
from localstore.errors import MissingTable
from localstore.postgres.quoting import quote_identifier
from localstore.schema.sqlite import read_shape
from localstore.sqlite.layout import CatalogueEntry
from sync.changes import undecoded
from sync.pull.keys import Keys

Stored: TypeAlias = tuple[Value | None, ...]
Bound: TypeAlias = Bindable | None

FETCH_ROWS: Final = 256


def placeholder(value: Value | Bindable | None) -> tuple[str, Bound]:
    """Return a placeholder and what to bind to it: undecoded text would be bound as a BLOB."""
    if not isinstance(value, Text):
        return "?", value
    try:
        return "?", value.decode()
    except UnicodeDecodeError:
        return "CAST(? AS TEXT)", bytes(value)


def read(connection: sqlite3.Connection, statement: str, values: Sequence[Any] = ()) -> Iterator[Any]:
    """Yield rows with undecoded text; the connection is only changed while it fetches."""
    cursor = connection.cursor()
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


class LocalTable:
    """The rows of one tracked table, within a transaction."""

    def __init__(self, connection: sqlite3.Connection, entry: CatalogueEntry, company: str) -> None:
        shape = read_shape(connection, entry.table.name)
        if shape is None:
            raise MissingTable(
                f"the file has no table {entry.table.name}", hint="localstore schema apply --models MODULE"
            )
        self.entry = entry
        self.table = entry.table
        self.keys = Keys(self.table, company)
        self._connection = connection
        self._name = f"main.{quote_identifier(self.table.name)}"
        self.columns = self.table.sent
        at = {column.name: place for place, column in enumerate(self.columns)}
        fixed = {*self.table.key, self.table.company}
        self.places = tuple(place for place, column in enumerate(self.columns) if column.name not in fixed)
        self._key_places = tuple(at[name] for name in self.table.key)
        self._company_at = at[self.table.company] if self.table.has_company else None
        numbers = {name: number for number, name in enumerate(self.table.key, start=1)}
        self._where = shape.same_row(self.table.key, quote_identifier, lambda name: f"?{numbers[name]}")
        names = ", ".join(quote_identifier(column.name) for column in self.columns)
        self._select = f"SELECT {names} FROM {self._name} WHERE {self._where}"
        holes = ", ".join("?" for _ in self.columns)
        self._insert = f"INSERT INTO {self._name} ({names}) VALUES ({holes})"
        self._spellings: dict[str, tuple[Bound, ...]] | None = None
        self.uniques = tuple(
            dict.fromkeys(
                name
                for index in shape.indexes
                if index.unique
                for name in index.columns
                if name is not None and name in at and at[name] in self.places
            )
        )

    def find(self, ident: str, key: Sequence[Bound]) -> Stored | None:
        """Return the row of production's key, however the file spells it."""
        row = self._row(key)
        if row is None and not self.keys.one_spelling:
            other = self._spelled().get(ident)
            row = None if other is None else self._row(other)
        return row

    def key_of(self, row: Stored) -> tuple[Value | None, ...]:
        """Return the row's key as it is stored."""
        return tuple(row[place] for place in self._key_places)

    def all_keys(self) -> Iterator[tuple[Value | None, ...]]:
        """Yield every key of the table."""
        names = ", ".join(quote_identifier(name) for name in self.table.key)
        yield from read(self._connection, f"SELECT {names} FROM {self._name}")

    def insert(self, values: Sequence[Bound]) -> None:
        """Add a row."""
        self._connection.execute(self._insert, values)

    def update(self, row: Stored, values: Mapping[int, Bound]) -> None:
        """Set columns of a row that was just read."""
        # The key's numbered placeholders come first; those of the values follow.
        first = len(self.table.key) + 1
        sets = ", ".join(
            f"{quote_identifier(self.columns[place].name)} = ?{number}"
            for number, place in enumerate(values, start=first)
        )
        key = self._bound_key(row)
        self._connection.execute(f"UPDATE {self._name} SET {sets} WHERE {self._where}", [*key, *values.values()])

    def delete(self, row: Stored) -> None:
        """Remove a row that was just read."""
        self._connection.execute(f"DELETE FROM {self._name} WHERE {self._where}", self._bound_key(row))

    def _bound_key(self, row: Stored) -> list[Bound]:
        # A key that production has, too, is valid text.
        return [placeholder(row[place])[1] for place in self._key_places]

    def _row(self, key: Sequence[Bound]) -> Stored | None:
        cursor = self._connection.cursor()
        try:
            with undecoded(self._connection):
                found: Stored | None = cursor.execute(self._select, key).fetchone()
            return found
        finally:
            cursor.close()

    def _spelled(self) -> dict[str, tuple[Bound, ...]]:
        """Return the keys that the file spells otherwise than a pull would, by identity."""
        if self._spellings is None:
            self._spellings = {}
            for key in self.all_keys():
                ident = self.keys.of_stored(key)
                if ident is not None:
                    bound = tuple(placeholder(part)[1] for part in key)
                    if self.keys.has_documents or bound != self.keys.respelled(key):
                        self._spellings[ident] = bound
        return self._spellings
