"""Make production and staging tables for the shapes of a tenant's tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import asyncpg

from localstore.postgres.policies import COMPANY_POLICY, OWNER, grants, protect
from localstore.schema.postgres import (
    create_indexes,
    create_references,
    create_staging,
    create_table,
    create_uniques,
    production_name,
    relation,
    staging_relation,
    unsupported,
)
from localstore.schema.tables import Kind, Table, parents_first
from localstore.schema.types import production_type
from sync.errors import UnknownSchema, UnsupportedTable
from sync.feed import feed_triggers
from sync.production.compare import differences, remedy
from sync.production.describe import ProductionTable, describe_all
from sync.production.registry import registered
from sync.production.rights import as_owner, owner_needed
from sync.production.vectors import admit, has_vectors, vector_type

LOCK_TIMEOUT = "10s"
"""How long a change of the schema waits behind others' locks, and so lets others wait behind its own."""


async def register(connection: asyncpg.Connection, target: str, tables: Sequence[Table]) -> None:
    """Make sure that production has these tables and that staging takes their rows; one query when it knows them all.

    Missing production tables are made with keys, policies, rights and feed; those that are there must fit, or
    `UnknownSchema` names each difference. All or nothing, and it can run again. Raises `UnsupportedTable` for shapes
    that no production table can have and `MissingRights` where the login may not make tables.
    """
    _refuse_unsupported(tables)
    if await _all_known(connection, target, tables):
        if has_vectors(tables):
            await admit(connection, target, tables, LOCK_TIMEOUT)
        return
    async with connection.transaction():
        login = await connection.fetchval("SELECT current_user")
        types = {}
        if has_vectors(tables):
            types[production_type(Kind.VECTOR)] = await vector_type(connection)
        async with owner_needed(login, f"make tables in schema {target!r}"), as_owner(connection, LOCK_TIMEOUT):
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('localstore:register', 0))")
            await _register(connection, target, parents_first(tuple(tables)), types)


async def _register(
    connection: asyncpg.Connection, target: str, tables: tuple[Table, ...], types: Mapping[str, str]
) -> None:
    known = await _known_by_name(connection, target, tables)
    present = await describe_all(connection, target, known)
    _refuse_different(target, tables, present)
    taken = await _names_taken(connection, target) | {production_name(table.name) for table in tables}
    new = [table for table in tables if table.name not in present]
    have = {name: table for name, table in known.items() if name in present or table in new}
    statements = [create_table(target, table, types) for table in new]
    for table in new:
        statements += create_uniques(target, table, have.values(), taken)
        statements += create_indexes(target, table, taken)
        statements += protect(relation(target, table.name), production_name(table.company))
        statements += feed_triggers(target, table)
    for table in new:
        statements += create_references(target, table, have, taken)
    for table in tables:
        if table.name in present and present[table.name].owner == OWNER:
            statements += _repair(target, table, present[table.name])
        statements += create_staging(target, table)
        statements += _staging_grants(target, table)
    statements.append("SELECT localstore.limit_tables()")
    await connection.execute(";\n".join(statements))
    await connection.executemany(
        "INSERT INTO localstore.tables (target, name, fingerprint, definition, staging) "
        "VALUES ($1, $2, $3, $4::text::jsonb, $5) ON CONFLICT DO NOTHING",
        [
            (target, table.name, table.fingerprint, json.dumps(table.to_json()), staging_relation(target, table))
            for table in tables
        ],
    )


async def _all_known(connection: asyncpg.Connection, target: str, tables: Sequence[Table]) -> bool:
    return bool(
        await connection.fetchval(
            """
            SELECT count(*) = cardinality($2::text[])
            FROM unnest($2::text[], $3::text[], $4::text[]) AS wanted (name, fingerprint, relation)
            JOIN localstore.tables t ON t.target = $1 AND t.name = wanted.name AND t.fingerprint = wanted.fingerprint
            WHERE to_regclass(wanted.relation) IS NOT NULL AND to_regclass(t.staging) IS NOT NULL
            """,
            target,
            [table.name for table in tables],
            [table.fingerprint for table in tables],
            [relation(target, table.name) for table in tables],
        )
    )


async def _known_by_name(connection: asyncpg.Connection, target: str, tables: tuple[Table, ...]) -> dict[str, Table]:
    """Return the tables by name with those that were registered before, which new ones may refer to."""
    before = await registered(connection, target)
    return {entry.table.name: entry.table for entry in before.values()} | {table.name: table for table in tables}


async def _names_taken(connection: asyncpg.Connection, target: str) -> set[str]:
    rows = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident($1))", target
    )
    return {row["relname"] for row in rows}


def _repair(target: str, table: Table, production: ProductionTable) -> tuple[str, ...]:
    """Return the statements that give a table of ours back what keeps tenants apart and the feed going."""
    quoted, company = relation(target, table.name), production_name(table.company)
    statements: tuple[str, ...] = grants(quoted)
    if not production.forced or COMPANY_POLICY not in production.policies:
        statements = (f"DROP POLICY IF EXISTS {COMPANY_POLICY} ON {quoted}", *protect(quoted, company))
    return (*statements, *feed_triggers(target, table))


def _staging_grants(target: str, table: Table) -> tuple[str, ...]:
    """Return the rights on staging: who stages reads nothing back but which chunks are there."""
    staging = staging_relation(target, table)
    return (
        f"REVOKE ALL ON TABLE {staging} FROM PUBLIC",
        f"GRANT INSERT, DELETE, SELECT (batch, chunk) ON TABLE {staging} TO localstore_stager",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE {staging} TO localstore_promoter",
        f"GRANT SELECT ON TABLE {staging} TO localstore_reader",
    )


def _refuse_unsupported(tables: Sequence[Table]) -> None:
    found = [(table.name, reason) for table in tables for reason in unsupported(table)]
    if found:
        raise UnsupportedTable(
            "production cannot hold " + "; ".join(f"table {name!r}: {reason}" for name, reason in found),
            hint="change the table, or leave it out of what is tracked",
        )


def _refuse_different(target: str, tables: Sequence[Table], present: dict[str, ProductionTable]) -> None:
    found = {table.name: differences(table, present[table.name]) for table in tables if table.name in present}
    named = [f"table {relation(target, name)}: {', '.join(every)}" for name, every in found.items() if every]
    if named:
        raise UnknownSchema(
            "production's tables have another shape; " + "; ".join(named),
            hint=remedy((table, present[table.name]) for table in tables if found.get(table.name)),
        )
