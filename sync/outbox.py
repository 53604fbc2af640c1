"""The outbox of production's vectors: what the ledger and the feed tell of them is brought to Qdrant.

Nothing is queued a second time. A position, kept in production, says up to which state Qdrant has followed; what
changed since, by promotions, rollbacks or applications, is read from undo and the feed as a pull does, and each such
vector is made in Qdrant what it is in production now. That can be cut off anywhere and done twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

import asyncpg
import numpy as np

from localstore.postgres.connect import session_settings
from localstore.postgres.policies import COMPANY_SETTING, PROMOTER
from localstore.postgres.quoting import quote_identifier, quote_literal
from localstore.vectors.qdrant import COLLECTION, QdrantVectors
from localstore.vectors.qdrant_server import Qdrant
from localstore.vectors.table import VECTORS
from localstore.vectors.values import Stored
from sync import cursor as cursors
from sync.cursor import Cursor
from sync.production import Registered, registered
from sync.pull.fetch import batches_since, changed_keys, emptied, key_match
from sync.staging import Staging

ROWS_AT_A_TIME: Final = 500
"""Vectors in memory at a time, on their way from one server to the other."""

NOBODY: Final = UUID(int=0)
"""Qdrant is no replica, so nothing that happened in production was its own doing."""

_COLUMNS: Final = "t.model, t.item, t.content_hash, t.metadata::text AS metadata, t.embedding::real[] AS numbers"


async def follow(connection: asyncpg.Connection, company: str, target: str, qdrant: Qdrant) -> int:
    """Bring a company's vectors in Qdrant to what production has; return how many were written or removed.

    Followers of a company take turns. Where the position is lost or production is another one, all vectors are brought.
    """
    known = (await registered(connection, target)).get((VECTORS.name, VECTORS.fingerprint))
    if known is None:
        return 0
    vectors = QdrantVectors(qdrant, company)
    follower = f"{COLLECTION} {qdrant.shown}"
    async with connection.transaction():
        await connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('localstore/follow/' || $1, 0))", company
        )
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
    changed, match = changed_keys(known, company, old, since), key_match(Staging(known.table, known.staging), company)
    gone = await connection.fetch(
        f"SELECT k.key FROM ({changed}) k WHERE NOT EXISTS (SELECT FROM {known.relation} t WHERE {match})"
    )
    # Who comes back meanwhile is brought the next time.
    await _remove(vectors, [(row["key"][0], row["key"][1]) for row in gone])
    kept = f"SELECT {_COLUMNS} FROM ({changed}) k JOIN {known.relation} t ON {match}"
    return len(gone) + len(await _bring(connection, kept, vectors))


async def _bring_all(connection: asyncpg.Connection, known: Registered, company: str, vectors: QdrantVectors) -> int:
    everything = f"SELECT {_COLUMNS} FROM {known.relation} t WHERE t.company_id = {quote_literal(company)}"
    there = await _bring(connection, everything, vectors)
    gone = [address async for address in vectors.items() if address not in there]
    await _remove(vectors, gone)
    return len(there) + len(gone)


async def _bring(connection: asyncpg.Connection, query: str, vectors: QdrantVectors) -> set[tuple[str, str]]:
    """Bring the vectors of a query, some at a time; return the models and items of those that Qdrant then has."""
    brought: set[tuple[str, str]] = set()
    rows = await connection.cursor(query)
    while records := await rows.fetch(ROWS_AT_A_TIME):
        by_model: dict[str, list[Stored]] = {}
        for record in records:
            if record["numbers"]:
                by_model.setdefault(record["model"], []).append(_stored(record))
                brought.add((record["model"], record["item"]))
        for model, some in by_model.items():
            await vectors.bring(model, some, ())
    return brought


async def _remove(vectors: QdrantVectors, addresses: Sequence[tuple[str, str]]) -> None:
    by_model: dict[str, list[str]] = {}
    for model, item in addresses:
        by_model.setdefault(model, []).append(item)
    for model, items in by_model.items():
        await vectors.bring(model, (), items)


def _stored(record: asyncpg.Record) -> Stored:
    numbers = np.array(record["numbers"], "<f4")
    return Stored(record["item"], len(numbers), record["content_hash"], record["metadata"] or "{}", numbers.tobytes())
