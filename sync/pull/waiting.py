"""What of one table waits to be sent: by row, with the base that production is known to hold."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import orjson

from localstore.codec import Bindable, Text, Value, ValueDefect, decode_binary, decode_text, encoder, equal
from localstore.schema.tables import Column, Kind
from sync import ledger
from sync.batches import LocalBatch
from sync.changes import Change, changes
from sync.pull.fetch import Seen
from sync.pull.incoming import Incoming
from sync.pull.rows import LocalTable, Stored
from sync.pull.three_way import Pending


class Behind(Exception):
    """Raised when the file knows more than the state of production that was read; it is to be read again."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the file stands: marks up to `promoted_to` are in effect in production, up to `newest` there are some.

    `open` are the sealed batches that are not in effect, oldest first; `whole` the tables that they carry whole.
    """

    promoted_to: int
    newest: int
    open: tuple[LocalBatch, ...]
    whole: frozenset[str]


def standing(chain: Sequence[LocalBatch], seen: Seen, newest: int, *, rebase: bool) -> Standing:
    """Compare the file's batches with the ledger that was read; raises Behind if the file knows of later promotions."""
    promoted_to = 0
    opened = []
    for batch in chain:
        in_effect = seen.states.get(batch.batch) in ledger.IN_EFFECT
        if batch.state == "acknowledged" and not in_effect and not rebase:
            raise Behind
        if in_effect or batch.state == "acknowledged":
            promoted_to = max(promoted_to, batch.marks_to)
        else:
            opened.append(batch)
    whole = {name for batch in opened for name in batch.snapshots}
    return Standing(promoted_to, max(newest, promoted_to), tuple(opened), frozenset(whole))


def pending_rows(
    connection: sqlite3.Connection, table: LocalTable, stands: Standing, incoming: Incoming, *, rebase: bool = False
) -> dict[str, Pending]:
    """Return by identity the rows of a table that wait and that production changed, too, or may have.

    Rows that production never had are noted in `incoming`, not returned: there may be many.
    """
    name = table.table.name
    found: dict[str, Pending] = {}

    def fresh() -> Iterator[str]:
        for change in changes(connection, table.entry, stands.promoted_to, stands.newest):
            ident = table.keys.of_stored(change.key)
            if ident is None:
                continue
            arrived = incoming.has(name, ident)
            if change.op == "i" and not arrived:
                yield ident
            elif arrived or name in incoming.whole:
                pending = _of_change(table, change)
                if pending is not None:
                    found[ident] = pending

    incoming.set_fresh(name, fresh())
    for ident, key, held in _held(connection, table):
        later = found.get(ident)
        if not rebase:
            found[ident] = _composed(held, later)
        elif (here := _still_here(table, table.find(ident, key), held, later)) is not None:
            found[ident] = _orphaned(table, _composed(here, later))
    return found


def _of_change(table: LocalTable, change: Change) -> Pending | None:
    if change.op == "i":
        return Pending("i")
    assert change.base is not None
    if change.op == "d":
        return Pending("d", base=_encoded(table.columns, dict(enumerate(change.base))))
    assert change.row is not None
    old = {place: change.base[place] for place in change.changed}
    base = _encoded(table.columns, old)
    now = _encoded(table.columns, {place: change.row[place] for place in change.changed})
    # A value that is written otherwise but the same to production is no change: nothing of it would be sent.
    kinds = [column.kind for column in table.columns]
    same = {place for place in old if place in base and place in now and equal(kinds[place], base[place], now[place])}
    old = {place: value for place, value in old.items() if place not in same}
    return Pending("u", old=old, base={place: base[place] for place in base if place in old}) if old else None


def _encoded(columns: Sequence[Column], values: Mapping[int, Value | None]) -> dict[int, bytes | None]:
    """Return values in production's format; those that it could not have are left out."""
    found: dict[int, bytes | None] = {}
    for place, value in values.items():
        try:
            found[place] = None if value is None else encoder(columns[place].kind)(value)
        except ValueDefect:
            continue
    return found


def _held(connection: sqlite3.Connection, table: LocalTable) -> Iterator[tuple[str, Sequence[Bindable], Pending]]:
    """Yield the rows whose change production holds, with their keys; their base is the one that it knows."""
    places = {column.name: place for place, column in enumerate(table.columns)}
    rows = connection.execute(
        "SELECT key, op, base, value FROM localstore_held WHERE tbl = ?", (table.table.name,)
    ).fetchall()
    for key, op, base_text, value_text in rows:
        ident = table.keys.of_json(key)
        if ident is None:
            continue
        base = orjson.loads(base_text) if base_text else {}
        named = {*base, *(orjson.loads(value_text) if value_text else {})}
        texts = {places[name]: text for name, text in base.items() if name in places}
        held = frozenset(places[name] for name in named if name in places) if op == "u" else frozenset(table.places)
        change = Pending(op, base=_read(table.columns, texts), held=held & set(table.places), marked=False)
        yield ident, table.keys.stored_texts(orjson.loads(key)), change


def _read(columns: Sequence[Column], texts: Mapping[int, str | None]) -> dict[int, bytes | None]:
    found: dict[int, bytes | None] = {}
    for place, text in texts.items():
        try:
            found[place] = None if text is None else _binary(columns[place].kind, text)
        except (ValueDefect, ValueError):
            continue
    return found


def _binary(kind: Kind, text: str) -> bytes:
    value = decode_text(kind, text)
    return encoder(kind)(Text(value.encode()) if isinstance(value, str) else value)


def _still_here(table: LocalTable, row: Stored | None, held: Pending, later: Pending | None) -> Pending | None:
    """Return what of a held change the file has; one that was restored may be older than the change, and then nothing.

    What the file does not have is no change of its own: its row becomes production's, which keeps what it holds.
    """
    if later is not None and later.op != "u":
        return held
    if row is None or held.op != "u":
        return held if (row is None) == (held.op == "d") else None
    local = table.keys.frames.encode(row)
    ours = table.keys.frames.fields(local.frame)
    edited = frozenset() if later is None else frozenset(later.old)
    same = {
        place
        for place in held.held - edited - frozenset(local.defects)
        if place in held.base and equal(table.columns[place].kind, ours[place], held.base[place])
    }
    return replace(held, held=held.held - same) if held.held - same else None


def _orphaned(table: LocalTable, pending: Pending) -> Pending:
    """Return a held change as one that was only made here: nobody holds it for the replica that the file becomes."""
    old: dict[int, Value | Bindable | None] = {}
    if pending.op == "u":
        for place in pending.held:
            data = pending.base.get(place)
            old[place] = None if data is None else decode_binary(table.columns[place].kind, data)
    return Pending(pending.op, {**pending.old, **old}, pending.base, orphaned=True)


def _composed(held: Pending, later: Pending | None) -> Pending:
    """Return the held change with what came after it, as promotion composes them; its marks are left as they are."""
    if later is None:
        return held
    if held.op == "i" or later.op == "d":
        return replace(later if later.op == "d" else held, base=held.base or later.base, held=held.held, marked=False)
    return Pending("u", old=later.old, base={**later.base, **held.base}, held=held.held, marked=False)
