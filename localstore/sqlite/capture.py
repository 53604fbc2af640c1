"""Capture: keep the triggers that mark every write in step with the tables, and notice where they were not."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from localstore.errors import StoreError
from localstore.postgres.quoting import quote_identifier
from localstore.schema.sqlite import Shape, column_from_sqlite, read_shape
from localstore.schema.tables import Table
from localstore.sqlite.layout import CatalogueEntry, read_catalogue
from localstore.sqlite.marks import width
from localstore.sqlite.mode import keep_guards
from localstore.sqlite.triggers import trigger_prefix, triggers

# Raised with every change of a trigger's text: files of an older version then get the new triggers, and are not said
# to have a gap as long as they hold the triggers that the older version made.
CAPTURE_FORMAT: Final = 1

# SQLite allows 2,000 columns; a mark holds a whole row and has columns of its own, and so has the query that reads it.
MARKED_COLUMNS_MAX: Final = 1900

_CHECKED: Final = "capture_checked"
_OURS: Final = "localstore_"


@dataclass(frozen=True, slots=True)
class Gap:
    """A table whose writes may have gone unmarked, and how that was noticed."""

    table: str
    reason: str


def install(connection: sqlite3.Connection, tables: Sequence[Table]) -> list[str]:
    """Track these tables and whatever the catalogue tracks already; return the names of the tables with gaps.

    Runs in the caller's transaction, all or nothing, and costs two small reads when nothing has changed since the
    last time. A table with a gap, and one that already has rows when it is tracked first, is due for a snapshot.
    Columns that the file has beyond the definition are tracked, too. Running it twice changes nothing.
    """
    if _state(connection, _CHECKED) == _fingerprint(connection, tables):
        return []
    gaps: list[str] = []
    with _savepoint(connection):
        known = {entry.table.name: entry for entry in read_catalogue(connection)}
        wanted = {name: entry.table for name, entry in known.items()} | {table.name: table for table in tables}
        for name, table in wanted.items():
            if _track(connection, table, known.get(name)):
                gaps.append(name)
        keep_guards(connection)
        _set_state(connection, _CHECKED, _fingerprint(connection, tables))
    return gaps


def check(connection: sqlite3.Connection) -> list[Gap]:
    """Return every gap in the capture of the tracked tables, without writing."""
    return [
        Gap(entry.table.name, reason)
        for entry in read_catalogue(connection)
        for reason in _gaps(connection, entry, read_shape(connection, entry.table.name))
    ]


def unmarkable(connection: sqlite3.Connection, table: Table) -> str | None:
    """Return why marks alone cannot be trusted for this table, or None where they can.

    Such a table is sent as a snapshot by every seal.
    """
    if len(table.columns) > MARKED_COLUMNS_MAX:
        return f"it has more than {MARKED_COLUMNS_MAX} columns"
    shape = read_shape(connection, table.name)
    if shape is None:
        return "it is missing"
    for index in shape.indexes:
        if index.unique and not index.plain:
            return f"its unique index {index.name} is {'partial' if index.partial else 'on an expression'}"
    return None


def uninstall(connection: sqlite3.Connection, table: str) -> None:
    """Stop tracking a table: its triggers, its marks and its place in the catalogue go, its rows stay."""
    with _savepoint(connection):
        for entry in read_catalogue(connection):
            if entry.table.name == table:
                _forget(connection, entry.id)
        keep_guards(connection)


def _track(connection: sqlite3.Connection, table: Table, known: CatalogueEntry | None) -> bool:
    """Bring one table's catalogue row and triggers up to date, and return whether there was a gap."""
    shape = read_shape(connection, table.name)
    if shape is None and known is not None:
        # Dropped from outside: nothing is left to capture, and the missing rows are for the next seal to judge.
        _set_due(connection, known.id)
        return True
    if shape is None:
        raise StoreError(f"The file has no table {table.name}.", hint="localstore schema plan --models MODULE")
    _refuse_untrackable(table, shape)
    gaps = list(_gaps(connection, known, shape)) if known else []
    due = bool(gaps) or (known is None and _has_rows(connection, table.name))
    if known is not None and known.table.key != table.key:
        # Marks name rows by their key: those under the old one cannot be read with the new one.
        _forget(connection, known.id)
        known, due = None, _has_rows(connection, table.name) or due
    merged = _merge(connection, table, known.table if known else None, shape)
    table_id = _record(connection, merged, known, due or unmarkable(connection, merged) is not None)
    expected: dict[str, str] = {}
    if len(merged.columns) <= MARKED_COLUMNS_MAX:
        _widen(connection, merged)
        expected = triggers(table_id, merged, shape)
    actual = _present(connection, table_id)
    if actual != expected:
        for name in actual:
            connection.execute(f"DROP TRIGGER {quote_identifier(name)}")
        for statement in expected.values():
            connection.execute(statement)
    _set_state(connection, f"capture_{table_id}", _seal_of(expected))
    return bool(gaps)


def _gaps(connection: sqlite3.Connection, entry: CatalogueEntry, shape: Shape | None) -> Iterator[str]:
    if shape is None:
        yield "the table is missing"
        return
    missing = [column.name for column in entry.table.columns if column.name not in shape.by_name]
    if missing:
        yield f"the column {missing[0]} is missing"
        return
    for column in shape.columns:
        if column.name not in entry.table.by_name and not column.generated:
            name = quote_identifier(column.name)
            held = f"SELECT 1 FROM main.{quote_identifier(shape.name)} WHERE {name} IS NOT NULL LIMIT 1"
            if connection.execute(held).fetchone():
                yield f"the column {column.name} was added and holds values"
    actual = _present(connection, entry.id)
    if len(entry.table.columns) <= MARKED_COLUMNS_MAX and not _made_by_older(connection, entry.id, actual):
        for name, statement in triggers(entry.id, entry.table, shape).items():
            if name not in actual:
                yield f"the trigger {name} is missing"
            elif actual[name] != statement:
                yield f"the trigger {name} is not the one that the table needs"


def _refuse_untrackable(table: Table, shape: Shape) -> None:
    if table.name.lower().startswith(_OURS):
        raise StoreError(f"The name {table.name} is reserved.", hint=f"rename the table: {_OURS} begins our own names")
    if not table.key or not shape.key:
        raise StoreError(
            f"The table {table.name} has no primary key, so its rows cannot be told apart.",
            hint=f"give {table.name} a PRIMARY KEY",
        )
    for name in (*table.by_name, *table.key):
        if name not in shape.by_name:
            raise StoreError(
                f"The table {table.name} has no column {name}.", hint="localstore schema plan --models MODULE"
            )


def _merge(connection: sqlite3.Connection, table: Table, known: Table | None, shape: Shape) -> Table:
    """Return the table as it is to be tracked: known columns keep their places, all others follow."""
    ordered = dict(known.by_name) if known else {}
    ordered.update(table.by_name)
    for column in shape.columns:
        if column.name not in ordered and not column.generated:
            ordered[column.name] = column_from_sqlite(connection, shape, column)
    columns = (replace(column, computed=shape.by_name[column.name].generated) for column in ordered.values())
    return replace(table, columns=tuple(columns))


def _record(connection: sqlite3.Connection, table: Table, known: CatalogueEntry | None, due: bool) -> int:
    """Write the catalogue's row where it differs, and return its id."""
    if known is not None:
        if known.table != table:
            connection.execute(
                "UPDATE localstore_tables SET definition = ?, fingerprint = ? WHERE id = ?",
                (_definition(table), table.fingerprint, known.id),
            )
        if due and not known.snapshot_due:
            _set_due(connection, known.id)
        return known.id
    cursor = connection.execute(
        "INSERT INTO localstore_tables (name, definition, fingerprint, snapshot_due) VALUES (?, ?, ?, ?)",
        (table.name, _definition(table), table.fingerprint, int(due)),
    )
    return int(cursor.lastrowid or 0)


def _definition(table: Table) -> str:
    return json.dumps(table.to_json(), ensure_ascii=False, separators=(",", ":"))


def _set_due(connection: sqlite3.Connection, table_id: int) -> None:
    connection.execute("UPDATE localstore_tables SET snapshot_due = 1 WHERE id = ?", (table_id,))


def _forget(connection: sqlite3.Connection, table_id: int) -> None:
    for name in _present(connection, table_id):
        connection.execute(f"DROP TRIGGER {quote_identifier(name)}")
    # An id may come back, and the newest mark must stay: it only stops being this table's.
    connection.execute("UPDATE localstore_marks SET tbl = NULL WHERE tbl = ?", (table_id,))
    connection.execute("DELETE FROM localstore_tables WHERE id = ?", (table_id,))
    connection.execute("DELETE FROM localstore_state WHERE name IN (?, ?)", (_CHECKED, f"capture_{table_id}"))


def _widen(connection: sqlite3.Connection, table: Table) -> None:
    present = {row[0] for row in connection.execute("SELECT name FROM pragma_table_info('localstore_marks')")}
    for number in range(width([table])):
        if f"v{number}" not in present:
            connection.execute(f"ALTER TABLE localstore_marks ADD COLUMN v{number}")


def _present(connection: sqlite3.Connection, table_id: int) -> dict[str, str]:
    """Return a table's triggers as the file holds them; a renamed table takes them along, so the name decides."""
    prefix = trigger_prefix(table_id)
    rows = connection.execute(
        "SELECT name, sql FROM main.sqlite_schema WHERE type = 'trigger' AND substr(name, 1, ?) = ?",
        (len(prefix), prefix),
    )
    return dict(rows.fetchall())


def _has_rows(connection: sqlite3.Connection, table: str) -> bool:
    return connection.execute(f"SELECT 1 FROM main.{quote_identifier(table)} LIMIT 1").fetchone() is not None


def _seal_of(statements: dict[str, str]) -> str:
    """Return which version made these triggers, and a digest of them."""
    text = "\0".join(statements[name] for name in sorted(statements))
    return f"{CAPTURE_FORMAT}:{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"


def _made_by_older(connection: sqlite3.Connection, table_id: int, actual: dict[str, str]) -> bool:
    made = _state(connection, f"capture_{table_id}")
    if made is None:
        return False
    version, _, digest = made.partition(":")
    return int(version) < CAPTURE_FORMAT and _seal_of(actual).endswith(f":{digest}")


def _state(connection: sqlite3.Connection, name: str) -> str | None:
    row = connection.execute("SELECT value FROM localstore_state WHERE name = ?", (name,)).fetchone()
    return row[0] if row else None


def _set_state(connection: sqlite3.Connection, name: str, value: str) -> None:
    connection.execute("INSERT OR REPLACE INTO localstore_state (name, value) VALUES (?, ?)", (name, value))


def _fingerprint(connection: sqlite3.Connection, tables: Sequence[Table]) -> str:
    """Return what stays equal as long as neither the file's schema nor the tables asked for have changed."""
    version = connection.execute("PRAGMA main.schema_version").fetchone()[0]
    asked = "\n".join(sorted(f"{table.name}\0{table.fingerprint}" for table in tables))
    return f"{CAPTURE_FORMAT}:{version}:{hashlib.blake2b(asked.encode(), digest_size=16).hexdigest()}"


@contextmanager
def _savepoint(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("SAVEPOINT localstore_capture")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK TO localstore_capture")
        connection.execute("RELEASE localstore_capture")
        raise
    connection.execute("RELEASE localstore_capture")
