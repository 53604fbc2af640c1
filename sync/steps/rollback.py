"""Roll back: promote the inverse of a batch, built from undo, sparing every row that was written since.

A row is as the batch left it exactly when its `xmin` is still the one that undo recorded, or when all that was written
since are batches that were taken back again. In the same transaction the changes taken back become held rows of the
replica they came from, so that nothing is lost there.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import asyncpg
import orjson

from localstore.postgres.quoting import quote_literal
from localstore.schema.tables import address
from sync import ledger
from sync.errors import BatchNotFound, BatchWithdrawn, NothingToDo, SyncRefused
from sync.held import HeldMerge
from sync.merge import Merge
from sync.outcome import Options
from sync.production import Registered
from sync.staging import UNDO_DAYS, Staging, analyze
from sync.steps.promote import promote
from sync.steps.since import Since, batches_since


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """A row that a rollback did not touch, and why."""

    table: str
    key: tuple[str, ...]
    why: str

    @property
    def address(self) -> str:
        """Return the row's address."""
        return address(self.table, self.key)


async def roll_back(
    connection: asyncpg.Connection, batch: UUID, inverse: UUID, registered: dict[tuple[str, str], Registered]
) -> None:
    """Take a promoted batch back, as the batch `inverse`, within the running promotion of its company.

    What was left alone is written into the manifest of the inverse batch.
    """
    undone = await _undoable(connection, batch)
    left: list[LeftAlone] = []
    counts: dict[str, dict[str, int]] = {}
    fingerprints: dict[str, str] = {}
    parts = await connection.fetch("SELECT DISTINCT tbl, fingerprint FROM localstore.undo WHERE batch = $1", batch)
    if not parts and _wrote(undone):
        raise SyncRefused(
            f"batch {batch} was promoted more than {UNDO_DAYS} days ago, and its undo is gone",
            hint=f"localstore sync show {batch}",
            tenant=undone.company_id,
        )
    since = await batches_since(connection, undone)
    for number, part in enumerate(parts):
        known = registered[(part["tbl"], part["fingerprint"])]
        merge = Merge(Staging(known.table, known.staging), known.relation, undone.target)
        step = Inverse(merge, number * ORDINALS_PER_TABLE, since)
        counts[part["tbl"]] = staged = await step.stage(connection, undone, inverse)
        await analyze(connection, step.merge.staging, sum(staged.values()))
        fingerprints[part["tbl"]] = part["fingerprint"]
        left += await step.written_since(connection, undone, inverse)
    await connection.execute(
        "INSERT INTO localstore.ledger (batch, company_id, kind, hash, undoes, target, state, manifest, staged_at) "
        "VALUES ($1, $2, 'rollback', '', $3, $4, 'staged', $5::text::jsonb, now())",
        inverse,
        undone.company_id,
        batch,
        undone.target,
        orjson.dumps({"counts": counts, "chunks": 0, "fingerprints": fingerprints}).decode(),
    )
    # By its chunk a later command finds what is staged here, should this one be cut off before it sweeps.
    await connection.execute(
        "INSERT INTO localstore.chunks (batch, chunk, rows) VALUES ($1, 0, $2)",
        inverse,
        sum(rows for staged in counts.values() for rows in staged.values()),
    )
    entry = await ledger.entry(connection, inverse)
    assert entry is not None
    await promote(connection, entry, registered, Options(allow_deletes=_UNLIMITED))
    for part in parts:
        known = registered[(part["tbl"], part["fingerprint"])]
        merge = Merge(Staging(known.table, known.staging), known.relation, undone.target)
        left += await _refused(connection, merge, inverse)
        await HeldMerge(merge.staging, undone.target).take_back(connection, inverse, undone)
    await connection.execute(
        "UPDATE localstore.replicas SET held_revision = held_revision + 1 WHERE company_id = $1 AND replica = $2",
        undone.company_id,
        undone.replica,
    )
    await connection.execute(
        "UPDATE localstore.ledger SET state = 'rolled_back', rolled_back_at = now() WHERE batch = $1", batch
    )
    await connection.execute(
        "UPDATE localstore.ledger SET manifest = manifest || $2::text::jsonb WHERE batch = $1",
        inverse,
        orjson.dumps({"left_alone": [{"row": row.address, "why": row.why} for row in left]}).decode(),
    )


_UNLIMITED = 2**62
ORDINALS_PER_OPERATION = 2**36
ORDINALS_PER_TABLE = 2**43
"""Each table's part of an inverse batch has ordinals of its own, as the tables of a sealed batch have."""


def _wrote(entry: ledger.Entry) -> int:
    tables = (entry.counts or {}).values()
    return sum(counts.get(name, 0) for counts in tables for name in ("inserted", "updated", "deleted"))


async def _undoable(connection: asyncpg.Connection, batch: UUID) -> ledger.Entry:
    found = await ledger.entry(connection, batch, lock=True)
    if found is None:
        raise BatchNotFound(f"no batch {batch} in production's ledger", hint="localstore sync log")
    if found.kind == "rollback":
        raise SyncRefused(
            f"batch {batch} is itself a rollback; what it took back is put in line again by requeue",
            hint=f"localstore sync requeue {found.undoes}",
            tenant=found.company_id,
        )
    if found.state == ledger.ROLLED_BACK:
        raise NothingToDo(
            f"batch {batch} is rolled back already", hint=f"localstore sync show {batch}", tenant=found.company_id
        )
    if found.state == ledger.WITHDRAWN:
        raise BatchWithdrawn(
            f"batch {batch} was withdrawn and never promoted", hint="localstore sync log", tenant=found.company_id
        )
    if found.state != ledger.PROMOTED:
        raise NothingToDo(
            f"batch {batch} is not promoted yet, so there is nothing to take back",
            hint=f"localstore sync withdraw {batch}",
            tenant=found.company_id,
        )
    return found


@dataclass(frozen=True)
class Inverse:
    """The inverse of one table's part of a batch."""

    merge: Merge
    first_ordinal: int
    since: Since

    @property
    def _undo(self) -> str:
        return f"u.batch = $2 AND u.tbl = {quote_literal(self.merge.staging.table.name)}"

    @property
    def _row(self) -> str:
        staging = self.merge.staging
        parts = [f"t.{staging.company} = $3"]
        parts += [
            f"t.{staging.quoted(place)} = u.key[{at}]::{staging.type(place)}"
            for at, place in enumerate(staging.key_places, start=1)
        ]
        return " AND ".join(parts)

    async def stage(self, connection: asyncpg.Connection, undone: ledger.Entry, inverse: UUID) -> dict[str, int]:
        """Stage deletes for what was inserted, inserts for what was deleted, and the bases for what was changed."""
        staging, merge = self.merge.staging, self.merge
        arguments = (inverse, undone.batch, undone.company_id)
        await connection.fetchval(
            f"""SELECT count(*) FROM (SELECT 1 FROM localstore.undo u JOIN {merge.relation} t ON {self._row}
                WHERE {self._undo} AND $1::uuid IS NOT NULL ORDER BY u.key FOR UPDATE OF t) locked""",
            *arguments,
        )
        places = range(len(staging.columns))
        keys = ", ".join(f"n{place}" for place in staging.key_places)
        their_keys = ", ".join(merge.theirs(place) for place in staging.key_places)
        bases = ", ".join(f"b{place}" for place in places)
        theirs = ", ".join(merge.theirs(place) for place in places)
        before = {place: f"(u.before[{place + 1}])::{staging.type(place)}" for place in places}
        values = staging.value_places
        ordinal = f"""{self.first_ordinal} + ascii(u.op::text) * {ORDINALS_PER_OPERATION}::bigint
            + row_number() OVER (ORDER BY u.key)"""
        into = f"INSERT INTO {staging.relation} (batch, chunk, ordinal, op"
        as_left = f"(t.xmin = u.row_xmin{self.since.restored(merge)})"
        there = f"FROM localstore.undo u JOIN {merge.relation} t ON {self._row} AND {as_left}"
        statements = {
            "d": f"{into}, {keys}, {bases}) SELECT $1, 0, {ordinal}, 'd', {their_keys}, {theirs} {there} "
            f"WHERE {self._undo} AND u.op = 'i'",
            "u": f"{into}, changed, {keys}{''.join(f', n{place}, b{place}' for place in values)}) "
            f"SELECT $1, 0, {ordinal}, 'u', u.changed, {their_keys}"
            + "".join(
                f", CASE WHEN get_bit(u.changed, {place}) = 1 THEN {before[place]} END, "
                f"CASE WHEN get_bit(u.changed, {place}) = 1 THEN {merge.theirs(place)} END"
                for place in values
            )
            + f" {there} WHERE {self._undo} AND u.op = 'u'",
            "i": f"{into}, {', '.join(f'n{place}' for place in places)}) "
            f"SELECT $1, 0, {ordinal}, 'i', {', '.join(before.values())} FROM localstore.undo u "
            f"WHERE {self._undo} AND u.op = 'd' AND NOT EXISTS (SELECT 1 FROM {merge.relation} t WHERE {self._row})",
        }
        counts = {}
        for op, statement in statements.items():
            done = int((await connection.execute(statement, *arguments)).rsplit(" ", 1)[-1])
            if done:
                counts[op] = done
        return counts

    async def written_since(
        self, connection: asyncpg.Connection, undone: ledger.Entry, inverse: UUID
    ) -> list[LeftAlone]:
        """Return the rows of the batch that were written since."""
        rows = await connection.fetch(
            f"""SELECT u.key FROM localstore.undo u WHERE {self._undo} AND $3::text IS NOT NULL
                AND u.key NOT IN (SELECT {self.merge.staging.key_text("s")} FROM {self.merge.staging.relation} s
                    WHERE s.batch = $1)
                ORDER BY u.key""",
            inverse,
            undone.batch,
            undone.company_id,
        )
        name = self.merge.staging.table.name
        return [LeftAlone(name, tuple(row["key"]), "written in production since") for row in rows]


async def _refused(connection: asyncpg.Connection, merge: Merge, inverse: UUID) -> list[LeftAlone]:
    """Return the rows that could not go back because something else depends on them now."""
    rows = await connection.fetch(
        f"""SELECT {merge.staging.key_text("s")} AS key, s.reason, s.detail ->> 'message' AS message
            FROM {merge.staging.relation} s WHERE s.batch = $1 AND s.reason <> '=' ORDER BY s.ordinal""",
        inverse,
    )
    return [LeftAlone(merge.staging.table.name, tuple(row["key"]), row["message"] or row["reason"]) for row in rows]
