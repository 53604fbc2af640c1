"""Give a waiting batch up because production changed a row that it carries; the next seal takes its changes anew."""

from __future__ import annotations

from uuid import UUID

import asyncpg
import orjson

from localstore.postgres.policies import STAGER
from localstore.postgres.quoting import quote_identifier
from localstore.sqlite.database import Database
from sync import batches, ledger
from sync.batches import LocalBatch
from sync.production import registered
from sync.staging import sweep
from sync.steps.promote import lock_company


async def give_up(connection: asyncpg.Connection, database: Database, target: str, batch: LocalBatch) -> None:
    """Withdraw a sealed batch and the later ones, in production first: it refuses them from then on.

    A batch that production has not heard of is entered as withdrawn, so that whoever is sending it right now is
    refused, too. One that was promoted meanwhile stays, and is found by the next contact.
    """
    identity = database.identity
    chain = [known for known in await database.read(batches.live) if known.seq >= batch.seq and known.state == "sealed"]
    async with connection.transaction():
        await lock_company(connection, identity.company_id)
        await connection.execute(f"SET LOCAL ROLE {quote_identifier(STAGER)}")
        states = await ledger.states(connection, [known.batch for known in chain])
        if any(state in ledger.IN_EFFECT for state in states.values()):
            return
        for known in chain:
            await connection.execute(
                "INSERT INTO localstore.ledger AS l (batch, company_id, kind, replica, epoch, seq, parent, hash, "
                "target, state, manifest, withdrawn_at) "
                "VALUES ($1, $2, 'push', $3, $4, $5, $6, $7, $8, 'withdrawn', $9::text::jsonb, now()) "
                "ON CONFLICT (batch) DO UPDATE SET state = 'withdrawn', withdrawn_at = now() "
                "WHERE l.state IN ('staging', 'staged')",
                known.batch,
                identity.company_id,
                UUID(str(identity.replica)),
                identity.epoch,
                known.seq,
                known.parent,
                known.hash,
                target,
                orjson.dumps({"counts": known.counts, "chunks": 0, "fingerprints": {}}).decode(),
            )
    shapes = await registered(connection, target)
    for known in chain:
        entry = await ledger.entry(connection, known.batch)
        if entry is not None and entry.state == ledger.WITHDRAWN:
            await sweep(connection, entry, shapes)
    await database.write(lambda file: batches.withdraw(file, batch.batch))
