"""Text, blobs, booleans, integers, floats and UUIDs: a few bytes each, or the bytes themselves."""

from __future__ import annotations

import struct
from binascii import Error as NotHexadecimal
from binascii import unhexlify
from typing import Final, cast

from localstore.codec.values import FIELD_BYTES_MAX, DefectCode, Text, Value, ValueDefect, defect, misplaced, too_large

_LONG: Final = struct.Struct(">q")
_DOUBLE: Final = struct.Struct(">d")
_LONG_PACK: Final = _LONG.pack
_DOUBLE_PACK: Final = _DOUBLE.pack

_HYPHENATED_LENGTH: Final = 36
_HEX_LENGTH: Final = 32
_RAW_LENGTH: Final = 16
_HYPHEN: Final = 0x2D

# PostgreSQL writes a float with an exponent outside these powers of ten, and without one inside them.
_PLAIN_EXPONENTS: Final = range(-4, 15)


def encode_text(value: Value) -> bytes:
    """Return the bytes of a text; NUL and what is not UTF-8 are defects."""
    if type(value) is not Text:
        raise misplaced("text", value)
    if not value.isascii():
        try:
            value.decode()
        except UnicodeDecodeError as error:
            message = f"the text is not valid UTF-8 at byte {error.start:,}"
            raise defect(DefectCode.INVALID_UTF8, message, value) from None
    if 0 in value:
        message = f"the text holds U+0000 at byte {value.index(0):,}, which PostgreSQL cannot store"
        raise defect(DefectCode.NUL, message, value)
    if len(value) > FIELD_BYTES_MAX:
        raise too_large(value)
    return value


def encode_blob(value: Value) -> bytes:
    """Return the bytes of a blob."""
    if type(value) is not bytes:
        raise misplaced("blob", value)
    if len(value) > FIELD_BYTES_MAX:
        raise too_large(value)
    return value


def encode_integer(value: Value) -> bytes:
    """Return eight bytes; only SQLite's integers are taken, whatever a text or a float looks like."""
    if type(value) is not int:
        raise misplaced("integer", value)
    try:
        return _LONG_PACK(value)
    except struct.error:
        raise defect(DefectCode.OUT_OF_RANGE, "the integer needs more than 64 bits", value) from None


def encode_real(value: Value) -> bytes:
    """Return eight bytes; an integer is taken where a float holds exactly it."""
    if type(value) is float and value == value:
        return _DOUBLE_PACK(value)
    if type(value) is int:
        try:
            nearest = float(value)
        except OverflowError:
            raise defect(DefectCode.OUT_OF_RANGE, "the integer is beyond every float", value) from None
        if int(nearest) != value:
            raise defect(DefectCode.INEXACT, "no float holds exactly this integer", value)
        return _DOUBLE_PACK(nearest)
    if type(value) is float:
        raise defect(DefectCode.OUT_OF_RANGE, "SQLite has no NaN and stores NULL instead", value)
    raise misplaced("real", value)


def encode_boolean(value: Value) -> bytes:
    """Return one byte; only the integers 0 and 1 are booleans."""
    if type(value) is int:
        if value == 1:
            return b"\x01"
        if value == 0:
            return b"\x00"
        raise defect(DefectCode.OUT_OF_RANGE, "a boolean is stored as 0 or 1", value)
    raise misplaced("boolean", value)


def encode_uuid(value: Value) -> bytes:
    """Return sixteen bytes for either spelling, in any case, with or without braces, and for sixteen raw bytes."""
    if type(value) is Text:
        digits: bytes = value
        if digits[:1] == b"{" and digits[-1:] == b"}":
            digits = digits[1:-1]
        if len(digits) == _HYPHENATED_LENGTH and digits[8] == digits[13] == digits[18] == digits[23] == _HYPHEN:
            digits = digits.replace(b"-", b"")
        if len(digits) == _HEX_LENGTH:
            try:
                return unhexlify(digits)
            except NotHexadecimal:
                pass
        raise defect(DefectCode.MALFORMED, "the text is not a UUID of 32 hexadecimal digits", value)
    if type(value) is bytes:
        if len(value) == _RAW_LENGTH:
            return value
        raise defect(DefectCode.MALFORMED, f"the blob has {len(value):,} bytes, a UUID has 16", value)
    raise misplaced("uuid", value)


def decode_text(data: bytes) -> str:
    """Return the text that SQLite stores."""
    return data.decode()


def decode_blob(data: bytes) -> bytes:
    """Return the bytes that SQLite stores."""
    return bytes(data)


def decode_integer(data: bytes) -> int:
    """Return the integer."""
    return cast("int", _LONG.unpack(data)[0])


def decode_real(data: bytes) -> float:
    """Return the float; SQLite would turn NaN into NULL, so that it is a defect."""
    value = cast("float", _DOUBLE.unpack(data)[0])
    if value != value:
        raise ValueDefect(DefectCode.OUT_OF_RANGE, "SQLite has no NaN and stores NULL instead", "NaN")
    return value


def decode_boolean(data: bytes) -> int:
    """Return 0 or 1, as SQLite stores a boolean."""
    return data[0]


def decode_uuid(data: bytes) -> str:
    """Return 32 hexadecimal digits, as SQLAlchemy stores a UUID in SQLite."""
    return data.hex()


def read_boolean(text: str) -> bytes:
    """Return the binary format of either way in which PostgreSQL writes a boolean."""
    return b"\x01" if text in ("t", "true") else b"\x00"


def read_blob(text: str) -> bytes:
    """Return the bytes that PostgreSQL writes in hexadecimal digits after a backslash and an x."""
    return unhexlify(text.removeprefix("\\x"))


def same_real(a: bytes, b: bytes) -> bool:
    """Tell whether two floats are equal to PostgreSQL: zeros are, whatever their sign, and so are NaNs."""
    one, other = _DOUBLE.unpack(a)[0], _DOUBLE.unpack(b)[0]
    return bool(one == other or (one != one and other != other))


def text_of_integer(data: bytes) -> str:
    """Return an integer as PostgreSQL writes it."""
    return str(decode_integer(data))


def text_of_boolean(data: bytes) -> str:
    """Return a boolean as a cast to text writes it."""
    return "true" if data[0] else "false"


def text_of_blob(data: bytes) -> str:
    """Return a blob as PostgreSQL writes it: hexadecimal digits after a backslash and an x."""
    return f"\\x{data.hex()}"


def text_of_real(data: bytes) -> str:
    """Return a float in PostgreSQL's notation, with the fewest digits that read back as the same float.

    PostgreSQL itself sometimes writes one digit more; both texts are the same float.
    """
    value = decode_real(data)
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    mantissa, _, power = repr(value).partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.removeprefix("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    exponent = int(power or 0) - len(fraction) + len(digits) - 1
    digits = digits.rstrip("0")
    if not digits:
        return f"{sign}0"
    if exponent not in _PLAIN_EXPONENTS:
        point = "." if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{point}{digits[1:]}e{exponent:+03}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    whole, fraction = digits[: exponent + 1].ljust(exponent + 1, "0"), digits[exponent + 1 :]
    return f"{sign}{whole}{'.' * bool(fraction)}{fraction}"


def text_of_uuid(data: bytes) -> str:
    """Return a UUID in lower case with hyphens, as PostgreSQL writes it."""
    digits = data.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
