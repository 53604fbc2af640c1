"""The help desk's rows in Postgres: statements made of the models' own, values in production's types and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, TypeVar
from uuid import UUID

import asyncpg
from sqlalchemy import inspect
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.orm import configure_mappers, make_transient_to_detached
from sqlalchemy.sql import ClauseElement
from sqlmodel import SQLModel

from localstore.columns import JSONText, dump_json, parse_json
from localstore.postgres.quoting import quote_identifier

M = TypeVar("M")

COLLATION: Final = "C"
"""The collation by which Postgres compares bytes, as SQLite does."""

_DIALECT: Final = PGDialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]


async def fetch(connection: asyncpg.Connection, statement: Any, schema: str) -> list[asyncpg.Record]:
    """Run a query and return its rows."""
    text, values = compiled(statement, schema)
    rows: list[asyncpg.Record] = await connection.fetch(text, *values)
    return rows


def compiled(statement: ClauseElement, schema: str) -> tuple[str, list[Any]]:
    """Return a query as Postgres takes it, in the schema that holds production's tables, and its values in order."""
    # The models' own types say how SQLite keeps a value; the driver knows by itself how production does.
    made: Any = statement.compile(
        dialect=_DIALECT,
        schema_translate_map={None: schema},
        render_schema_translate=True,
        compile_kwargs={"render_postcompile": True},
    )
    bound = made.construct_params()
    return str(made), [_sought(bound[name]) for name in made.positiontup]


def insert(row: Any, schema: str) -> tuple[str, list[Any]]:
    """Return the statement that inserts a row and reads it back, and its values."""
    columns = _columns(type(row))
    places = ", ".join(_place(number, columns[name]) for number, name in enumerate(columns, 1))
    return (
        (
            f"INSERT INTO {_relation(type(row), schema)} ({_listed(columns)}) VALUES ({places}) "
            f"RETURNING {_listed(columns)}"
        ),
        [_encoded(columns[name], getattr(row, name)) for name in columns],
    )


def update(model: type[Any], key: Mapping[str, str], values: Mapping[str, Any], schema: str) -> tuple[str, list[Any]]:
    """Return the statement that sets columns of the row with this key and reads it back, and its values."""
    columns = _columns(model)
    places = ", ".join(
        f"{quote_identifier(name)} = {_place(number, columns[name])}" for number, name in enumerate(values, 1)
    )
    where = " AND ".join(f"{quote_identifier(name)} = ${number}" for number, name in enumerate(key, len(values) + 1))
    return (
        f"UPDATE {_relation(model, schema)} SET {places} WHERE {where} RETURNING {_listed(columns)}",
        [*(_encoded(columns[name], value) for name, value in values.items()), *key.values()],
    )


def instances(model: type[M], rows: Sequence[asyncpg.Record]) -> list[M]:
    """Return production's rows as rows of the model, with the values that the tenant's file would give."""
    columns = _columns(model)
    made = []
    for row in rows:
        # A model's own constructor would take the values for new ones.
        instance: M = inspect(model).class_manager.new_instance()
        instance.__dict__.update((name, _decoded(column, row[name])) for name, column in columns.items())
        make_transient_to_detached(instance)
        made.append(instance)
    return made


def _columns(model: type[Any]) -> dict[str, Any]:
    return _columns_by_name(str(model.__tablename__))


@cache
def _columns_by_name(table: str) -> dict[str, Any]:
    # Values can be set on instances only once the mappers are configured.
    configure_mappers()
    return {column.name: column for column in SQLModel.metadata.tables[table].columns}


def _relation(model: type[Any], schema: str) -> str:
    return f"{quote_identifier(schema)}.{quote_identifier(str(model.__tablename__))}"


def _listed(columns: Mapping[str, Any]) -> str:
    return ", ".join(map(quote_identifier, columns))


def _place(number: int, column: Any) -> str:
    return f"${number}::text::jsonb" if isinstance(column.type, JSONText) else f"${number}"


def _sought(value: Any) -> Any:
    """Return a value to compare with: no text of production's holds U+0000, and nothing equals NULL."""
    return None if isinstance(value, str) and "\0" in value else value


def _encoded(column: Any, value: Any) -> Any:
    return dump_json(value) if isinstance(column.type, JSONText) and value is not None else value


def _decoded(column: Any, value: Any) -> Any:
    if isinstance(column.type, JSONText):
        return None if value is None else parse_json(value)
    # The driver's UUIDs are of a class of its own.
    return UUID(int=value.int) if isinstance(value, UUID) else value
