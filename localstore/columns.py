"""Column types whose values survive SQLite unaltered: JSON text, UTC times and exact decimals."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar

import orjson
from sqlalchemy import ColumnElement, DateTime, Text, type_coerce
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from localstore.moments import read_time

# Integers of fewer digits fit 64 bits; every digit is looked for as a zero.
_LONG = b"0" * 19
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else byte for byte in range(256))


class RawJSON(str):
    """Text that is JSON already and is to be stored as it is, to the byte."""

    __slots__ = ()


class JSONText(TypeDecorator[Any]):
    """A JSON value kept as text: a `RawJSON` unaltered, anything else as orjson writes it.

    Reading gives the parsed value. Text that does not parse, which another tool may have written, comes back as
    `RawJSON`, so that one bad value does not make its row unreadable. `as_text` reads the text itself.
    """

    impl = Text
    cache_ok = True
    localstore_kind: ClassVar[str] = "json"

    def process_bind_param(self, value: Any, _dialect: Dialect) -> str | None:
        """Return the text to store; None is SQL's NULL, and JSON's null is `RawJSON("null")`."""
        return None if value is None else dump_json(value)

    def process_result_value(self, value: Any, _dialect: Dialect) -> Any:
        """Return the parsed value."""
        return None if value is None else parse_json(value)

    def compare_values(self, x: Any, y: Any) -> bool:
        """Return whether the two values would be stored as the same text."""
        return bool(x is y or (type(x) is type(y) and x == y))


def as_text(column: Any) -> ColumnElement[str]:
    """Return an expression that reads a JSON column's original text, as in `select(as_text(Ticket.raw_data))`."""
    return type_coerce(column, Text())


def dump_json(value: Any) -> str:
    """Return `value` as JSON text; raises ValueError or TypeError for what JSON cannot hold."""
    if isinstance(value, RawJSON):
        return str(value)
    try:
        data = orjson.dumps(value)
    except orjson.JSONEncodeError:
        # orjson refuses lone surrogates and integers over 64 bits, both of which JSON text can hold.
        _check_keys(value)
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    if b"null" in data:
        # orjson writes null for NaN and infinity, which would be a silent change of the value.
        _check_finite(value)
    return data.decode()


def parse_json(text: str | bytes) -> Any:
    """Return the value of JSON text, or the text as `RawJSON` when it does not parse."""
    try:
        value = orjson.loads(text)
        # orjson makes a float of an integer over 64 bits.
        if _LONG not in (text.encode() if isinstance(text, str) else text).translate(_DIGITS):
            return value
    except orjson.JSONDecodeError:
        pass
    try:
        # The standard library reads escaped lone surrogates and integers of any length.
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return RawJSON(text if isinstance(text, str) else text.decode(errors="replace"))


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _check_keys(value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a JSON object's keys are text, not {type(key).__name__}")
            _check_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_keys(item)


def _check_finite(value: Any) -> None:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        raise ValueError("JSON has no NaN and no infinity")
    if isinstance(value, dict):
        for item in value.values():
            _check_finite(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_finite(item)


class _StoredTime(sqlite.DATETIME):
    """A time as SQLite keeps it, read in every spelling in which production is given it."""

    def result_processor(self, _dialect: Dialect, _coltype: object) -> Any:
        """Return what reads a stored time; it raises ValueError for what is none."""
        return _stored_time


def _stored_time(value: object) -> datetime | None:
    if value is None:
        return None
    moment = read_time(value) if isinstance(value, str) else None
    if moment is None:
        raise ValueError(f"not a time: {value!r:.80}")
    return moment


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, kept in UTC. A value without a time zone is taken as UTC; what is read always has one."""

    impl = DateTime
    cache_ok = True
    localstore_kind: ClassVar[str] = "timestamp"

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the type by which a database keeps it."""
        if dialect.name != "sqlite":
            return dialect.type_descriptor(DateTime())
        return dialect.type_descriptor(_StoredTime())  # type: ignore[no-untyped-call]

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Return the moment without its zone, in UTC, as SQLAlchemy's SQLite dialect stores it."""
        if value is None or value.tzinfo is None:
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Return the moment in UTC, also when another tool wrote it with an offset."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class DecimalText(TypeDecorator[Decimal]):
    """An exact decimal, kept as text because SQLite would make a float of it."""

    impl = Text
    cache_ok = True
    localstore_kind: ClassVar[str] = "numeric"

    def process_bind_param(self, value: Decimal | str | float | None, _dialect: Dialect) -> str | None:
        """Return the decimal's digits; raises ValueError for what is no finite decimal."""
        if value is None:
            return None
        try:
            number = Decimal(str(value)) if isinstance(value, float) else Decimal(value)
        except InvalidOperation as error:
            raise ValueError("not a decimal number") from error
        if not number.is_finite():
            raise ValueError("a decimal must be finite")
        return str(number)

    def process_result_value(self, value: Any, _dialect: Dialect) -> Decimal | None:
        """Return the decimal; raises ValueError when another tool stored no number."""
        if value is None:
            return None
        try:
            return Decimal(str(value))
        except InvalidOperation as error:
            raise ValueError("not a decimal number") from error
