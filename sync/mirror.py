"""The mirror of a replica's held changes in the tenant's file, so that they can be listed and decided offline."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from localstore.sqlite.database import Database

REVISION = "held_revision"


@dataclass(frozen=True, slots=True)
class HeldCopy:
    """Production's held changes of one replica, as the file is to mirror them."""

    rows: tuple[tuple[Any, ...], ...]
    revision: int


async def read_held(connection: asyncpg.Connection, database: Database) -> HeldCopy | None:
    """Return production's held changes of this replica, or None where the file has them already."""
    identity = database.identity
    replica = UUID(str(identity.replica))
    revision = await connection.fetchval(
        "SELECT held_revision FROM localstore.replicas WHERE company_id = $1 AND replica = $2",
        identity.company_id,
        replica,
    )
    if revision is None or revision == await database.read(_mirrored):
        return None
    rows = await connection.fetch(
        "SELECT tbl, key, op, base::text, value::text, production::text, reason, column_name, detail, waits_for, "
        "batch::text, since FROM localstore.held WHERE company_id = $1 AND replica = $2 ORDER BY id",
        identity.company_id,
        replica,
    )
    copies = tuple(
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
    )
    return HeldCopy(copies, revision)


async def mirror_held(connection: asyncpg.Connection, database: Database) -> None:
    """Copy production's held changes of this replica into the file, if they changed since the last copy."""
    copy = await read_held(connection, database)
    if copy is not None:
        await database.write(lambda write: write_held(write, copy))


def write_held(connection: sqlite3.Connection, copy: HeldCopy) -> None:
    """Replace what the file mirrors, in the caller's transaction."""
    connection.execute("DELETE FROM localstore_held")
    connection.executemany(
        "INSERT INTO localstore_held (tbl, key, op, base, value, production, reason, column_name, detail, waits_for, "
        "batch, since) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        copy.rows,
    )
    connection.execute(
        "INSERT INTO localstore_state (name, value) VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (REVISION, copy.revision),
    )


def _mirrored(connection: sqlite3.Connection) -> int | None:
    row = connection.execute("SELECT value FROM localstore_state WHERE name = ?", (REVISION,)).fetchone()
    return None if row is None else int(row[0])
