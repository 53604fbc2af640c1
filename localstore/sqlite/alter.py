"""Bring a tenant's file to the shape of its models: every table, every trigger, in one transaction or not at all."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar

from alembic.operations import Operations, ops
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, MetaData, literal_column
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.types import UserDefinedType

from localstore.errors import StoreError
from localstore.postgres.quoting import quote_identifier
from localstore.schema.compare import Found, Move, compare, default_of
from localstore.schema.sqlite import read_shape
from localstore.schema.steps import NOT_NULL, Action, Step
from localstore.sqlite import capture, marks
from localstore.sqlite.alchemy import borrowed
from localstore.sqlite.filled import mark_filled
from localstore.sqlite.layout import CatalogueEntry, read_catalogue
from localstore.sqlite.prepare import Models, prepare
from localstore.sqlite.writer import Turn

T = TypeVar("T")

_APPLIED: Final = "schema_applied"
"""The name of the fact which says which models a file was last found or made equal to, and in which schema."""


def is_current(connection: sqlite3.Connection, models: Models) -> bool:
    """Return whether the file was left as these models want it and not changed since; costs two small reads."""
    row = connection.execute("SELECT value FROM localstore_state WHERE name = ?", (_APPLIED,)).fetchone()
    return row is not None and row[0] == _fact(connection, models)


def shape_key(connection: sqlite3.Connection) -> str:
    """Return a digest of all that a comparison looks at: files with equal ones differ from the models alike."""
    digest = hashlib.blake2b(digest_size=16)
    for row in connection.execute(
        "SELECT type, name, tbl_name, sql FROM main.sqlite_schema WHERE type <> 'trigger' ORDER BY type, name"
    ):
        digest.update(repr(row).encode())
    for row in connection.execute("SELECT name, definition FROM localstore_tables ORDER BY name"):
        digest.update(repr(row).encode())
    return digest.hexdigest()


def differences(connection: sqlite3.Connection, models: Models) -> tuple[Move, ...]:
    """Return what separates the file from the models."""
    known = {entry.table.name: entry.table for entry in read_catalogue(connection)}
    found: dict[str, Found] = {}
    for table in models.tables:
        shape = read_shape(connection, table.name)
        if shape is not None:
            found[table.name] = Found(shape, _statement(connection, table.name), known.get(table.name))
    with borrowed(connection) as borrower:
        return compare(borrower, models.models, found)


def altering(turn: Turn, work: Callable[[sqlite3.Connection], T]) -> T:
    """Run `work` in a write transaction in which tables may be rebuilt.

    SQLite lets go of foreign keys only outside of a transaction, and with them on the rebuild of a parent would
    delete its children. Views and triggers that name the table may not be looked at while it has its other name.
    """
    connection = turn.connection
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("PRAGMA legacy_alter_table = ON")
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        turn.commit()
        return result
    except DBAPIError as error:
        raise error.orig or error from error
    finally:
        connection.execute("PRAGMA legacy_alter_table = OFF")
        connection.execute("PRAGMA foreign_keys = ON")


def alter(connection: sqlite3.Connection, models: Models, moves: Sequence[Move], *, destructive: bool) -> list[Step]:
    """Do the moves that are allowed, in the caller's transaction; return their steps.

    Marks stay valid, since the catalogue keeps the columns' places and appends the new ones; where it cannot, nothing
    may be pending. No write goes unmarked meanwhile, and what new columns are filled with is marked here, so a table is
    due for a snapshot afterwards only if it was before.
    """
    doing = [move for move in moves if move.step.allowed(destructive=destructive)]
    before = {entry.table.name: entry for entry in read_catalogue(connection)}
    gaps = {gap.table for gap in capture.check(connection)}
    models_of = {table.name for table in models.tables}
    _refuse_unfit_rows(connection, [move.step for move in doing], before)
    with borrowed(connection) as borrower:
        operations = Operations(MigrationContext.configure(borrower))
        for model in models.models:
            own = [move for move in doing if move.step.table == model.__table__.name]
            _alter_table(connection, operations, model.__table__, own)
    for entry in before.values():
        if entry.table.name in models_of and _lost_columns(connection, entry):
            # Dropped by hand, and not wanted back: what is marked of them cannot be read, so the table starts anew.
            capture.uninstall(connection, entry.table.name)
    prepare(connection, models)
    _settle(connection, before, gaps)
    mark_filled(connection, [move.step for move in doing])
    if not any(move.step.refused or move not in doing for move in moves):
        connection.execute(
            "INSERT OR REPLACE INTO localstore_state (name, value) VALUES (?, ?)",
            (_APPLIED, _fact(connection, models)),
        )
    return [move.step for move in doing]


def _refuse_unfit_rows(
    connection: sqlite3.Connection, steps: Sequence[Step], before: Mapping[str, CatalogueEntry]
) -> None:
    """Raise where a step cannot be done to the rows that this file has."""
    for step in steps:
        entry = before.get(step.table)
        if step.destructive and entry is not None:
            _refuse_pending(connection, entry)
        if step.action is Action.ALTER_COLUMN and step.detail == NOT_NULL:
            empty = _count_where(connection, step, "IS NULL")
            if empty:
                raise StoreError(
                    f"{step.table}.{step.subject} is to be never NULL and is NULL in {empty} rows",
                    hint="fill them in, or let the model's field be None",
                )


def _count_where(connection: sqlite3.Connection, step: Step, test: str) -> int:
    table, column = quote_identifier(step.table), quote_identifier(step.subject)
    (count,) = connection.execute(f"SELECT count(*) FROM main.{table} WHERE {column} {test}").fetchone()
    return int(count)


def _refuse_pending(connection: sqlite3.Connection, entry: CatalogueEntry) -> None:
    """Raise unless production has all of the table's changes: a mark cannot be read without its column."""
    (acknowledged,) = connection.execute(
        "SELECT coalesce(max(marks_to), 0) FROM localstore_batches WHERE state = 'acknowledged'"
    ).fetchone()
    waiting = marks.pending(connection, acknowledged).get(entry.table.name, 0)
    (held,) = connection.execute("SELECT count(*) FROM localstore_held WHERE tbl = ?", (entry.table.name,)).fetchone()
    if waiting or entry.snapshot_due:
        raise StoreError(
            f"{entry.table.name} has changes that production does not have yet, and a destructive change of the table "
            "would lose them",
            hint="localstore sync push --promote, then the same command again",
        )
    if held:
        raise StoreError(
            f"{entry.table.name} has {held} held changes, and a destructive change of the table would lose them",
            hint="localstore sync quarantine list",
        )


def _alter_table(connection: sqlite3.Connection, operations: Operations, source: Any, moves: Sequence[Move]) -> None:
    """Add columns in place, rebuild the table where SQLite can do no less, then see to the indexes."""
    dropped = {move.step.subject for move in moves if move.step.action is Action.DROP_COLUMN}
    for move in moves:
        if move.step.action is Action.ADD_COLUMN:
            operations.add_column(source.name, _new_column(source.columns[move.step.subject]))
    if dropped:
        # The catalogue keeps places for good, so a table that loses one starts anew; nothing of it is pending.
        capture.uninstall(connection, source.name)
    unwanted = {move.step.subject for move in moves if move.step.action is Action.DROP_INDEX}
    if any(move.rebuilds for move in moves):
        _rebuild(connection, operations, source, dropped, unwanted)
        return
    for move in moves:
        if isinstance(move.operation, ops.CreateIndexOp | ops.DropIndexOp):
            operations.invoke(move.operation)


def _rebuild(
    connection: sqlite3.Connection,
    operations: Operations,
    source: Any,
    dropped: set[str],
    unwanted: set[str],
) -> None:
    """Make the table anew as the model says, with the columns that only the file has, and copy the rows as they are.

    What others attached to it, indexes and triggers, is made again; capture's own triggers follow later.
    """
    attached = connection.execute(
        "SELECT type, name, sql FROM main.sqlite_schema WHERE tbl_name = ? AND type IN ('index', 'trigger') "
        "AND sql IS NOT NULL AND name NOT LIKE 'localstore!_%' ESCAPE '!'",
        (source.name,),
    ).fetchall()
    target = source.to_metadata(MetaData())
    shape = read_shape(connection, source.name)
    for column in () if shape is None else shape.columns:
        if column.name not in target.columns and column.name not in dropped:
            default: Any = None if column.default is None else literal_column(column.default)
            declared = _Declared(column.declared)
            target.append_column(Column(column.name, declared, nullable=not column.not_null, server_default=default))
    violated = _violations(connection)
    with operations.batch_alter_table(source.name, recreate="always", copy_from=target):
        pass
    present = {row[0] for row in connection.execute("SELECT name FROM main.sqlite_schema")}
    for kind, name, statement in attached:
        if name not in present and not (kind == "index" and name in unwanted):
            connection.execute(statement)
    new = _violations(connection) - violated
    if new:
        child, parent = min(new)
        raise StoreError(
            f"rows of {child} refer to rows of {parent} that do not exist",
            hint=f"correct these rows of {child}, then the same command again",
        )


def _violations(connection: sqlite3.Connection) -> Counter[tuple[str, str]]:
    return Counter((row[0], row[2]) for row in connection.execute("PRAGMA foreign_key_check"))


class _Declared(UserDefinedType[Any]):
    """A type as a file declares it, whatever SQLAlchemy makes of its name."""

    cache_ok = True

    def __init__(self, declared: str) -> None:
        self.declared = declared

    def get_col_spec(self, **_options: Any) -> str:
        """Return the declaration."""
        return self.declared


def _new_column(column: Column[Any]) -> Column[Any]:
    """Return the column as it is added: without its foreign key, which takes a rebuild, and with a default."""
    default: Any = column.server_default
    if default is None and not column.nullable:
        value = default_of(column)
        # A text is quoted by SQLAlchemy, a number stands as it is.
        default = value if isinstance(value, str) else literal_column(repr(value))
    arguments = [] if column.computed is None else [type(column.computed)(column.computed.sqltext)]
    return Column(column.name, column.type, *arguments, nullable=column.nullable, server_default=default)


def _settle(connection: sqlite3.Connection, before: Mapping[str, CatalogueEntry], doubtful: set[str]) -> None:
    """Take back the snapshots that capture asks for only because it finds tables altered."""
    for entry in read_catalogue(connection):
        known = before.get(entry.table.name)
        if known is None or known.snapshot_due or not entry.snapshot_due or entry.table.name in doubtful:
            continue
        if capture.unmarkable(connection, entry.table) is None:
            connection.execute("UPDATE localstore_tables SET snapshot_due = 0 WHERE id = ?", (entry.id,))


def _lost_columns(connection: sqlite3.Connection, entry: CatalogueEntry) -> bool:
    shape = read_shape(connection, entry.table.name)
    return shape is not None and bool(entry.table.by_name.keys() - shape.by_name.keys())


def _statement(connection: sqlite3.Connection, table: str) -> str:
    row = connection.execute(
        "SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name = ?", (table,)
    ).fetchone()
    return str(row[0])


def _fact(connection: sqlite3.Connection, models: Models) -> str:
    """Return what stays equal as long as neither the file's schema nor the models change."""
    version = connection.execute("PRAGMA main.schema_version").fetchone()[0]
    return json.dumps({"schema": version, "models": _digest(models)})


@lru_cache(maxsize=16)
def _digest(models: Models) -> str:
    dialect = sqlite.dialect()
    texts = []
    for model in models.models:
        texts.append(str(CreateTable(model.__table__).compile(dialect=dialect)))
        texts += sorted(str(CreateIndex(index).compile(dialect=dialect)) for index in model.__table__.indexes)
    shapes = sorted(models.shapes)
    return hashlib.blake2b("\n".join([*texts, *shapes]).encode(), digest_size=16).hexdigest()
