"""How long production remembers what others wrote: each row's newest entry stays, older ones go with undo."""

from __future__ import annotations

from typing import Final

import asyncpg

from localstore.postgres.policies import PROMOTER
from localstore.postgres.quoting import quote_identifier
from sync.staging import UNDO_DAYS

ROWS_MAX: Final = 100_000
"""So many entries go at a time; what is left goes on another day. A promotion should not wait longer for it."""

_TRIM: Final = """
DELETE FROM localstore.feed WHERE ctid IN (
    SELECT f.ctid FROM localstore.feed f
    WHERE f.company_id = $1 AND f.key IS NOT NULL AND f.at < now() - make_interval(days => $2)
        AND EXISTS (
            SELECT FROM localstore.feed newer
            WHERE newer.company_id = f.company_id AND newer.target = f.target AND newer.tbl = f.tbl
                AND newer.key = f.key AND newer.id > f.id
        )
        AND NOT EXISTS (
            SELECT FROM localstore.ledger l WHERE l.company_id = $1 AND l.promoted_at >= date_trunc('day', now())
        )
    LIMIT $3
)
"""


async def trim_feed(connection: asyncpg.Connection, company: str) -> None:
    """Remove a company's expired feed, once a day: before its first promotion of the day.

    Pulls with a cursor from before then compare whole tables. That somebody else wrote a row at all is evidence for as
    long as the row is compared, so the newest entry of each row stays, and the rows that others wrote bound the feed.
    """
    async with connection.transaction():
        await connection.execute(f"SET LOCAL ROLE {quote_identifier(PROMOTER)}")
        await connection.execute(_TRIM, company, UNDO_DAYS, ROWS_MAX)
