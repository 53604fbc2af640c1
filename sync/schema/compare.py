"""Compare what tenants ask of production with what it has, by Alembic, and write each difference as SQL."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from io import StringIO
from typing import Any, Final

import asyncpg
from alembic.autogenerate import produce_migrations
from alembic.operations import Operations, ops
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Connection, Index, MetaData, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SAWarning
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.types import TypeEngine, UserDefinedType

from localstore.postgres.connect import connect
from localstore.postgres.quoting import quote_identifier
from localstore.postgres.server import Server
from localstore.schema.postgres import create_table, production_name
from localstore.schema.steps import NULLABLE, Action, Step, renames
from localstore.schema.tables import Kind
from localstore.schema.types import PRODUCTION_TYPES
from sync.errors import UnsupportedTable
from sync.production.compare import fits
from sync.schema.known import Known
from sync.schema.wanted import KINDS, WantedTable


class _Vector(UserDefinedType[Any]):
    """The extension's type, which SQLAlchemy does not know."""

    cache_ok = True

    def get_col_spec(self, **_options: Any) -> str:
        """Return its name."""
        return PRODUCTION_TYPES[Kind.VECTOR]


_TYPES: Final[Mapping[Kind, TypeEngine[Any]]] = {
    Kind.TEXT: postgresql.TEXT(),
    Kind.INTEGER: postgresql.BIGINT(),
    Kind.REAL: postgresql.DOUBLE_PRECISION(),
    Kind.NUMERIC: postgresql.NUMERIC(),
    Kind.BOOLEAN: postgresql.BOOLEAN(),
    Kind.TIMESTAMP: postgresql.TIMESTAMP(timezone=True),
    Kind.DATE: postgresql.DATE(),
    Kind.TIME: postgresql.TIME(),
    Kind.UUID: postgresql.UUID(),
    Kind.JSON: postgresql.JSONB(),
    Kind.BLOB: postgresql.BYTEA(),
    Kind.VECTOR: _Vector(),
}


async def compare(server: Server, timeout: float, known: Known, wanted: Mapping[str, WantedTable]) -> tuple[Step, ...]:
    """Return the steps that bring production to what is wanted, with the SQL of each.

    Production's own columns, indexes and constraints are left alone, and so is what is stricter there: a value that
    it does not take is held by itself.
    """
    existing = {name: table for name, table in wanted.items() if name in known.present}
    metadata = MetaData()
    for table in existing.values():
        _table(metadata, known.target, table)
    by_production = {production_name(name): table for name, table in existing.items()}

    def differs(connection: Connection) -> dict[str, list[Any]]:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": lambda name, kind, _: (
                    name == known.target if kind == "schema" else kind != "table" or name in by_production
                ),
                "compare_type": _type_comparer(known, by_production),
            },
        )
        with warnings.catch_warnings():
            # SQLAlchemy warns of types that it does not know. They are compared by what production calls them.
            warnings.filterwarnings("ignore", "Did not recognize type", SAWarning)
            script = produce_migrations(context, metadata)
        groups = script.upgrade_ops.ops if script.upgrade_ops else ()
        return {group.table_name: list(group.ops) for group in groups if isinstance(group, ops.ModifyTableOps)}

    async with _alchemy(server, timeout) as connection:
        operations = await connection.run_sync(differs)
    steps: list[Step] = []
    for name, table in wanted.items():
        if table.unsupported:
            steps.append(Step(name, Action.CREATE_TABLE, refused="; ".join(table.unsupported)))
        elif name not in existing:
            steps.append(Step(name, Action.CREATE_TABLE, sql=(create_table(known.target, table.shapes[0]),)))
        else:
            steps += _judge(known, table, operations.get(production_name(name), []))
    return tuple(steps)


@asynccontextmanager
async def _alchemy(server: Server, timeout: float) -> AsyncIterator[AsyncConnection]:
    """Open a connection for SQLAlchemy, in which every name is shown with its schema."""

    async def opened() -> asyncpg.Connection:
        connection = await connect(server, timeout=timeout)
        await connection.execute("SET search_path = pg_catalog")
        return connection

    # Behind a transaction pooler a prepared statement may be gone by the next transaction.
    url = "postgresql+asyncpg://?prepared_statement_cache_size=0"
    engine = create_async_engine(url, async_creator=opened, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


def _table(metadata: MetaData, target: str, wanted: WantedTable) -> None:
    key = set(wanted.key)
    columns = [
        Column(name, _TYPES[KINDS[kind]], primary_key=name in key, autoincrement=False, nullable=nullable)
        for name, (kind, nullable) in wanted.columns.items()
    ]
    table = Table(production_name(wanted.name), metadata, *columns, schema=target)
    for name, indexed in wanted.indexes.items():
        Index(name, *(table.columns[column] for column in indexed))


def _type_comparer(known: Known, wanted: Mapping[str, WantedTable]) -> Callable[..., bool]:
    def differs(_context: Any, inspected: Column[Any], column: Column[Any], *_types: Any) -> bool:
        table = wanted[column.table.name]
        return not fits(table.columns[column.name][0], known.present[table.name].columns[inspected.name].type)

    return differs


def _judge(known: Known, table: WantedTable, operations: list[Any]) -> list[Step]:
    primary = known.present[table.name].primary_key
    if primary is None or set(primary.columns) != set(table.key):
        detail = f"({', '.join(primary.columns if primary else ())}) to ({', '.join(table.key)})"
        refused = "a key is how a row is known; give the table of the new key a new name"
        return [Step(table.name, Action.CHANGE_KEY, detail=detail, refused=refused)]
    steps = [step for operation in operations for step in _steps(known, table, operation)]
    steps += [Step(table.name, Action.ALTER_COLUMN, name, refused=reason) for name, reason in table.disputed.items()]
    suspected = renames(steps)
    return [
        replace(step, refused=suspected) if suspected and step.action is Action.DROP_COLUMN else step for step in steps
    ]


def _steps(known: Known, table: WantedTable, operation: Any) -> Iterator[Step]:
    """Yield what one operation of Alembic's comes to."""
    name, target, production = table.name, known.target, production_name(table.name)
    match operation:
        case ops.AddColumnOp():
            column = operation.column
            # Tenants of the older shape go on pushing rows without it, so it may be NULL whatever the models say.
            added: Column[Any] = Column(column.name, column.type, nullable=True)
            sql = _render(column.name, lambda do: do.add_column(production, added, schema=target))
            yield Step(name, Action.ADD_COLUMN, column.name, table.columns[column.name][0], sql=sql)
        case ops.AlterColumnOp():
            yield from _alterations(known, table, operation)
        case ops.CreateIndexOp():
            sql = _render(str(operation.index_name), lambda do: do.invoke(operation))
            yield Step(name, Action.ADD_INDEX, str(operation.index_name), sql=sql)
        case ops.DropColumnOp() if known.was_ours(name, operation.column_name):
            column_name = operation.column_name
            if known.present[name].columns[column_name].not_null:
                yield _nullable(known, name, column_name)
            sql = _render(column_name, lambda do: do.drop_column(production, column_name, schema=target))
            yield Step(name, Action.DROP_COLUMN, column_name, destructive=True, sql=sql)
        case _:
            return


def _alterations(known: Known, table: WantedTable, operation: ops.AlterColumnOp) -> Iterator[Step]:
    column, production = operation.column_name, production_name(table.name)
    if column in table.disputed:
        return
    if operation.modify_type is not None:
        before, after = known.present[table.name].columns[column].type, table.columns[column][0]
        using = f"{quote_identifier(column)}::{after}"
        sql = _render(
            column,
            lambda do: do.alter_column(
                production, column, type_=_TYPES[KINDS[after]], schema=known.target, postgresql_using=using
            ),
        )
        # PostgreSQL writes every row anew, as if an application had: no earlier batch could be rolled back any more.
        yield Step(table.name, Action.ALTER_COLUMN, column, f"from {before} to {after}", destructive=True, sql=sql)
    if operation.modify_nullable:
        yield _nullable(known, table.name, column)


def _nullable(known: Known, table: str, column: str) -> Step:
    production = production_name(table)
    sql = _render(column, lambda do: do.alter_column(production, column, nullable=True, schema=known.target))
    return Step(table, Action.ALTER_COLUMN, column, NULLABLE, sql=sql)


def _render(name: str, write: Callable[[Operations], Any]) -> tuple[str, ...]:
    """Return the statement of one operation; it is shown, and it is what is run."""
    written = StringIO()
    context = MigrationContext.configure(
        dialect_name="postgresql",
        # Other styles of parameters would double the percent signs in names.
        dialect_opts={"paramstyle": "named"},
        opts={"as_sql": True, "output_buffer": written},
    )
    write(Operations(context))
    statement = written.getvalue().strip().removesuffix(";")
    if quote_identifier(name)[1:-1] not in statement:
        # Alembic writes spaces for tabs.
        raise UnsupportedTable(f"the name {name!r} cannot be written in a statement", hint="rename it in the file")
    return (statement,)
