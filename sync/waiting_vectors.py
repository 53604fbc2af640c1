"""Let a tenant's vectors go on that were held because production had no type for them."""

from __future__ import annotations

import sqlite3

import asyncpg

from localstore.sqlite.database import Database
from sync.production.register import LOCK_TIMEOUT
from sync.production.vectors import WAITS_FOR, admit
from sync.releases import RETRY, release


async def release_vectors(connection: asyncpg.Connection, database: Database, target: str) -> None:
    """Put what waits for the extension in line again if production has it by now; nothing where nothing waits."""
    waiting = await database.read(_waiting)
    if not waiting:
        return
    names = {name for name, _ in waiting}
    if await admit(connection, target, [table for table in database.tables if table.name in names], LOCK_TIMEOUT):
        await database.write(lambda write: release(write, waiting, RETRY))


def _waiting(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    return connection.execute("SELECT tbl, key FROM localstore_held WHERE waits_for = ?", (WAITS_FOR,)).fetchall()
