"""The SQL that merges one staged table into production: each per-column expression is made once, here.

Every statement tests the base strictly and is counted. What falls short of the count is compared again by the
`agree_*` statements, which rewrite staged rows so that the strict test holds, or mark them as conflicts.
Parameters: $1 the batch, $2 the company.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from localstore.postgres.quoting import quote_literal
from localstore.schema.tables import Kind, Policy
from sync.staging import UNDO_DAYS, Staging

ADDED_CHUNK = -1
"""The chunk number of staged rows that the promotion itself adds; no bundle has such a chunk."""

MINE = "s.batch = $1 AND s.reason IS NULL"
"""The staged rows of this batch that still go to production."""


@dataclass(frozen=True)
class Merge:
    """Statements for one table. `relation` is production's quoted table, `target` its schema."""

    staging: Staging
    relation: str
    target: str

    # -- expressions ---------------------------------------------------------------------------------------------

    @cached_property
    def match(self) -> str:
        """Return the join of a staged row with production's row of the same key."""
        parts = [f"t.{self.staging.company} = $2"]
        parts += [f"t.{self.staging.quoted(place)} = s.n{place}" for place in self.staging.key_places]
        return " AND ".join(parts)

    def same(self, left: str, right: str, place: int) -> str:
        """Return the test that two values of a column are equal, NULLs included, text bit for bit."""
        collate = ' COLLATE "C"' if self.staging.columns[place].kind is Kind.TEXT else ""
        return f"{left} IS NOT DISTINCT FROM {right}{collate}"

    def differ(self, left: str, right: str, place: int) -> str:
        """Return the negation of `same`."""
        return "NOT (" + self.same(left, right, place) + ")"

    def theirs(self, place: int) -> str:
        """Return production's value."""
        return self.staging.read(place)

    def merged(self, place: int, *, base_known: bool) -> str:
        """Return what a column becomes when both sides changed it, by its policy."""
        theirs, ours = self.theirs(place), f"s.n{place}"
        match self.staging.columns[place].policy:
            case Policy.MAX:
                return f"GREATEST({theirs}, {ours})"
            case Policy.MIN:
                return f"LEAST({theirs}, {ours})"
            case Policy.PRODUCTION if base_known:
                return f"CASE WHEN {self.same(theirs, f's.b{place}', place)} THEN {ours} ELSE {theirs} END"
            case Policy.PRODUCTION:
                return theirs
            case _:
                return ours

    def clash(self, place: int, *, base_known: bool) -> str | None:
        """Return the test that a column is in conflict, None where its policy settles every case."""
        if self.staging.columns[place].policy is not Policy.MANUAL:
            return None
        theirs = self.theirs(place)
        test = self.differ(theirs, f"s.n{place}", place)
        return f"({self.differ(theirs, f's.b{place}', place)} AND {test})" if base_known else f"({test})"

    def bits(self, test: Callable[[int], str]) -> str:
        """Return a bit mask over the columns: `test` for those an update may change, 0 for the others."""
        values = set(self.staging.value_places)
        parts = [
            f"CASE WHEN {test(place)} THEN B'1' ELSE B'0' END" if place in values else "B'0'"
            for place in range(len(self.staging.columns))
        ]
        return "(" + " || ".join(parts) + ")::bit varying"

    def clashes(self, tests: dict[int, str]) -> str:
        """Return production's values of the columns in conflict, as `detail`."""
        names = ", ".join(quote_literal(self.staging.columns[place].name) for place in tests)
        values = ", ".join(f"{self.theirs(place)}::text" for place in tests)
        hits = ", ".join(f"coalesce({test}, false)" for test in tests.values())
        return (
            "jsonb_build_object('production', (SELECT jsonb_object_agg(c.name, c.value) FROM "
            f"unnest(ARRAY[{names}]::text[], ARRAY[{values}]::text[], ARRAY[{hits}]::boolean[]) "
            "AS c(name, value, hit) WHERE c.hit))"
        )

    @cached_property
    def strict(self) -> str:
        """Return the base test of an update: every changed column still holds what the change began from."""
        return self._all(
            f"(NOT {self.staging.bit(place)} OR {self.same(self.theirs(place), f's.b{place}', place)})"
            for place in self.staging.value_places
        )

    @cached_property
    def whole(self) -> str:
        """Return the base test of a delete: the whole row is still as it was."""
        return self._all(self.same(self.theirs(place), f"s.b{place}", place) for place in self.staging.value_places)

    @staticmethod
    def _all(tests: Iterable[str]) -> str:
        return " AND ".join(tests) or "true"

    # -- statements that write production -------------------------------------------------------------------------

    def insert(self) -> str:
        """Insert the new rows; undo keeps their keys."""
        table, staging = self.staging.table, self.staging
        names = [staging.quoted(place) for place in range(len(staging.columns))]
        values = [
            "$2" if column.name == table.company else f"s.n{place}" for place, column in enumerate(staging.columns)
        ]
        if not table.has_company:
            names.insert(0, staging.company)
            values.insert(0, "$2")
        key = ", ".join([staging.company, *(staging.quoted(place) for place in staging.key_places)])
        return f"""
            WITH written AS (
                INSERT INTO {self.relation} AS t ({", ".join(names)})
                SELECT {", ".join(values)} FROM {staging.relation} s WHERE {MINE} AND s.op = 'i'
                ON CONFLICT ({key}) DO NOTHING
                RETURNING {self._their_key()} AS key, t.xmin AS row_xmin
            )
            {self._undo("'i'", "NULL", "NULL")}"""

    def update(self, changed: frozenset[int]) -> str:
        """Write the changed columns where the base still holds; undo keeps the base, which the test has just proved."""
        sets = ", ".join(
            f"{self.staging.quoted(place)} = CASE WHEN {self.staging.bit(place)} THEN s.n{place} "
            f"ELSE {self.theirs(place)} END"
            for place in sorted(changed)
        )
        strict = self._all(
            f"(NOT {self.staging.bit(place)} OR {self.same(self.theirs(place), f's.b{place}', place)})"
            for place in sorted(changed)
        )
        before = self._texts(lambda place: f"CASE WHEN {self.staging.bit(place)} THEN s.b{place}::text END", changed)
        return f"""
            WITH written AS (
                UPDATE {self.relation} t SET {sets} FROM {self.staging.relation} s
                WHERE {MINE} AND s.op = 'u' AND {self.match} AND {strict}
                RETURNING {self.staging.key_text("s")} AS key, t.xmin AS row_xmin, s.changed, {before} AS before,
                    coalesce(s.detail ? 'merged', false) AS merged
            )
            {self._undo("'u'", "changed", "before", merged="merged")}"""

    def delete(self, name: str) -> str:
        """Return, as parts of a WITH, the delete of rows that are still as they were; undo keeps them whole."""
        everything = frozenset(range(len(self.staging.columns)))
        return f"""
            {name} AS (
                DELETE FROM {self.relation} t USING {self.staging.relation} s
                WHERE {MINE} AND s.op = 'd' AND {self.match} AND {self.whole}
                RETURNING {self.staging.key_text("s")} AS key, t.xmin AS row_xmin,
                    {self._texts(lambda place: f"{self.theirs(place)}::text", everything)} AS before
            ), {name}_undo AS ({self._undo("'d'", "NULL", "before", name)})"""

    def lock(self, op: str) -> str:
        """Lock production's rows that a batch touches, so that nobody writes or references them until it ends."""
        return f"""
            SELECT count(*) FROM (
                SELECT 1 FROM {self.relation} t JOIN {self.staging.relation} s ON {self.match}
                WHERE {MINE} AND s.op = '{op}' ORDER BY s.ordinal FOR UPDATE OF t
            ) locked"""

    def unwritten(self, op: str) -> str:
        """Return the query for the ordinals of the rows that a merge did not write; only $1 is used."""
        table = quote_literal(self.staging.table.name)
        return f"""
            SELECT s.ordinal FROM {self.staging.relation} s WHERE {MINE} AND s.op = '{op}' AND NOT EXISTS (
                SELECT 1 FROM localstore.undo u WHERE u.batch = $1 AND u.tbl = {table} AND u.op = '{op}'
                    AND u.key = {self.staging.key_text("s")})"""

    def _undo(self, op: str, changed: str, before: str, written: str = "written", merged: str = "false") -> str:
        table = self.staging.table
        return f"""
            INSERT INTO localstore.undo
                (batch, company_id, tbl, fingerprint, op, key, changed, before, row_xmin, merged)
            SELECT $1, $2, {quote_literal(table.name)}, {quote_literal(table.fingerprint)},
                {op}, key, {changed}, {before}, row_xmin, {merged} FROM {written}"""

    def _their_key(self) -> str:
        return "ARRAY[" + ", ".join(f"{self.theirs(place)}::text" for place in self.staging.key_places) + "]::text[]"

    def _texts(self, value: Callable[[int], str], places: frozenset[int]) -> str:
        """Return one text a column, in order; NULL for the columns that are not among `places`."""
        count = len(self.staging.columns)
        return "ARRAY[" + ", ".join(value(place) if place in places else "NULL" for place in range(count)) + "]::text[]"

    # -- statements that explain a shortfall ------------------------------------------------------------------------

    def agree_updates(self) -> list[str]:
        """Compare the updates whose base no longer holds: conflicts, merged columns, rows that agree already."""
        tests = self._clashes_of_changes(base_known=True)
        stale = f"{MINE} AND s.op = 'u' AND {self.match} AND NOT ({self.strict})"
        statements = [
            f"""UPDATE {self.staging.relation} s SET reason = 'conflict', detail = '{{"deleted": true}}'
                WHERE {MINE} AND s.op = 'u' AND NOT EXISTS (SELECT 1 FROM {self.relation} t WHERE {self.match})"""
        ]
        if tests:
            statements.append(
                f"""UPDATE {self.staging.relation} s SET reason = 'conflict', detail = {self.clashes(tests)}
                    FROM {self.relation} t WHERE {stale} AND ({" OR ".join(tests.values())})"""
            )
        statements += [self._rebase(stale, base_known=True), self._drop_unchanged()]
        return statements

    def agree_inserts(self, op: str = "i") -> list[str]:
        """Compare the new rows that production has already: equal columns agree, the rest is settled or in conflict."""
        tests = {
            place: test
            for place in self.staging.value_places
            if (test := self.clash(place, base_known=False)) is not None
        }
        there = f"{MINE} AND s.op = '{op}' AND {self.match}"
        statements = []
        if tests:
            # Columns with a policy are settled at once: only those in conflict keep their unknown base.
            settled = "".join(
                f", n{place} = {self.merged(place, base_known=False)}, b{place} = {self.theirs(place)}"
                for place in self.staging.value_places
                if place not in tests
            )
            changed = self.bits(
                lambda place: self.differ(
                    self.theirs(place),
                    f"s.n{place}" if place in tests else self.merged(place, base_known=False),
                    place,
                )
            )
            statements.append(
                f"""UPDATE {self.staging.relation} s SET op = 'u', changed = {changed}, reason = 'conflict',
                    detail = {self.clashes(tests)}{settled}
                    FROM {self.relation} t WHERE {there} AND ({" OR ".join(tests.values())})"""
            )
        statements += [self._rebase(there, base_known=False), self._drop_unchanged()]
        return statements

    def agree_deletes(self) -> list[str]:
        """Compare the deletes whose row is gone (they agree) or was changed (a conflict unless a policy settles it)."""
        tests = {
            place: self.differ(self.theirs(place), f"s.b{place}", place)
            for place in self.staging.value_places
            if self.staging.columns[place].policy is Policy.MANUAL
        }
        moved = f"{MINE} AND s.op = 'd' AND {self.match} AND NOT ({self.whole})"
        bases = ", ".join(f"b{place} = {self.theirs(place)}" for place in self.staging.value_places)
        statements = [
            f"""UPDATE {self.staging.relation} s SET reason = '='
                WHERE {MINE} AND s.op = 'd' AND NOT EXISTS (SELECT 1 FROM {self.relation} t WHERE {self.match})"""
        ]
        if tests:
            statements.append(
                f"""UPDATE {self.staging.relation} s SET reason = 'conflict', detail = {self.clashes(tests)}
                    FROM {self.relation} t WHERE {moved} AND ({" OR ".join(tests.values())})"""
            )
        if bases:
            statements.append(f"UPDATE {self.staging.relation} s SET {bases} FROM {self.relation} t WHERE {moved}")
        return statements

    def settle_snapshot(self, *, with_deletes: bool) -> list[str]:
        """Turn snapshot rows into inserts and updates, and with `with_deletes` absent rows into deletes.

        A base is not known, so what production remembers decides: a row as this replica left it is ours to write, any
        other that differs is a conflict. $3 is the replica.
        """
        key = self.staging.key_text("s")
        quiet = f"({self._as_we_left_it(key)} OR ({self._long_ours()} AND {self._quiet(key)}))"
        there = f"{MINE} AND s.op = 's' AND {self.match}"
        differing = self.bits(lambda place: self.differ(self.theirs(place), f"s.n{place}", place))
        bases = "".join(f", b{place} = {self.theirs(place)}" for place in self.staging.value_places)
        return [
            f"""UPDATE {self.staging.relation} s SET op = 'i' WHERE {MINE} AND s.op = 's'
                AND NOT EXISTS (SELECT 1 FROM {self.relation} t WHERE {self.match})""",
            f"""UPDATE {self.staging.relation} s SET op = 'u', changed = {differing}{bases}
                FROM {self.relation} t WHERE {there} AND {quiet}""",
            *self.agree_inserts("s"),
            self._drop_unchanged(),
            *([self._delete_absent()] if with_deletes else []),
        ]

    def _as_we_left_it(self, key: str) -> str:
        """Return the test that the last write of production's row was a promotion of this replica."""
        return f"""EXISTS (SELECT 1 FROM localstore.undo u JOIN localstore.ledger l ON l.batch = u.batch
            WHERE {self._our_batches} AND u.tbl = {quote_literal(self.staging.table.name)}
            AND u.key = {key} AND u.row_xmin = t.xmin)"""

    def _long_ours(self) -> str:
        """Return the test that the replica has sent the table for so long that undo of its rows may have expired."""
        return f"""EXISTS (SELECT 1 FROM localstore.ledger l WHERE {self._our_batches}
            AND l.manifest -> 'fingerprints' ? {quote_literal(self.staging.table.name)}
            AND l.promoted_at < now() - make_interval(days => {UNDO_DAYS}))"""

    @cached_property
    def _our_batches(self) -> str:
        return (
            f"l.company_id = $2 AND l.target = {quote_literal(self.target)} AND l.kind = 'push' AND l.replica = $3 "
            "AND l.state = 'promoted'"
        )

    def _quiet(self, key: str) -> str:
        """Return the test that neither an application nor another replica is known to have written the row."""
        target, table = quote_literal(self.target), quote_literal(self.staging.table.name)
        fed = f"SELECT 1 FROM localstore.feed f WHERE f.company_id = $2 AND f.target = {target} AND f.tbl = {table}"
        return f"""NOT EXISTS ({fed} AND f.key = {key}) AND NOT EXISTS ({fed} AND f.op = 't')
            AND NOT EXISTS (SELECT 1 FROM localstore.undo u JOIN localstore.ledger l ON l.batch = u.batch
                WHERE l.company_id = $2 AND l.target = {target} AND u.tbl = {table} AND u.key = {key}
                AND l.kind = 'push' AND l.replica <> $3)"""

    def _delete_absent(self) -> str:
        """Stage a delete for each row that the snapshot lacks, if production has it as this replica left it."""
        staging = self.staging
        places = range(len(staging.columns))
        columns = [f"n{place}" for place in staging.key_places] + [f"b{place}" for place in places]
        values = [self.theirs(place) for place in staging.key_places] + [self.theirs(place) for place in places]
        key = self._their_key()
        return f"""INSERT INTO {staging.relation} (batch, chunk, ordinal, op, {", ".join(columns)})
            SELECT $1, {ADDED_CHUNK}, -{2**40} - row_number() OVER (), 'd', {", ".join(values)} FROM {self.relation} t
            WHERE t.{staging.company} = $2 AND {self._as_we_left_it(key)}
            AND NOT EXISTS (SELECT 1 FROM {staging.relation} s WHERE s.batch = $1 AND {self.match})
            AND NOT EXISTS (SELECT 1 FROM localstore.held h WHERE h.company_id = $2 AND h.replica = $3
                AND h.target = {quote_literal(self.target)} AND h.tbl = {quote_literal(staging.table.name)}
                AND h.key = {key})"""

    def fold(self) -> list[str]:
        """Make one change of those whose keys were spelt differently in the file and are one key in production.

        A delete and an insert are an update; of several new rows the first goes, of several deletes that of the row
        which production has. A row that travels whole contains its own update. Nothing where no spelling can differ.
        """
        staging = self.staging
        if not staging.many_spellings:
            return []
        keys = ", ".join(f"s.n{place}" for place in staging.key_places)
        other = " AND ".join(f"o.n{place} = s.n{place}" for place in staging.key_places)
        changed = self.bits(lambda place: self.differ(f"s.n{place}", f"o.b{place}", place))
        bases = "".join(f", b{place} = o.b{place}" for place in staging.value_places)
        fit = "s.defect IS NULL"
        named = "$2::text" if staging.table.has_company else "''::text"
        return [
            f"""UPDATE {staging.relation} s SET reason = '='
                WHERE {MINE} AND s.ordinal IN (SELECT d.ordinal FROM (SELECT s.ordinal, row_number() OVER (
                    PARTITION BY {keys} ORDER BY EXISTS (
                        SELECT 1 FROM {self.relation} t WHERE {self.match} AND {self.whole}) DESC, s.ordinal) AS nth
                    FROM {staging.relation} s WHERE {MINE} AND s.op = 'd' AND {fit}) d WHERE d.nth > 1)""",
            f"""UPDATE {staging.relation} s SET reason = '=' WHERE {MINE} AND s.op = 'u' AND {fit} AND EXISTS (
                SELECT 1 FROM {staging.relation} o
                WHERE o.batch = $1 AND o.op = 'i' AND o.defect IS NULL AND o.reason IS NULL AND {other})""",
            f"""UPDATE {staging.relation} s SET reason = 'constraint',
                key_text = {staging.key_text("s")} || {named},
                detail = jsonb_build_object('message', 'another row of the file has the same key in production')
                WHERE {MINE} AND s.ordinal IN (SELECT d.ordinal FROM (SELECT s.ordinal,
                    row_number() OVER (PARTITION BY {keys} ORDER BY s.ordinal) AS nth
                    FROM {staging.relation} s WHERE {MINE} AND s.op IN ('i', 's') AND {fit}) d WHERE d.nth > 1)""",
            f"""UPDATE {staging.relation} s SET op = 'u', changed = {changed}{bases} FROM {staging.relation} o
                WHERE {MINE} AND s.op = 'i' AND {fit} AND o.batch = $1 AND o.op = 'd' AND o.defect IS NULL
                AND o.reason IS NULL AND {other}""",
            f"""UPDATE {staging.relation} s SET reason = '=' WHERE {MINE} AND s.op = 'd' AND {fit} AND EXISTS (
                SELECT 1 FROM {staging.relation} o
                WHERE o.batch = $1 AND o.op = 'u' AND o.reason IS NULL AND {other})""",
            self._drop_unchanged(),
        ]

    def _clashes_of_changes(self, *, base_known: bool) -> dict[int, str]:
        return {
            place: f"({self.staging.bit(place)} AND {test})"
            for place in self.staging.value_places
            if (test := self.clash(place, base_known=base_known)) is not None
        }

    def _rebase(self, rows: str, *, base_known: bool) -> str:
        """Rewrite updates (or inserts of rows that are there) so that their base is what production holds now."""

        def touched(place: int) -> str:
            return self.staging.bit(place) if base_known else "true"

        values = self.staging.value_places
        sets = [
            f"n{place} = CASE WHEN {touched(place)} THEN {self.merged(place, base_known=base_known)} "
            f"ELSE s.n{place} END, b{place} = CASE WHEN {touched(place)} THEN {self.theirs(place)} ELSE s.b{place} END"
            for place in values
        ]
        changed = self.bits(
            lambda place: (
                f"{touched(place)} AND "
                + self.differ(self.theirs(place), self.merged(place, base_known=base_known), place)
            )
        )
        # What becomes otherwise than it was sent is for the sender's next pull, too, which skips its own rows else.
        otherwise = " OR ".join(
            f"({touched(place)} AND {self.differ(self.merged(place, base_known=base_known), f's.n{place}', place)})"
            for place in values
        )
        detail = f"""CASE WHEN {otherwise or "false"} THEN coalesce(s.detail, '{{}}') || '{{"merged": true}}'
            ELSE s.detail END"""
        return f"""UPDATE {self.staging.relation} s
            SET {", ".join([f"op = 'u', changed = {changed}, detail = {detail}", *sets])}
            FROM {self.relation} t WHERE {rows}"""

    def _drop_unchanged(self) -> str:
        return f"""UPDATE {self.staging.relation} s SET reason = '='
            WHERE {MINE} AND s.op = 'u' AND bit_count(s.changed) = 0"""


def delete_all(merges: Iterable[Merge]) -> str:
    """Return one statement that deletes the rows of several tables, and how many of each, in order.

    In one statement, since references may run in circles: when production's cascades run, at its end, no row is left
    for them.
    """
    named = {f"gone{number}": merge for number, merge in enumerate(merges)}
    parts = ", ".join(merge.delete(name) for name, merge in named.items())
    return f"WITH {parts} SELECT " + ", ".join(f"(SELECT count(*) FROM {name})" for name in named)
