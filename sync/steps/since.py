"""What was promoted after a batch: a row that only saw batches come and go again is as the first one left it.

A rollback gives a row a new `xmin`, so that alone tells nothing of the batch before it. But the row is the batch's
again if the last to write it was a rollback, every later promotion that wrote it was taken back there, and no
application changed it meanwhile: the feed has an entry, with a higher number, of each change after the batch's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import asyncpg

from localstore.postgres.quoting import quote_literal
from sync import ledger
from sync.merge import Merge


@dataclass(frozen=True, slots=True)
class Since:
    """The promotions after a batch, and their inverses among them. `number` is the batch's own entry in the feed."""

    number: int
    company: str
    target: str
    promotions: tuple[UUID, ...]
    inverses: tuple[UUID, ...]

    def restored(self, merge: Merge) -> str:
        """Return the further case, beginning with OR, in which the row `t` of undo `u` is as the batch left it."""
        if not self.inverses:
            return ""
        table = quote_literal(merge.staging.table.name)
        inverses, promotions = _any(self.inverses), _any(self.promotions)
        foreign = (
            f"SELECT f.key FROM localstore.feed f WHERE f.company_id = {quote_literal(self.company)} "
            f"AND f.target = {quote_literal(self.target)} AND f.tbl = {table} AND f.id > {self.number}"
        )
        # Each list is made once: it does not depend on the row.
        return f"""
            OR (u.key, t.xmin::text) IN (
                SELECT r.key, r.row_xmin::text FROM localstore.undo r WHERE r.batch = {inverses} AND r.tbl = {table}
            )
            AND u.key NOT IN (
                SELECT p.key FROM localstore.undo p WHERE p.batch = {promotions} AND p.tbl = {table} AND NOT EXISTS (
                    SELECT FROM localstore.ledger l JOIN localstore.undo r ON r.batch = l.batch AND r.tbl = p.tbl
                    WHERE l.undoes = p.batch AND r.key = p.key
                )
            )
            AND u.key NOT IN ({foreign} AND f.key IS NOT NULL)
            AND NOT EXISTS ({foreign} AND f.key IS NULL)"""


async def batches_since(connection: asyncpg.Connection, batch: ledger.Entry) -> Since:
    """Return what was promoted for the company after a batch, in the order in which it took effect."""
    rows = await connection.fetch(
        """
        SELECT f.batch, f.id, l.kind FROM localstore.feed f JOIN localstore.ledger l ON l.batch = f.batch
        WHERE f.company_id = $1 AND f.target = $2 AND f.id >= (SELECT max(b.id) FROM localstore.feed b
            WHERE b.company_id = $1 AND b.batch = $3)
        """,
        batch.company_id,
        batch.target,
        batch.batch,
    )
    number = max((row["id"] for row in rows if row["batch"] == batch.batch), default=0)
    later = [row for row in rows if row["batch"] != batch.batch]
    return Since(
        number,
        batch.company_id,
        batch.target,
        tuple(row["batch"] for row in later if row["kind"] == "push"),
        tuple(row["batch"] for row in later if row["kind"] == "rollback"),
    )


def _any(batches: tuple[UUID, ...]) -> str:
    return "ANY (ARRAY[" + ", ".join(f"'{batch}'" for batch in batches) + "]::uuid[])"
