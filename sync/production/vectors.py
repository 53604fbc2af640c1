"""The extension whose type vectors have in production: made where the login may, awaited where it may not.

A production without it has `real[]` in its place, which takes no rows of ours: they are held as waiting for the
extension, and everything else goes its way. As soon as the extension is there the column gets its type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from localstore.postgres.policies import COMPANY_SETTING, OWNER, READER
from localstore.postgres.quoting import quote_identifier, quote_literal
from localstore.schema.postgres import production_name, relation
from localstore.schema.tables import Kind, Table
from localstore.schema.types import TRAVELLING_VECTOR
from localstore.vectors.table import VECTORS
from sync.production.rights import as_owner, owner_needed

EXTENSION: Final = "vector"
WAITS_FOR: Final = f"extension {EXTENSION}"
"""What a held row waits for in a production that cannot hold vectors yet."""


INDEXED_ROWS_MIN: Final = 10_000
"""A search reads the company's own vectors alone; fewer than these are measured one by one in no time."""

INDEX_MEMORY: Final = "512MB"
"""A graph that does not fit into memory while it is made takes many times as long; this holds 200,000 vectors of 384
dimensions."""

INDEXED_DIMENSIONS_MAX: Final = 2_000
"""pgvector's own limit for an index."""


def has_vectors(tables: Sequence[Table]) -> bool:
    """Return whether some table has a column of vectors."""
    return any(column.kind is Kind.VECTOR for table in tables for column in table.sent)


async def vector_type(connection: asyncpg.Connection) -> str:
    """Return the type for a new column of vectors: the extension's, with its schema, or `real[]` where there is none.

    The extension is made if the login may. It runs in a transaction of the caller's.
    """
    # The lock that whoever makes tables takes: two that make the extension at once stand in each other's way.
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('localstore:register', 0))")
    schema = await _schema(connection)
    if schema is None:
        savepoint = connection.transaction()
        await savepoint.start()
        try:
            await connection.execute(f"CREATE EXTENSION IF NOT EXISTS {EXTENSION}")
        except (asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError, asyncpg.UndefinedFileError):
            # Not allowed, or not on this server: what needs it waits.
            await savepoint.rollback()
            return TRAVELLING_VECTOR
        await savepoint.commit()
        schema = await _schema(connection)
    return TRAVELLING_VECTOR if schema is None else f"{quote_identifier(schema)}.{EXTENSION}"


async def admit(connection: asyncpg.Connection, target: str, tables: Sequence[Table], lock_timeout: str) -> bool:
    """Give columns that wait for the extension its type; return whether none of them waits any more.

    One query where none does. A login that may not change the tables leaves them waiting.
    """
    wanted = [
        (relation(target, table.name), production_name(column.name))
        for table in tables
        for column in table.sent
        if column.kind is Kind.VECTOR
    ]
    if not await _waiting(connection, wanted):
        return True
    async with connection.transaction():
        kind = await vector_type(connection)
        if kind == TRAVELLING_VECTOR:
            return False
        savepoint = connection.transaction()
        await savepoint.start()
        try:
            async with as_owner(connection, lock_timeout):
                for table, column in await _waiting(connection, wanted):
                    name = quote_identifier(column)
                    await connection.execute(
                        f"ALTER TABLE {table} ALTER COLUMN {name} TYPE {kind} USING {name}::{kind}"
                    )
        except asyncpg.InsufficientPrivilegeError:
            await savepoint.rollback()
            return False
        await savepoint.commit()
    return True


async def index_vectors(
    connection: asyncpg.Connection, target: str, company: str, rows_min: int = INDEXED_ROWS_MIN
) -> tuple[str, ...]:
    """Make an HNSW index for each model of which the company has many vectors; return the names of these indexes.

    An index covers one model and dimension, of all companies. It is made in one piece, and writers of vectors wait
    meanwhile, so it is an owner's command that asks for it and never a push. Runs again freely.
    """
    table = relation(target, VECTORS.name)
    names = []
    async with connection.transaction():
        login = await connection.fetchval("SELECT current_user")
        await connection.execute(f"SET LOCAL ROLE {quote_identifier(READER)}")
        await connection.execute("SELECT set_config($1, $2, true)", COMPANY_SETTING, company)
        schema = await _schema(connection)
        if schema is None or await connection.fetchval("SELECT to_regclass($1) IS NULL", table):
            return ()
        models = await connection.fetch(
            f"SELECT model, dimension FROM {table} WHERE company_id = $1 AND dimension <= $2 "
            "GROUP BY model, dimension HAVING count(*) >= $3 ORDER BY model, dimension",
            company,
            INDEXED_DIMENSIONS_MAX,
            rows_min,
        )
        await connection.execute("SET LOCAL ROLE NONE")
        await connection.execute(
            "SELECT set_config('maintenance_work_mem', $1, true) "
            "WHERE pg_size_bytes(current_setting('maintenance_work_mem')) < pg_size_bytes($1)",
            INDEX_MEMORY,
        )
        kind = quote_identifier(schema)
        for model, dimension in models:
            name = production_name(f"{VECTORS.name}_{model}_{dimension}_hnsw")
            names.append(name)
            if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", relation(target, name)):
                continue
            async with owner_needed(login, "index vectors"), as_owner(connection):
                await connection.execute(
                    f"CREATE INDEX IF NOT EXISTS {quote_identifier(name)} ON {table} USING hnsw "
                    f"((embedding::{kind}.vector({dimension})) {kind}.vector_cosine_ops) "
                    f"WHERE model = {quote_literal(model)} AND dimension = {dimension}"
                )
    return tuple(names)


async def _schema(connection: asyncpg.Connection) -> str | None:
    """Return the schema of the extension's type, None where there is no extension or our tables may not use it."""
    found: str | None = await connection.fetchval(
        "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace "
        "WHERE e.extname = $1 AND has_schema_privilege($2, n.oid, 'USAGE')",
        EXTENSION,
        OWNER,
    )
    return found


async def _waiting(connection: asyncpg.Connection, wanted: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    rows = await connection.fetch(
        "SELECT wanted.relation, wanted.name FROM unnest($1::text[], $2::text[]) AS wanted (relation, name) "
        "JOIN pg_attribute a ON a.attrelid = to_regclass(wanted.relation) AND a.attname = wanted.name "
        "WHERE a.atttypid = 'real[]'::regtype",
        [table for table, _ in wanted],
        [column for _, column in wanted],
    )
    return [(row["relation"], row["name"]) for row in rows]
