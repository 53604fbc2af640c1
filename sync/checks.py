"""Find, before anything is written, which staged rows production would refuse: set by set, not row by row.

Each statement gives the rows it finds a reason, which takes them out of the batch. The caller repeats those that
depend on other rows until nothing new is found. Parameters: $1 the batch, $2 the company.
"""

from __future__ import annotations

from dataclasses import dataclass

from localstore.blobs.table import HASH, hash_place
from localstore.postgres.quoting import quote_identifier, quote_literal
from localstore.schema.postgres import production_name
from localstore.schema.tables import Kind
from localstore.schema.types import TRAVELLING_VECTOR
from sync.blobs.named import WAITS_FOR as WAITS_FOR_OBJECT
from sync.merge import MINE, Merge
from sync.production import ForeignKeyLink, ProductionTable, Unique
from sync.production.vectors import EXTENSION, WAITS_FOR


@dataclass(frozen=True)
class Checks:
    """Statements for one table. `merges` are the batch's other tables by their (production) relation."""

    merge: Merge
    shape: ProductionTable
    merges: dict[str, Merge]

    # -- by value: once ------------------------------------------------------------------------------------------

    def values(self) -> list[str]:
        """Return the checks that look at one row at a time."""
        return [self._impossible_deletes(), self._defects(), *self._vectors(), *self._objects(), *self._not_null()]

    def _hold(self, reason: str, detail: str, where: str, source: str = "") -> str:
        relation = self.merge.staging.relation
        return f"UPDATE {relation} s SET reason = '{reason}', detail = {detail} {source} WHERE {MINE} AND {where}"

    def _detail(self, message: str, column: str | None = None, waits_for: str = "NULL") -> str:
        return (
            f"coalesce(s.detail, '{{}}') || jsonb_build_object('message', {quote_literal(message)}, 'column', "
            f"{quote_literal(column) if column else 'NULL::text'}, 'waits_for', {waits_for}::text)"
        )

    def _impossible_deletes(self) -> str:
        """Drop deletes of rows that production never could have: their key does not exist there."""
        relation = self.merge.staging.relation
        return f"UPDATE {relation} s SET reason = '=' WHERE {MINE} AND s.op = 'd' AND s.key_text IS NOT NULL"

    def _defects(self) -> str:
        first = (
            "(SELECT jsonb_build_object('column', d.key, 'message', d.value -> 'message') "
            "FROM jsonb_each(coalesce(NULLIF(s.defect -> 'n', '{}'), s.defect -> 'b')) AS d LIMIT 1)"
        )
        return self._hold("value", f"coalesce(s.detail, '{{}}') || {first}", "s.defect IS NOT NULL")

    def _vectors(self) -> list[str]:
        """Hold what production has no type for yet, until its extension is there."""
        staging = self.merge.staging
        waiting = [
            column.name
            for column in staging.columns
            if column.kind is Kind.VECTOR and self.shape.columns[production_name(column.name)].type == TRAVELLING_VECTOR
        ]
        message = f"production has no {WAITS_FOR} that all may use: let an owner run CREATE EXTENSION {EXTENSION}"
        return [
            self._hold("waits", self._detail(message, name, quote_literal(WAITS_FOR)), "s.op IN ('i', 'u')")
            for name in waiting
        ]

    def _objects(self) -> list[str]:
        """Hold what names an object that production's object store does not have; a rollback's were there before."""
        staging = self.merge.staging
        place = hash_place(staging.table)
        if place is None:
            return []
        named = f"s.n{place}"
        message = (
            "its bytes are not in production's object store; a push from where they are, with S3_* set, brings them"
        )
        return [
            self._hold(
                "waits",
                self._detail(message, HASH, f"{quote_literal(WAITS_FOR_OBJECT)} || {named}"),
                f"""{named} IS NOT NULL AND (s.op = 'i' OR (s.op = 'u' AND {staging.bit(place)}))
                AND NOT EXISTS (SELECT FROM localstore.objects o WHERE o.company_id = $2 AND o.hash = {named})
                AND NOT EXISTS (SELECT FROM {self.merge.relation} t WHERE {self.merge.match}
                    AND {self.merge.same(self.merge.theirs(place), named, place)})
                AND EXISTS (SELECT FROM localstore.ledger l WHERE l.batch = $1 AND l.kind = 'push')""",
            )
        ]

    def _not_null(self) -> list[str]:
        staging = self.merge.staging
        names = {staging.quoted(place): place for place in range(len(staging.columns))}
        statements = []
        for column in self.shape.required:
            place = names.get(quote_identifier(column))
            if place is None or place in staging.key_places or staging.columns[place].name == staging.table.company:
                continue
            test = f"s.n{place} IS NULL AND (s.op = 'i' OR (s.op = 'u' AND {staging.bit(place)}))"
            statements.append(self._hold("constraint", self._detail(f"{column} must not be NULL", column), test))
        return statements

    def conditions(self) -> list[str]:
        """Return the checks by production's own conditions, whose evaluation may itself fail for a row."""
        return [
            self._hold(
                "constraint",
                self._detail(f"the check {check.name} refuses it: {check.expression}"),
                f"""s.ordinal IN (SELECT "localstore ordinal" FROM ({self._final_rows()}) q
                    WHERE NOT ({check.expression}))""",
            )
            for check in self.shape.checks
        ]

    def _final_rows(self) -> str:
        """Return what the batch's new and changed rows will be, in production's column names."""
        staging = self.merge.staging
        columns = ['s.ordinal AS "localstore ordinal"']
        if not staging.table.has_company:
            columns.append(f"$2::text AS {staging.company}")
        for place, column in enumerate(staging.columns):
            value = "$2::text" if column.name == staging.table.company else self._final(place)
            columns.append(f"{value} AS {staging.quoted(place)}")
        return f"""SELECT {", ".join(columns)} FROM {staging.relation} s
            LEFT JOIN {self.merge.relation} t ON s.op = 'u' AND {self.merge.match}
            WHERE {MINE} AND s.op IN ('i', 'u')"""

    def _final(self, place: int) -> str:
        if place in self.merge.staging.value_places:
            changed = self.merge.staging.bit(place)
            return f"CASE WHEN s.op = 'u' AND NOT {changed} THEN {self.merge.theirs(place)} ELSE s.n{place} END"
        return f"s.n{place}"

    # -- by other rows: to a fixpoint ------------------------------------------------------------------------------

    def relations(self) -> list[str]:
        """Return the checks that depend on which other rows go to production."""
        statements = [self._unique(unique) for unique in self.shape.uniques if unique.plain and not unique.primary]
        statements += [self._parents(key) for key in self.shape.foreign_keys]
        statements += [self._children(key) for key in self.shape.referenced_by]
        return [statement for statement in statements if statement is not None]

    def _place(self, column: str) -> int | None:
        staging = self.merge.staging
        for place in range(len(staging.columns)):
            if staging.quoted(place) == quote_identifier(column):
                return place
        return None

    def _unique(self, unique: Unique) -> str | None:
        """Hold rows whose unique values another row will have: one of production's, or an earlier one of the batch."""
        staging = self.merge.staging
        columns = [column for column in unique.columns if quote_identifier(column) != staging.company]
        places = [self._place(column) for column in columns]
        if not places or any(place is None for place in places):
            return None
        known = [place for place in places if place is not None]
        finals = ", ".join(f"{self._final(place)} AS u{place}" for place in known)
        present = " AND ".join(f"u{place} IS NOT NULL" for place in known)
        moved = " OR ".join(staging.bit(place, "o") for place in known if place in staging.value_places) or "false"
        touched = " OR ".join(staging.bit(place) for place in known if place in staging.value_places) or "false"
        theirs = " AND ".join(f"p.{staging.quoted(place)} = r.u{place}" for place in known)
        same_row = " AND ".join(f"p.{staging.quoted(place)} = o.n{place}" for place in staging.key_places)
        final_rows = f"""SELECT s.ordinal, {finals} FROM {staging.relation} s
            LEFT JOIN {self.merge.relation} t ON s.op = 'u' AND {self.merge.match}
            WHERE {MINE} AND (s.op = 'i' OR (s.op = 'u' AND ({touched})))"""
        return self._hold(
            "constraint",
            self._detail(f"another row has the same {', '.join(columns)} ({unique.name})", columns[0]),
            f"""s.ordinal IN (
                WITH r AS (SELECT * FROM ({final_rows}) f WHERE {present})
                SELECT ordinal FROM (SELECT ordinal, row_number() OVER
                    (PARTITION BY {", ".join(f"u{place}" for place in known)} ORDER BY ordinal) AS nth FROM r) d
                WHERE nth > 1
                UNION ALL
                SELECT r.ordinal FROM r JOIN {self.merge.relation} p ON p.{staging.company} = $2 AND {theirs}
                WHERE NOT EXISTS (
                    SELECT 1 FROM {staging.relation} o WHERE o.batch = $1 AND {same_row} AND (o.ordinal = r.ordinal
                        OR (o.reason IS NULL AND (o.op = 'd' OR (o.op = 'u' AND ({moved})))))))""",
        )

    def _parents(self, key: ForeignKeyLink) -> str | None:
        """Hold rows whose parent will not be there; they wait for it."""
        staging = self.merge.staging
        pairs = [
            (self._place(column), parent)
            for column, parent in zip(key.child_columns, key.parent_columns, strict=True)
            if quote_identifier(column) != staging.company
        ]
        known = [(place, parent) for place, parent in pairs if place is not None]
        if not known or len(known) != len(pairs):
            return None
        finals = ", ".join(f"{self._final(place)} AS f{place}" for place, _ in known)
        touched = " OR ".join(staging.bit(place) for place, _ in known if place in staging.value_places) or "false"
        present = " AND ".join(f"f.f{place} IS NOT NULL" for place, _ in known)
        there = " AND ".join(f"p.{quote_identifier(parent)} = f.f{place}" for place, parent in known)
        merge = self.merges.get(key.parent)
        going = arriving = ""
        if merge is not None:
            going = f"AND NOT EXISTS ({self._leaving(merge, 'p', [parent for _, parent in known])})"
            arriving = f"AND NOT EXISTS ({self._arriving(merge, [(f'f.f{place}', parent) for place, parent in known])})"
        parent_name = self._plain(key.parent)
        company = (
            f"p.{quote_identifier(key.parent_columns[0])} = $2 AND " if len(key.child_columns) > len(known) else ""
        )
        waits_for = (
            f"concat_ws('/', {quote_literal(parent_name)}::text, "
            + ", ".join(f"s.n{place}::text" for place, _ in known)
            + ")"
        )
        return self._hold(
            "waits",
            self._detail(f"its {parent_name} row is not in production ({key.name})", key.child_columns[-1], waits_for),
            f"""s.ordinal IN (SELECT f.ordinal FROM (
                    SELECT s.ordinal, {finals} FROM {staging.relation} s
                    LEFT JOIN {self.merge.relation} t ON s.op = 'u' AND {self.merge.match}
                    WHERE {MINE} AND (s.op = 'i' OR (s.op = 'u' AND ({touched})))) f
                WHERE {present}
                AND NOT EXISTS (SELECT 1 FROM {key.parent} p WHERE {company}{there} {going}) {arriving})""",
        )

    def _plain(self, relation: str) -> str:
        """Return a table's own name where it is one of ours, else its quoted relation."""
        merge = self.merges.get(relation)
        return merge.staging.table.name if merge else relation

    def _children(self, key: ForeignKeyLink) -> str | None:
        """Hold deletes of rows that rows outside the batch still reference, whatever ON DELETE says; they wait."""
        staging = self.merge.staging
        pairs = [
            (self._place(parent), child)
            for child, parent in zip(key.child_columns, key.parent_columns, strict=True)
            if quote_identifier(parent) != staging.company
        ]
        known = [(place, child) for place, child in pairs if place is not None]
        if not known or len(known) != len(pairs):
            return None
        there = " AND ".join(f"c.{quote_identifier(child)} = {self.merge.theirs(place)}" for place, child in known)
        company = f"c.{quote_identifier(key.child_columns[0])} = $2 AND " if len(key.child_columns) > len(known) else ""
        merge = self.merges.get(key.child)
        leaving = ""
        if merge is not None:
            leaving = f"AND NOT EXISTS ({self._leaving(merge, 'c', [child for _, child in known])})"
        child_name = self._plain(key.child)
        return self._hold(
            "waits",
            self._detail(
                f"rows of {child_name} in production still reference it ({key.name})", None, quote_literal(child_name)
            ),
            f"""s.op = 'd' AND EXISTS (SELECT 1 FROM {self.merge.relation} t JOIN {key.child} c
                ON {company}{there} WHERE {self.merge.match} {leaving})""",
        )

    @staticmethod
    def _leaving(merge: Merge, alias: str, columns: list[str]) -> str:
        """Return a query for the staged row that deletes production's row `alias`, or moves it off these columns."""
        staging = merge.staging
        same = " AND ".join(f"o.n{place} = {alias}.{staging.quoted(place)}" for place in staging.key_places)
        quoted = {quote_identifier(column) for column in columns}
        moved = [staging.bit(place, "o") for place in staging.value_places if staging.quoted(place) in quoted]
        test = "o.op = 'd'" + (f" OR (o.op = 'u' AND ({' OR '.join(moved)}))" if moved else "")
        return f"SELECT 1 FROM {staging.relation} o WHERE o.batch = $1 AND o.reason IS NULL AND {same} AND ({test})"

    @staticmethod
    def _arriving(merge: Merge, pairs: list[tuple[str, str]]) -> str:
        """Return a query for the staged row that brings these values of the columns into production."""
        staging = merge.staging
        places = {staging.quoted(place): place for place in range(len(staging.columns))}
        tests = []
        moved = []
        for value, column in pairs:
            place = places[quote_identifier(column)]
            tests.append(f"o.n{place} = {value}")
            if place in staging.value_places:
                moved.append(staging.bit(place, "o"))
        update = f" OR (o.op = 'u' AND {' AND '.join(moved)})" if moved else ""
        return f"""SELECT 1 FROM {staging.relation} o WHERE o.batch = $1 AND o.reason IS NULL
            AND {" AND ".join(tests)} AND (o.op = 'i'{update})"""
