"""Timestamps, dates and times: texts in one strict ISO 8601 form, whole microseconds in production.

A timestamp without an offset is UTC. A text that PostgreSQL would evaluate (`now`), round (a seventh digit), move on
(`24:00:00`, a leap second) or read by its session's settings (`01/02/2024`) is a defect.
"""

from __future__ import annotations

import re
import struct
from datetime import date, datetime, timedelta
from typing import Final, cast

from localstore.codec.values import DefectCode, Text, Value, ValueDefect, defect, misplaced, preview

_LONG: Final = struct.Struct(">q")
_INT: Final = struct.Struct(">i")
_LONG_PACK: Final = _LONG.pack
_EPOCH: Final = datetime(2000, 1, 1)  # noqa: DTZ001 (every value here is UTC, and naive arithmetic is faster)
_EPOCH_DAY: Final = _EPOCH.toordinal()
_DAY: Final = 86_400_000_000
_SECOND: Final = 1_000_000
_OFFSET_HOURS_MAX: Final = 15

# The shape of a text is the text with every digit a 0: one call and one look-up find out whether `fromisoformat`,
# which takes far more than this, may read it.
_DIGITS: Final = bytes(0x30 if 0x30 <= byte <= 0x39 else byte for byte in range(256))
_NAIVE_SHAPES: Final = frozenset(
    b"0000-00-00" + separator + b"00:00:00" + fraction
    for separator in (b" ", b"T")
    for fraction in (b"", b".000", b".000000")
)
_UTC_SHAPES: Final = frozenset(shape + b"Z" for shape in _NAIVE_SHAPES)
_DATE_SHAPE: Final = b"0000-00-00"
_TIME: Final = rb"([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?"
_TIMESTAMP_FORM: Final = re.compile(
    rb"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[ T]" + _TIME + rb"(?: ?(Z|[+-][0-9]{2}(?::?[0-9]{2}(?::?[0-9]{2})?)?))?)?"
)
_TIME_FORM: Final = re.compile(_TIME)


def encode_timestamp(value: Value) -> bytes:
    """Return the microseconds since 2000-01-01 00:00 UTC."""
    if type(value) is not Text:
        raise misplaced("timestamp", value)
    shape = value.translate(_DIGITS)
    if shape in _NAIVE_SHAPES:
        text = value.decode()
    elif shape in _UTC_SHAPES:
        text = value[:-1].decode()
    else:
        return _LONG_PACK(_read_timestamp(value))
    try:
        since = datetime.fromisoformat(text) - _EPOCH
    except ValueError:
        return _LONG_PACK(_read_timestamp(value))
    # Some versions of Python read hour 24 as the next day.
    if value[11:13] == b"24":
        return _LONG_PACK(_read_timestamp(value))
    return _LONG_PACK(since.days * _DAY + since.seconds * _SECOND + since.microseconds)


def encode_date(value: Value) -> bytes:
    """Return the days since 2000-01-01."""
    if type(value) is not Text:
        raise misplaced("date", value)
    if value.translate(_DIGITS) != _DATE_SHAPE:
        raise defect(DefectCode.MALFORMED, "the text is not a date of the form YYYY-MM-DD", value)
    return _INT.pack(_read_day(value, value) - _EPOCH_DAY)


def encode_time(value: Value) -> bytes:
    """Return the microseconds since midnight."""
    if type(value) is not Text:
        raise misplaced("time", value)
    match = _TIME_FORM.fullmatch(value)
    if match is None:
        raise defect(DefectCode.MALFORMED, "the text is not a time of the form HH:MM:SS without an offset", value)
    hour, minute, second, fraction = match.groups(b"")
    return _LONG_PACK(_read_time(hour, minute, second, fraction, value))


def _read_timestamp(value: Text) -> int:
    """Return the microseconds of any accepted form, or say what is wrong with it."""
    match = _TIMESTAMP_FORM.fullmatch(value)
    if match is None:
        message = "the text is not a timestamp of the form YYYY-MM-DD HH:MM:SS with an optional offset"
        raise defect(DefectCode.MALFORMED, message, value)
    day, hour, minute, second, fraction, offset = match.groups(b"")
    moment = (_read_day(day, value) - _EPOCH_DAY) * _DAY - _read_offset(offset, value)
    if hour:
        moment += _read_time(hour, minute, second, fraction, value)
    try:
        _EPOCH + timedelta(microseconds=moment)
    except OverflowError:
        message = "the timestamp lies outside the years 1 to 9999 in UTC"
        raise defect(DefectCode.OUT_OF_RANGE, message, value) from None
    return moment


def _read_day(day: bytes, value: Text) -> int:
    year, month, of_month = int(day[:4]), int(day[5:7]), int(day[8:10])
    try:
        return date(year, month, of_month).toordinal()
    except ValueError:
        raise defect(DefectCode.OUT_OF_RANGE, "the calendar has no such day", value) from None


def _read_time(hour: bytes, minute: bytes, second: bytes, fraction: bytes, value: Text) -> int:
    hours, minutes, seconds = int(hour), int(minute), int(second or 0)
    if seconds == 60:
        message = "PostgreSQL would move a leap second into the next minute"
        raise defect(DefectCode.OUT_OF_RANGE, message, value)
    if hours > 23 or minutes > 59 or seconds > 59:
        raise defect(DefectCode.OUT_OF_RANGE, "the clock has no such time", value)
    if fraction[6:].strip(b"0"):
        message = "PostgreSQL would round the time to six digits after the point"
        raise defect(DefectCode.INEXACT, message, value)
    return (hours * 3600 + minutes * 60 + seconds) * _SECOND + int(fraction[:6].ljust(6, b"0"))


def _read_offset(offset: bytes, value: Text) -> int:
    if not offset or offset == b"Z":
        return 0
    digits = offset[1:].replace(b":", b"").ljust(6, b"0")
    hours, minutes, seconds = int(digits[:2]), int(digits[2:4]), int(digits[4:])
    if hours > _OFFSET_HOURS_MAX or minutes > 59 or seconds > 59:
        raise defect(DefectCode.OUT_OF_RANGE, "an offset from UTC is less than 16 hours", value)
    moment = (hours * 3600 + minutes * 60 + seconds) * _SECOND
    return -moment if offset[:1] == b"-" else moment


def decode_timestamp(data: bytes) -> str:
    """Return `YYYY-MM-DD HH:MM:SS.ffffff` in UTC, as SQLAlchemy stores a timestamp in SQLite."""
    return _moment(data).isoformat(" ", "microseconds")


def decode_date(data: bytes) -> str:
    """Return `YYYY-MM-DD`; the infinities and the years before 1 and after 9999 are defects."""
    days = cast("int", _INT.unpack(data)[0])
    try:
        return date.fromordinal(days + _EPOCH_DAY).isoformat()
    except (ValueError, OverflowError):
        raise _unreachable("date", data) from None


def decode_time(data: bytes) -> str:
    """Return `HH:MM:SS.ffffff`; PostgreSQL's 24:00:00 is a defect."""
    moment = cast("int", _LONG.unpack(data)[0])
    if not 0 <= moment < _DAY:
        raise ValueDefect(DefectCode.OUT_OF_RANGE, "a time of SQLite is earlier than 24:00:00", "24:00:00")
    return (_EPOCH + timedelta(microseconds=moment)).time().isoformat("microseconds")


def text_of_timestamp(data: bytes) -> str:
    """Return a timestamp as PostgreSQL writes it in UTC."""
    return _without_zeros(decode_timestamp(data)) + "+00"


def text_of_time(data: bytes) -> str:
    """Return a time as PostgreSQL writes it."""
    return _without_zeros(decode_time(data))


def _without_zeros(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _moment(data: bytes) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=cast("int", _LONG.unpack(data)[0]))
    except OverflowError:
        raise _unreachable("timestamp", data) from None


def _unreachable(kind: str, data: bytes) -> ValueDefect:
    message = f"a {kind} of SQLite lies in the years 1 to 9999"
    return ValueDefect(DefectCode.OUT_OF_RANGE, message, preview(data))
