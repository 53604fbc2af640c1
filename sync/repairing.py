"""The whole story of a repair: compare, mark what nothing explains, and send it as any push does."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from localstore.errors import WrongMode
from localstore.sqlite.database import Database
from localstore.sqlite.mode import CLOSED, POSTGRESQL, read_mode
from sync import batches, pipeline
from sync import cursor as cursors
from sync.authority import mode_of
from sync.blobs.tally import Tally
from sync.cursor import Cursor
from sync.link import Link
from sync.production import registered
from sync.repair.drifts import Drifts
from sync.repair.trust import Trust
from sync.status import remembered
from sync.steps.acknowledge import acknowledge, require_all
from sync.steps.repair import REPAIR_DUE, repair
from sync.steps.seal import alone
from sync.steps.verify import verify
from sync.verify.differences import Repaired, Verified, Why
from sync.verifying import note_verified

if TYPE_CHECKING:
    from sync.blobs.place import Place


async def repaired(link: Link, database: Database, place: Place | None) -> Verified:
    """Compare a tenant's file with production, and stage a batch of the drift; held, pending and others' rows stay.

    Promoting it makes production what the file is. Killed at any moment, the next run finishes: what was compared is
    forgotten, what was marked is sent.
    """
    await link.run(partial(_contact, database=database))
    found, drifts = await _compare(link, database)
    try:
        done = Repaired()
        if drifts:
            # No batch is sealed from marks that are being written.
            foreign = {name for name, table in found.tables.items() if Why.FOREIGN_EDIT in table.causes}
            async with alone(database.path.parent):
                done = await database.write(lambda file: repair(file, drifts, database.company_id, foreign))
        else:
            done = Repaired(left_alone=tuple(drifts.left_alone.first.items()), left_rows=drifts.left_alone.rows)
    finally:
        drifts.close()
    return replace(found, repaired=replace(done, batch=await _send(link, database, place)))


async def _contact(connection: asyncpg.Connection, database: Database) -> None:
    """Learn what became of this replica's batches; refuse where the file is not what production is to become."""
    company = database.company_id
    contact = await acknowledge(connection, database)
    if POSTGRESQL in (await mode_of(connection, company), await database.read(read_mode)):
        raise WrongMode(
            f"tenant {company} is in mode {POSTGRESQL}: production is the truth, and its file is what has to follow",
            hint=f"localstore sync pull --tenant {company}",
            tenant=company,
        )
    if await database.read(read_mode) in CLOSED:
        raise WrongMode(
            f"the mode of tenant {company} is being changed, and its file takes no writes until that is done",
            hint=f"localstore mode status {company}",
            tenant=company,
        )
    require_all(contact, company, "what it lacks would seem to be drift")


async def _compare(link: Link, database: Database) -> tuple[Verified, Drifts]:
    async def compare(connection: asyncpg.Connection) -> tuple[Verified, Drifts]:
        # The cursor first: production remembers at least what came after it.
        pulled = await database.read(cursors.read)
        cursor = None if pulled is None else Cursor.from_text(pulled)
        drifts = Drifts(Trust(database.company_id, UUID(str(database.identity.replica)), cursor))
        try:
            known = await registered(connection, link.target)
            return await verify(connection, database, link.target, known, drifts), drifts
        except BaseException:
            drifts.close()
            raise

    found, drifts = await link.run(compare)
    await note_verified(database)
    return found, drifts


async def _send(link: Link, database: Database, place: Place | None) -> UUID | None:
    """Send what this repair, or one that was cut off, has marked; return the batch that is to be promoted."""
    if await database.read(lambda file: remembered(file, REPAIR_DUE)) is None:
        return None
    sending = partial(pipeline.send, database=database, target=link.target, place=place, tally=Tally())
    await link.run(sending)
    await database.write(lambda file: file.execute("DELETE FROM localstore_state WHERE name = ?", (REPAIR_DUE,)))
    opened = await database.read(batches.opened)
    return opened[-1].batch if opened else None
