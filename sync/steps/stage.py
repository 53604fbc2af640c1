"""Stage: copy a sealed bundle into production's staging tables, chunk by chunk.

Safe to run twice: a chunk's ledger row goes in before its rows, in one transaction, so a second sender waits for the
first and skips what is there, and a cut resumes at the next chunk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg

from localstore.postgres.policies import STAGER
from localstore.postgres.quoting import quote_identifier
from localstore.schema.postgres import STAGING_SCHEMA, staging_name, staging_relation
from sync import ledger
from sync.bundle import Bundle, Chunk, Sealed
from sync.errors import forked
from sync.staging import Staging, analyze


async def stage(connection: asyncpg.Connection, sealed: Sealed, target: str, mode: str = "file") -> str:
    """Bring the batch into staging and return its state in the ledger, which is `staged` unless it had gone further.

    `mode` is the one in which a company begins that production does not list yet.

    Raises DamagedBundle if the file is not what was sealed, ForkError if a copy of it was faster.
    """
    async with connection.transaction():
        await _as_stager(connection)
        try:
            state = await ledger.begin_staging(connection, sealed, target, mode)
        except asyncpg.UniqueViolationError as error:
            raise forked(sealed.head.company_id, sealed.head.seq) from error
        done = await _chunks(connection, sealed.head.batch)
    if state != ledger.STAGING:
        return state
    bundle = Bundle(sealed.path)
    bundle.check(sealed.hash)
    stagings = {table.name: Staging(table, staging_relation(target, table)) for table in sealed.head.tables}
    for chunk in bundle.chunks(after=done):
        staging = stagings[chunk.table]
        async with connection.transaction():
            await _as_stager(connection)
            if await _claim(connection, sealed.head.batch, chunk):
                await connection.copy_to_table(
                    staging_name(target, staging.table),
                    schema_name=STAGING_SCHEMA,
                    columns=staging.copy_columns,
                    source=_stream(chunk),
                    format="binary",
                )
    async with connection.transaction():
        await _as_stager(connection)
        for name, counts in sealed.counts.items():
            await analyze(connection, stagings[name], sum(counts.values()))
        await ledger.mark_staged(connection, sealed.head.batch)
        return str(await connection.fetchval("SELECT state FROM localstore.ledger WHERE batch = $1", sealed.head.batch))


async def _as_stager(connection: asyncpg.Connection) -> None:
    await connection.execute(f"SET LOCAL ROLE {quote_identifier(STAGER)}")


async def _chunks(connection: asyncpg.Connection, batch: UUID) -> frozenset[int]:
    rows = await connection.fetch("SELECT chunk FROM localstore.chunks WHERE batch = $1", batch)
    return frozenset(row["chunk"] for row in rows)


async def _claim(connection: asyncpg.Connection, batch: UUID, chunk: Chunk) -> bool:
    # Another sender may have brought the batch further, and swept it, since this one looked: nothing may follow then.
    tag = await connection.execute(
        "INSERT INTO localstore.chunks (batch, chunk, rows) SELECT l.batch, $2, $3 FROM localstore.ledger l "
        "WHERE l.batch = $1 AND l.state = 'staging' FOR SHARE ON CONFLICT DO NOTHING",
        batch,
        chunk.number,
        chunk.rows,
    )
    return bool(tag.endswith("1"))


async def _stream(chunk: Chunk) -> AsyncIterator[bytes]:
    for part in chunk.copy:
        yield part
