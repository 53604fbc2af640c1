"""Production's rows of the help desk, read and written within an application's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import asyncpg

from localstore.columns import parse_json
from localstore.helpdesk import natural_id
from localstore.interchange.rows import RAW_COLUMNS, Row, Rows
from localstore.postgres.quoting import quote_identifier
from localstore.schema.postgres import relation
from localstore.schema.tables import Kind
from localstore.storage.changes import written


class ProductionRows:
    """One table's rows in production; every statement is bound to one company by the transaction that it runs in."""

    def __init__(self, rows: Rows, target: str) -> None:
        self.rows = rows
        self.relation = relation(target, rows.table.name)
        self._columns = ", ".join(map(quote_identifier, rows.names))
        self._json = {column.name for column in rows.table.columns if column.kind is Kind.JSON} - RAW_COLUMNS

    async def select(self, connection: asyncpg.Connection, rest: str, values: Sequence[Any]) -> list[Row]:
        """Return the rows that `rest` (WHERE, ORDER BY, LIMIT) leaves, with values of Python's types."""
        found = await connection.fetch(f"SELECT {self._columns} FROM {self.relation} {rest}", *values)
        return [self._decoded(record) for record in found]

    async def find(self, connection: asyncpg.Connection, key: Sequence[str], *, lock: bool = False) -> Row | None:
        """Return the row with this key, kept from others until the transaction's end with `lock`."""
        rows = await self.select(connection, f"WHERE {self._key_is()}{' FOR UPDATE' if lock else ''}", key)
        return rows[0] if rows else None

    async def children(self, connection: asyncpg.Connection, key: Sequence[str]) -> list[Row]:
        """Return the rows whose key begins with these parts."""
        return await self.select(connection, f"WHERE {self._key_is(parts=len(key))}", key)

    async def insert(self, connection: asyncpg.Connection, row: Row) -> bool:
        """Insert a row, whose `id` follows from its key; return False where one with its key is there."""
        key = (str(row[name]) for name in self.rows.table.key)
        stored = written(self.rows, row) | {"id": natural_id(self.rows.table.name, *key)}
        marks = ", ".join(f"${place}" for place in range(1, len(stored) + 1))
        names = ", ".join(map(quote_identifier, stored))
        tag = await connection.execute(
            f"INSERT INTO {self.relation} ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING", *stored.values()
        )
        return _count(tag) > 0

    async def update(self, connection: asyncpg.Connection, key: Sequence[str], changes: Row) -> bool:
        """Set these columns of one row and touch no other; return whether the row was there."""
        places = range(len(key) + 1, len(key) + len(changes) + 1)
        assignments = ", ".join(
            f"{quote_identifier(name)} = ${place}" for name, place in zip(changes, places, strict=True)
        )
        tag = await connection.execute(
            f"UPDATE {self.relation} SET {assignments} WHERE {self._key_is()}",
            *key,
            *written(self.rows, changes).values(),
        )
        return _count(tag) > 0

    async def delete(self, connection: asyncpg.Connection, key: Sequence[str]) -> bool:
        """Delete one row; return whether it was there."""
        return _count(await connection.execute(f"DELETE FROM {self.relation} WHERE {self._key_is()}", *key)) > 0

    def _key_is(self, *, parts: int | None = None) -> str:
        names: Iterable[str] = self.rows.table.key[:parts]
        return " AND ".join(f"{quote_identifier(name)} = ${place}" for place, name in enumerate(names, 1))

    def _decoded(self, record: asyncpg.Record) -> Row:
        row = dict(record)
        for name in self._json:
            if row[name] is not None:
                row[name] = parse_json(row[name])
        return row


def _count(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
