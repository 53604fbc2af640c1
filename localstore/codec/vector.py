"""Vectors: little-endian floats of 32 bits in the file, and on the way an array of PostgreSQL's `real`."""

from __future__ import annotations

import math
import struct
import sys
from array import array
from typing import Final

from localstore.codec.values import DefectCode, Value, ValueDefect, defect, misplaced, preview

DIMENSIONS_MAX: Final = 16_000
"""What a column of pgvector takes."""

_HEAD: Final = struct.Struct(">iiiii")
_FLOAT_OID: Final = 700
_BYTES: Final = 4
_ELEMENT: Final = b"\0\0\0\x04" + bytes(_BYTES)


def encode_vector(value: Value) -> bytes:
    """Return the array in binary; NaN, the infinities, and what is not a run of whole floats are defects."""
    if type(value) is not bytes:
        raise misplaced("vector", value)
    count, rest = divmod(len(value), _BYTES)
    if rest or not count:
        raise defect(DefectCode.MALFORMED, f"a vector has four bytes a number, not {len(value):,} in all", value)
    if count > DIMENSIONS_MAX:
        message = f"the vector has {count:,} dimensions, more than {DIMENSIONS_MAX:,}"
        raise defect(DefectCode.OUT_OF_RANGE, message, value)
    # The sum of finite floats of 32 bits is a finite double, and that of others never is.
    if not math.isfinite(sum(_floats(value))):
        raise defect(DefectCode.OUT_OF_RANGE, "the vector holds NaN or an infinity", value)
    elements = bytearray(_ELEMENT * count)
    for place in range(_BYTES):
        elements[_BYTES + place :: 2 * _BYTES] = value[_BYTES - 1 - place :: _BYTES]
    return _HEAD.pack(1, 0, _FLOAT_OID, count, 1) + bytes(elements)


def decode_vector(data: bytes) -> bytes:
    """Return the bytes that the file stores; an array that is no vector, with a NULL in it, say, is a defect."""
    try:
        dimensions, nulls, oid, count, _ = _HEAD.unpack_from(data)
    except struct.error:
        dimensions, nulls, oid, count = 0, 0, 0, 0
    if (dimensions, nulls, oid) != (1, 0, _FLOAT_OID) or len(data) != _HEAD.size + 2 * _BYTES * count:
        raise ValueDefect(DefectCode.MALFORMED, "the array is not a vector", preview(bytes(data)))
    stored = bytearray(_BYTES * count)
    for place in range(_BYTES):
        stored[place::_BYTES] = data[_HEAD.size + 2 * _BYTES - 1 - place :: 2 * _BYTES]
    encode_vector(bytes(stored))
    return bytes(stored)


def same_vector(a: bytes, b: bytes) -> bool:
    """Compare number by number: minus zero is zero."""
    return a == b or _floats(decode_vector(a)) == _floats(decode_vector(b))


def text_of_vector(data: bytes) -> str:
    """Return the array as text with as few digits as give the same floats again; PostgreSQL reads it as it is."""
    return "{" + ",".join(map(_shortest, _floats(decode_vector(data)))) + "}"


def read_vector(text: str) -> bytes:
    """Return the array that PostgreSQL wrote as `text`, in binary."""
    try:
        numbers = [float(part) for part in text.removeprefix("{").removesuffix("}").split(",")]
        return encode_vector(struct.pack(f"<{len(numbers)}f", *numbers))
    except (ValueError, OverflowError):
        raise ValueDefect(DefectCode.MALFORMED, "the text is not a vector", preview(text)) from None


def _floats(value: bytes) -> array[float]:
    numbers = array("f", value)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _shortest(number: float) -> str:
    for digits in range(6, 9):
        text = f"{number:.{digits}g}"
        if struct.unpack("<f", struct.pack("<f", float(text)))[0] == number:
            return text
    return f"{number:.9g}"
