"""A row's key as the tenant's file spells it, found by the key as production writes it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping

from localstore.codec import Bindable, Text, Value, ValueDefect, decode_text, equal, field_encoders, preview
from localstore.postgres.quoting import quote_identifier
from localstore.schema.tables import Table
from sync.changes import Row, undecoded
from sync.rows import spelt
from sync.spellings import can_be_spelt_otherwise
from sync.staging import ONE_SPELLING


def stored_key(
    connection: sqlite3.Connection, table: Table, company: str, parts: Mapping[str, str]
) -> list[Bindable | None]:
    """Return the key's values to look a row up by, as the file spells them; without such a row, as we would.

    One moment, number or UUID has many spellings. Rows are looked through only where the usual one finds none.
    """
    kinds = {name: table.by_name[name].kind for name in table.key}
    wanted: list[Bindable | None] = [
        company if name == table.company else decode_text(kinds[name], parts[name]) for name in table.key
    ]
    names = [quote_identifier(name) for name in table.key]
    source = f"FROM main.{quote_identifier(table.name)}"
    where = " AND ".join(f"{name} = ?" for name in names)
    if set(kinds.values()) <= ONE_SPELLING or connection.execute(f"SELECT 1 {source} WHERE {where}", wanted).fetchone():
        return wanted
    found = _matching(connection, table, _same_key(table, wanted))
    return found[0] if found else wanted


def rows_of_key(
    connection: sqlite3.Connection, table: Table, company: str, parts: Mapping[str, str]
) -> list[list[Bindable | None]]:
    """Return the keys, as the file spells them, of all its rows that have this key in production."""
    wanted: list[Bindable | None] = [
        company if name == table.company else decode_text(table.by_name[name].kind, parts[name]) for name in table.key
    ]
    if not can_be_spelt_otherwise(table):
        names = " AND ".join(f"{quote_identifier(name)} = ?" for name in table.key)
        statement = f"SELECT 1 FROM main.{quote_identifier(table.name)} WHERE {names}"
        return [wanted] if connection.execute(statement, wanted).fetchone() else []
    return _matching(connection, table, _same_key(table, wanted))


def rows_spelt(connection: sqlite3.Connection, table: Table, parts: Mapping[str, str]) -> list[list[Bindable | None]]:
    """Return the keys of the file's rows that look like this there, whatever production makes of them."""
    looks = {name: text for name, text in parts.items() if name != table.company}

    def like(row: Row) -> bool:
        return all(
            looks[name] in (spelt(value), "NULL" if value is None else preview(value))
            for name, value in zip(table.key, row, strict=True)
            if name in looks
        )

    return _matching(connection, table, like)


def _matching(connection: sqlite3.Connection, table: Table, test: Callable[[Row], bool]) -> list[list[Bindable | None]]:
    names = ", ".join(quote_identifier(name) for name in table.key)
    with undecoded(connection):
        found = list(filter(test, connection.execute(f"SELECT {names} FROM main.{quote_identifier(table.name)}")))
    return [[part.decode("utf-8", "replace") if isinstance(part, Text) else part for part in row] for row in found]


def _same_key(table: Table, wanted: list[Bindable | None]) -> Callable[[Row], bool]:
    kinds = {name: table.by_name[name].kind for name in table.key}
    encoders = dict(zip((column.name for column in table.sent), field_encoders(table), strict=True))

    def same(row: Row) -> bool:
        try:
            return all(
                value is not None
                and given is not None
                and equal(kinds[name], encoders[name](value), encoders[name](_undecoded(given)))
                for name, value, given in zip(table.key, row, wanted, strict=True)
            )
        except ValueDefect:
            return False

    return same


def _undecoded(value: Bindable) -> Value:
    return Text(value.encode()) if isinstance(value, str) else value
