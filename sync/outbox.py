"""The outbox of production's vectors: what the ledger and the feed tell of them is brought to Qdrant.

Nothing is queued a second time. A position, kept in production, says up to which state Qdrant has followed; what
changed since, by promotions, rollbacks or applications, is read from undo and the feed as a pull does, and each such
vector is made in Qdrant what it is in production now. That can be cut off anywhere and done twice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final
from uuid import UUID

import asyncpg

from localstore.postgres.connect import session_settings
from localstore.postgres.policies import COMPANY_SETTING, PROMOTER
from localstore.postgres.quoting import quote_identifier
from localstore.vectors.present import (
    COLUMNS,
    FOLLOW_LOCK,
    ROWS_AT_A_TIME,
    TRY_FOLLOW_LOCK,
    bring_present,
    bring_rows,
    remove_absent,
)
from localstore.vectors.qdrant import COLLECTION, QdrantVectors
from localstore.vectors.qdrant_server import Qdrant
from localstore.vectors.table import VECTORS
from sync import cursor as cursors
from sync.cursor import Cursor
from sync.production import Registered, registered
from sync.pull.fetch import batches_since, changed_keys, emptied

NOBODY: Final = UUID(int=0)
"""Qdrant is no replica, so nothing that happened in production was its own doing."""


def follower_of(qdrant: Qdrant) -> str:
    """Return the name under which a Qdrant's positions are kept."""
    return f"{COLLECTION} {qdrant.shown}"


async def follow(
    connection: asyncpg.Connection, company: str, target: str, qdrant: Qdrant, *, wait: bool = True
) -> int:
    """Bring a company's vectors in Qdrant to what production has; return how many were looked at.

    Followers of a company take turns; with `wait=False` one that finds another at it leaves it to the next command.
    Where the position is lost or production is another one, all vectors are brought.
    """
    known = (await registered(connection, target)).get((VECTORS.name, VECTORS.fingerprint))
    if known is None:
        return 0
    vectors = QdrantVectors(qdrant, company)
    follower = follower_of(qdrant)
    # Each statement sees what is committed when it begins, so what is read under the lock is what there is by then.
    async with connection.transaction(isolation="read_committed"):
        if wait:
            await connection.execute(f"SELECT {FOLLOW_LOCK}", company)
        elif not await connection.fetchval(f"SELECT {TRY_FOLLOW_LOCK}", company):
            return 0
        await session_settings(connection)
        await connection.execute(f"SET LOCAL ROLE {quote_identifier(PROMOTER)}")
        await connection.execute("SELECT set_config($1, $2, true)", COMPANY_SETTING, company)
        # The position is that of before anything is read: what happens meanwhile is brought, and brought again.
        now = replace(await cursors.here(connection, target), tables={VECTORS.name: VECTORS.fingerprint})
        old = await _position(connection, company, target, follower, now)
        if old is None or await emptied(connection, company, known, old):
            moved = await _bring_all(connection, known, company, vectors)
        else:
            moved = await _bring_changes(connection, known, company, old, vectors)
        await connection.execute(
            "INSERT INTO localstore.followers (company_id, target, follower, position) VALUES ($1, $2, $3, $4) "
            "ON CONFLICT (company_id, target, follower) DO UPDATE SET position = excluded.position, at = now()",
            company,
            target,
            follower,
            now.to_text(),
        )
    return moved


async def _position(
    connection: asyncpg.Connection, company: str, target: str, follower: str, now: Cursor
) -> Cursor | None:
    """Return up to where the follower has come; None where that says nothing about this production any more."""
    text = await connection.fetchval(
        "SELECT position FROM localstore.followers WHERE company_id = $1 AND target = $2 AND follower = $3",
        company,
        target,
        follower,
    )
    if text is None:
        return None
    old = Cursor.from_text(text)
    return old if await cursors.reaches(connection, old, now) else None


async def _bring_changes(
    connection: asyncpg.Connection, known: Registered, company: str, old: Cursor, vectors: QdrantVectors
) -> int:
    since = await batches_since(connection, company, NOBODY, known.target, old)
    moved = 0
    keys = await connection.cursor(f"SELECT k.key FROM ({changed_keys(known, company, old, since)}) k")
    while records := await keys.fetch(ROWS_AT_A_TIME):
        addresses = [(record["key"][0], record["key"][1]) for record in records]
        await bring_present(connection, known.relation, company, addresses, vectors)
        moved += len(addresses)
    return moved


async def _bring_all(connection: asyncpg.Connection, known: Registered, company: str, vectors: QdrantVectors) -> int:
    moved = 0
    rows = await connection.cursor(f"SELECT {COLUMNS} FROM {known.relation} t WHERE t.company_id = $1", company)
    while records := await rows.fetch(ROWS_AT_A_TIME):
        await bring_rows(records, vectors)
        moved += len(records)
    return moved + await remove_absent(connection, known.relation, company, vectors)
