"""Rows of the help desk's tables as plain values: read tolerantly, written exactly, without an ORM's unit of work."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from uuid import UUID

from localstore.columns import dump_json, parse_json
from localstore.helpdesk import Conversation, KnowledgeArticle, ProcessingProgress, Ticket, natural_id
from localstore.interchange.values import time_of
from localstore.models import TenantModel
from localstore.postgres.quoting import quote_identifier
from localstore.schema.reflect import table_from_model
from localstore.schema.tables import Kind, Table

Row = dict[str, Any]

# JSON that is kept as the text it came in.
RAW_COLUMNS = frozenset({"raw_data", "raw_summary"})

_AS_BYTES = frozenset({Kind.TEXT, Kind.JSON, Kind.TIMESTAMP, Kind.UUID})


class Rows:
    """One table's rows. Text that is no UTF-8 is read with U+FFFD, so that one bad value hides no row."""

    def __init__(self, model: type[TenantModel]) -> None:
        self._model = model
        self._inserts: dict[tuple[str, ...], str] = {}

    @cached_property
    def table(self) -> Table:
        """Return the table."""
        return table_from_model(self._model)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return the columns' names."""
        return tuple(column.name for column in self.table.columns)

    @cached_property
    def name(self) -> str:
        """Return the table's name, quoted."""
        return quote_identifier(self.table.name)

    @cached_property
    def _selected(self) -> str:
        return ", ".join(
            f"CAST({quote_identifier(column.name)} AS BLOB)"
            if column.kind in _AS_BYTES
            else quote_identifier(column.name)
            for column in self.table.columns
        )

    def select(self, connection: sqlite3.Connection, rest: str, values: Sequence[Any]) -> Iterator[Row]:
        """Give the rows that `rest` (WHERE, ORDER BY, LIMIT) leaves, with values of Python's types."""
        kinds = [(column.name, column.kind) for column in self.table.columns]
        for stored in connection.execute(f"SELECT {self._selected} FROM {self.name} {rest}", values):
            yield {name: _decode(name, kind, value) for (name, kind), value in zip(kinds, stored, strict=True)}

    def find(self, connection: sqlite3.Connection, key: Sequence[str]) -> Row | None:
        """Return the row with this key."""
        return next(self.select(connection, f"WHERE {self._key_is}", key), None)

    def insert(self, connection: sqlite3.Connection, row: Row) -> None:
        """Insert a row; its `id` follows from its key."""
        row = row | {"id": natural_id(self.table.name, *(str(row[name]) for name in self.table.key))}
        names = tuple(row)
        if names not in self._inserts:
            columns = ", ".join(map(quote_identifier, names))
            self._inserts[names] = f"INSERT INTO {self.name} ({columns}) VALUES ({', '.join('?' * len(names))})"
        connection.execute(self._inserts[names], self._encoded(row))

    def update(self, connection: sqlite3.Connection, key: Sequence[str], changes: Mapping[str, Any]) -> None:
        """Set these columns of one row and touch no other."""
        assignments = ", ".join(f"{quote_identifier(name)} = ?" for name in changes)
        connection.execute(
            f"UPDATE {self.name} SET {assignments} WHERE {self._key_is}", (*self._encoded(changes), *key)
        )

    def delete(self, connection: sqlite3.Connection, key: Sequence[str]) -> bool:
        """Delete one row; return whether it was there."""
        return connection.execute(f"DELETE FROM {self.name} WHERE {self._key_is}", key).rowcount > 0

    @cached_property
    def _key_is(self) -> str:
        return " AND ".join(f"{quote_identifier(name)} = ?" for name in self.table.key)

    def _encoded(self, values: Mapping[str, Any]) -> list[Any]:
        return [_encode(self.table.by_name[name].kind, name, value) for name, value in values.items()]


TICKET_ROWS = Rows(Ticket)
CONVERSATION_ROWS = Rows(Conversation)
ARTICLE_ROWS = Rows(KnowledgeArticle)
PROGRESS_ROWS = Rows(ProcessingProgress)


def texts_of(
    connection: sqlite3.Connection, rows: Rows, id_column: str, column: str, key: tuple[str, str], ids: Iterable[str]
) -> dict[str, bytes | None]:
    """Return one column's stored bytes by id, of the rows of a company and platform with these ids."""
    id_name = quote_identifier(id_column)
    found = connection.execute(
        f"SELECT {id_name}, CAST({quote_identifier(column)} AS BLOB) FROM {rows.name} WHERE company_id = ? "
        f"AND platform = ? AND {id_name} IN (SELECT value FROM json_each(?))",
        (*key, json.dumps(list(ids))),
    )
    return dict(found.fetchall())


def differ(a: Any, b: Any) -> bool:
    """Return whether two values mean something else; of JSON, the order of members and the spacing mean nothing."""
    match a, b:
        case (dict(), dict()):
            return a.keys() != b.keys() or any(differ(a[name], b[name]) for name in a)
        case (list(), list()):
            return len(a) != len(b) or any(map(differ, a, b))
        case _:
            # Python takes True for 1; as JSON they differ.
            return bool(a != b or isinstance(a, bool) is not isinstance(b, bool))


def _encode(kind: Kind, name: str, value: Any) -> Any:
    match value:
        case None:
            return None
        case datetime():
            # The form that SQLAlchemy gives a time in SQLite, so that both read each other's rows.
            return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
        case UUID():
            return value.hex
        case _ if kind is Kind.JSON and name not in RAW_COLUMNS:
            return dump_json(value)
        case _:
            return value


def _decode(name: str, kind: Kind, value: Any) -> Any:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if value is None or name in RAW_COLUMNS:
        return value
    match kind:
        case Kind.TIMESTAMP:
            moment = time_of(value)
            return value if moment is None else moment
        case Kind.JSON:
            return parse_json(value)
        case Kind.BOOLEAN if value in (0, 1):
            return bool(value)
        case _:
            return value
