"""Which tables a pull reads, and those that the tenant's file has to be given first."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

import asyncpg

from localstore.postgres.quoting import quote_literal
from localstore.schema.create import create_statements
from localstore.schema.tables import Table, parents_first
from localstore.sqlite import capture
from localstore.sqlite.database import Database
from sync.errors import UnknownSchema
from sync.production import Registered
from sync.staging import Staging
from sync.verify.production import reading

Registry = Mapping[tuple[str, str], Registered]


async def pulled_tables(connection: asyncpg.Connection, database: Database, known: Registry) -> list[Registered]:
    """Return production's side of the file's tables, made first where the company has rows that have no table here.

    A table that production was never sent is left out; raises UnknownSchema for one that it knows in other shapes only.
    """
    await database.refresh()
    here = {table.name: table for table in database.tables}
    missing = await _missing(connection, database.identity.company_id, here, known)
    if missing:
        await database.write(lambda file: _make(file, missing, [*here, *(table.name for table in missing)]))
        await database.refresh()
    found = []
    for table in database.tables:
        entry = known.get((table.name, table.fingerprint))
        if entry is not None:
            found.append(entry)
        elif any(name == table.name for name, _ in known):
            raise UnknownSchema(
                f"production does not know this shape of the table {table.name}",
                hint="localstore sync schema apply",
                tenant=database.identity.company_id,
            )
    return found


async def _missing(
    connection: asyncpg.Connection, company: str, here: Mapping[str, Table], known: Registry
) -> list[Table]:
    targets = {entry.target for entry in known.values()}
    rows = await connection.fetch(
        "SELECT DISTINCT ON (name) name, fingerprint FROM localstore.tables WHERE target = ANY ($1) "
        "ORDER BY name, registered_at DESC",
        list(targets),
    )
    found = []
    for row in rows:
        entry = known.get((row["name"], row["fingerprint"]))
        if entry is None or row["name"] in here:
            continue
        if not here or await _has_rows(connection, company, entry):
            found.append(entry.table)
    return list(parents_first(tuple(found)))


async def _has_rows(connection: asyncpg.Connection, company: str, entry: Registered) -> bool:
    owner = Staging(entry.table, entry.staging).company
    async with reading(connection, company):
        query = f"SELECT EXISTS (SELECT FROM {entry.relation} WHERE {owner} = {quote_literal(company)})"
        return bool(await connection.fetchval(query))


def _make(connection: sqlite3.Connection, tables: Sequence[Table], present: Sequence[str]) -> None:
    for table in tables:
        for statement in create_statements(table, present):
            connection.execute(statement)
    capture.install(connection, tables)
