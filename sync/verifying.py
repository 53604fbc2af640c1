"""One tenant compared with production, and when that was."""

from __future__ import annotations

import asyncpg

from localstore.sqlite.database import Database
from sync.link import Link
from sync.production import registered
from sync.status import VERIFIED_AT, now_text, remember
from sync.steps.verify import Verified, verify


async def verified(link: Link, database: Database) -> Verified:
    """Compare a tenant's file with production, and let the file remember when it was."""

    async def compare(connection: asyncpg.Connection) -> Verified:
        return await verify(connection, database, link.target, await registered(connection, link.target))

    found = await link.run(compare)
    await note_verified(database)
    return found


async def note_verified(database: Database) -> None:
    """Let the file remember that it has just been compared."""
    await database.write(lambda file: remember(file, VERIFIED_AT, now_text()))
