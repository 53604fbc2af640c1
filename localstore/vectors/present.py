"""What production has of vectors at this moment, brought to Qdrant: the one way there, for applications and for sync.

Whoever brings holds the company's lock and reads after it has it. Of two at once the later one therefore brings what
both wrote, and nobody can put an older state over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import asyncpg
import numpy as np

from localstore.vectors.qdrant import QdrantVectors
from localstore.vectors.values import Stored, has_direction

FOLLOW_LOCK: Final = "pg_advisory_xact_lock(hashtextextended('localstore/follow/' || $1, 0))"
"""Held by who brings a company's vectors, until its transaction ends; $1 is the company."""

TRY_FOLLOW_LOCK: Final = FOLLOW_LOCK.replace("pg_advisory", "pg_try_advisory")

ROWS_AT_A_TIME: Final = 500
"""Vectors in memory at a time, on their way from one server to the other."""

COLUMNS: Final = "t.model, t.item, t.content_hash, t.metadata::text AS metadata, t.embedding::real[] AS numbers"

Address: TypeAlias = tuple[str, str]
"""A vector's model and item."""


async def bring_present(
    connection: asyncpg.Connection, table: str, company: str, addresses: Sequence[Address], vectors: QdrantVectors
) -> None:
    """Make these vectors in Qdrant what they are in production's table; the caller holds the lock. Runs again.

    The transaction is at READ COMMITTED, in which each statement sees what is committed when it begins.
    """
    for at in range(0, len(addresses), ROWS_AT_A_TIME):
        some = addresses[at : at + ROWS_AT_A_TIME]
        present = await connection.fetch(
            f"SELECT {COLUMNS} {_OF_ADDRESSES.format(table=table)}", company, *_columns_of(some)
        )
        await bring_rows(present, vectors)
        there = {(row["model"], row["item"]) for row in present}
        await _remove([address for address in some if address not in there], vectors)


async def bring_rows(rows: Sequence[asyncpg.Record], vectors: QdrantVectors) -> None:
    """Bring rows that were read with `COLUMNS`; of those that no search would find, Qdrant has nothing afterwards."""
    by_model: dict[str, list[Stored]] = {}
    others = []
    for row in rows:
        vector = _stored(row)
        if vector is None:
            others.append((row["model"], row["item"]))
        else:
            by_model.setdefault(row["model"], []).append(vector)
    for model, some in by_model.items():
        await vectors.bring(model, some, ())
    await _remove(others, vectors)


async def remove_absent(
    connection: asyncpg.Connection, table: str, company: str, vectors: QdrantVectors, model: str | None = None
) -> int:
    """Remove from Qdrant what production does not have, of one model or of all; the caller holds the lock."""
    removed = 0
    async for some in vectors.addresses(model):
        present = await connection.fetch(
            f"SELECT t.model, t.item {_OF_ADDRESSES.format(table=table)}", company, *_columns_of(some)
        )
        there = {(row["model"], row["item"]) for row in present}
        gone = [address for address in some if address not in there]
        await _remove(gone, vectors)
        removed += len(gone)
    return removed


_OF_ADDRESSES: Final = (
    "FROM unnest($2::text[], $3::text[]) AS k (model, item) "
    "JOIN {table} t ON t.company_id = $1 AND t.model = k.model AND t.item = k.item"
)


def _columns_of(addresses: Sequence[Address]) -> tuple[list[str], list[str]]:
    return [model for model, _ in addresses], [item for _, item in addresses]


async def _remove(addresses: Sequence[Address], vectors: QdrantVectors) -> None:
    by_model: dict[str, list[str]] = {}
    for model, item in addresses:
        by_model.setdefault(model, []).append(item)
    for model, items in by_model.items():
        await vectors.bring(model, (), items)


def _stored(row: asyncpg.Record) -> Stored | None:
    """Return a row as it is kept; None for one that another program wrote and no search would find."""
    numbers = np.array(row["numbers"] or (), "<f4")
    if not has_direction(numbers):
        return None
    return Stored(row["item"], len(numbers), row["content_hash"], row["metadata"] or "{}", numbers.tobytes())
