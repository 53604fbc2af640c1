"""Whether nobody else's write can be behind a difference that nothing explains: what production no longer tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

from sync import cursor as cursors
from sync.cursor import Cursor
from sync.feed import FEED_TRIGGERS
from sync.production import Registered
from sync.production.describe import describe_all
from sync.staging import UNDO_DAYS

UNWATCHED: Final = "production does not write down what others change in this table"
FORGOTTEN: Final = (
    "others promoted to this table longer ago than production remembers; `localstore sync pull` takes theirs"
)

_FORGOTTEN: Final = """
SELECT EXISTS (
    SELECT FROM localstore.ledger l LEFT JOIN localstore.ledger undone ON undone.batch = l.undoes
    LEFT JOIN localstore.feed f ON f.batch = l.batch AND f.company_id = l.company_id
    WHERE l.company_id = $1 AND l.target = $2 AND l.state IN ('promoted', 'rolled_back')
        AND coalesce(l.replica, undone.replica) IS DISTINCT FROM $3
        AND l.manifest -> 'fingerprints' ? $4 AND l.promoted_at < now() - make_interval(days => $5)
        AND ($6::text IS NULL OR f.xid IS NULL OR NOT pg_visible_in_snapshot(f.xid, $6::text::pg_snapshot)
            OR pg_snapshot_xmax($6::text::pg_snapshot) > pg_snapshot_xmax(pg_current_snapshot()))
)
"""
"""Whether others promoted to a table what undo no longer tells and a pull up to the snapshot $6 has not taken in."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What a file knows of others' writes: `cursor` is how far it has pulled, None where it never did."""

    company: str
    replica: UUID
    cursor: Cursor | None

    async def doubt(self, connection: asyncpg.Connection, known: Registered) -> str | None:
        """Return why a difference in this table may be another's write although nothing says so; None if it cannot."""
        name = known.table.name
        shapes = await describe_all(connection, known.target, (name,))
        if name not in shapes or shapes[name].feed_triggers != FEED_TRIGGERS.keys():
            return UNWATCHED
        # Undo tells other replicas' writes, and expires; the newest entry that the feed has of a row never does.
        forgotten = await connection.fetchval(
            _FORGOTTEN,
            self.company,
            known.target,
            self.replica,
            name,
            UNDO_DAYS - 1,
            await self._pulled(connection, known),
        )
        return FORGOTTEN if forgotten else None

    async def _pulled(self, connection: asyncpg.Connection, known: Registered) -> str | None:
        """Return the snapshot of production up to which the file has taken in the table."""
        if self.cursor is None or self.cursor.tables.get(known.table.name) != known.table.fingerprint:
            return None
        here = await cursors.here(connection, known.target)
        return self.cursor.snapshot if here.origin == self.cursor.origin else None
