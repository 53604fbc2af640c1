"""Which state of the file a matrix was made from, and what the marks say has changed since."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

from localstore.sqlite import generations, marks
from localstore.sqlite.layout import read_catalogue
from localstore.vectors.table import VECTORS, table_id

CHANGES_MAX: Final = 10_000
"""Beyond so many changed vectors, reading all of them anew is no slower."""


@dataclass(frozen=True, slots=True, order=True)
class State:
    """A state of the table of vectors. Each part only ever grows, so of two states the greater one is the later one.

    `moved` counts changes that left no marks, as a pull's do; `schema` moves when a trigger goes or a table is rebuilt;
    `newest` is the newest mark, whatever tool made it.
    """

    moved: int
    schema: int
    newest: int


def state_of(connection: sqlite3.Connection) -> State:
    """Return the state that the connection's read transaction sees; the table must be there."""
    table = table_id(connection)
    assert table is not None
    (schema,) = connection.execute("PRAGMA main.schema_version").fetchone()
    return State(generations.moved(connection, table), schema, marks.newest(connection))


def changed_since(connection: sqlite3.Connection, old: State, now: State) -> set[tuple[str, str]] | None:
    """Return model and item of each vector that changed between the states; None where the marks do not tell.

    They tell as long as none between the two is missing: acknowledged ones are trimmed.
    """
    if (old.moved, old.schema) != (now.moved, now.schema):
        return None
    entry = next(entry for entry in read_catalogue(connection) if entry.table.name == VECTORS.name)
    there, ours, known = connection.execute(
        "SELECT count(*), total(tbl = ?), count(tbl) FROM main.localstore_marks WHERE seq > ?", (entry.id, old.newest)
    ).fetchone()
    if there != now.newest - old.newest or known != there or ours > CHANGES_MAX:
        return None
    if not ours:
        return set()
    terms = dict(zip(entry.table.key, marks.key_terms(entry.table), strict=True))
    # As bytes: another tool's text that is no UTF-8 would end the whole statement, and names no vector.
    changed = connection.execute(
        f"SELECT DISTINCT CAST({terms['model']} AS BLOB), CAST({terms['item']} AS BLOB) FROM main.localstore_marks "
        "WHERE seq > ? AND tbl = ?",
        (old.newest, entry.id),
    )
    return {
        (model.decode(errors="replace"), item.decode(errors="replace")) for model, item in changed if model and item
    }
