"""Production's ledger of batches: what was staged, promoted, taken back or given up.

The ledger is the only authority on whether a batch took effect. Whoever is in doubt, because an answer was lost or a
process was killed, asks here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from sync.bundle import Head, Sealed

STAGING = "staging"
STAGED = "staged"
PROMOTED = "promoted"
ROLLED_BACK = "rolled_back"
WITHDRAWN = "withdrawn"
IN_EFFECT = frozenset({PROMOTED, ROLLED_BACK})
"""States of a batch that was promoted; a rollback is a batch of its own and does not undo that it was."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the ledger. `manifest` says which staged rows there must be, `counts` what the promotion did."""

    batch: UUID
    company_id: str
    kind: str
    replica: UUID | None
    epoch: int | None
    seq: int | None
    parent: str | None
    hash: str
    undoes: UUID | None
    target: str
    state: str
    manifest: dict[str, Any]
    counts: dict[str, dict[str, int]] | None
    sealed_at: datetime | None
    staged_at: datetime | None
    promoted_at: datetime | None
    rolled_back_at: datetime | None
    withdrawn_at: datetime | None
    promoted_by: str | None


_SELECT = "SELECT " + ", ".join(Entry.__slots__) + " FROM localstore.ledger "


def _read(row: asyncpg.Record) -> Entry:
    fields = dict(row)
    fields["manifest"] = orjson.loads(fields["manifest"])
    fields["counts"] = orjson.loads(fields["counts"]) if fields["counts"] else None
    return Entry(**fields)


async def entry(connection: asyncpg.Connection, batch: UUID, *, lock: bool = False) -> Entry | None:
    """Return a batch's row, locked until the transaction ends if asked for."""
    row = await connection.fetchrow(_SELECT + "WHERE batch = $1" + (" FOR UPDATE" if lock else ""), batch)
    return None if row is None else _read(row)


async def find(connection: asyncpg.Connection, prefix: str) -> list[Entry]:
    """Return the batches whose id begins with `prefix`, at most two."""
    rows = await connection.fetch(
        _SELECT + "WHERE batch::text LIKE $1 || '%' LIMIT 2", prefix.lower().replace("%", "").replace("_", "")
    )
    return [_read(row) for row in rows]


async def inverse_of(connection: asyncpg.Connection, batch: UUID) -> Entry | None:
    """Return the rollback that took a batch back, if one did."""
    row = await connection.fetchrow(_SELECT + "WHERE undoes = $1 AND state = 'promoted'", batch)
    return None if row is None else _read(row)


async def chain(connection: asyncpg.Connection, company: str, replica: UUID, since: int = 0) -> list[Entry]:
    """Return a replica's batches from the place `since` on that were not withdrawn, oldest first, of all its epochs."""
    rows = await connection.fetch(
        _SELECT + "WHERE company_id = $1 AND replica = $2 AND kind = 'push' AND state <> 'withdrawn' "
        "AND seq >= $3 ORDER BY seq, epoch",
        company,
        replica,
        since,
    )
    return [_read(row) for row in rows]


async def was_promoted(connection: asyncpg.Connection, company: str) -> bool:
    """Return whether any batch of the company ever took effect."""
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM localstore.ledger WHERE company_id = $1 AND kind = 'push' "
            "AND state = ANY ($2::text[]))",
            company,
            list(IN_EFFECT),
        )
    )


async def states(connection: asyncpg.Connection, batches: list[UUID]) -> dict[UUID, str]:
    """Return the states of those batches that the ledger knows."""
    rows = await connection.fetch("SELECT batch, state FROM localstore.ledger WHERE batch = ANY($1)", batches)
    return {row["batch"]: row["state"] for row in rows}


async def staged(connection: asyncpg.Connection, company: str, target: str) -> list[Entry]:
    """Return a company's staged batches in the order in which they must be promoted."""
    rows = await connection.fetch(
        _SELECT + "WHERE company_id = $1 AND target = $2 AND kind = 'push' AND state = 'staged' "
        "ORDER BY replica, seq, epoch",
        company,
        target,
    )
    return [_read(row) for row in rows]


async def unswept(connection: asyncpg.Connection, company: str) -> list[Entry]:
    """Return a company's batches that are done with but still have rows in staging: whoever did them was cut off."""
    rows = await connection.fetch(
        _SELECT + "WHERE company_id = $1 AND state IN ('promoted', 'rolled_back', 'withdrawn') "
        "AND batch IN (SELECT batch FROM localstore.chunks)",
        company,
    )
    return [_read(row) for row in rows]


async def companies_with_staged(connection: asyncpg.Connection, target: str) -> list[str]:
    """Return the companies that have staged batches."""
    rows = await connection.fetch(
        "SELECT DISTINCT company_id FROM localstore.ledger WHERE state = 'staged' AND target = $1 ORDER BY 1", target
    )
    return [row["company_id"] for row in rows]


async def log(connection: asyncpg.Connection, companies: list[str] | None, limit: int) -> list[Entry]:
    """Return the newest batches, newest first."""
    rows = await connection.fetch(
        _SELECT + "WHERE $1::text[] IS NULL OR company_id = ANY($1) "
        "ORDER BY coalesce(promoted_at, staged_at, sealed_at) DESC NULLS LAST, seq DESC LIMIT $2",
        companies,
        limit,
    )
    return [_read(row) for row in rows]


async def begin_staging(connection: asyncpg.Connection, sealed: Sealed, target: str, mode: str) -> str:
    """Enter a sealed batch, if it is new, and return its state; a second sender waits here for the first.

    A company that production does not list yet begins there in `mode`, which is its file's.
    """
    head: Head = sealed.head
    await connection.execute(
        "INSERT INTO localstore.tenants (company_id, mode, target) VALUES ($1, $2, $3) "
        "ON CONFLICT (company_id) DO NOTHING",
        head.company_id,
        mode,
        target,
    )
    await connection.execute(
        "INSERT INTO localstore.ledger (batch, company_id, kind, replica, epoch, seq, parent, hash, target, state, "
        "manifest, sealed_at) VALUES ($1, $2, 'push', $3, $4, $5, $6, $7, $8, 'staging', $9::jsonb, $10) "
        "ON CONFLICT (batch) DO NOTHING",
        head.batch,
        head.company_id,
        head.replica,
        head.epoch,
        head.seq,
        head.parent,
        sealed.hash,
        target,
        orjson.dumps(
            {
                "counts": sealed.counts,
                "chunks": sealed.chunks,
                "fingerprints": {table.name: table.fingerprint for table in head.tables if table.name in sealed.counts},
            }
        ).decode(),
        head.sealed_at,
    )
    return str(await connection.fetchval("SELECT state FROM localstore.ledger WHERE batch = $1", head.batch))


async def mark_staged(connection: asyncpg.Connection, batch: UUID) -> None:
    """Note that every chunk is there."""
    await connection.execute(
        "UPDATE localstore.ledger SET state = 'staged', staged_at = now() WHERE batch = $1 AND state = 'staging'", batch
    )


async def mark_promoted(connection: asyncpg.Connection, batch: UUID, counts: dict[str, dict[str, int]]) -> None:
    """Note in the promoting transaction what it did."""
    await connection.execute(
        "UPDATE localstore.ledger SET state = 'promoted', promoted_at = now(), promoted_by = session_user, "
        "counts = $2::jsonb WHERE batch = $1",
        batch,
        orjson.dumps(counts).decode(),
    )


async def mark_withdrawn(connection: asyncpg.Connection, batch: Entry) -> list[UUID]:
    """Give up a batch and the later ones of its replica, none of which may have been promoted."""
    rows = await connection.fetch(
        "UPDATE localstore.ledger SET state = 'withdrawn', withdrawn_at = now() WHERE company_id = $1 AND replica = $2 "
        "AND seq >= $3 AND state IN ('staging', 'staged') RETURNING batch",
        batch.company_id,
        batch.replica,
        batch.seq,
    )
    return [row["batch"] for row in rows]
