"""A row's key as the tenant's file spells it, found by the key as production writes it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from localstore.codec import Bindable, Text, Value, ValueDefect, decode_text, equal, field_encoders
from localstore.postgres.quoting import quote_identifier
from localstore.schema.tables import Table
from sync.changes import undecoded
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
    encoders = dict(zip((column.name for column in table.sent), field_encoders(table), strict=True))

    def same(row: tuple[Value | None, ...]) -> bool:
        try:
            return all(
                value is not None
                and given is not None
                and equal(kinds[name], encoders[name](value), encoders[name](_undecoded(given)))
                for name, value, given in zip(table.key, row, wanted, strict=True)
            )
        except ValueDefect:
            return False

    with undecoded(connection):
        found = next(filter(same, connection.execute(f"SELECT {', '.join(names)} {source}")), None)
    return wanted if found is None else [part.decode() if isinstance(part, Text) else part for part in found]


def _undecoded(value: Bindable) -> Value:
    return Text(value.encode()) if isinstance(value, str) else value
