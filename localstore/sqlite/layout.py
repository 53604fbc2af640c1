"""The toolkit's own tables in a tenant's file, and the catalogue of tracked tables among them."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from functools import cache
from importlib import resources

from localstore.errors import MissingTable
from localstore.schema.tables import Table


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A tracked table: its id in the marks, its definition, and whether the next seal carries it whole."""

    id: int
    table: Table
    fingerprint: str
    snapshot_due: bool


@cache
def statements() -> tuple[str, ...]:
    """Return the statements of `layout.sql`, one by one."""
    found: list[str] = []
    pending = ""
    for line in resources.files(__package__).joinpath("layout.sql").read_text(encoding="utf-8").splitlines():
        if line.startswith("--") or not line.strip():
            continue
        pending += line + "\n"
        if line.endswith(";"):
            found.append(pending.rstrip(";\n"))
            pending = ""
    return tuple(found)


def create(connection: sqlite3.Connection) -> None:
    """Create what is missing of the toolkit's tables, within the caller's transaction.

    The statements run one by one because `executescript` would commit whatever the caller has begun.
    """
    for statement in statements():
        connection.execute(statement)


def read_catalogue(connection: sqlite3.Connection) -> list[CatalogueEntry]:
    """Return the tracked tables in the order of their ids."""
    rows = connection.execute("SELECT id, definition, fingerprint, snapshot_due FROM localstore_tables ORDER BY id")
    return [
        CatalogueEntry(number, Table.from_json(json.loads(definition)), _text(fingerprint), bool(snapshot_due))
        for number, definition, fingerprint, snapshot_due in rows
    ]


def require_tables(connection: sqlite3.Connection) -> None:
    """Raise MissingTable if a tracked table is gone: that its rows are to be deleted is not for us to conclude."""
    gone = connection.execute(
        "SELECT group_concat(name, ', ') FROM localstore_tables t WHERE NOT EXISTS "
        "(SELECT 1 FROM main.sqlite_schema s WHERE s.type = 'table' AND s.name = t.name COLLATE NOCASE)"
    ).fetchone()[0]
    if gone is not None:
        raise MissingTable(
            f"another tool dropped or renamed what the file keeps track of: table {_text(gone)}; nothing was sent, and "
            "its rows in production stand",
            hint="make it again with `localstore schema apply --models MODULE`; a push and then a pull bring its rows "
            "back. Or give it its name back, or `localstore restore TENANT`",
        )


def _text(value: str | bytes) -> str:
    """Return text whether or not the connection decodes it."""
    return value if isinstance(value, str) else bytes(value).decode()
