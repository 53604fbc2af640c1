"""Releases: what the tenant decided about held rows, waiting in its file to be told to production by the next seal."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from uuid import UUID

import orjson

from localstore.codec import Bindable, Text, Value
from localstore.schema.tables import Table
from sync.changes import Change, Row, stored_row
from sync.keys import rows_spelt, stored_key
from sync.spellings import let_go

RETRY = "retry"
LOCAL = "local"


def release(connection: sqlite3.Connection, rows: list[tuple[str, str]], action: str) -> int:
    """Note that the held rows, given as (table, key as stored), are to be tried again; return how many."""
    connection.executemany("DELETE FROM localstore_releases WHERE tbl = ? AND key = ?", rows)
    connection.executemany(
        "INSERT INTO localstore_releases (tbl, key, action) VALUES (?, ?, ?)", [(*row, action) for row in rows]
    )
    return len(rows)


def release_batch(connection: sqlite3.Connection, batch: UUID) -> int:
    """Put every change that a rollback of `batch` took back in line again; return how many."""
    rows = connection.execute(
        "SELECT tbl, key FROM localstore_held WHERE batch = ? AND reason = 'rolled_back'", (str(batch),)
    ).fetchall()
    return release(connection, rows, RETRY)


def releases(connection: sqlite3.Connection, tables: Mapping[str, Table]) -> tuple[dict[str, list[Change]], int]:
    """Return the waiting releases as changes by table, and the rowid up to which they were read.

    Of a row that production deleted it holds no values, so that one travels whole, as a new row: what else is sealed of
    it at the same time is contained in that.
    """
    found: dict[str, list[Change]] = {}
    last = 0
    for rowid, name, key, action in connection.execute(
        "SELECT rowid, tbl, key, action FROM localstore_releases WHERE batch IS NULL ORDER BY rowid"
    ):
        last = rowid
        table = tables.get(name)
        if table is None:
            continue
        (company,) = connection.execute("SELECT company_id FROM localstore_identity").fetchone()
        texts = orjson.loads(key)
        if len(texts) > len(table.key_parts):
            found.setdefault(name, []).append(_spelt(connection, table, company, texts))
            continue
        parts = dict(zip(table.key_parts, texts, strict=True))
        values: Row = tuple(map(_undecoded, stored_key(connection, table, company, parts)))
        if action == LOCAL and _gone_in_production(connection, name, key):
            row = stored_row(connection, table, values)
            if row is not None:
                found.setdefault(name, []).append(Change("i", values, row, (), None))
                continue
        found.setdefault(name, []).append(
            Change(
                op="l" if action == LOCAL else "r",
                key=values,
                row=None,
                changed=tuple(range(len(table.sent))) if action == LOCAL else (),
                base=None,
            )
        )
    return found, last


def _spelt(connection: sqlite3.Connection, table: Table, company: str, texts: list[str]) -> Change:
    """Return the release of what is held under the file's spelling: the row whole, or its end where no row has it."""
    for key in rows_spelt(connection, table, dict(zip(table.key_parts, texts, strict=False))):
        values: Row = tuple(map(_undecoded, key))
        row = stored_row(connection, table, values)
        if row is not None:
            return Change("i", values, row, (), None)
    parts = dict(zip(table.key_parts, texts, strict=False))
    return let_go(table, tuple(_undecoded(parts.get(name, company)) for name in table.key))


def _gone_in_production(connection: sqlite3.Connection, name: str, key: str) -> bool:
    """Return whether what is held is a change of a row that production deleted."""
    found = connection.execute(
        "SELECT 1 FROM localstore_held WHERE tbl = ? AND key = ? AND op = 'u' AND reason = 'conflict' "
        "AND production IS NULL",
        (name, key),
    )
    return found.fetchone() is not None


def _undecoded(value: Bindable | None) -> Value | None:
    return Text(value.encode()) if isinstance(value, str) else value


def carried_by(connection: sqlite3.Connection, batch: UUID, up_to: int) -> None:
    """Note that a recorded batch carries the releases; they are dropped when it is acknowledged."""
    connection.execute(
        "UPDATE localstore_releases SET batch = ? WHERE batch IS NULL AND rowid <= ?", (str(batch), up_to)
    )
