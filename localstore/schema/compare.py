"""Compare models with the tables of a tenant's file, by Alembic, and judge each difference."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Final

from alembic.autogenerate import produce_migrations
from alembic.operations import ops
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Connection, MetaData
from sqlalchemy import Table as ModelTable
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import SAWarning
from sqlalchemy.schema import CreateTable

from localstore.schema.reflect import table_from_model
from localstore.schema.sqlite import Affinity, Shape, affinity
from localstore.schema.steps import NOT_NULL, NULLABLE, Action, Step, renames, widens
from localstore.schema.tables import Table

# What a table's statement may say that no rebuild brings back unless the model says it, too.
_BEYOND_MODELS: Final = re.compile(
    r"\b(CHECK|COLLATE|STRICT|WITHOUT|GENERATED|AUTOINCREMENT)\b|\bAS(?=\s*\()", re.IGNORECASE
)

# Python's filters of warnings belong to the process, so only one comparison at a time may change them.
_quiet: Final = Lock()


@dataclass(frozen=True, slots=True)
class Found:
    """One table of the file: its shape, the statement that made it, and how the catalogue has it."""

    shape: Shape
    statement: str
    known: Table | None


@dataclass(frozen=True, slots=True)
class Move:
    """A step together with Alembic's operation, if one carries it out, and whether it takes a rebuild of the table."""

    step: Step
    operation: ops.MigrateOperation | None = None
    rebuilds: bool = False


def compare(connection: Connection, models: Sequence[type[Any]], found: Mapping[str, Found]) -> tuple[Move, ...]:
    """Return what separates the file from the models, table by table; nothing where they agree.

    Tables without a model are left alone, and so are indexes that the catalogue never knew: others made them.
    """
    tables = {model.__table__.name: (model, model.__table__) for model in models}
    metadata = MetaData()
    for _, source in tables.values():
        _copy_with_parents(source, metadata)
    context = MigrationContext.configure(
        connection,
        opts={
            "include_name": lambda name, kind, _parents: kind != "table" or name in tables,
            "compare_type": _type_comparer(
                {name: table_from_model(model) for name, (model, _) in tables.items()}, found
            ),
            "compare_server_default": False,
        },
    )
    with _quiet, warnings.catch_warnings():
        # Indexes on expressions are none of Alembic's business here, which it says each time.
        warnings.simplefilter("ignore", SAWarning)
        script = produce_migrations(context, metadata)
    operations: dict[str, list[ops.MigrateOperation]] = {}
    for group in script.upgrade_ops.ops if script.upgrade_ops else ():
        if isinstance(group, ops.ModifyTableOps):
            operations.setdefault(group.table_name, []).extend(group.ops)
    moves: list[Move] = []
    for name, (model, source) in tables.items():
        if name not in found:
            moves.append(Move(Step(name, Action.CREATE_TABLE)))
        else:
            moves += _judge(model, source, found[name], operations.get(name, []))
    return tuple(moves)


def _judge(model: type[Any], source: ModelTable, found: Found, operations: Sequence[Any]) -> list[Move]:
    wanted = table_from_model(model)
    if set(wanted.key) != set(found.shape.key):
        detail = f"({', '.join(found.shape.key)}) to ({', '.join(wanted.key)})"
        refused = "a key is how production knows a row; make a new table and copy the rows"
        return [Move(Step(wanted.name, Action.CHANGE_KEY, detail=detail, refused=refused))]
    moves = [move for operation in operations for move in _move(wanted, found, operation)]
    moves += _kinds(wanted, found, moves)
    lost = _lost_by_rebuild(source, found, operations) if any(move.rebuilds for move in moves) else ""
    suspected = renames(move.step for move in moves)
    return [_refused(move, lost, suspected) for move in moves]


def _refused(move: Move, lost: str, suspected: str) -> Move:
    reason = (lost if move.rebuilds else "") or (suspected if move.step.action is Action.DROP_COLUMN else "")
    return move if move.step.refused or not reason else replace(move, step=replace(move.step, refused=reason))


def _move(wanted: Table, found: Found, operation: Any) -> Iterator[Move]:
    """Yield what one operation of Alembic's comes to."""
    name = wanted.name
    match operation:
        case ops.AddColumnOp():
            yield _addition(name, operation.column)
        case ops.DropColumnOp():
            step = Step(name, Action.DROP_COLUMN, operation.column_name, destructive=True)
            yield Move(step, operation, rebuilds=True)
        case ops.AlterColumnOp():
            yield from _alterations(wanted, found, operation)
        case ops.CreateIndexOp():
            yield Move(Step(name, Action.ADD_INDEX, str(operation.index_name)), operation)
        case ops.DropIndexOp() if _was_ours(found, str(operation.index_name)):
            yield Move(Step(name, Action.DROP_INDEX, str(operation.index_name)), operation)
        case ops.CreateUniqueConstraintOp() | ops.CreateForeignKeyOp():
            yield Move(Step(name, Action.ADD_CONSTRAINT, _constraint(operation)), operation, rebuilds=True)
        case ops.DropConstraintOp() if _constraint_was_ours(found, operation):
            yield Move(Step(name, Action.DROP_CONSTRAINT, _constraint(operation)), operation, rebuilds=True)
        case _:
            return


def _addition(table: str, column: Column[Any]) -> Move:
    step = Step(table, Action.ADD_COLUMN, column.name, column.type.compile(dialect=sqlite.dialect()))
    if column.computed is not None and column.computed.persisted:
        return Move(replace(step, refused="SQLite cannot add a stored generated column"))
    if not column.nullable and column.server_default is None and default_of(column) is None:
        refused = "rows that are there would have no value for it: let it be None, or give it a plain default"
        return Move(replace(step, refused=refused))
    return Move(step)


def default_of(column: Column[Any]) -> str | int | float | None:
    """Return the plain value that a model gives new rows, for those that are there already."""
    default = column.default
    if default is None or not default.is_scalar:
        return None
    value = getattr(default, "arg", None)
    return int(value) if isinstance(value, bool) else value if isinstance(value, str | int | float) else None


def _alterations(wanted: Table, found: Found, operation: ops.AlterColumnOp) -> Iterator[Move]:
    name = operation.column_name
    if operation.modify_type is not None:
        column, stored = wanted.by_name[name], found.shape.by_name[name]
        known = found.known.by_name.get(name) if found.known else None
        safe = _keeps_values(stored.affinity, affinity(column.declared)) and (
            known is None or widens(known.kind, column.kind)
        )
        detail = f"from {stored.declared or 'no type'} to {column.declared}"
        yield Move(Step(wanted.name, Action.ALTER_COLUMN, name, detail, destructive=not safe), operation, rebuilds=True)
    if operation.modify_nullable is not None:
        detail = NULLABLE if operation.modify_nullable else NOT_NULL
        yield Move(Step(wanted.name, Action.ALTER_COLUMN, name, detail), operation, rebuilds=True)


def _kinds(wanted: Table, found: Found, moves: Sequence[Move]) -> Iterator[Move]:
    """Yield columns that will mean something else although SQLite stores them as before."""
    altered = {move.step.subject for move in moves if move.step.action is Action.ALTER_COLUMN}
    for column in wanted.columns:
        known = found.known.by_name.get(column.name) if found.known else None
        if known is not None and known.kind is not column.kind and column.name not in altered:
            detail = f"from {known.kind} to {column.kind}"
            destructive = not widens(known.kind, column.kind)
            yield Move(Step(wanted.name, Action.ALTER_COLUMN, column.name, detail, destructive))


def _keeps_values(old: Affinity, new: Affinity) -> bool:
    """Return whether every value of one affinity is stored by the other without losing anything of it."""
    return old is new or new is Affinity.BLOB or (old is Affinity.INTEGER and new in (Affinity.TEXT, Affinity.NUMERIC))


def _lost_by_rebuild(source: ModelTable, found: Found, operations: Sequence[Any]) -> str:
    """Return what the table has that the model does not speak of and that a rebuild would not bring back."""
    said = _words(found.statement) - _words(str(CreateTable(source).compile(dialect=sqlite.dialect())))
    if said:
        return f"the table was made with {', '.join(sorted(said))}, of which the model knows nothing"
    foreign = [operation for operation in operations if isinstance(operation, ops.DropConstraintOp)]
    kept = [_constraint(operation) for operation in foreign if not _constraint_was_ours(found, operation)]
    return f"the table has a constraint that the model does not: {kept[0]}" if kept else ""


def _words(statement: str) -> set[str]:
    unquoted = re.sub(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\[[^]]*\]|`[^`]*`""", "", statement)
    return {match[0].upper() for match in _BEYOND_MODELS.finditer(unquoted)}


def _was_ours(found: Found, index: str) -> bool:
    if found.known is None:
        return False
    columns = next((each.columns for each in found.shape.indexes if each.name == index and each.unique), None)
    uniques = [set(unique) for unique in found.known.uniques]
    return index in {known.name for known in found.known.indexes} or (columns is not None and set(columns) in uniques)


def _constraint_was_ours(found: Found, operation: ops.DropConstraintOp) -> bool:
    if found.known is None:
        return False
    before = operation.to_constraint()
    columns = {column if isinstance(column, str) else column.name for column in getattr(before, "columns", ())}
    known = (*found.known.uniques, *(key.columns for key in found.known.foreign_keys))
    return any(set(each) == columns for each in known)


def _constraint(operation: Any) -> str:
    if isinstance(operation, ops.CreateUniqueConstraintOp):
        return f"UNIQUE ({', '.join(map(str, operation.columns))})"
    if isinstance(operation, ops.CreateForeignKeyOp):
        return f"FOREIGN KEY ({', '.join(operation.local_cols)}) REFERENCES {operation.referent_table}"
    constraint = operation.to_constraint()
    return f"{constraint.__visit_name__} ({', '.join(str(column.name) for column in constraint.columns)})"


def _type_comparer(wanted: Mapping[str, Table], found: Mapping[str, Found]) -> Callable[..., bool]:
    """Return Alembic's question whether a column's type differs: SQLite knows affinities, not types."""

    def differs(_context: Any, inspected: Column[Any], column: Column[Any], *_types: Any) -> bool:
        table = column.table.name
        declared = wanted[table].by_name[column.name].declared
        return affinity(declared) is not found[table].shape.by_name[inspected.name].affinity

    return differs


def _copy_with_parents(source: ModelTable, metadata: MetaData) -> None:
    """Copy a table, and those it refers to, which Alembic has to resolve."""
    if source.name in metadata.tables:
        return
    source.to_metadata(metadata)
    for key in source.foreign_keys:
        _copy_with_parents(key.column.table, metadata)
