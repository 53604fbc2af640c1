"""Encode changes as rows of a binary COPY into a staging table.

The row is checked here, before anything is sent: what Postgres would refuse by value travels as NULL beside a
`defect` that says why, so that one bad value never takes its neighbours with it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

from localstore.codec import Text, ValueDefect, alike, field_encoders, preview
from localstore.schema.tables import Kind

if TYPE_CHECKING:
    from localstore.codec import Value
    from localstore.schema.tables import Table
    from sync.changes import Change

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">II", 0, 0)
COPY_TRAILER = struct.pack(">h", -1)
NULL = b"\xff\xff\xff\xff"

SHARED = "another row of the file has the same key in production, spelt otherwise; delete or rename one of the two"

_FIXED_BYTES = {
    Kind.UUID: 16,
    Kind.TIMESTAMP: 8,
    Kind.REAL: 8,
    Kind.INTEGER: 8,
    Kind.BOOLEAN: 1,
    Kind.DATE: 4,
    Kind.TIME: 8,
}

_length = struct.Struct(">i").pack
_head = struct.Struct(">hi16sii").pack
_ordinal = struct.Struct(">iq").pack
_op = {op: struct.pack(">i", 1) + op.encode() for op in "iudsrl"}
Encoder = Callable[[Any], bytes]


def _field(data: bytes) -> bytes:
    return _length(len(data)) + data


def bit_mask(places: Sequence[int], count: int) -> bytes:
    """Return `count` bits, those at `places` set, as the binary form of a `bit varying`."""
    bits = bytearray((count + 7) // 8)
    for place in places:
        bits[place >> 3] |= 0x80 >> (place & 7)
    return _length(count) + bytes(bits)


def _shown(value: Value | None) -> str:
    return "NULL" if value is None else preview(value)


def _whole_row(
    kinds: Sequence[Kind], encoders: Sequence[Encoder], key: Sequence[int], company_at: int | None, company: bytes
) -> Callable[[Any], bytes | None]:
    """Return a function that encodes a new row's fields; None if its key or company needs a closer look.

    It is compiled for the table: this is the loop that a first push spends its time in, and unrolled it takes two
    thirds of what a loop over the columns takes.
    """
    names = [f"v{place}" for place in range(len(kinds))]
    fields = []
    for place, kind in enumerate(kinds):
        if kind in _FIXED_BYTES:
            data = f"{_length(_FIXED_BYTES[kind])!r} + e{place}(v{place})"
        else:
            data = f"length(len(d := e{place}(v{place}))) + d"
        fields.append(data if place in key else f"(null if v{place} is None else {data})")
    suspicious = [f"v{place} is None" for place in key]
    if company_at is not None:
        suspicious.append(f"v{company_at} != company")
    source = f"""
def whole(row):
    {", ".join(names)}, = row
    if {" or ".join(suspicious)}:
        return None
    return b"".join((rest, {", ".join(fields)}, bases))
"""
    space: dict[str, Any] = {f"e{place}": encoder for place, encoder in enumerate(encoders)}
    space |= {"null": NULL, "length": _length, "company": company, "rest": NULL * 3, "bases": NULL * len(kinds)}
    exec(source, space)  # noqa: S102 - made of numbers and our own names only
    whole: Callable[[Any], bytes | None] = space["whole"]
    return whole


def spelt(value: Value | None) -> str:
    """Return a key's part as the file has it, whole; a blob as SQLite's literal."""
    if value is None:
        return "NULL"
    if isinstance(value, Text):
        return value.decode("utf-8", "backslashreplace")
    return f"x'{value.hex()}'" if isinstance(value, bytes) else repr(value)


def spelt_key(table: Table, key: Sequence[Value | None]) -> tuple[str, ...]:
    """Return the key under which a row is held that production cannot have by its own, as the file spells it.

    One part more than a key has keeps it from ever being taken for a real one: the company that the row names.
    """
    parts = dict(zip(table.key, key, strict=True))
    named = parts.get(table.company) if table.has_company else None
    return (*(spelt(parts[name]) for name in table.key_parts), "" if named is None else spelt(named))


class RowEncoder:
    """Encode the changes of one table; `encode` gives None where nothing of a change is left in production's types."""

    def __init__(self, table: Table, company: str, batch: UUID) -> None:
        self._table = table
        self._columns = table.sent
        self._encoders: tuple[Encoder, ...] = field_encoders(table)
        self._kinds = tuple(column.kind for column in self._columns)
        place = {column.name: at for at, column in enumerate(self._columns)}
        self._key = tuple(place[name] for name in table.key)
        self._key_parts = tuple(place[name] for name in table.key_parts)
        self._company_at = place.get(table.company) if table.has_company else None
        self._company = company.encode()
        self._batch = batch.bytes
        self._count = len(self._columns)
        self._fields = 7 + 2 * self._count
        self._whole = _whole_row(self._kinds, self._encoders, self._key, self._company_at, self._company)

    def encode(self, change: Change, chunk: int, ordinal: int) -> bytes | None:
        """Return the change as one row of a binary COPY, or None for an update of nothing that production shows."""
        if change.op in "is" and not change.shared:
            try:
                whole = self._whole(change.row)
            except ValueDefect:
                whole = None
            if whole is not None:
                return self._start(chunk, ordinal, change.op) + whole
        return self._careful(change, chunk, ordinal)

    def _start(self, chunk: int, ordinal: int, op: str) -> bytes:
        return _head(self._fields, 16, self._batch, 4, chunk) + _ordinal(8, ordinal) + _op[op]

    def _careful(self, change: Change, chunk: int, ordinal: int) -> bytes | None:
        defects: dict[str, dict[str, dict[str, str]]] = {}
        new: list[bytes | None] = [None] * self._count
        base: list[bytes | None] = [None] * self._count
        self._name(change, new, defects)
        changed: list[int] = []
        if change.op in "is":
            assert change.row is not None
            for place in range(self._count):
                if place not in self._key:
                    new[place] = self._value(place, change.row[place], "n", defects)
        elif change.op == "u":
            assert change.row is not None
            assert change.base is not None
            for place in change.changed:
                new[place] = self._value(place, change.row[place], "n", defects)
                base[place] = self._value(place, change.base[place], "b", defects)
                name = self._columns[place].name
                defective = any(name in side for side in defects.values())
                if defective or not alike(self._kinds[place], new[place], base[place]):
                    changed.append(place)
            if not changed and not defects:
                return None
        elif change.op == "d":
            assert change.base is not None
            for place in range(self._count):
                base[place] = self._value(place, change.base[place], "b", defects)
        elif change.op == "l":
            changed = list(change.changed)
        return b"".join(
            (
                self._start(chunk, ordinal, change.op),
                _field(bit_mask(changed, self._count)) if change.op in "ul" else NULL,
                _field(b"\x01" + orjson.dumps(defects)) if defects else NULL,
                _field(self._key_text(change)) if any(self._bad_key(side) for side in defects.values()) else NULL,
                *(NULL if data is None else _field(data) for data in new),
                *(NULL if data is None else _field(data) for data in base),
            )
        )

    def _name(self, change: Change, new: list[bytes | None], defects: dict[str, dict[str, dict[str, str]]]) -> None:
        """Encode the key; a shared one is a defect, so that it names no row of production's."""
        # What a snapshot has of a key keeps production's row from being taken for one that is gone.
        if not change.shared or change.op == "s":
            for place, value in zip(self._key, change.key, strict=True):
                new[place] = self._value(place, value, "n", defects, key=True)
        if not change.shared:
            return
        defects.setdefault("n", {})[self._columns[self._key_parts[0]].name] = {
            "code": "shared_key",
            "message": SHARED,
            "preview": _shown(change.key[self._key.index(self._key_parts[0])]),
        }

    def _bad_key(self, side: dict[str, dict[str, str]]) -> bool:
        return any(self._columns[place].name in side for place in self._key)

    def _value(
        self,
        place: int,
        value: Value | None,
        side: str,
        defects: dict[str, dict[str, dict[str, str]]],
        *,
        key: bool = False,
    ) -> bytes | None:
        name = self._columns[place].name
        if value is None and not key:
            return None
        try:
            if value is None:
                raise ValueDefect("null_key", "a key part is NULL", "NULL")
            data = self._encoders[place](value)
            if place == self._company_at and data != self._company:
                raise ValueDefect("wrong_company", "the row names another company than its tenant", _shown(value))
        except ValueDefect as defect:
            defects.setdefault(side, {})[name] = {
                "code": defect.code,
                "message": defect.message,
                "preview": defect.preview,
            }
            return None
        return data

    def _key_text(self, change: Change) -> bytes:
        """Return the key's parts as a readable, escaped `text[]`, for rows whose real key production cannot hold.

        One part more than a key has keeps it from ever being taken for a real one: the company that the row names.
        """
        key = change.key
        if change.shared:
            return _texts(part.encode() for part in spelt_key(self._table, key))
        at = {place: number for number, place in enumerate(self._key)}
        parts = [_shown(key[at[place]]).encode() for place in self._key if place in self._key_parts]
        named = key[at[self._company_at]] if self._company_at in at else None
        parts.append(b"" if named is None else _shown(named).encode())
        return _texts(parts)


def _texts(given: Iterable[bytes]) -> bytes:
    parts = list(given)
    return struct.pack(">iiiii", 1, 0, 25, len(parts), 1) + b"".join(_field(part) for part in parts)
