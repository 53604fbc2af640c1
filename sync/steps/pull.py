"""Pull: bring into a tenant's file what others changed in production, without losing what waits to be sent.

Safe to run any number of times: production is read in one state, and what is taken over is one local transaction with
the cursor that says so. If the file has moved on meanwhile, it is begun anew.
"""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import Final
from uuid import UUID, uuid4

import asyncpg

from localstore.errors import StoreBusy
from localstore.schema.tables import address
from localstore.sqlite.database import Database
from localstore.sqlite.layout import read_catalogue
from localstore.sqlite.mode import opened
from sync import batches, ledger
from sync import cursor as cursors
from sync.authority import follow, mode_of
from sync.cursor import AGAIN_MAX, CURSOR, Cursor
from sync.mirror import REVISION, mirror_held
from sync.production import registered
from sync.pull.apply import Application, Applied, Shares
from sync.pull.fetch import Seen, fetch
from sync.pull.give_up import give_up
from sync.pull.incoming import Incoming, addresses
from sync.pull.tables import pulled_tables
from sync.pull.waiting import Behind
from sync.results import TenantResult
from sync.status import TARGET, remember
from sync.steps.acknowledge import acknowledge, require_all
from sync.steps.seal import alone

ATTEMPTS_MAX: Final = 8
"""How often a pull begins anew because the file or the ledger moved on under it."""


async def pull(
    connection: asyncpg.Connection, database: Database, target: str, *, rebase: bool = False
) -> TenantResult:
    """Take over what changed in production since the last pull, or everything where there was none.

    With `rebase` the file becomes a new replica that stands on production's state: whole tables are compared, and
    what it still had to send is merged.
    The file follows the tenant's mode in production, in the same transaction.
    """
    for _ in range(ATTEMPTS_MAX):
        mode = await mode_of(connection, database.company_id)
        await (mirror_held(connection, database) if rebase else _contact(connection, database))
        known = await registered(connection, target)
        tables = await pulled_tables(connection, database, known)
        chain = await database.read(batches.live)
        before = await database.read(cursors.read)
        old = None if before is None or rebase else Cursor.from_text(before)
        incoming = Incoming()
        try:
            seen = await fetch(
                connection,
                database.identity.company_id,
                UUID(str(database.identity.replica)),
                tables,
                [batch.batch for batch in chain],
                old,
                target,
                incoming,
            )
            if rebase:
                await _withdraw_open(connection, database, target, seen)
            # No batch is sealed from marks that are being rewritten.
            async with alone(database.path.parent):
                if await mode_of(connection, database.company_id) != mode:
                    raise Behind
                work = partial(_apply, incoming=incoming, seen=seen, before=before, company=database.company_id)
                applied = await database.write(partial(work, mode=mode, rebase=rebase))
        except Behind:
            continue
        except Shares as shared:
            await give_up(connection, database, target, shared.batch)
            continue
        finally:
            incoming.close()
        await database.refresh()
        return _result(database.company_id, applied, rebase=rebase)
    raise StoreBusy(
        "batches were sealed and promoted all the while, so that the pull came to no end; nothing was changed",
        hint="run the command again",
        tenant=database.company_id,
    )


async def _contact(connection: asyncpg.Connection, database: Database) -> None:
    """Learn what became of this replica's batches; refuse while production lacks some that it had promoted."""
    contact = await acknowledge(connection, database)
    require_all(contact, database.company_id, "pulling now would take that state over")


async def _withdraw_open(connection: asyncpg.Connection, database: Database, target: str, seen: Seen) -> None:
    """Give up what the old replica had staged: its changes remain here, and the new one sends them."""
    for batch in await database.read(batches.live):
        if batch.state == "sealed" and seen.states.get(batch.batch) not in ledger.IN_EFFECT:
            await give_up(connection, database, target, batch)
            return


def _apply(
    connection: sqlite3.Connection,
    *,
    incoming: Incoming,
    seen: Seen,
    before: str | None,
    company: str,
    mode: str | None,
    rebase: bool,
) -> Applied:
    if cursors.read(connection) != before:
        raise Behind
    mirrored = connection.execute("SELECT value FROM localstore_state WHERE name = ?", (REVISION,)).fetchone()
    if seen.held_revision is not None and (mirrored is None or int(mirrored[0]) != seen.held_revision):
        # A promotion held rows, or a rollback took some back, since the file heard of it last.
        raise Behind
    application = Application(connection, company, read_catalogue(connection), incoming, seen, rebase=rebase)
    with opened(connection):
        applied = application.run()
    if rebase:
        _become_new(connection, application.stands.promoted_to)
    follow(connection, mode)
    remember(connection, CURSOR, _moved(seen.cursor, applied).to_text())
    remember(connection, TARGET, seen.cursor.origin.target)
    return applied


def _moved(cursor: Cursor, applied: Applied) -> Cursor:
    """Return the cursor with what is to be tried again; a table with very much of it is compared whole next time."""
    again = addresses([(table, key) for table, key, _ in applied.left_alone])
    whole = {table for table, keys in again.items() if len(keys) > AGAIN_MAX}
    return Cursor(
        cursor.origin,
        cursor.snapshot,
        cursor.at,
        {table: shape for table, shape in cursor.tables.items() if table not in whole},
        {table: keys for table, keys in again.items() if table not in whole},
    )


def _become_new(connection: sqlite3.Connection, promoted_to: int) -> None:
    """Make the file a new replica with an empty chain, whose pending changes are the marks that are left."""
    connection.execute("UPDATE localstore_identity SET replica = ?, epoch = 1", (str(uuid4()),))
    connection.execute("UPDATE localstore_batches SET state = 'withdrawn'")
    # Their numbers stay, so that none comes back; what they told is in production.
    connection.execute("UPDATE localstore_marks SET tbl = NULL WHERE seq <= ?", (promoted_to,))
    connection.execute("DELETE FROM localstore_held")
    connection.execute("DELETE FROM localstore_releases")
    connection.execute("DELETE FROM localstore_state WHERE name = ?", (REVISION,))


def _result(company: str, applied: Applied, *, rebase: bool) -> TenantResult:
    moved = any(
        counts[what] for counts in applied.tables.values() for what in ("inserted", "updated", "deleted", "conflicts")
    )
    return TenantResult(
        company,
        "rebased" if rebase else "pulled" if moved or applied.left_alone else "unchanged",
        tables=applied.tables,
        left_alone=tuple((address(table, key), why) for table, key, why in applied.left_alone),
    )
