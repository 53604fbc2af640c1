"""Make a table in a tenant's file from its definition, for a tenant that comes from production."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from localstore.postgres.quoting import quote_identifier
from localstore.schema.tables import Column, Kind, Table
from localstore.schema.types import kind_of_declared

DECLARED: Final = {
    Kind.TEXT: "TEXT",
    Kind.INTEGER: "INTEGER",
    Kind.REAL: "REAL",
    Kind.NUMERIC: "TEXT",
    Kind.BOOLEAN: "BOOLEAN",
    Kind.TIMESTAMP: "TIMESTAMP",
    Kind.DATE: "DATE",
    Kind.TIME: "TIME",
    Kind.UUID: "CHAR(32)",
    Kind.JSON: "TEXT",
    Kind.BLOB: "BLOB",
    Kind.VECTOR: "F32_BLOB",
}
"""What a column is declared as where its definition does not say: decimals and documents are text, as written."""

_ACTIONS: Final = frozenset({"CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT", "NO ACTION"})
_PLAIN_TYPE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_ ]*(\([0-9]+(, *[0-9]+)?\))?")


def create_statements(table: Table, present: Collection[str]) -> list[str]:
    """Return the statements that make the table where it is missing; `present` are the tables it may refer to.

    Defaults, checks and collations are not part of a definition. A computed column is made, so that the table has
    its shape, but computes NULL: its expression is known only where it was written.
    """
    parts = [_column(column) for column in table.columns]
    parts.append(f"PRIMARY KEY ({_names(table.key)})")
    parts += [f"UNIQUE ({_names(unique)})" for unique in table.uniques]
    for key in table.foreign_keys:
        if key.parent in present:
            action = key.on_delete.upper() if key.on_delete.upper() in _ACTIONS else "NO ACTION"
            parts.append(
                f"FOREIGN KEY ({_names(key.columns)}) REFERENCES {quote_identifier(key.parent)} "
                f"({_names(key.parent_columns)}) ON DELETE {action}"
            )
    name = quote_identifier(table.name)
    statements = [f"CREATE TABLE IF NOT EXISTS main.{name} ({', '.join(parts)})"]
    statements += [
        f"CREATE INDEX IF NOT EXISTS main.{quote_identifier(index.name)} ON {name} ({_names(index.columns)})"
        for index in table.indexes
    ]
    return statements


def _column(column: Column) -> str:
    # A definition comes from production: only what looks like a type becomes part of a statement.
    trusted = _PLAIN_TYPE.fullmatch(column.declared) and kind_of_declared(column.declared) is column.kind
    declared = column.declared if trusted else DECLARED[column.kind]
    required = "" if column.nullable or column.computed else " NOT NULL"
    computed = " GENERATED ALWAYS AS (NULL) VIRTUAL" if column.computed else ""
    return f"{quote_identifier(column.name)} {declared}{computed}{required}"


def _names(columns: tuple[str, ...]) -> str:
    return ", ".join(quote_identifier(column) for column in columns)
