"""Apply: set a pull's arrivals against the tenant's file, inside the one local transaction that also moves the cursor.

Where nothing waits to be sent a row becomes production's. Where something does, both sides merge by column, and what
stays pending begins from production's value. What cannot be taken over is left alone, named, and tried again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from secrets import randbits

from localstore.codec import Bindable, ValueDefect, decode_binary, equal
from localstore.schema.tables import Kind, parents_first
from localstore.sqlite import generations
from localstore.sqlite import marks as captured
from localstore.sqlite.layout import CatalogueEntry
from sync import batches
from sync.batches import LocalBatch
from sync.pull import marks
from sync.pull.children import Children
from sync.pull.fetch import Seen
from sync.pull.incoming import Arrival, Incoming
from sync.pull.marks import Mark
from sync.pull.rows import LocalTable, Stored
from sync.pull.three_way import Pending, Verdict, settle
from sync.pull.waiting import pending_rows, standing
from sync.results import COUNTS
from sync.verify.frames import Fields

_CHANGES = ("inserted", "updated", "deleted")


class Shares(Exception):
    """Raised when a sealed batch, which nobody promoted yet, carries a row that has to be rebased."""

    def __init__(self, batch: LocalBatch) -> None:
        super().__init__(batch)
        self.batch = batch


@dataclass(slots=True)
class Applied:
    """What became of the arrivals: rows by table, and those left alone with the reason."""

    tables: dict[str, dict[str, int]] = field(default_factory=dict)
    left_alone: list[tuple[str, tuple[str, ...], str]] = field(default_factory=list)

    def count(self, table: str, what: str, number: int = 1) -> None:
        """Add to a count."""
        counts = self.tables.setdefault(table, dict.fromkeys(COUNTS, 0))
        counts[what] += number


@dataclass(slots=True)
class _Ledger:
    """What has been decided so far; copied before an attempt that may have to be undone."""

    applied: Applied = field(default_factory=Applied)
    kept: set[tuple[str, str]] = field(default_factory=set)
    rewritten: dict[tuple[str, str], list[Mark]] = field(default_factory=dict)
    deleted: bool = False

    def copy(self) -> _Ledger:
        tables = {name: dict(counts) for name, counts in self.applied.tables.items()}
        applied = Applied(tables, list(self.applied.left_alone))
        return _Ledger(applied, set(self.kept), dict(self.rewritten), self.deleted)


class Application:
    """One pull's arrivals on their way into the file. Raises Behind or Shares, with nothing done, to be begun anew."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        company: str,
        catalogue: Sequence[CatalogueEntry],
        incoming: Incoming,
        seen: Seen,
        *,
        rebase: bool = False,
    ) -> None:
        self._connection = connection
        self._incoming = incoming
        self._tables = {entry.table.name: LocalTable(connection, entry, company) for entry in catalogue}
        chain = batches.live(connection)
        self.stands = standing(chain, seen, captured.newest(connection), rebase=rebase)
        names = incoming.tables()
        order = parents_first(tuple(entry.table for entry in catalogue))
        self._order = [self._tables[table.name] for table in order if table.name in names]
        due = {entry.table.name for entry in catalogue if entry.snapshot_due}
        self._unknown_base = due if rebase else due | self.stands.whole
        self._pending: dict[str, dict[str, Pending]] = {}
        self._sealed: dict[str, dict[str, LocalBatch]] = {}
        self._ledger = _Ledger()
        self._children = Children(connection, self._tables, self._waits)
        self._rebase = rebase
        self._alive: dict[str, set[str]] = {}
        self._triggers = bool(
            connection.execute(
                "SELECT 1 FROM main.sqlite_schema WHERE type = 'trigger' AND name NOT LIKE 'localstore\\_%' ESCAPE '\\'"
            ).fetchone()
        )

    def run(self) -> Applied:
        """Bring the file up to date."""
        for table in self._order:
            self._look(table)
        stuck = [
            (table.table.name, ident)
            for present, tables in ((True, self._order), (False, list(reversed(self._order))))
            for table in tables
            for ident in self._pass(table, present=present)
        ]
        stuck = self._until_settled(stuck)
        if stuck:
            self._force(stuck)
        self._settle_marks()
        applied = self._ledger.applied
        applied.left_alone += self._incoming.unreadable
        return applied

    # -- looking --------------------------------------------------------------------------------------------------

    def _look(self, table: LocalTable) -> None:
        name = table.table.name
        pending = self._pending[name] = pending_rows(
            self._connection, table, self.stands, self._incoming, rebase=self._rebase
        )
        if pending and self.stands.open and not self._rebase:
            self._sealed[name] = marks.sealed_in(
                self._connection, table, self.stands.promoted_to, self.stands.open, pending
            )
        if name in self._incoming.whole and name not in self._unknown_base:
            self._incoming.add(name, self._absent(table))

    def _absent(self, table: LocalTable) -> list[Arrival]:
        """Return the rows of the file that production does not have but once had."""
        name = table.table.name
        found = []
        for key in table.all_keys():
            ident = table.keys.of_stored(key)
            if ident is None or self._incoming.has(name, ident) or self._incoming.is_fresh(name, ident):
                continue
            found.append(Arrival(ident, table.keys.texts_of_stored(key), None))
        return found

    def _waits(self, table: LocalTable, ident: str) -> bool:
        """Return whether a row, of any table, waits to be sent."""
        name = table.table.name
        if name in self._unknown_base:
            return True
        if name not in self._alive:
            after, up_to = self.stands.promoted_to, self.stands.newest
            self._alive[name] = {ident for _, ident in marks.marked(self._connection, table, after, up_to)}
            self._alive[name].update(
                found
                for (key,) in self._connection.execute("SELECT key FROM localstore_held WHERE tbl = ?", (name,))
                if (found := table.keys.of_json(key)) is not None
            )
        return ident in self._alive[name]

    # -- writing --------------------------------------------------------------------------------------------------

    def _pass(self, table: LocalTable, *, present: bool) -> list[str]:
        """Take over a table's rows, or its deletions, and return those that are in one another's way."""
        stuck = []
        for arrival in self._incoming.rows(table.table.name, present=present):
            try:
                self._take(table, arrival)
            except sqlite3.IntegrityError:
                stuck.append(arrival.ident)
        return stuck

    def _until_settled(self, stuck: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Try rows again as long as one more of them gets through; return those that never do."""
        while stuck:
            again = [(name, ident) for name, ident in stuck if self._reason(name, ident) is not None]
            if len(again) == len(stuck):
                return again
            stuck = again
        return stuck

    def _reason(self, name: str, ident: str) -> str | None:
        """Try a row again; return why it cannot be taken over, None where it was."""
        try:
            self._take(self._tables[name], self._incoming.get(name, ident))
        except sqlite3.IntegrityError as error:
            return str(error)
        return None

    def _force(self, stuck: list[tuple[str, str]]) -> None:
        """Take over rows that need one another: a circle of references, or two that swapped unique values.

        References are checked at the end, and unique values are moved out of the way first. What does not fit even
        so is left alone.
        """
        broken_before = self._broken()
        while stuck:
            reasons = {row: self._reason(*row) or "" for row in stuck}
            before = self._ledger.copy()
            self._connection.execute("SAVEPOINT localstore_pull")
            self._connection.execute("PRAGMA defer_foreign_keys = ON")
            for name, ident in stuck:
                self._park(self._tables[name], self._incoming.get(name, ident))
            failed = self._until_settled(stuck)
            broken = {name for name, *_ in self._broken() - broken_before}
            if not failed and broken:
                failed = [row for row in stuck if row[0] in broken] or stuck
            if not failed:
                self._connection.execute("RELEASE localstore_pull")
                break
            self._connection.execute("ROLLBACK TO localstore_pull")
            self._connection.execute("RELEASE localstore_pull")
            self._ledger = before
            for name, ident in failed:
                why = reasons[name, ident] or "it refers to a row that is not here"
                self._leave(name, self._incoming.get(name, ident), why)
            stuck = [row for row in stuck if row not in set(failed)]
        self._connection.execute("PRAGMA defer_foreign_keys = OFF")

    def _broken(self) -> set[tuple[object, ...]]:
        return {tuple(row) for row in self._connection.execute("PRAGMA foreign_key_check")}

    def _park(self, table: LocalTable, arrival: Arrival) -> None:
        """Give the unique columns of a row that is about to be overwritten values that nobody has."""
        if arrival.frame is None or arrival.ident in self._pending[table.table.name]:
            return
        row = table.find(arrival.ident, table.keys.stored(table.keys.frames.fields(arrival.frame)))
        at = {column.name: place for place, column in enumerate(table.columns)}
        parked: dict[int, Bindable | None] = {}
        for name in table.uniques:
            column = table.table.by_name[name]
            if column.nullable:
                parked[at[name]] = None
            elif column.kind is Kind.INTEGER:
                parked[at[name]] = -randbits(62)
            elif column.kind is Kind.TEXT:
                parked[at[name]] = f"{randbits(128):032x}"
        if row is not None and parked:
            try:
                table.update(row, parked)
            except sqlite3.IntegrityError:
                return  # A check on the column; the row is then tried as it is.

    def _take(self, table: LocalTable, arrival: Arrival) -> None:
        """Take one row over; raises IntegrityError, with nothing done, while others are in its way."""
        name, keys = table.table.name, table.keys
        if arrival.unfit is not None:
            self._leave(name, arrival, f"the file cannot hold it: {arrival.unfit}")
            return
        try:
            theirs = None if arrival.frame is None else keys.frames.fields(arrival.frame)
            key = keys.stored_texts(arrival.key) if theirs is None else keys.stored(theirs)
            row = table.find(arrival.ident, key)
            pending = self._pending[name].get(arrival.ident)
            if name in self._unknown_base and (row is not None or pending is not None or theirs is None):
                # Nobody knows what the row was based on: the whole table is about to be sent and judged then.
                self._ledger.kept.add((name, arrival.ident))
                self._ledger.applied.count(name, "unchanged")
            elif pending is not None:
                self._merge(table, arrival, pending, row, theirs)
            elif theirs is None:
                self._remove(table, arrival, row)
            elif row is None:
                table.insert([self._decoded(table, theirs, place) for place in range(len(table.columns))])
                self._ledger.applied.count(name, "inserted")
            else:
                self._overwrite(table, row, theirs)
        except ValueDefect as defect:
            self._leave(name, arrival, f"the file cannot hold it: {defect.message}")

    def _overwrite(self, table: LocalTable, row: Stored, theirs: Fields) -> None:
        values = {place: self._decoded(table, theirs, place) for place in self._differing(table, row, theirs)}
        if values:
            table.update(row, values)
        self._ledger.applied.count(table.table.name, "updated" if values else "unchanged")

    def _remove(self, table: LocalTable, arrival: Arrival, row: Stored | None) -> None:
        name = table.table.name
        if row is None:
            self._ledger.applied.count(name, "unchanged")
            return
        if self._children.waiting(table, row) is not None:
            # Deleting it would take changes along that nobody has seen: it becomes a conflict of the next promotion.
            key = table.key_of(row)
            holding = next((place for place in table.places if row[place] is not None), None)
            mark = marks.insert_mark(key) if holding is None else marks.update_mark(table, holding, None, key)
            self._ledger.rewritten[name, arrival.ident] = [mark]
            self._ledger.applied.count(name, "conflicts")
            return
        table.delete(row)
        self._ledger.deleted = True
        self._ledger.applied.count(name, "deleted")

    def _merge(
        self, table: LocalTable, arrival: Arrival, pending: Pending, row: Stored | None, theirs: Fields | None
    ) -> None:
        name, frames = table.table.name, table.keys.frames
        local = None if row is None else frames.encode(row)
        ours = None if local is None else frames.fields(local.frame)
        defects = frozenset(local.defects) if local is not None else frozenset()
        verdict = settle(table.columns, table.places, pending, ours, defects, theirs)
        rewrites = verdict.marks is not None
        if rewrites and (batch := self._sealed.get(name, {}).get(arrival.ident)) is not None:
            if any(mark.theirs for mark in verdict.marks or ()) or any(
                place in pending.old or pending.op == "i" for place in verdict.write
            ):
                raise Shares(batch)
            # Both sides agree: the batch says so, too, and can stay as it is.
            rewrites = False
        written = self._pending_marks(table, verdict, pending, row, theirs) if rewrites else []
        if pending.orphaned and not rewrites:
            written, rewrites = self._marks_anew(table, pending, row), True
        values = {place: self._decoded(table, theirs or [], place) for place in verdict.write}
        if row is not None and values:
            table.update(row, values)
        if rewrites:
            self._ledger.rewritten[name, arrival.ident] = written
        else:
            self._ledger.kept.add((name, arrival.ident))
        self._ledger.applied.count(name, "updated" if values else "unchanged")
        self._ledger.applied.count(name, "conflicts", verdict.conflicts)

    def _pending_marks(
        self, table: LocalTable, verdict: Verdict, pending: Pending, row: Stored | None, theirs: Fields | None
    ) -> list[Mark]:
        if row is None or theirs is None:
            return []
        key = table.key_of(row)
        return [
            marks.update_mark(
                table,
                mark.place,
                self._decoded(table, theirs, mark.place) if mark.theirs else pending.old[mark.place],
                key,
            )
            for mark in verdict.marks or ()
        ]

    def _marks_anew(self, table: LocalTable, pending: Pending, row: Stored | None) -> list[Mark]:
        """Return marks that tell the whole of a pending change."""
        if row is None:
            base = [pending.base.get(place) for place in range(len(table.columns))]
            known = pending.op == "d" and len(pending.base) == len(table.columns)
            whole = [self._decoded(table, base, place) for place in range(len(table.columns))]
            return [marks.delete_mark(table, whole)] if known else []
        key = table.key_of(row)
        if pending.op == "i":
            return [marks.insert_mark(key)]
        return [marks.update_mark(table, place, old, key) for place, old in pending.old.items()]

    def _differing(self, table: LocalTable, row: Stored, theirs: Fields) -> list[int]:
        local = table.keys.frames.encode(row)
        ours = table.keys.frames.fields(local.frame)
        return [
            place
            for place in table.places
            if place in local.defects or not equal(table.columns[place].kind, ours[place], theirs[place])
        ]

    @staticmethod
    def _decoded(table: LocalTable, fields: Fields, place: int) -> Bindable | None:
        data, column = fields[place], table.columns[place]
        if data is None:
            return None
        try:
            return decode_binary(column.kind, data)
        except ValueDefect as defect:
            raise ValueDefect(defect.code, f"{column.name}: {defect.message}", defect.preview) from None

    def _leave(self, name: str, arrival: Arrival, why: str) -> None:
        self._ledger.kept.add((name, arrival.ident))
        self._ledger.applied.left_alone.append((name, arrival.key, why))

    # -- marks ----------------------------------------------------------------------------------------------------

    def _settle_marks(self) -> None:
        """Delete the marks that this pull made and those it settled, and write those of what stays pending."""
        newest = self.stands.newest
        self._move_generations(newest)
        if self._triggers or self._ledger.deleted:
            for table in self._tables.values():
                self._drop_own(table, newest, captured.newest(self._connection))
            for table in self._order:
                self._mark_strays(table)
        else:
            self._connection.execute("DELETE FROM main.localstore_marks WHERE seq > ?", (newest,))
        for table in self._order:
            self._drop_own(table, self.stands.promoted_to, newest)
        for (name, _), written in self._ledger.rewritten.items():
            marks.write(self._connection, self._tables[name], written)
        captured.count_on_from(self._connection, newest)

    def _move_generations(self, newest: int) -> None:
        """Tell what was made from the rows of the file that they changed: the marks that say so are about to go."""
        told = self._ledger.applied.tables
        # What went with a deleted row is not counted, and the foreign keys may have reached any table.
        changed = {
            table.entry.id
            for name, table in self._tables.items()
            if self._ledger.deleted or any(told.get(name, {}).get(what) for what in _CHANGES)
        }
        marked = self._connection.execute(
            "SELECT DISTINCT tbl FROM main.localstore_marks WHERE seq > ? AND tbl IS NOT NULL", (newest,)
        )
        generations.move(self._connection, changed | {table for (table,) in marked})
        # Where both sides agree older marks go as well, and no row changes: without this a state would come back.
        generations.keep(self._connection, newest)

    def _drop_own(self, table: LocalTable, after: int, up_to: int) -> None:
        name = table.table.name
        own = [
            seq
            for seq, ident in marks.marked(self._connection, table, after, up_to)
            if (name, ident) not in self._ledger.kept and self._incoming.has(name, ident)
        ]
        marks.drop(self._connection, own)

    def _mark_strays(self, table: LocalTable) -> None:
        """Mark what the file's own triggers and foreign keys made of rows after they were taken over."""
        name = table.table.name
        for present in (True, False):
            for arrival in self._incoming.rows(name, present=present):
                row_is = (name, arrival.ident)
                if (
                    row_is in self._ledger.kept
                    or row_is in self._ledger.rewritten
                    or arrival.ident in self._pending[name]
                ):
                    continue
                self._ledger.rewritten[row_is] = self._stray(table, arrival)
                if not self._ledger.rewritten[row_is]:
                    del self._ledger.rewritten[row_is]

    def _stray(self, table: LocalTable, arrival: Arrival) -> list[Mark]:
        if arrival.frame is None:
            row = table.find(arrival.ident, table.keys.stored_texts(arrival.key))
            return [] if row is None else [marks.insert_mark(table.key_of(row))]
        theirs = table.keys.frames.fields(arrival.frame)
        row = table.find(arrival.ident, table.keys.stored(theirs))
        if row is None:
            whole = [self._decoded(table, theirs, place) for place in range(len(table.columns))]
            return [marks.delete_mark(table, whole)]
        return [
            marks.update_mark(table, place, self._decoded(table, theirs, place), table.key_of(row))
            for place in self._differing(table, row, theirs)
        ]
