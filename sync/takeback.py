"""Giving up staged batches and taking back promoted ones, so that running either twice is safe."""

from __future__ import annotations

from uuid import UUID

import asyncpg

from localstore.postgres.policies import STAGER
from localstore.postgres.quoting import quote_identifier
from sync import ledger
from sync.errors import NothingToDo, PromotionFailed
from sync.production import registered
from sync.staging import sweep
from sync.steps.promote import lock_company, promotion
from sync.steps.rollback import roll_back


async def withdraw(connection: asyncpg.Connection, entry: ledger.Entry) -> list[UUID]:
    """Give up a batch that was not promoted, and the later ones of its replica; return which."""
    known = await registered(connection, entry.target)
    async with connection.transaction():
        await lock_company(connection, entry.company_id)
        await connection.execute(f"SET LOCAL ROLE {quote_identifier(STAGER)}")
        current = await ledger.entry(connection, entry.batch, lock=True)
        if current is None or current.state in ledger.IN_EFFECT:
            raise NothingToDo(
                f"batch {entry.batch} is promoted already, so it cannot be withdrawn",
                hint=f"localstore sync rollback {entry.batch}",
                tenant=entry.company_id,
            )
        given_up = await ledger.mark_withdrawn(connection, entry)
    for batch in given_up:
        found = await ledger.entry(connection, batch)
        if found is not None:
            await sweep(connection, found, known)
    return given_up


async def roll_back_once(connection: asyncpg.Connection, entry: ledger.Entry, inverse: UUID) -> ledger.Entry:
    """Take a promoted batch back as the batch `inverse`, unless that was done already, and return its ledger row.

    A command that was cut off after its COMMIT took effect as another inverse; run again, it tells what that one did.
    """
    done = await ledger.inverse_of(connection, entry.batch)
    if done is None:
        known = await registered(connection, entry.target)
        async with promotion(connection, entry.company_id):
            await roll_back(connection, entry.batch, inverse, known)
        done = await ledger.entry(connection, inverse)
        if done is None or done.state != ledger.PROMOTED:
            raise PromotionFailed(
                f"production rolled the rollback of {entry.batch} back at COMMIT",
                hint="run the command again",
                tenant=entry.company_id,
            )
        await sweep(connection, done, known)
    return done
