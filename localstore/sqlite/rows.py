"""Rows of a model without the ORM's unit of work: prebuilt statements on a plain SQLite connection.

Values pass through the column types' own processors, so that sessions and these statements read each other's rows.
An upsert reads the stored row first and then updates the columns that differ, or inserts: a REPLACE or an ON CONFLICT
would make capture mark the whole old row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary

from sqlalchemy import Uuid, inspect, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import configure_mappers, make_transient_to_detached
from sqlalchemy.orm.attributes import set_committed_value

from localstore.columns import JSONText, RawJSON, dump_json, parse_json
from localstore.errors import ConfigurationError, InvalidRow, WrongTenant
from localstore.identifiers import preview
from localstore.postgres.quoting import quote_identifier
from localstore.schema.tables import COMPANY_COLUMN, address
from localstore.sqlite.alchemy import borrowed
from localstore.sqlite.company import claim
from localstore.sqlite.mode import refusal

M = TypeVar("M")

_DIALECT = sqlite.dialect()


@dataclass(frozen=True, slots=True)
class _Column:
    """One column: how its values go in and out, and what fills it when the row leaves it open."""

    name: str
    attribute: str
    bind: Callable[[Any], Any] | None
    result: Callable[[Any], Any] | None
    default: Callable[[], Any] | None
    onupdate: Callable[[], Any] | None
    in_key: bool
    optional: bool
    is_json: bool
    is_uuid: bool


class Rows(Generic[M]):
    """The statements of one model."""

    def __init__(self, model: type[M]) -> None:
        self.model = model
        # Attributes can be read from and set on instances only once the mappers are configured.
        configure_mappers()
        self.mapper = inspect(model)
        self.table = self.mapper.local_table
        self.columns = tuple(self._column(column) for column in self.table.columns if column.computed is None)
        by_name = {column.name: column for column in self.columns}
        self.key = tuple(by_name[column.name] for column in self.table.primary_key.columns)
        self._inserts: dict[tuple[str, ...], str] = {}
        self._updates: dict[tuple[str, ...], str] = {}
        self._name = quote_identifier(self.table.name)
        self._where = " AND ".join(
            f"{quote_identifier(column.name)} {'IN (?, ?)' if column.is_uuid else '= ?'}" for column in self.key
        )

    def put(self, connection: sqlite3.Connection, rows: Iterable[M], company_id: str) -> None:
        """Insert or update each row; what is already as it should be is not touched."""
        for row in rows:
            claim(row, company_id)
            values = self._encode(row)
            try:
                self._put(connection, row, values)
            except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError) as error:
                raise refusal(error, company_id) or self._invalid(values, str(error), company_id) from error
            except (UnicodeEncodeError, OverflowError) as error:
                raise self._invalid(values, f"SQLite cannot hold a value ({error.args[-1]})", company_id) from error

    def get(self, connection: sqlite3.Connection, key: object, company_id: str) -> M | None:
        """Return the row with this key, or None."""
        found = connection.execute(self._select, self._key_values(key, company_id)).fetchone()
        return None if found is None else self._decode(found)

    def delete(self, connection: sqlite3.Connection, key: object, company_id: str) -> bool:
        """Delete the row with this key; return whether there was one."""
        statement = f"DELETE FROM {self._name} WHERE {self._where}"
        return connection.execute(statement, self._key_values(key, company_id)).rowcount > 0

    def find(self, connection: sqlite3.Connection, where: Sequence[Any], order_by: Any, limit: int | None) -> list[M]:
        """Return the rows for which every condition holds; without an order, in the order of the key."""
        orders = order_by if isinstance(order_by, list | tuple) else [order_by]
        statement = select(*(self.table.c[column.name] for column in self.columns)).where(*where)
        statement = statement.order_by(*(self.table.primary_key.columns if order_by is None else orders))
        with borrowed(connection) as borrower:
            try:
                rows = borrower.execute(statement.limit(limit)).all()
            except (ValueError, TypeError) as error:
                raise self._unreadable(error) from error
            except StatementError as error:
                if isinstance(error.orig, sqlite3.Error):
                    raise error.orig from error
                raise
        return [self._instance(row) for row in rows]

    def _column(self, column: Any) -> _Column:
        kind = column.type.dialect_impl(_DIALECT)
        return _Column(
            name=column.name,
            attribute=self.mapper.get_property_by_column(column).key,
            bind=kind.bind_processor(_DIALECT),
            result=kind.result_processor(_DIALECT, None),
            default=_filler(column.default),
            onupdate=_filler(column.onupdate),
            in_key=column.primary_key,
            optional=column.server_default is not None,
            is_json=isinstance(column.type, JSONText),
            is_uuid=isinstance(column.type, Uuid),
        )

    @cached_property
    def _select(self) -> str:
        names = ", ".join(quote_identifier(column.name) for column in self.columns)
        # A key that another tool wrote in the other spelling of a UUID is still this row's.
        return f"SELECT {names} FROM {self._name} WHERE {self._where} LIMIT 1"

    def _put(self, connection: sqlite3.Connection, row: M, values: list[Any]) -> None:
        key = _both_spellings(self.key, [values[place] for place in self._key_places])
        stored = self._stored(connection, key)
        given: set[str] = getattr(row, "model_fields_set", set())
        if stored is None:
            self._insert(connection, row, values)
            return
        changes: dict[_Column, Any] = {}
        for column, old, new in zip(self.columns, stored, values, strict=True):
            if column.in_key or (column.default is not None and column.attribute not in given):
                continue
            if not _same(column, old, new, row):
                changes[column] = new
        if not changes:
            return
        for column in self.columns:
            if column.onupdate is not None and column.attribute not in given:
                moment = column.onupdate()
                set_committed_value(row, column.attribute, moment)
                changes[column] = self._bind(column, moment, values)
        connection.execute(self._update(tuple(column.name for column in changes)), [*changes.values(), *key])

    def _insert(self, connection: sqlite3.Connection, row: M, values: list[Any]) -> None:
        names, bound = [], []
        for place, column in enumerate(self.columns):
            value = values[place]
            if value is None and column.default is not None:
                filled = column.default()
                set_committed_value(row, column.attribute, filled)
                value = self._bind(column, filled, values)
            if value is None and column.optional:
                continue
            names.append(column.name)
            bound.append(value)
        connection.execute(self._insert_statement(tuple(names)), bound)

    def _stored(self, connection: sqlite3.Connection, key: list[Any]) -> Sequence[Any] | None:
        try:
            row: Sequence[Any] | None = connection.execute(self._select, key).fetchone()
        except sqlite3.OperationalError as error:
            if "UTF-8" not in str(error):
                raise
            # Another tool stored bytes that are no text; as bytes they differ from whatever replaces them.
            connection.text_factory = bytes
            try:
                row = connection.execute(self._select, key).fetchone()
            finally:
                connection.text_factory = str
        return row

    @cached_property
    def _key_places(self) -> tuple[int, ...]:
        return tuple(self.columns.index(column) for column in self.key)

    def _insert_statement(self, names: tuple[str, ...]) -> str:
        known = self._inserts.get(names)
        if known is None:
            listed = ", ".join(map(quote_identifier, names))
            marks = ", ".join("?" * len(names))
            known = self._inserts[names] = f"INSERT INTO {self._name} ({listed}) VALUES ({marks})"
        return known

    def _update(self, names: tuple[str, ...]) -> str:
        known = self._updates.get(names)
        if known is None:
            listed = ", ".join(f"{quote_identifier(name)} = ?" for name in names)
            known = self._updates[names] = f"UPDATE {self._name} SET {listed} WHERE {self._where}"
        return known

    def _encode(self, row: M) -> list[Any]:
        values: list[Any] = []
        for column in self.columns:
            value = getattr(row, column.attribute)
            if value is None and column.in_key:
                raise self._invalid(values, f"its key is incomplete: {column.name} is missing", None)
            values.append(value if column.bind is None else self._bind(column, value, values))
        return values

    def _bind(self, column: _Column, value: Any, values: Sequence[Any]) -> Any:
        if column.bind is None:
            return value
        try:
            return column.bind(value)
        except (ValueError, TypeError, AttributeError, LookupError, StatementError) as error:
            raise self._invalid(values, f"{column.name} cannot be {preview(value)}: {error}", None) from error

    def _decode(self, values: Sequence[Any]) -> M:
        decoded: list[Any] = []
        for column, value in zip(self.columns, values, strict=True):
            try:
                decoded.append(value if column.result is None or value is None else column.result(value))
            except (ValueError, TypeError, LookupError) as error:
                raise self._unreadable(f"{column.name} holds {preview(value)}") from error
        return self._instance(decoded)

    def _instance(self, values: Sequence[Any]) -> M:
        instance: M = self.mapper.class_manager.new_instance()
        state = instance.__dict__
        for column, value in zip(self.columns, values, strict=True):
            state[column.attribute] = value
        if self.mapper.identity_key_from_instance(instance)[1] is not None:
            # A session may take it up as the stored row that it is.
            make_transient_to_detached(instance)
        return instance

    def _key_values(self, key: object, company_id: str) -> list[Any]:
        parts = list(key) if isinstance(key, tuple | list) else [key]
        names = [column.name for column in self.key]
        if len(parts) == len(names) - 1 and COMPANY_COLUMN in names:
            parts.insert(names.index(COMPANY_COLUMN), company_id)
        if len(parts) != len(names):
            wanted = ", ".join(name for name in names if name != COMPANY_COLUMN)
            raise ConfigurationError(
                f"a key of {self.model.__name__} has the parts ({wanted}), not {preview(key)}",
                hint="give the parts as a tuple in this order",
            )
        for column, part in zip(self.key, parts, strict=True):
            if column.name == COMPANY_COLUMN and part != company_id:
                raise WrongTenant(
                    f"the key names tenant {preview(part)}, not {company_id!a}",
                    hint="leave the company out of the key",
                    tenant=company_id,
                )
        bound = [
            self._bind(column, _as_uuid(part) if column.is_uuid else part, [])
            for column, part in zip(self.key, parts, strict=True)
        ]
        return _both_spellings(self.key, bound)

    def _invalid(self, values: Sequence[Any], reason: str, tenant: str | None) -> InvalidRow:
        known = dict(zip((column.name for column in self.columns), values, strict=False))
        parts = tuple(
            known[column.name] for column in self.key if column.name in known and column.name != COMPANY_COLUMN
        )
        row = address(self.table.name, parts)
        return InvalidRow(
            f"{row} cannot be written: {reason}", hint="correct the row and write it again", tenant=tenant, row=row
        )

    def _unreadable(self, reason: object) -> InvalidRow:
        return InvalidRow(
            f"a row of {self.table.name} cannot be read: {reason}",
            hint="correct the value with the sqlite3 shell",
        )


def rows_of(model: type[M]) -> Rows[M]:
    """Return the statements of a model, built once."""
    known: Rows[M] | None = _known.get(model)
    if known is None:
        if not hasattr(model, "__table__"):
            raise ConfigurationError(
                f"{getattr(model, '__name__', model)} has no table", hint="declare the model with table=True"
            )
        known = _known[model] = Rows(model)
    return known


_known: WeakKeyDictionary[type[Any], Rows[Any]] = WeakKeyDictionary()


def _filler(default: Any) -> Callable[[], Any] | None:
    """Return what makes a column's default or onupdate value, where Python makes it."""
    if default is None:
        return None
    if default.is_scalar:
        return lambda: default.arg
    # SQLAlchemy wraps every callable so that it takes a context, which ours have no use for.
    return (lambda: default.arg(None)) if default.is_callable else None


def _same(column: _Column, old: Any, new: Any, row: object) -> bool:
    """Return whether storing `new` over `old` would change what the column says."""
    if type(new) is bool:
        new = int(new)
    if type(old) is type(new) and old == new:
        return True
    if not isinstance(old, str) or not isinstance(new, str):
        return False
    if column.is_uuid:
        return old.replace("-", "").lower() == new
    if column.is_json and not isinstance(getattr(row, column.attribute), RawJSON):
        # The value came from this very text, perhaps: then the text stays, with its spacing and its order.
        return dump_json(parse_json(old)) == new
    return False


def _as_uuid(part: Any) -> Any:
    if isinstance(part, str):
        try:
            return UUID(part)
        except ValueError:
            return part
    return part


def _both_spellings(key: Sequence[_Column], values: Sequence[Any]) -> list[Any]:
    """Return the key's values, a UUID in both of its spellings."""
    spelled: list[Any] = []
    for column, value in zip(key, values, strict=True):
        spelled.append(value)
        if column.is_uuid:
            spelled.append(str(UUID(value)) if isinstance(value, str) else value)
    return spelled
