"""The one place where a value goes from SQLite to production and back, and where equality is judged.

`encoder` and `field_encoders` take values as SQLite stores them to PostgreSQL's binary format and raise `ValueDefect`
for what production would refuse or change. `decode_binary` and `decode_text` take production's values to what the local
file stores, in the same form as SQLAlchemy's types for SQLite; `to_text` is the way from there to production's text.
`equal` judges two binary values as production's `=` does. NULL is handled by whoever frames the values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from localstore.codec import document, numeric, scalars, times, vector
from localstore.codec.values import FIELD_BYTES_MAX, DefectCode, Text, Value, ValueDefect, preview
from localstore.schema.tables import Kind, Table

__all__ = [
    "FIELD_BYTES_MAX",
    "Bindable",
    "DefectCode",
    "Encoder",
    "Text",
    "Value",
    "ValueDefect",
    "alike",
    "decode_binary",
    "decode_text",
    "encoder",
    "equal",
    "equality",
    "field_encoders",
    "preview",
    "to_text",
]

Bindable: TypeAlias = int | float | str | bytes
"""A value as it is bound to a statement of SQLite: text is `str`, because a driver takes `Text` for a blob."""

Encoder: TypeAlias = Callable[[Value], bytes]

_ENCODERS: Final[dict[Kind, Encoder]] = {
    Kind.TEXT: scalars.encode_text,
    Kind.INTEGER: scalars.encode_integer,
    Kind.REAL: scalars.encode_real,
    Kind.NUMERIC: numeric.encode_numeric,
    Kind.BOOLEAN: scalars.encode_boolean,
    Kind.TIMESTAMP: times.encode_timestamp,
    Kind.DATE: times.encode_date,
    Kind.TIME: times.encode_time,
    Kind.UUID: scalars.encode_uuid,
    Kind.JSON: document.encode_json,
    Kind.BLOB: scalars.encode_blob,
    Kind.VECTOR: vector.encode_vector,
}

_DECODERS: Final[dict[Kind, Callable[[bytes], Bindable]]] = {
    Kind.TEXT: scalars.decode_text,
    Kind.INTEGER: scalars.decode_integer,
    Kind.REAL: scalars.decode_real,
    Kind.NUMERIC: numeric.decode_numeric,
    Kind.BOOLEAN: scalars.decode_boolean,
    Kind.TIMESTAMP: times.decode_timestamp,
    Kind.DATE: times.decode_date,
    Kind.TIME: times.decode_time,
    Kind.UUID: scalars.decode_uuid,
    Kind.JSON: document.decode_json,
    Kind.BLOB: scalars.decode_blob,
    Kind.VECTOR: vector.decode_vector,
}

_WRITERS: Final[dict[Kind, Callable[[bytes], str]]] = {
    Kind.TEXT: scalars.decode_text,
    Kind.INTEGER: scalars.text_of_integer,
    Kind.REAL: scalars.text_of_real,
    Kind.NUMERIC: numeric.decode_numeric,
    Kind.BOOLEAN: scalars.text_of_boolean,
    Kind.TIMESTAMP: times.text_of_timestamp,
    Kind.DATE: times.decode_date,
    Kind.TIME: times.text_of_time,
    Kind.UUID: scalars.text_of_uuid,
    Kind.JSON: document.decode_json,
    Kind.BLOB: scalars.text_of_blob,
    Kind.VECTOR: vector.text_of_vector,
}

_READERS: Final[dict[Kind, Callable[[str], bytes]]] = {
    Kind.TEXT: lambda text: scalars.encode_text(Text(text.encode())),
    Kind.INTEGER: lambda text: scalars.encode_integer(int(text)),
    Kind.REAL: lambda text: scalars.encode_real(float(text)),
    Kind.NUMERIC: lambda text: numeric.encode_numeric(Text(text.encode())),
    Kind.BOOLEAN: scalars.read_boolean,
    Kind.TIMESTAMP: lambda text: times.encode_timestamp(Text(text.encode())),
    Kind.DATE: lambda text: times.encode_date(Text(text.encode())),
    Kind.TIME: lambda text: times.encode_time(Text(text.encode())),
    Kind.UUID: lambda text: scalars.encode_uuid(Text(text.encode())),
    Kind.JSON: lambda text: document.VERSION + text.encode(),
    Kind.BLOB: scalars.read_blob,
    Kind.VECTOR: vector.read_vector,
}

_EQUALITIES: Final[dict[Kind, Callable[[bytes, bytes], bool]]] = {
    Kind.REAL: scalars.same_real,
    Kind.NUMERIC: numeric.same_numeric,
    Kind.JSON: document.same_json,
    Kind.VECTOR: vector.same_vector,
}


def encoder(kind: Kind) -> Encoder:
    """Return the function from a value as SQLite stores it (never NULL) to the binary format of production's type."""
    return _ENCODERS[kind]


def field_encoders(table: Table) -> tuple[Encoder, ...]:
    """Return one encoder for each column that travels, in the order of `table.sent`."""
    return tuple(_ENCODERS[column.kind] for column in table.sent)


def decode_binary(kind: Kind, data: bytes) -> Bindable:
    """Return what the local file stores for a value in production's binary format.

    Raise ValueDefect for what SQLite cannot hold or what could not be sent again, such as NaN or `infinity`.
    """
    return _DECODERS[kind](data)


def decode_text(kind: Kind, text: str) -> Bindable:
    """Return what the local file stores for a value in production's text form, written under ISO dates and UTC."""
    return _DECODERS[kind](_READERS[kind](text))


def to_text(kind: Kind, value: Value | str) -> str:
    """Return a local value in production's text form; a document is returned as it is written locally."""
    return _WRITERS[kind](_ENCODERS[kind](Text(value.encode()) if isinstance(value, str) else value))


def equality(kind: Kind) -> Callable[[bytes, bytes], bool]:
    """Return the function that tells whether two binary values, neither of them NULL, are equal to production."""
    return _EQUALITIES.get(kind, bytes.__eq__)


def equal(kind: Kind, a: bytes | None, b: bytes | None) -> bool:
    """Tell whether two binary values are the same to production; NULL (None) is the same as NULL only."""
    if a is None or b is None:
        return a is b
    return a == b or (kind in _EQUALITIES and _EQUALITIES[kind](a, b))


def alike(kind: Kind, a: bytes | None, b: bytes | None) -> bool:
    """Tell whether a change from one value to the other is none at all, since production shows both alike.

    Stricter than `equal` for documents: 1 and 1.0 are equal to jsonb, which yet keeps and shows them as two.
    """
    if kind is not Kind.JSON or a is None or b is None:
        return equal(kind, a, b)
    return document.alike_json(a, b)
