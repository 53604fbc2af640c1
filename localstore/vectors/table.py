"""The table of vectors: an ordinary tracked table, made when a tenant's first vector is kept."""

from __future__ import annotations

import sqlite3
from typing import Final

from localstore.errors import StoreError
from localstore.schema.create import create_statements
from localstore.schema.tables import Column, Kind, Table
from localstore.sqlite import capture

VECTORS: Final = Table(
    name="vectors",
    columns=(
        Column("company_id", Kind.TEXT, nullable=False, declared="TEXT"),
        Column("model", Kind.TEXT, nullable=False, declared="TEXT"),
        Column("item", Kind.TEXT, nullable=False, declared="TEXT"),
        Column("dimension", Kind.INTEGER, declared="INTEGER"),
        Column("content_hash", Kind.TEXT, declared="TEXT"),
        Column("metadata", Kind.JSON, declared="TEXT"),
        Column("embedding", Kind.VECTOR, declared="F32_BLOB"),
    ),
    key=("company_id", "model", "item"),
)


def is_made(connection: sqlite3.Connection) -> bool:
    """Return whether the tenant has the table: most have none."""
    return table_id(connection) is not None


def table_id(connection: sqlite3.Connection) -> int | None:
    """Return the table's number in the marks, None where there is no table of vectors."""
    row = connection.execute("SELECT id FROM main.localstore_tables WHERE name = ?", (VECTORS.name,)).fetchone()
    return None if row is None else int(row[0])


def make(connection: sqlite3.Connection) -> None:
    """Make the table and have it captured, in the caller's transaction; refuses another table of that name."""
    for statement in create_statements(VECTORS, ()):
        connection.execute(statement)
    present = {row[1] for row in connection.execute(f"PRAGMA main.table_xinfo({VECTORS.name})")}
    if not present >= set(VECTORS.by_name):
        raise StoreError(
            f"the file has a table {VECTORS.name} of another make",
            hint="rename it in the file; vectors are kept in a table of this name",
        )
    capture.install(connection, (VECTORS,))
