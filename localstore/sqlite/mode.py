"""A tenant's mode as its file knows it, and the guards: triggers that refuse writes while the file may not take any.

Guards exist only in the modes that close the file, so they cost nothing in the others. They ask for the mode at each
write, so whoever refreshes a closed file opens it for the length of one transaction: nobody else sees that, and a
crash takes it back with all the rest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from localstore.errors import LocalStoreError, ModeChanging, StoreError, WrongMode
from localstore.postgres.quoting import quote_identifier
from localstore.sqlite.layout import read_catalogue

FILE: Final = "file"
HYBRID: Final = "hybrid"
ADVANCING: Final = "advancing"
POSTGRESQL: Final = "postgresql"

MODES: Final = (FILE, HYBRID, ADVANCING, POSTGRESQL)
CLOSED: Final = (ADVANCING, POSTGRESQL)
"""The modes in which the tracked tables of the file take no writes: for now, and until the tenant is brought back."""

_PREFIX: Final = "localstore_guard_"
_SPEAKER: Final = "localstore: "
_HELD_OFF: Final = "is changing its mode"
_MODE: Final = "(SELECT mode FROM localstore_identity)"


def read_mode(connection: sqlite3.Connection) -> str:
    """Return the file's mode."""
    (mode,) = connection.execute("SELECT mode FROM main.localstore_identity").fetchone()
    return str(mode)


def set_mode(connection: sqlite3.Connection, mode: str) -> None:
    """Write the mode into the file and bring its guards in step, in the caller's transaction; runs again freely."""
    if mode not in MODES:
        raise StoreError(f"there is no mode {mode!r}", hint=f"one of {', '.join(MODES)}")
    connection.execute("UPDATE main.localstore_identity SET mode = ?", (mode,))
    keep_guards(connection)


def keep_guards(connection: sqlite3.Connection) -> None:
    """Make the guards of every tracked table in a mode that closes the file, and remove all others."""
    rows = connection.execute(
        "SELECT name, sql FROM main.sqlite_schema WHERE type = 'trigger' AND substr(name, 1, ?) = ?",
        (len(_PREFIX), _PREFIX),
    )
    actual = dict(rows.fetchall())
    wanted = _guards(connection)
    if actual == wanted:
        return
    for name in actual:
        connection.execute(f"DROP TRIGGER main.{quote_identifier(name)}")
    for statement in wanted.values():
        connection.execute(statement)


@contextmanager
def opened(connection: sqlite3.Connection) -> Iterator[None]:
    """Let the caller's transaction write to a closed file; it must not end inside the block."""
    mode = read_mode(connection)
    if mode not in CLOSED:
        yield
        return
    connection.execute("UPDATE main.localstore_identity SET mode = ?", (HYBRID,))
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("UPDATE main.localstore_identity SET mode = ?", (mode,))


def refusal(error: BaseException, tenant: str) -> LocalStoreError | None:
    """Return the toolkit's error for what a guard raised, or None when it was no guard."""
    if not isinstance(error, sqlite3.IntegrityError) or not str(error).startswith(_SPEAKER):
        return None
    return held_off(tenant) if _HELD_OFF in str(error) else _wrong_mode(tenant)


def held_off(tenant: str) -> ModeChanging:
    """Return the error for a write that waited for a change of mode in vain."""
    return ModeChanging(
        f"tenant {tenant} {_HELD_OFF}, which did not end while this write waited; nothing was written",
        hint=f"write it again. If the command that changes the mode died: `localstore mode advance {tenant}` finishes "
        f"what it began, `localstore mode back {tenant}` undoes it",
        tenant=tenant,
    )


def _wrong_mode(tenant: str) -> WrongMode:
    return WrongMode(
        f"tenant {tenant} is in mode {POSTGRESQL}: its file is a read-only copy of production",
        hint=f"write to production (STORAGE_TYPE=postgresql or hybrid), or `localstore mode back {tenant}`",
        tenant=tenant,
    )


def _guards(connection: sqlite3.Connection) -> dict[str, str]:
    identity = connection.execute("SELECT company_id, mode FROM main.localstore_identity").fetchone()
    if identity is None or identity[1] not in CLOSED:
        return {}
    present = {row[0] for row in connection.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'")}
    statements: dict[str, str] = {}
    for entry in read_catalogue(connection):
        if entry.table.name in present:
            for event in ("INSERT", "UPDATE", "DELETE"):
                name = f"{_PREFIX}{entry.id}_{event.lower()}"
                statements[name] = _guard(name, event, entry.table.name, str(identity[0]))
    return statements


def _guard(name: str, event: str, table: str, tenant: str) -> str:
    """Return the statement of one guard, which says whose file it is, why it refuses, and what helps.

    A tenant's id has no quotes in it, and SQLite takes nothing but a literal for what is raised.
    """
    closed = ", ".join(f"'{mode}'" for mode in CLOSED)
    waiting = (
        f"{_SPEAKER}tenant {tenant} {_HELD_OFF}; "
        f"write again when that has ended, which this shows: localstore mode status {tenant}"
    )
    copy = (
        f"{_SPEAKER}tenant {tenant} is in mode {POSTGRESQL}, where its file is a read-only copy; "
        f"write to production, or run: localstore mode back {tenant}"
    )
    return (
        f"CREATE TRIGGER {quote_identifier(name)} BEFORE {event} ON {quote_identifier(table)}\n"
        f"WHEN {_MODE} IN ({closed})\n"
        "BEGIN\n"
        f"  SELECT RAISE(ABORT, '{waiting}') WHERE {_MODE} = '{ADVANCING}';\n"
        f"  SELECT RAISE(ABORT, '{copy}');\n"
        "END"
    )
