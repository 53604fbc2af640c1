"""Repair: mark the drift of a verification, so that the next seal carries it from production's values to the file's.

No row is written, on either side. The base of what travels is production's whole value as it was compared, so that a
row which moves there before the promotion becomes a conflict. Safe to run twice: what is marked is pending, no drift.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from localstore.codec import Bindable, ValueDefect, decode_binary, equal
from localstore.sqlite import capture
from localstore.sqlite.layout import CatalogueEntry, read_catalogue, require_tables
from localstore.sqlite.marks import UPDATE, count_on_from, key_terms
from sync import batches
from sync.pull import marks
from sync.pull.marks import Mark
from sync.pull.rows import LocalTable, Stored, read
from sync.repair.drifts import Drifted, Drifts, LeftAlone
from sync.status import remember
from sync.verify.differences import Repaired
from sync.verify.frames import Fields

REPAIR_DUE: Final = "repair_due"
"""Among the small facts of a tenant's file: a repair has marked rows, and its batch is not known to be staged."""

HELD: Final = "a change of it is held; `localstore sync conflicts list` and `quarantine list` show it"
WAITS: Final = "changes of it wait to be promoted; promote them, then repair again"
RESHAPED: Final = "its table has changed its shape meanwhile; run the command again"
MOVED: Final = "it has come or gone here meanwhile; run the command again"
PULL_FIRST: Final = "others wrote in it, which would become conflicts; `localstore sync pull`, then repair again"
TWICE: Final = "another row of the file has the same key in production's types"


def repair(connection: sqlite3.Connection, drifts: Drifts, company: str, foreign: Collection[str]) -> Repaired:
    """Mark what can be put in line, in the caller's transaction and under the outbox's lock; say what cannot.

    `foreign` are the tables in which others wrote what the file does not have.
    """
    require_tables(connection)
    if capture.check(connection):
        # Their triggers come back, and as with every seal after a gap they travel whole.
        capture.install(connection, ())
    chain = batches.tail(connection)
    after = max((batch.marks_to for batch in chain if batch.state == "acknowledged"), default=0)
    # Whoever lost the marks may have lost their numbers, too: what is written now must be beyond every batch.
    count_on_from(connection, max((batch.marks_to for batch in chain), default=0))
    rows: dict[str, int] = {}
    whole: list[str] = []
    differences = 0
    left_alone = drifts.left_alone.copy()
    for entry in read_catalogue(connection):
        name = entry.table.name
        if name not in drifts.known:
            continue
        if entry.snapshot_due:
            whole.append(name)
            differences += drifts.differences(name)
        elif entry.table.fingerprint != drifts.known[name].table.fingerprint:
            _leave_all(drifts, name, RESHAPED, left_alone)
        elif unmarkable := capture.unmarkable(connection, entry.table):
            if name in foreign:
                why = f"its table always travels whole, because {unmarkable}; {PULL_FIRST}"
                _leave_all(drifts, name, why, left_alone)
            else:
                connection.execute("UPDATE localstore_tables SET snapshot_due = 1 WHERE id = ?", (entry.id,))
                whole.append(name)
                differences += drifts.differences(name)
        else:
            done = _Repair(connection, entry, drifts, company, after, left_alone).run()
            rows[name], differences = done.rows, differences + done.differences
    remember(connection, REPAIR_DUE, "1")
    told = {name: number for name, number in rows.items() if number}
    return Repaired(told, differences, tuple(whole), tuple(left_alone.first.items()), left_alone.rows)


def _leave_all(drifts: Drifts, name: str, why: str, left_alone: LeftAlone) -> None:
    for row in drifts.rows(name):
        left_alone.add(name, row.arrival.key, why)


@dataclass(slots=True)
class _Done:
    rows: int = 0
    differences: int = 0


class _Repair:
    """One table's drift."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        entry: CatalogueEntry,
        drifts: Drifts,
        company: str,
        after: int,
        left_alone: LeftAlone,
    ) -> None:
        self._connection = connection
        self._drifts = drifts
        self._table = LocalTable(connection, entry, company)
        self._left_alone = left_alone
        self._waiting = self._marked(after)
        self._held = self._held_rows()

    def run(self) -> _Done:
        """Mark the rows; those that no longer are what was compared, or that something else decides, stay."""
        name, done = self._table.table.name, _Done()
        for drifted in self._drifts.rows(name):
            try:
                written = self._marks(drifted)
            except _Leave as left:
                self._left_alone.add(name, drifted.arrival.key, left.why)
                continue
            except ValueDefect as defect:
                why = f"the file cannot hold what production has: {defect.message}"
                self._left_alone.add(name, drifted.arrival.key, why)
                continue
            marks.write(self._connection, self._table, written)
            done.rows += 1
            done.differences += len(written)
        return done

    def _marked(self, after: int) -> Mapping[str, frozenset[int] | None]:
        """Return the drifted rows that have marks: the columns that those tell of, None for all of them.

        A spurious one counts, too: its old value would be taken for the row's base.
        """
        table = self._table
        ordinals = {table.table.ordinal[column.name]: place for place, column in enumerate(table.columns)}
        found: dict[str, frozenset[int] | None] = {}
        for op, ordinal, *key in read(
            self._connection,
            f"SELECT op, col, {', '.join(key_terms(table.table))} FROM main.localstore_marks WHERE seq > ? AND tbl = ?",
            (after, table.entry.id),
        ):
            ident = table.keys.of_stored(key)
            if ident is None or not self._drifts.has(table.table.name, ident):
                continue
            before = found.get(ident, frozenset())
            if op != UPDATE or before is None:
                found[ident] = None
            elif ordinal in ordinals:
                found[ident] = before | {ordinals[ordinal]}
        return found

    def _held_rows(self) -> frozenset[str | None]:
        rows = self._connection.execute("SELECT key FROM localstore_held WHERE tbl = ?", (self._table.table.name,))
        return frozenset(self._table.keys.of_json(key) for (key,) in rows)

    def _marks(self, drifted: Drifted) -> list[Mark]:
        arrival, table = drifted.arrival, self._table
        if arrival.ident in self._held:
            raise _Leave(HELD)
        if arrival.unfit is not None:
            raise _Leave(f"the file cannot hold what production has: {arrival.unfit}")
        waiting = self._waiting.get(arrival.ident, frozenset())
        if waiting is None or (waiting and not drifted.places) or not waiting.isdisjoint(drifted.places):
            raise _Leave(WAITS)
        row = table.find(arrival.ident, table.keys.stored_texts(arrival.key))
        theirs = None if arrival.frame is None else table.keys.frames.fields(arrival.frame)
        if theirs is None:
            if row is None:
                raise _Leave(MOVED)
            return [marks.insert_mark(table.key_of(row))]
        if drifted.places:
            if row is None:
                raise _Leave(MOVED)
            return self._updates(row, theirs, drifted.places)
        if row is not None:
            raise _Leave(TWICE)
        return [marks.delete_mark(table, [self._old(theirs, place) for place in range(len(table.columns))])]

    def _updates(self, row: Stored, theirs: Fields, places: Sequence[int]) -> list[Mark]:
        table = self._table
        local = table.keys.frames.encode(row)
        ours = table.keys.frames.fields(local.frame)
        differing = [
            place
            for place in places
            if place in local.defects or not equal(table.columns[place].kind, ours[place], theirs[place])
        ]
        if not differing:
            raise _Leave(MOVED)
        return [marks.update_mark(table, place, self._old(theirs, place), table.key_of(row)) for place in differing]

    def _old(self, theirs: Fields, place: int) -> Bindable | None:
        data, column = theirs[place], self._table.columns[place]
        try:
            return None if data is None else decode_binary(column.kind, data)
        except ValueDefect as defect:
            raise ValueDefect(defect.code, f"{column.name}: {defect.message}", defect.preview) from None


class _Leave(Exception):
    """Raised for a row that a repair does not touch."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
