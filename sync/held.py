"""Held changes in production: composing a batch with them, and writing what a promotion could not take.

A later change of a held row is composed with it, so that what is tried is always (base that production knows → newest
value): (b→v1) then (v1→v2) is (b→v2). Parameters: $1 the batch, $2 the company, $3 the replica.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from uuid import UUID

import asyncpg

from localstore.postgres.quoting import quote_literal
from sync.ledger import Entry
from sync.merge import ADDED_CHUNK, Merge
from sync.staging import Staging


@dataclass(frozen=True)
class HeldMerge:
    """Statements that compose one staged table with its held rows, and that hold rows anew."""

    staging: Staging
    target: str

    @cached_property
    def _key(self) -> str:
        return f"coalesce(s.key_text, {self.staging.key_text('s')})"

    @cached_property
    def _held(self) -> str:
        table = self.staging.table
        return (
            f"h.company_id = $2 AND h.replica = $3 AND h.target = {quote_literal(self.target)} "
            f"AND h.tbl = {quote_literal(table.name)}"
        )

    @cached_property
    def _names(self) -> str:
        return "ARRAY[" + ", ".join(quote_literal(column.name) for column in self.staging.columns) + "]::text[]"

    def statements(self) -> list[str]:
        """Return the steps of the composition, in order."""
        return [
            self._release(),
            self._try_waiting(),
            self._yield_to_changes(),
            self._compose(),
            self._drop_undone(),
            self._forget(),
            self._drop_idle_releases(),
        ]

    def _drop_idle_releases(self) -> str:
        return f"""UPDATE {self.staging.relation} s SET reason = '='
            WHERE s.batch = $1 AND s.reason IS NULL AND s.op IN ('r', 'l')"""

    def _release(self) -> str:
        return f"""
            UPDATE localstore.held h SET released = true, base = CASE WHEN s.op = 'l'
                THEN coalesce(h.base, '{{}}') || coalesce((
                SELECT jsonb_object_agg(c.name, h.production -> c.name)
                FROM unnest({self._names}) WITH ORDINALITY AS c(name, at)
                WHERE get_bit(s.changed, c.at::integer - 1) = 1 AND h.production ? c.name), '{{}}') ELSE h.base END
            FROM {self.staging.relation} s
            WHERE s.batch = $1 AND s.op IN ('r', 'l') AND {self._held} AND h.key = {self._key}"""

    def _try_waiting(self) -> str:
        columns = ", ".join(f"n{place}" for place in self.staging.key_places)
        values = ", ".join(
            f"h.key[{at}]::{self.staging.type(place)}" for at, place in enumerate(self.staging.key_places, start=1)
        )
        return f"""
            INSERT INTO {self.staging.relation} (batch, chunk, ordinal, op, {columns})
            SELECT $1, {ADDED_CHUNK}, -h.id, 'r', {values}
            FROM localstore.held h WHERE {self._held} AND h.reason = 'waits' AND NOT EXISTS (
                SELECT 1 FROM {self.staging.relation} s WHERE s.batch = $1 AND {self._key} = h.key)"""

    def _yield_to_changes(self) -> str:
        other = " AND ".join(f"o.n{place} = s.n{place}" for place in self.staging.key_places)
        return f"""
            UPDATE {self.staging.relation} s SET reason = '='
            WHERE s.batch = $1 AND s.op IN ('r', 'l') AND EXISTS (
                SELECT 1 FROM {self.staging.relation} o WHERE o.batch = $1 AND o.op NOT IN ('r', 'l') AND {other})"""

    def _compose(self) -> str:
        op = """CASE WHEN s.op IN ('r', 'l') THEN h.op::text WHEN s.op = 's' THEN 's'
            WHEN h.op = 'i' THEN 'i' WHEN h.op = 'u' THEN s.op::text WHEN s.op = 'i' THEN 'u' ELSE 'd' END"""
        fixed = {*self.staging.key_places, *(set(range(len(self.staging.columns))) - set(self.staging.value_places))}
        merge = Merge(self.staging, "", self.target)
        sets = [f'op = ({op})::"char"']
        bits = []
        for place, column in enumerate(self.staging.columns):
            name, kind = quote_literal(column.name), self.staging.type(place)
            ours = f"(s.op IN ('i', 's') OR (s.op = 'u' AND {self.staging.bit(place)}))"
            if place in fixed:
                bits.append("B'0'")
                if place not in self.staging.key_places:
                    sets.append(f"n{place} = $2")
                continue
            value = f"CASE WHEN {ours} THEN s.n{place} WHEN h.value ? {name} THEN (h.value ->> {name})::{kind} END"
            base = f"CASE WHEN h.base ? {name} THEN (h.base ->> {name})::{kind} ELSE s.b{place} END"
            sets += [f"n{place} = {value}", f"b{place} = {base}"]
            # What is back to what it began from is no change; a value that cannot travel is one.
            defective = f"""coalesce(s.defect -> 'n' ? {name}, false) OR coalesce(s.defect -> 'b' ? {name}, false)
                OR (NOT {ours} AND coalesce(h.defects -> 'n' ? {name}, false))"""
            bits.append(
                f"CASE WHEN ({ours} OR coalesce(h.value ? {name}, false)) "
                f"AND ({merge.differ(f'({value})', f'({base})', place)} OR {defective}) THEN B'1' ELSE B'0' END"
            )
        sets.append(f"changed = CASE WHEN ({op}) = 'u' THEN ({' || '.join(bits)})::bit varying END")
        ours_names = f"""ARRAY(SELECT c.name FROM unnest({self._names}) WITH ORDINALITY AS c(name, at)
            WHERE s.op IN ('i', 's') OR (s.op = 'u' AND get_bit(s.changed, c.at::integer - 1) = 1))"""
        sets.append(
            f"""defect = NULLIF(jsonb_build_object(
                'n', (coalesce(h.defects -> 'n', '{{}}') - {ours_names}) || coalesce(s.defect -> 'n', '{{}}'),
                'b', CASE WHEN ({op}) = 'i' THEN '{{}}' ELSE coalesce(s.defect -> 'b', '{{}}')
                     - ARRAY(SELECT jsonb_object_keys(coalesce(h.base, '{{}}'))) END), '{{"n": {{}}, "b": {{}}}}')"""
        )
        sets.append(
            """reason = CASE WHEN h.op = 'i' AND s.op = 'd' THEN '='
                WHEN h.reason = 'rolled_back' AND NOT h.released THEN 'rolled_back' END"""
        )
        sets.append("detail = jsonb_build_object('batch', h.batch, 'since', h.since)")
        return f"""
            UPDATE {self.staging.relation} s SET {", ".join(sets)}
            FROM localstore.held h
            WHERE s.batch = $1 AND s.reason IS NULL AND {self._held} AND h.key = {self._key}"""

    def _drop_undone(self) -> str:
        """Let go of updates of which nothing is left."""
        return f"""UPDATE {self.staging.relation} s SET reason = '='
            WHERE s.batch = $1 AND s.op = 'u' AND bit_count(s.changed) = 0 AND s.defect IS NULL
            AND (s.reason IS NULL OR s.reason = 'rolled_back')"""

    def _forget(self) -> str:
        return f"""
            DELETE FROM localstore.held h USING {self.staging.relation} s
            WHERE s.batch = $1 AND {self._held} AND h.key = {self._key}"""

    def hold(self) -> str:
        """Write the staged rows that have a reason into the held changes."""
        table = self.staging.table
        return f"""
            INSERT INTO localstore.held (company_id, replica, target, tbl, key, op, fingerprint, base, value,
                production, defects, reason, column_name, detail, waits_for, batch, ordinal, since)
            SELECT $2, $3, {quote_literal(self.target)}, {quote_literal(table.name)}, {self._key}, s.op,
                {quote_literal(table.fingerprint)},
                CASE WHEN s.op <> 'i' THEN {self.object("b")} END, CASE WHEN s.op <> 'd' THEN {self.object("n")} END,
                s.detail -> 'production', s.defect, s.reason, s.detail ->> 'column', s.detail ->> 'message',
                s.detail ->> 'waits_for', coalesce((s.detail ->> 'batch')::uuid, $1), s.ordinal,
                coalesce((s.detail ->> 'since')::timestamptz, now())
            FROM {self.staging.relation} s WHERE s.batch = $1 AND s.reason <> '='"""

    async def take_back(self, connection: asyncpg.Connection, inverse: UUID, undone: Entry) -> None:
        """Hold for their replica the changes that a promoted inverse batch took back, composed with what is held."""
        table = self.staging.table
        op = "CASE s.op::text WHEN 'd' THEN 'i' WHEN 'i' THEN 'd' ELSE 'u' END"
        await connection.execute(
            f"""
            WITH old AS (
                DELETE FROM localstore.held h USING {self.staging.relation} s
                WHERE s.batch = $1 AND s.reason IS NULL AND {self._held} AND h.key = {self._key}
                RETURNING h.key, h.op, h.base, h.value, h.defects
            ), taken AS (
                SELECT {self._key} AS key, {op} AS op, s.ordinal,
                    CASE WHEN s.op <> 'd' THEN {self.object("n")} END AS base,
                    CASE WHEN s.op <> 'i' THEN {self.object("b")} END AS value
                FROM {self.staging.relation} s WHERE s.batch = $1 AND s.reason IS NULL
            )
            INSERT INTO localstore.held (company_id, replica, target, tbl, key, op, fingerprint, base, value, defects,
                reason, detail, batch, ordinal)
            SELECT $2, $3, {quote_literal(self.target)}, {quote_literal(table.name)}, t.key,
                (CASE WHEN o.op IS NULL THEN t.op WHEN t.op = 'i' THEN 'i' WHEN t.op = 'd' THEN 'u'
                    ELSE o.op::text END)::"char",
                {quote_literal(table.fingerprint)}, coalesce(o.base, '{{}}') || t.base,
                CASE WHEN o.op IS DISTINCT FROM 'd' THEN coalesce(t.value, '{{}}') || coalesce(o.value, '{{}}') END,
                CASE WHEN o.op <> 'd' AND o.defects -> 'n' <> '{{}}' THEN jsonb_build_object('n', o.defects -> 'n') END,
                'rolled_back', 'taken back by ' || $1::text, $4, t.ordinal
            FROM taken t LEFT JOIN old o ON o.key = t.key
            WHERE NOT (t.op = 'i' AND o.op IS NOT DISTINCT FROM 'd')""",
            inverse,
            undone.company_id,
            undone.replica,
            undone.batch,
        )

    def object(self, prefix: str) -> str:
        """Return a staged row's values (`n`) or bases (`b`) as one object; of an update only the changed columns."""
        values = ", ".join(f"s.{prefix}{place}::text" for place in range(len(self.staging.columns)))
        return f"""(SELECT jsonb_object_agg(c.name, c.value)
            FROM unnest({self._names}, ARRAY[{values}]::text[]) WITH ORDINALITY AS c(name, value, at)
            WHERE s.op <> 'u' OR get_bit(s.changed, c.at::integer - 1) = 1)"""


async def tables_with_held(connection: asyncpg.Connection, company: str, replica: object, target: str) -> set[str]:
    """Return the names of the tables of which the replica has held rows."""
    rows = await connection.fetch(
        "SELECT DISTINCT tbl FROM localstore.held WHERE company_id = $1 AND replica = $2 AND target = $3",
        company,
        replica,
        target,
    )
    return {row["tbl"] for row in rows}
