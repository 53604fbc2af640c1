"""Rows whose keys differ in the file and are one key in production: found at seal, and kept from passing as one row.

A UUID, a moment or a document has many spellings. Of two rows that are one to production neither can be told there
from the other, so that changes of both are held under their keys as the file spells them, until one row is left.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product
from typing import Any, Final

import orjson

from localstore.codec import Text, Value, decode_text, encoder
from localstore.postgres.quoting import quote_identifier
from localstore.schema.tables import Kind, Table
from localstore.sqlite.layout import CatalogueEntry
from localstore.sqlite.marks import DELETE, INSERT, key_terms
from sync.changes import Change, Row, stored_row, undecoded
from sync.pull.keys import Keys
from sync.rows import spelt_key
from sync.staging import ONE_SPELLING, Staging

PROBED_MAX: Final = 500
"""With up to as many changed rows each key is looked up in the index; with more, one look at the table is quicker."""

PROBED_DIGITS: Final = 3
"""Digits of a UUID by which its spellings are looked up: few, since each may be a letter in either case."""

_IDENTITY: Final = "localstore_identity"


class Spellings:
    """One table's rows by their key in production, as of the snapshot that is being sealed."""

    def __init__(self, connection: sqlite3.Connection, entry: CatalogueEntry, company: str, changed: int) -> None:
        self._connection = connection
        self._entry = entry
        self._table = entry.table
        self._company = company
        self._keys = Keys(entry.table, company)
        kinds = {entry.table.by_name[name] for name in entry.table.key_parts}
        odd = {column for column in kinds if column.kind not in ONE_SPELLING or not column.declared}
        self._by_index = all(column.kind is Kind.UUID and column.declared for column in odd)
        self._probing = self._by_index and changed <= PROBED_MAX
        self._names = [quote_identifier(name) for name in entry.table.key]
        self._source = f"main.{quote_identifier(entry.table.name)}"

    def apart(self, changes: Iterable[Change], after: int, up_to: int) -> Iterator[Change]:
        """Yield the changes of the marks in (after, up_to], those marked as shared that are not of one row alone.

        Where a row's other spelling went, the row that is left travels whole: which of the two production has, it
        knows itself.
        """
        if not (self._probing or self._shared or self._held or self._unheard):
            yield from changes
            return
        left: dict[str, Row] = {}
        edits: dict[Row, Change] = {}
        for change in changes:
            identity = None if change.shared or change.op in "rl" else self._keys.of_stored(change.key)
            if identity is None:
                yield change
                continue
            name = spelt_key(self._table, change.key)
            others = [key for key in self._rows_of(identity, change) if key != change.key]
            if len(others) > (1 if change.op == "d" else 0):
                yield replace(change, shared=True)
            elif change.op == "d":
                yield from self._gone(change, name, others)
                if others and (self._op(name) != "i" or spelt_key(self._table, others[0]) in self._held):
                    left[identity] = others[0]
            elif name in self._held and change.op in "iu":
                left[identity] = change.key
                edits[change.key] = change
            elif name in self._held:
                yield change
                yield self._let_go(change.key)
            else:
                yield change
        yield from self._alone(left, edits, after, up_to)

    def _gone(self, change: Change, name: tuple[str, ...], others: Sequence[Row]) -> Iterator[Change]:
        """Yield the delete of a row whose key no two rows have any more; one that never went is only let go."""
        if self._op(name) != "i":
            yield change
        if others or name in self._held or self._unheard:
            yield self._let_go(change.key)

    def _alone(self, left: dict[str, Row], edits: dict[Row, Change], after: int, up_to: int) -> Iterator[Change]:
        """Yield the rows that are left alone with their key, but those that are new themselves and travel whole.

        `edits` are what is sealed of them besides, where something is held of them, too.
        """
        if not left:
            return
        terms = ", ".join(key_terms(self._table))
        new = self._fetch(
            f"SELECT DISTINCT {terms} FROM main.localstore_marks WHERE seq > ? AND seq <= ? AND tbl = ? AND op = ?",
            (after, up_to, self._entry.id, INSERT),
        )
        rows = dict.fromkeys(left.values())
        for key in new:
            if key not in edits:
                rows.pop(key, None)
        for key in rows:
            row = stored_row(self._connection, self._table, key)
            if row is not None:
                yield self._with_held(key, row, edits.get(key))
                yield self._let_go(key)

    def _with_held(self, key: Row, row: Row, edit: Change | None) -> Change:
        """Return the row whole, or of one whose update is held, and no more, that update with what came since."""
        op, base = self._held.get(spelt_key(self._table, key), ("i", {}))
        if op != "u" or (edit is not None and edit.op != "u"):
            return Change("i", key, row, (), None)
        before: list[Value | None] = list(edit.base or ()) if edit is not None else [None] * len(row)
        changed = set(edit.changed) if edit is not None else set()
        for place, column in enumerate(self._table.sent):
            if column.name in base:
                text = base[column.name]
                given = None if text is None else decode_text(column.kind, text)
                before[place] = Text(given.encode()) if isinstance(given, str) else given
                changed.add(place)
        return Change("u", key, row, tuple(sorted(changed)), tuple(before))

    def _op(self, name: tuple[str, ...]) -> str | None:
        return self._held[name][0] if name in self._held else None

    def _let_go(self, key: Row) -> Change:
        return let_go(self._table, key)

    @cached_property
    def _held(self) -> dict[tuple[str, ...], tuple[str, dict[str, str | None]]]:
        """Return the operation and base of each change that is held under the file's spelling of its key."""
        return {
            tuple(orjson.loads(key)): (op, orjson.loads(base or "{}"))
            for key, op, base in self._connection.execute(
                "SELECT key, op, base FROM localstore_held WHERE tbl = ? AND json_array_length(key) > ?",
                (self._table.name, len(self._table.key_parts)),
            )
        }

    @cached_property
    def _unheard(self) -> bool:
        """Return whether a batch is on its way, of which the file does not know yet what of it is held."""
        found = self._connection.execute("SELECT 1 FROM localstore_batches WHERE state = 'sealed' LIMIT 1")
        return found.fetchone() is not None

    # -- looking rows up -------------------------------------------------------------------------------------------

    def _rows_of(self, identity: str, change: Change) -> Sequence[Row]:
        """Return the keys of the file's rows that are this key in production."""
        if self._probing:
            return self._probed(identity, change.key)
        return self._shared.get(identity, ())

    def _probed(self, identity: str, key: Row) -> Sequence[Row]:
        parts = dict(zip(self._table.key, key, strict=True))
        name = next(part for part in self._table.key_parts if self._table.by_name[part].kind is Kind.UUID)
        value = parts[name]
        assert value is not None
        raw = encoder(Kind.UUID)(value)
        digits = raw.hex()[:PROBED_DIGITS]
        cases = {"".join(letters) for letters in product(*((digit, digit.upper()) for digit in digits))}
        equals = {
            part: value.decode() if isinstance(value, Text) else value
            for part, value in parts.items()
            if part == self._table.company or self._table.by_name[part].kind is not Kind.UUID
        }
        where = "".join(f" AND t.{quote_identifier(part)} = ?" for part in equals)
        names = ", ".join(f"t.{part}" for part in self._names)
        column = f"t.{quote_identifier(name)}"
        # A spelling begins with the first digits, in either case, or with a brace before them; or it is the bytes.
        found = self._fetch(
            f"SELECT {names} FROM json_each(?) AS p CROSS JOIN {self._source} AS t "
            f"WHERE {column} > json_extract(p.value, '$[0]') AND {column} < json_extract(p.value, '$[1]'){where} "
            f"UNION SELECT {names} FROM {self._source} AS t WHERE {column} = ?{where}",
            (
                orjson.dumps([_around(brace + case) for case in cases for brace in ("", "{")]).decode(),
                *equals.values(),
                raw,
                *equals.values(),
            ),
        )
        return [row for row in found if self._keys.of_stored(row) == identity]

    @cached_property
    def _shared(self) -> dict[str, list[Row]]:
        """Return the rows of the keys that two rows have, or one row and a delete; normally there are none."""
        deletes = f"FROM main.localstore_marks WHERE tbl = {self._entry.id} AND op = {DELETE}"
        if self._connection.execute(f"SELECT 1 {deletes} LIMIT 1").fetchone() is None:
            deletes = ""
        # For UUIDs SQLite itself tells whether there is anything to look at closely, many times faster.
        if self._by_index and not any(self._keys_of_two(self._alike, deletes)):
            return {}
        self._connection.create_function(_IDENTITY, -1, self._identity, deterministic=True)
        try:
            found: dict[str, list[Row]] = {key: [] for key in self._keys_of_two(self._call, deletes) if key is not None}
        finally:
            self._connection.create_function(_IDENTITY, -1, None)
        if found:
            for key in self._fetch(f"SELECT {', '.join(self._names)} FROM {self._source}", ()):
                identity = self._keys.of_stored(key)
                if identity in found:
                    found[identity].append(key)
        return found

    def _keys_of_two(self, form: Callable[[Sequence[str]], str], deletes: str) -> Iterator[Any]:
        """Yield what `form` makes of the keys that two rows have in common, or a row and a delete."""
        here = f"SELECT {form(self._names)} AS k FROM {self._source}"
        for (key,) in self._connection.execute(f"SELECT k FROM ({here}) GROUP BY k HAVING count(*) > 1"):
            yield key
        if deletes:
            for (key,) in self._connection.execute(f"SELECT {form(key_terms(self._table))} {deletes} INTERSECT {here}"):
                yield key

    def _alike(self, terms: Sequence[str]) -> str:
        """Return an expression that is the same for all spellings of a key, and seldom for two keys."""
        parts = [
            f"CASE typeof({term}) WHEN 'text' THEN lower(trim(replace({term}, '-', ''), '{{}}')) "
            f"WHEN 'blob' THEN lower(hex({term})) ELSE {term} END"
            if self._table.by_name[part].kind is Kind.UUID and part != self._table.company
            else f"quote({term})"
            for part, term in zip(self._table.key, terms, strict=True)
        ]
        return " || '/' || ".join(f"coalesce({part}, '')" for part in parts)

    def _call(self, terms: Sequence[str]) -> str:
        """Return the call of the function that gives a key's identity; text goes as bytes, valid or not."""
        given = ", ".join(
            f"typeof({term}), CASE typeof({term}) WHEN 'text' THEN CAST({term} AS BLOB) ELSE {term} END"
            for term in terms
        )
        return f"{_IDENTITY}({given})"

    def _identity(self, *given: Any) -> str | None:
        pairs = zip(given[::2], given[1::2], strict=True)
        return self._keys.of_stored([Text(value) if kind == "text" else value for kind, value in pairs])

    def _fetch(self, statement: str, values: Sequence[object]) -> Iterator[Row]:
        cursor = self._connection.cursor()
        cursor.row_factory = None
        with undecoded(self._connection):
            cursor.execute(statement, values)
            return iter(cursor.fetchall())


def _around(begin: str) -> tuple[str, str]:
    """Return what stands before and after all UUIDs that begin so; neither looks like a number to a column of those."""
    return f"{begin[:-1]}{chr(ord(begin[-1]) - 1)}~", f"{begin}~"


def let_go(table: Table, key: Row) -> Change:
    """Return what drops the change that is held of a row under its own spelling."""
    return Change("d", key, None, (), (None,) * len(table.sent), shared=True)


def can_be_spelt_otherwise(table: Table) -> bool:
    """Return whether two keys that differ in the file can be one in production."""
    return Staging(table, "").many_spellings
