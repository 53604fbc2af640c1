"""A row as production's binary COPY writes it: made of a local row, taken apart, and cut from a stream."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

from localstore.codec import Value, ValueDefect, decode_binary, field_encoders, preview, to_text
from localstore.schema.tables import Kind, Table
from sync.verify.order import Place, comparable

Fields: TypeAlias = list[bytes | None]

_COUNT: Final = struct.Struct(">h")
_LENGTH: Final = struct.Struct(">i")
_PACK_LENGTH: Final = _LENGTH.pack
_NULL: Final = b"\xff\xff\xff\xff"
TRAILER: Final = b"\xff\xff"
"""What stands where a further frame would begin, at the end of a stream."""

_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0"
HEADER: Final = _SIGNATURE + bytes(8)
"""What a stream begins with: no flags, and no extension of the header."""


Defects: TypeAlias = dict[int, tuple[str, str]]
"""A preview and a message by place, of the values that production could not hold."""


class LocalRow(NamedTuple):
    """A row of the file; a value with a defect is NULL in `frame`.

    A row whose key cannot be encoded has no `place` in the order; `shown` is then what its key looks like.
    """

    place: Place | None
    frame: bytes
    defects: Defects
    shown: tuple[str, ...] = ()


class Frames:
    """The frames of one table's rows; their fields are `table.sent`."""

    def __init__(self, table: Table, company: str) -> None:
        self.table = table
        self.columns = table.sent
        at = {column.name: place for place, column in enumerate(self.columns)}
        self.key_places = tuple(at[name] for name in table.key_parts)
        self._comparables = tuple(comparable(self.columns[place].kind) for place in self.key_places)
        self._company = company.encode()
        self._company_at = at[table.company] if table.has_company else None
        self._needed = frozenset(at[name] for name in table.key)
        self._encoders = field_encoders(table)
        self._count = _COUNT.pack(len(self.columns))

    def place(self, fields: Sequence[bytes | None]) -> Place:
        """Return where a row stands in the order; its key has no NULL."""
        return tuple(
            convert(fields[place])  # type: ignore[arg-type]
            for convert, place in zip(self._comparables, self.key_places, strict=True)
        )

    def encode(self, row: Sequence[Value | None]) -> LocalRow:
        """Return a row of the file as production would write it."""
        parts = [self._count]
        append = parts.append
        fields: Fields = []
        take = fields.append
        try:
            for encode, value in zip(self._encoders, row, strict=True):
                if value is None:
                    append(_NULL)
                    take(None)
                else:
                    data = encode(value)
                    append(_PACK_LENGTH(len(data)))
                    append(data)
                    take(data)
            if self._company_at is not None and fields[self._company_at] != self._company:
                return self._encode_carefully(row)
            return LocalRow(self.place(fields), b"".join(parts), _NO_DEFECTS)
        except (ValueDefect, TypeError):  # TypeError: a part of the key is NULL.
            return self._encode_carefully(row)

    def _encode_carefully(self, row: Sequence[Value | None]) -> LocalRow:
        fields: Fields = []
        defects: Defects = {}
        for at, (encode, value) in enumerate(zip(self._encoders, row, strict=True)):
            data = None
            if value is not None:
                try:
                    data = encode(value)
                except ValueDefect as defect:
                    defects[at] = (defect.preview, defect.message)
            elif at in self._needed:
                defects[at] = ("NULL", "a part of the key is NULL")
            if at == self._company_at and data != self._company and at not in defects:
                shown = "NULL" if value is None else preview(value)
                defects[at] = (shown, "the row names another company than its tenant")
            fields.append(data)
        frame = self.join(fields)
        if defects.keys().isdisjoint(self._needed):
            return LocalRow(self.place(fields), frame, defects)
        # The same look as a staged row's whose key production cannot hold, so that its held change is found by it.
        shown_key = tuple("NULL" if row[at] is None else preview(row[at]) for at in self.key_places)  # type: ignore[arg-type]
        return LocalRow(None, frame, defects, shown_key)

    def join(self, fields: Sequence[bytes | None]) -> bytes:
        """Return the frame of encoded fields."""
        parts = [self._count]
        for data in fields:
            parts += (_NULL,) if data is None else (_PACK_LENGTH(len(data)), data)
        return b"".join(parts)

    def split(self, data: bytes, start: int = 0) -> tuple[Fields | None, int]:
        """Return the fields of the frame that begins at `start`, and where it ends.

        Of a frame that is cut off return None, and how long `data` must be at least to get further.
        """
        position = start + 2
        fields: Fields = []
        size = len(data)
        if size < position:
            return None, position
        for _ in self.columns:
            after = position + 4
            if size < after:
                return None, after
            length = _LENGTH.unpack_from(data, position)[0]
            if length < 0:
                fields.append(None)
                position = after
                continue
            position = after + length
            if size < position:
                return None, position
            fields.append(data[after:position])
        return fields, position

    def fields(self, frame: bytes) -> Fields:
        """Return the fields of a whole frame."""
        return self.split(frame)[0] or []

    def key_text(self, fields: Sequence[bytes | None]) -> tuple[str, ...]:
        """Return the key's parts as production writes them."""
        return tuple(self._text(place, fields[place])[0] for place in self.key_places)

    def exact(self, fields: Sequence[bytes | None]) -> bool:
        """Return whether `key_text` is production's text of the key, by which it can be looked up there."""
        return all(self._text(place, fields[place])[1] for place in self.key_places)

    def _text(self, place: int, data: bytes | None) -> tuple[str, bool]:
        if data is None:
            return "", False
        kind = self.columns[place].kind
        try:
            value = decode_binary(kind, data)
            return value if isinstance(value, str) and kind is Kind.TEXT else to_text(kind, value), True
        except ValueDefect as defect:
            return defect.preview, False


_NO_DEFECTS: Final[Defects] = {}


class Stream:
    """A binary COPY that arrives in pieces, cut at will: what is left over waits for the next piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._wanted = len(_SIGNATURE) + 8
        self._begun = False

    def take(self, piece: bytes) -> tuple[bytes, int] | None:
        """Add a piece; return the data and where its first frame begins, or None while too little is there."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size < self._wanted:
            return None
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces, self._size, self._wanted = [], 0, 1
        if self._begun:
            return data, 0
        start = len(_SIGNATURE) + 8 + _LENGTH.unpack_from(data, len(_SIGNATURE) + 4)[0]
        self._begun = True
        return data, start

    def rows(self, piece: bytes, frames: Frames) -> Iterator[tuple[Fields, bytes]]:
        """Add a piece and yield the rows that are whole by now, each with its frame; to be read to its end."""
        taken = self.take(piece)
        if taken is None:
            return
        data, at = taken
        while at < len(data) and not data.startswith(TRAILER, at):
            fields, end = frames.split(data, at)
            if fields is None:
                self.keep(data, at, end)
                return
            yield fields, data[at:end]
            at = end

    def keep(self, data: bytes, start: int, wanted: int) -> None:
        """Put back the frame that begins at `start`, to be continued once `data` would be `wanted` bytes long."""
        rest = data[start:]
        self._pieces, self._size, self._wanted = [rest], len(rest), wanted - start
