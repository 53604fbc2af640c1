"""Mark what added columns were filled with: each row's column begins from NULL, which is what production has there.

Production gives an added column to its rows as NULL, and no other replica could send it before, so the base of every
value is known. That lets the values merge by column, whoever wrote the rows last.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from localstore.postgres.quoting import quote_identifier
from localstore.schema.steps import Action, Step
from localstore.sqlite.layout import CatalogueEntry, read_catalogue
from localstore.sqlite.marks import UPDATE


def mark_filled(connection: sqlite3.Connection, steps: Sequence[Step]) -> None:
    """Mark every value that the columns which these steps added hold, in the caller's transaction.

    One statement a column, in which SQLite copies the keys, so that memory does not grow with the table. A table that
    is due for a snapshot travels whole, and needs no marks.
    """
    entries = {entry.table.name: entry for entry in read_catalogue(connection)}
    for step in steps:
        entry = entries.get(step.table)
        if step.action is Action.ADD_COLUMN and entry is not None and not entry.snapshot_due:
            _mark(connection, entry, step.subject)


def _mark(connection: sqlite3.Connection, entry: CatalogueEntry, column: str) -> None:
    table = entry.table
    if table.by_name[column].computed:
        return
    keys = range(1, len(table.key) + 1)
    names = _listed(map(quote_identifier, table.key))
    connection.execute(
        f"INSERT INTO main.localstore_marks (tbl, op, col, v0, {_listed(f'v{part}' for part in keys)}) "
        f"SELECT ?, {UPDATE}, ?, NULL, {names} FROM main.{quote_identifier(table.name)} "
        f"WHERE {quote_identifier(column)} IS NOT NULL",
        (entry.id, table.ordinal[column]),
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
