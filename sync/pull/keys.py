"""A row's identity on both sides: one text for all spellings of a key that are one key to production."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from localstore.codec import Bindable, Text, Value, ValueDefect, decode_binary, decode_text, encoder, to_text
from localstore.schema.tables import Kind, Table
from sync.verify.frames import Fields, Frames
from sync.verify.order import comparable

ONE_SPELLING = frozenset({Kind.TEXT, Kind.INTEGER, Kind.BOOLEAN, Kind.BLOB})
"""Kinds of which a file can spell a value in one way only."""


class Keys:
    """Turns the keys of one table, in every form in which they come, into their identity."""

    def __init__(self, table: Table, company: str) -> None:
        self.table = table
        self.company = company
        self.frames = Frames(table, company)
        self._kinds = tuple(table.by_name[name].kind for name in table.key_parts)
        self._encoders = tuple(encoder(kind) for kind in self._kinds)
        self._comparables = tuple(comparable(kind) for kind in self._kinds)
        self._places = tuple(table.key.index(name) for name in table.key_parts)
        self._company_at = table.key.index(table.company) if table.company in table.key else None
        self.one_spelling = all(kind in ONE_SPELLING for kind in self._kinds)
        self.has_documents = Kind.JSON in self._kinds

    def of_fields(self, fields: Fields) -> str:
        """Return the identity of a row in production's binary format."""
        return repr(self.frames.place(fields))

    def of_stored(self, key: Sequence[Value | None]) -> str | None:
        """Return the identity of a key as SQLite stores it; None if production cannot have such a row."""
        if self._company_at is not None:
            company = key[self._company_at]
            if not isinstance(company, Text) or bytes(company) != self.company.encode():
                return None
        parts = []
        for place, encode, convert in zip(self._places, self._encoders, self._comparables, strict=True):
            value = key[place]
            if value is None:
                return None
            try:
                parts.append(convert(encode(value)))
            except ValueDefect:
                return None
        return repr(tuple(parts))

    def of_texts(self, texts: Sequence[str]) -> str | None:
        """Return the identity of a key in production's text form; None for what a file cannot hold."""
        parts = []
        try:
            for text, kind, encode, convert in zip(texts, self._kinds, self._encoders, self._comparables, strict=True):
                value = decode_text(kind, text)
                parts.append(convert(encode(Text(value.encode()) if isinstance(value, str) else value)))
        except (ValueDefect, ValueError):
            return None
        return repr(tuple(parts))

    def texts(self, fields: Fields) -> tuple[str, ...]:
        """Return the key as production writes it."""
        return self.frames.key_text(fields)

    def stored(self, fields: Fields) -> tuple[Bindable, ...]:
        """Return the key as the file stores it; raises ValueDefect for what it cannot hold."""
        parts = iter(
            decode_binary(kind, fields[place] or b"")
            for kind, place in zip(self._kinds, self.frames.key_places, strict=True)
        )
        return tuple(self.company if name == self.table.company else next(parts) for name in self.table.key)

    def of_json(self, key: str) -> str | None:
        """Return the identity of a key that is kept as a JSON array of texts."""
        return self.of_texts(orjson.loads(key))

    def texts_of_stored(self, key: Sequence[Value | None]) -> tuple[str, ...]:
        """Return a stored key as production writes it."""
        return tuple(
            to_text(kind, value)
            for kind, place in zip(self._kinds, self._places, strict=True)
            if (value := key[place]) is not None
        )

    def respelled(self, key: Sequence[Value | None]) -> tuple[Bindable | None, ...]:
        """Return a stored key as a pull would write it; a document in it stays as it is, where production orders it."""
        parts = dict(zip(self.table.key, key, strict=True))
        found: list[Bindable | None] = []
        for name in self.table.key:
            value = parts[name]
            kind = self.table.by_name[name].kind
            found.append(
                self.company
                if name == self.table.company or value is None
                else decode_binary(kind, encoder(kind)(value))
            )
        return tuple(found)

    def stored_texts(self, texts: Sequence[str]) -> tuple[Bindable, ...]:
        """Return a key in production's text form as the file stores it."""
        parts = iter(decode_text(kind, text) for kind, text in zip(self._kinds, texts, strict=True))
        return tuple(self.company if name == self.table.company else next(parts) for name in self.table.key)
