"""Find the staged rows that production refuses for a reason no set query foresees: a trigger that raises, an EXCLUDE.

The rows are merged again, run by run, in a transaction that is rolled back: a run that production takes stays, one
that it refuses is cut in two, down to the single rows. All of them are found in one search, so that a thousand refused
rows take no more searches than one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import asyncpg
import orjson

from localstore.postgres.quoting import quote_identifier
from localstore.schema.tables import Table
from sync import ledger
from sync.errors import PromotionFailed
from sync.merge import MINE, Merge

_NOT_ABOUT_ROWS = frozenset({"08", "25", "28", "3D", "40", "53", "55", "57", "58", "F0", "XX"})
"""Classes of SQLSTATE that tell of the connection, of concurrent transactions or of the server."""

SEARCHED_MAX = 2_000
"""After so many refused rows, what is refused is held run by run, without a look at each row."""

_SYNTAX_ERROR = "42601"
_WAITING = "?"


def refuses_rows(error: asyncpg.PostgresError) -> bool:
    """Return whether production will not have a row, as opposed to having trouble of its own, or with our SQL."""
    return str(error.sqlstate)[:2] not in _NOT_ABOUT_ROWS and error.sqlstate != _SYNTAX_ERROR


@dataclass(frozen=True, slots=True)
class Run:
    """Rows of one table and one operation, by their ordinals."""

    table: str
    ordinals: Sequence[int]

    def halves(self) -> tuple[Run, Run]:
        """Return the first and the second half."""
        middle = len(self.ordinals) // 2
        return Run(self.table, self.ordinals[:middle]), Run(self.table, self.ordinals[middle:])


@dataclass(slots=True)
class Search:
    """One search through a batch. `write` merges what a table has among the rows that go to production."""

    connection: asyncpg.Connection
    batch: ledger.Entry
    order: Sequence[Table]
    merges: dict[str, Merge]
    write: Callable[[str], Awaitable[object]]
    refused: list[tuple[Run, str]] = field(default_factory=list)
    looked_at: int = 0

    async def hold(self) -> None:
        """Give the refused rows the reason `constraint`, with the server's words.

        What is refused at once is looked for first, then what is refused only at the end. Constraints that the checks
        foresee stay deferred meanwhile, since a run without the others may break them where the batch does not.
        """
        late = await self._late_constraints()
        for constraints in ([], late) if late else ([],):
            await self._search(constraints)
            if self.refused:
                break
        else:
            raise PromotionFailed(
                f"production refused batch {self.batch.batch} as a whole, but none of its rows alone",
                hint="run the command again",
                tenant=self.batch.company_id,
            )
        for run, message in self.refused:
            relation = self.merges[run.table].staging.relation
            await self.connection.execute(
                f"UPDATE {relation} s SET reason = 'constraint', "
                "detail = coalesce(s.detail, '{}') || $3::text::jsonb "
                "WHERE s.batch = $1 AND s.ordinal = ANY ($2::bigint[])",
                self.batch.batch,
                run.ordinals,
                orjson.dumps({"message": message}).decode(),
            )

    async def _late_constraints(self) -> list[str]:
        """Return the quoted names of what production checks at the end and no check of ours foresees."""
        rows = await self.connection.fetch(
            "SELECT n.nspname, k.conname FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace "
            "WHERE k.contype IN ('t', 'x') AND k.condeferrable AND k.conrelid = ANY ($1::text[]::regclass[])",
            [merge.relation for merge in self.merges.values()],
        )
        return [f"{quote_identifier(row['nspname'])}.{quote_identifier(row['conname'])}" for row in rows]

    async def _search(self, constraints: Sequence[str]) -> None:
        trial = self.connection.transaction()
        await trial.start()
        try:
            await self.connection.execute("SET CONSTRAINTS ALL DEFERRED")
            waiting = list(reversed(await self._runs()))
            while waiting:
                run = waiting.pop()
                refusal = await self._try(run, constraints)
                if refusal is None:
                    continue
                if len(run.ordinals) == 1 or self.looked_at >= SEARCHED_MAX:
                    self.refused.append((run, refusal))
                    self.looked_at += 1
                else:
                    waiting += reversed(run.halves())
        finally:
            await trial.rollback()

    async def _runs(self) -> list[Run]:
        """Set every row aside and return the runs in the order in which a promotion merges them."""
        by_op: dict[str, list[Run]] = {"i": [], "u": [], "d": []}
        for table in self.order:
            relation = self.merges[table.name].staging.relation
            for op, runs in by_op.items():
                rows = await self.connection.fetch(
                    f"SELECT s.ordinal FROM {relation} s WHERE {MINE} AND s.op = '{op}' ORDER BY s.ordinal",
                    self.batch.batch,
                )
                if rows:
                    runs.append(Run(table.name, [row["ordinal"] for row in rows]))
            await self.connection.execute(
                f"UPDATE {relation} s SET reason = '{_WAITING}' WHERE {MINE}", self.batch.batch
            )
        return [*by_op["i"], *by_op["u"], *reversed(by_op["d"])]

    async def _try(self, run: Run, constraints: Sequence[str]) -> str | None:
        """Merge a run on top of what was taken before; return what production said if it refused."""
        relation = self.merges[run.table].staging.relation
        step = self.connection.transaction()
        await step.start()
        try:
            await self.connection.execute(
                f"UPDATE {relation} s SET reason = NULL WHERE s.batch = $1 AND s.ordinal = ANY ($2::bigint[])",
                self.batch.batch,
                run.ordinals,
            )
            await self.write(run.table)
            if constraints:
                await self.connection.execute(f"SET CONSTRAINTS {', '.join(constraints)} IMMEDIATE")
                await self.connection.execute(f"SET CONSTRAINTS {', '.join(constraints)} DEFERRED")
            await self.connection.execute(f"UPDATE {relation} s SET reason = '=' WHERE {MINE}", self.batch.batch)
        except asyncpg.PostgresError as error:
            if not refuses_rows(error):
                raise
            await step.rollback()
            return str(error.message)
        except BaseException:
            await step.rollback()
            raise
        await step.commit()
        return None
