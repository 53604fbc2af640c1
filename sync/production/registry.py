"""The tables, by shape, that production knows."""

from __future__ import annotations

import json
from dataclasses import dataclass

import asyncpg

from localstore.schema.postgres import relation
from localstore.schema.tables import Table


@dataclass(frozen=True, slots=True)
class Registered:
    """A table's shape with its staging table and production's table, both quoted and with their schemas."""

    table: Table
    target: str
    staging: str
    relation: str


async def registered(connection: asyncpg.Connection, target: str) -> dict[tuple[str, str], Registered]:
    """Return what production knows of a target, by table name and fingerprint."""
    rows = await connection.fetch(
        "SELECT name, fingerprint, definition::text AS definition, staging FROM localstore.tables WHERE target = $1",
        target,
    )
    return {
        (row["name"], row["fingerprint"]): Registered(
            table=Table.from_json(json.loads(row["definition"])),
            target=target,
            staging=row["staging"],
            relation=relation(target, row["name"]),
        )
        for row in rows
    }
