"""Promote: merge one staged batch into production, inside a transaction that the caller opened.

The batch is tried as a whole. Where production moved under it, the savepoint is rolled back, the rows concerned are
compared again, and the whole is tried once more: a bounded number of times, each of which settles at least one row.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

import asyncpg

from localstore.postgres.connect import session_settings
from localstore.postgres.policies import COMPANY_SETTING, PROMOTER
from localstore.postgres.quoting import quote_identifier
from sync import held, ledger
from sync.errors import HeldRows, PromotionFailed, TooManyDeletes
from sync.held import HeldMerge
from sync.merge import ADDED_CHUNK, MINE, delete_all
from sync.outcome import COUNTED, WRITTEN, Options, Outcome, TableCounts
from sync.parts import Parts, parts_of
from sync.production import Registered
from sync.sequences import advance
from sync.staging import analyze
from sync.steps.culprits import Search, refuses_rows
from sync.touched import before_images, digest_of

ATTEMPTS_MAX = 25
"""Each attempt settles every row that production was seen to move under; more is a production that never rests."""
DELETES_ALWAYS_ALLOWED = 1_000
DELETES_SHARE = 0.2
LOCK_TIMEOUT_MILLISECONDS = 30_000
"""How long a promotion waits for an application's lock before it gives up, to be tried again."""
IDLE_TIMEOUT_MILLISECONDS = 60_000
"""A box that lost power in the middle of a promotion keeps its locks no longer than this."""


async def lock_company(connection: asyncpg.Connection, company: str) -> None:
    """Wait until no other promotion of the company runs, and keep others out until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('localstore/' || $1, 0))", company)


@asynccontextmanager
async def promotion(connection: asyncpg.Connection, company: str) -> AsyncIterator[None]:
    """Open the transaction in which a company's batches are promoted, alone and bound to the company by its role."""
    async with connection.transaction():
        await lock_company(connection, company)
        await session_settings(connection)
        await connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MILLISECONDS}")
        await connection.execute(f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_TIMEOUT_MILLISECONDS}")
        await connection.execute(f"SET LOCAL ROLE {quote_identifier(PROMOTER)}")
        await connection.execute("SELECT set_config($1, $2, true)", COMPANY_SETTING, company)
        yield


async def promote(
    connection: asyncpg.Connection,
    batch: ledger.Entry,
    registered: dict[tuple[str, str], Registered],
    options: Options,
) -> Outcome:
    """Merge a staged batch within the running promotion; the ledger's row is written with it."""
    parts = await parts_of(connection, batch, registered)
    return await Promotion(connection, parts, options).run()


@lru_cache(maxsize=1024)
def _parameters(statement: str) -> int:
    """Return how many parameters a statement takes; what looks like one inside a literal does not count."""
    return max((int(number) for number in re.findall(r"\$(\d+)", re.sub(r"'(?:[^']|'')*'", "", statement))), default=0)


class Promotion:
    """One batch on its way into production."""

    def __init__(self, connection: asyncpg.Connection, parts: Parts, options: Options) -> None:
        self._connection = connection
        self._parts = parts
        self._batch = parts.batch
        self._merges = parts.merges
        self._options = options
        self._outcome = Outcome(parts.batch.batch)

    async def run(self) -> Outcome:
        """Compose, check, merge, hold, and write the ledger; return what was done."""
        try:
            return await self._run()
        except asyncpg.PostgresError as error:
            self._parts.refuse_other_shapes(error)
            raise

    async def _run(self) -> Outcome:
        await self._compose()
        before = await before_images(self._connection, self._parts) if self._options.digest else ""
        await self._settle_snapshots()
        await self._merge_until_settled()
        filled = [name for name, counts in self._outcome.tables.items() if counts.inserted]
        await advance(self._connection, self._parts, filled, trial=self._options.trial)
        await self._hold()
        await self._count()
        if self._options.digest:
            self._outcome.digest = await digest_of(self._connection, self._parts, before)
        await self._close()
        return self._outcome

    async def _execute(self, statement: str, *more: Any) -> int:
        """Run a statement over the batch's rows and return how many it touched."""
        arguments = (self._batch.batch, self._batch.company_id, *more)
        tag: str = await self._connection.execute(statement, *arguments[: _parameters(statement)])
        return int(tag.rsplit(" ", 1)[-1])

    async def _compose(self) -> None:
        replica = self._batch.replica
        if replica is None:
            return
        for merge in self._merges.values():
            for statement in merge.fold():
                await self._execute(statement)
        with_held = await held.tables_with_held(self._connection, self._batch.company_id, replica, self._batch.target)
        for name, merge in self._merges.items():
            if name in with_held:
                statements = HeldMerge(merge.staging, self._batch.target).statements()
                rows = sum([await self._execute(statement, replica) for statement in statements])
                # What was added is as new to the planner as what was staged.
                await analyze(self._connection, merge.staging, rows)
            else:
                await self._connection.execute(
                    f"UPDATE {merge.staging.relation} s SET reason = '=' "
                    "WHERE s.batch = $1 AND s.reason IS NULL AND s.op IN ('r', 'l')",
                    self._batch.batch,
                )

    async def _settle_snapshots(self) -> None:
        for name, merge in self._merges.items():
            if "s" in self._batch.manifest["counts"].get(name, {}):
                for statement in merge.settle_snapshot(with_deletes=self._options.allow_deletes is not None):
                    await self._execute(statement, self._batch.replica)

    # -- merging --------------------------------------------------------------------------------------------------

    async def _merge_until_settled(self) -> None:
        # For each batch anew, since the one before it in a plan ended by making them immediate.
        await self._connection.execute("SET CONSTRAINTS ALL DEFERRED")
        refused, unexplained = False, 0
        for _ in range(ATTEMPTS_MAX):
            await self._check()
            savepoint = self._connection.transaction()
            await savepoint.start()
            try:
                short = await self._merge()
                if not short:
                    await self._connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            except asyncpg.PostgresError as error:
                if not refuses_rows(error):
                    raise
                await savepoint.rollback()
                self._parts.refuse_other_shapes(error)
                # The first refusal may be somebody else's write in between; a second time it is a row of ours.
                if refused:
                    search = Search(self._connection, self._batch, self._parts.order, self._merges, self._write)
                    await search.hold()
                refused = not refused
                continue
            if not short:
                await savepoint.commit()
                return
            unwritten = [(name, await self._unwritten(name, op)) for name, op in short]
            await savepoint.rollback()
            if sum([await self._agree(name, op) for name, op in short]):
                unexplained = 0
                continue
            # Production holds what it should, and yet did not take the rows: once may be chance.
            unexplained += 1
            if unexplained > 1:
                for name, ordinals in unwritten:
                    await self._hold_unwritten(name, ordinals)
        raise PromotionFailed(
            f"batch {self._batch.batch} did not settle in {ATTEMPTS_MAX} attempts; nothing was promoted",
            hint="run the command again when fewer others write these rows",
            tenant=self._batch.company_id,
        )

    async def _check(self) -> None:
        for table in self._parts.order:
            for statement in self._parts.checks[table.name].values():
                await self._execute(statement)
            for statement in self._parts.checks[table.name].conditions():
                await self._try(statement)
        await self._guard_deletes()
        statements = [
            statement for table in self._parts.order for statement in self._parts.checks[table.name].relations()
        ]
        for merge in self._merges.values():
            await self._connection.fetchval(merge.lock("d"), self._batch.batch, self._batch.company_id)
        found = True
        while found:
            found = False
            for statement in statements:
                if await self._execute(statement):
                    found = True

    async def _try(self, statement: str) -> None:
        """Run a check that may fail for one row: then it says nothing of the others, and the merge finds the row."""
        savepoint = self._connection.transaction()
        await savepoint.start()
        try:
            await self._execute(statement)
        except asyncpg.PostgresError as error:
            await savepoint.rollback()
            if not refuses_rows(error):
                raise
        else:
            await savepoint.commit()

    async def _guard_deletes(self) -> None:
        for name, merge in self._merges.items():
            deletes = await self._connection.fetchval(
                f"SELECT count(*) FROM {merge.staging.relation} s WHERE {MINE} AND s.op = 'd'", self._batch.batch
            )
            allowed = self._options.allow_deletes
            if allowed is None:
                if deletes <= DELETES_ALWAYS_ALLOWED:
                    continue
                rows = await self._connection.fetchval(
                    f"SELECT count(*) FROM {merge.relation} t WHERE t.{merge.staging.company} = $1",
                    self._batch.company_id,
                )
                allowed = max(DELETES_ALWAYS_ALLOWED, int(rows * DELETES_SHARE))
            if deletes > allowed:
                raise TooManyDeletes(
                    f"batch {self._batch.batch} deletes {deletes} rows of {name}; {allowed} are allowed unasked",
                    hint=f"localstore sync push --promote --allow-deletes {deletes}",
                    tenant=self._batch.company_id,
                )

    async def _merge(self) -> list[tuple[str, str]]:
        """Write everything; return the (table, operation) pairs that fell short."""
        surveys = {table.name: await self._survey(table.name) for table in self._parts.order}
        steps = [(table.name, "i") for table in self._parts.order]
        steps += [(table.name, "u") for table in self._parts.order]
        short = [(name, op) for name, op in steps if not await self._merge_one(name, op, surveys[name])]
        return short + await self._delete({name: survey["deleted"] for name, survey in surveys.items()})

    async def _write(self, name: str) -> None:
        """Write what one table has."""
        survey = await self._survey(name)
        for op in "iu":
            await self._merge_one(name, op, survey)
        await self._delete({name: survey["deleted"]})

    async def _delete(self, expected: Mapping[str, int]) -> list[tuple[str, str]]:
        """Delete the rows of all these tables at once; return those that fell short."""
        names = [name for name, rows in expected.items() if rows]
        if not names:
            return []
        statement = delete_all([self._merges[name] for name in names])
        row = await self._connection.fetchrow(statement, self._batch.batch, self._batch.company_id)
        for name, done in zip(names, row, strict=True):
            self._done(name).deleted = done
        return [(name, "d") for name, done in zip(names, row, strict=True) if done != expected[name]]

    async def _merge_one(self, name: str, op: str, survey: Mapping[str, Any]) -> bool:
        """Write one table's rows of one operation; return whether production took them all."""
        expected: int = survey[WRITTEN[op]]
        if not expected:
            return True
        merge = self._merges[name]
        done = await self._execute(merge.insert() if op == "i" else merge.update(survey["changed"]))
        setattr(self._done(name), WRITTEN[op], done)
        return done == expected

    async def _survey(self, name: str) -> dict[str, Any]:
        staging = self._merges[name].staging
        row = await self._connection.fetchrow(
            f"""SELECT count(*) FILTER (WHERE s.op = 'i') AS inserted, count(*) FILTER (WHERE s.op = 'u') AS updated,
                count(*) FILTER (WHERE s.op = 'd') AS deleted,
                (bit_or(s.changed::bit({len(staging.columns)})) FILTER (WHERE s.op = 'u'))::text AS changed
                FROM {staging.relation} s WHERE {MINE}""",
            self._batch.batch,
        )
        bits = row["changed"] or ""
        return {**row, "changed": frozenset(place for place, bit in enumerate(bits) if bit == "1")}

    async def _agree(self, name: str, op: str) -> int:
        """Compare the rows that fell short with what production holds now; return how many that explains."""
        merge = self._merges[name]
        statements = {"i": merge.agree_inserts, "u": merge.agree_updates, "d": merge.agree_deletes}[op]()
        return sum([await self._execute(statement) for statement in statements])

    async def _unwritten(self, name: str, op: str) -> list[int]:
        """Return the rows that have just been merged and are not in undo."""
        rows = await self._connection.fetch(self._merges[name].unwritten(op), self._batch.batch)
        return [row["ordinal"] for row in rows]

    async def _hold_unwritten(self, name: str, ordinals: list[int]) -> None:
        staging = self._merges[name].staging
        await self._connection.execute(
            f"UPDATE {staging.relation} s SET reason = 'constraint', detail = coalesce(s.detail, '{{}}') "
            f"|| jsonb_build_object('message', $3::text) WHERE {MINE} AND s.ordinal = ANY ($2::bigint[])",
            self._batch.batch,
            ordinals,
            "production did not take the row and did not say why; a trigger or rule there may have dropped it",
        )

    # -- closing --------------------------------------------------------------------------------------------------

    async def _hold(self) -> None:
        if self._batch.replica is None:
            return
        await self._refuse_held()
        for merge in self._merges.values():
            await self._execute(HeldMerge(merge.staging, self._batch.target).hold(), self._batch.replica)
        self._outcome.held = await self._connection.fetchval(
            "SELECT count(*) FROM localstore.held WHERE company_id = $1", self._batch.company_id
        )
        await self._connection.execute(
            "INSERT INTO localstore.replicas AS r (company_id, replica, held_revision, last_contact) "
            "VALUES ($1, $2, 1, now()) ON CONFLICT (company_id, replica) "
            "DO UPDATE SET held_revision = r.held_revision + 1, last_contact = now()",
            self._batch.company_id,
            self._batch.replica,
        )

    async def _refuse_held(self) -> None:
        """Raise HeldRows if the batch is to be given up rather than hold a row of its own; what waited before may."""
        if not self._options.abort:
            return
        counted = [
            await self._connection.fetchval(
                f"SELECT count(*) FROM {merge.staging.relation} s WHERE s.batch = $1 "
                f"AND s.reason NOT IN ('=', 'rolled_back') AND s.chunk <> {ADDED_CHUNK}",
                self._batch.batch,
            )
            for merge in self._merges.values()
        ]
        if sum(counted):
            raise HeldRows(
                f"batch {self._batch.batch} has {sum(counted)} rows that production cannot take, so it was given up; "
                "nothing was promoted, and its changes travel in the next batch",
                hint="mend them, or: localstore sync push --promote --on-error hold",
                tenant=self._batch.company_id,
            )

    async def _count(self) -> None:
        for name, merge in self._merges.items():
            rows = await self._connection.fetch(
                f"SELECT s.reason, count(*) FROM {merge.staging.relation} s "
                f"WHERE s.batch = $1 AND s.reason IS NOT NULL AND s.chunk <> {ADDED_CHUNK} "
                # What only speaks of held rows is no row of production's that could have remained as it was.
                "AND NOT (s.reason = '=' AND (s.op IN ('r', 'l') OR s.key_text IS NOT NULL)) GROUP BY 1",
                self._batch.batch,
            )
            for row in rows:
                counts = self._done(name)
                if row["reason"] == "=":
                    counts.unchanged += row["count"]
                else:
                    field_name = COUNTED[row["reason"]]
                    setattr(counts, field_name, getattr(counts, field_name) + row["count"])

    async def _close(self) -> None:
        await self._connection.execute(
            "INSERT INTO localstore.feed (company_id, target, tbl, batch, origin) VALUES ($1, $2, '', $3, $4)",
            self._batch.company_id,
            self._batch.target,
            self._batch.batch,
            str(self._batch.replica) if self._batch.replica else None,
        )
        await ledger.mark_promoted(self._connection, self._batch.batch, self._outcome.to_json())

    def _done(self, name: str) -> TableCounts:
        return self._outcome.tables.setdefault(name, TableCounts())
