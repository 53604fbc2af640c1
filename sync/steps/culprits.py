"""Find the staged row that production refuses for a reason no set query can foresee: a trigger that raises, an EXCLUDE.

Bisection over the rows in the order in which they are merged: the last row of the shortest run that fails is held.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import asyncpg
import orjson

from localstore.schema.tables import Table
from sync import ledger
from sync.errors import PromotionFailed
from sync.merge import MINE, Merge

REFUSED = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
    asyncpg.RaiseError,
    asyncpg.ProgramLimitExceededError,
)
"""What production says when it will not have a row; everything else is about the connection, the server or us."""

# Deletes run last and children first, so they follow, in reverse.
_RANK = """CASE WHEN s.op = 'd' THEN 1 ELSE 0 END, CASE WHEN s.op = 'd' THEN -s.ordinal ELSE s.ordinal END"""


async def hold_culprit(
    connection: asyncpg.Connection,
    batch: ledger.Entry,
    order: list[Table],
    merges: dict[str, Merge],
    merge: Callable[[], Awaitable[object]],
) -> None:
    """Give the first row that makes the merge fail the reason `constraint`, with the server's words."""
    ranks: list[tuple[int, int, str]] = []
    for table in order:
        rows = await connection.fetch(
            f"SELECT {_RANK} FROM {merges[table.name].staging.relation} s WHERE {MINE}", batch.batch
        )
        ranks += [(row[0], row[1], table.name) for row in rows]
    ranks.sort()
    low, high = 0, len(ranks)
    refusal = await _refusal(connection, batch, order, merges, merge, ranks[-1][:2]) if ranks else None
    if refusal is None:
        raise PromotionFailed(
            f"production refused batch {batch.batch} as a whole, but none of its rows alone",
            hint="run the command again",
            tenant=batch.company_id,
        )
    while high - low > 1:
        middle = (low + high) // 2
        found = await _refusal(connection, batch, order, merges, merge, ranks[middle - 1][:2])
        if found is None:
            low = middle
        else:
            high, refusal = middle, found
    _, ordinal, name = ranks[high - 1]
    await connection.execute(
        f"UPDATE {merges[name].staging.relation} s SET reason = 'constraint', "
        f"detail = coalesce(s.detail, '{{}}') || $3::text::jsonb WHERE s.batch = $1 AND s.ordinal = abs($2)",
        batch.batch,
        ordinal,
        orjson.dumps({"message": refusal}).decode(),
    )


async def _refusal(
    connection: asyncpg.Connection,
    batch: ledger.Entry,
    order: list[Table],
    merges: dict[str, Merge],
    merge: Callable[[], Awaitable[object]],
    last: tuple[int, int],
) -> str | None:
    """Merge the rows up to `last`, take it all back, and return what production said against them."""
    trial = connection.transaction()
    await trial.start()
    try:
        for table in order:
            await connection.execute(
                f"UPDATE {merges[table.name].staging.relation} s SET reason = '=' WHERE {MINE} "
                f"AND ({_RANK}) > ($2::integer, $3::bigint)",
                batch.batch,
                *last,
            )
        await merge()
        await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except REFUSED as error:
        return str(error.message)
    finally:
        await trial.rollback()
    return None
