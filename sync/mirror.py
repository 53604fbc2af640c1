"""The mirror of a replica's held changes in the tenant's file, so that they can be listed and decided offline."""

from __future__ import annotations

import sqlite3
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from localstore.sqlite.database import Database

REVISION = "held_revision"


async def mirror_held(connection: asyncpg.Connection, database: Database) -> None:
    """Copy production's held changes of this replica into the file, if they changed since the last copy."""
    identity = database.identity
    replica = UUID(str(identity.replica))
    revision = await connection.fetchval(
        "SELECT held_revision FROM localstore.replicas WHERE company_id = $1 AND replica = $2",
        identity.company_id,
        replica,
    )
    if revision is None or revision == await database.read(_mirrored):
        return
    rows = await connection.fetch(
        "SELECT tbl, key, op, base::text, value::text, production::text, reason, column_name, detail, waits_for, "
        "batch::text, since FROM localstore.held WHERE company_id = $1 AND replica = $2 ORDER BY id",
        identity.company_id,
        replica,
    )
    copies = [
        (
            row["tbl"],
            orjson.dumps(row["key"]).decode(),
            row["op"].decode(),
            row["base"],
            row["value"],
            row["production"],
            row["reason"],
            row["column_name"],
            row["detail"],
            row["waits_for"],
            row["batch"],
            row["since"].isoformat(),
        )
        for row in rows
    ]
    await database.write(lambda write: _replace(write, copies, revision))


def _mirrored(connection: sqlite3.Connection) -> int | None:
    row = connection.execute("SELECT value FROM localstore_state WHERE name = ?", (REVISION,)).fetchone()
    return None if row is None else int(row[0])


def _replace(connection: sqlite3.Connection, copies: list[tuple[Any, ...]], revision: int) -> None:
    connection.execute("DELETE FROM localstore_held")
    connection.executemany(
        "INSERT INTO localstore_held (tbl, key, op, base, value, production, reason, column_name, detail, waits_for, "
        "batch, since) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        copies,
    )
    connection.execute(
        "INSERT INTO localstore_state (name, value) VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (REVISION, revision),
    )
