"""Numbers of any length: decimal digits in groups of four, as PostgreSQL's `numeric` keeps them."""

from __future__ import annotations

import re
import struct
from typing import Final

from localstore.codec.values import DefectCode, Text, Value, ValueDefect, defect, misplaced, preview

WHOLE_DIGITS_MAX: Final = 131_072
"""PostgreSQL's limit before the decimal point of a `numeric` without a precision."""

SCALE_MAX: Final = 16_383
"""PostgreSQL's limit after it."""

_HEADER: Final = struct.Struct(">HhHH")
_SHORT: Final = struct.Struct(">HhHHH")
_POSITIVE: Final = 0x0000
_NEGATIVE: Final = 0x4000
_GROUP: Final = 10_000

# A longer exponent is out of range whatever stands before it, as long as that is not megabytes of zeros.
_LITERAL: Final = re.compile(rb"([+-]?)([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,9}))?")


def encode_numeric(value: Value) -> bytes:
    """Return the number with its scale.

    A float stands for the shortest decimal that reads back as it, which is how SQLite shows it; an integer and a text
    are taken digit by digit. `NaN`, `Infinity`, spaces, underscores and other bases are defects.
    """
    if type(value) is int:
        if 0 < value < _GROUP:
            return _SHORT.pack(1, 0, _POSITIVE, 0, value)
        return _pack(value < 0, str(abs(value)), "")
    if type(value) is Text:
        return encode_literal(value, value)
    if type(value) is float:
        if value - value != 0.0:
            raise defect(DefectCode.OUT_OF_RANGE, "a numeric column holds finite numbers only", value)
        return encode_literal(repr(value).encode(), value)
    raise misplaced("numeric", value)


def encode_literal(literal: bytes, whole: Value | None = None) -> bytes:
    """Return the number that a literal spells; `whole` is the value that a defect shows, if not the literal."""
    shown = Text(literal) if whole is None else whole
    match = _LITERAL.fullmatch(literal)
    if match is None or not (match[2] or match[3]):
        raise defect(DefectCode.MALFORMED, "the text is not a decimal number", shown)
    sign, integer, fraction, power = match.groups(b"")
    digits, scale = _shift(integer + fraction, len(fraction) - int(power or 0), shown)
    point = len(digits) - scale
    return _pack(sign == b"-", digits[:point], digits[point:])


def _shift(digits: bytes, scale: int, shown: Value) -> tuple[str, int]:
    """Return the digits without leading zeros, and how many of them stand after the point."""
    significant = digits.lstrip(b"0")
    if scale > SCALE_MAX:
        message = f"the number has {scale:,} digits after the point, PostgreSQL keeps {SCALE_MAX:,}"
        raise defect(DefectCode.OUT_OF_RANGE, message, shown)
    if scale < 0:
        if len(significant) - scale > WHOLE_DIGITS_MAX:
            raise _too_long(len(significant) - scale, shown)
        significant, scale = significant + b"0" * -scale if significant else b"", 0
    if len(significant) - scale > WHOLE_DIGITS_MAX:
        raise _too_long(len(significant) - scale, shown)
    return significant.decode("ascii").rjust(scale, "0"), scale


def _too_long(digits: int, shown: Value) -> ValueDefect:
    message = f"the number has {digits:,} digits before the point, PostgreSQL keeps {WHOLE_DIGITS_MAX:,}"
    return defect(DefectCode.OUT_OF_RANGE, message, shown)


def _pack(negative: bool, whole: str, fraction: str) -> bytes:
    """Return the binary format of the digits before and after the point."""
    scale = len(fraction)
    before = -len(whole) % 4
    aligned = "0" * before + whole + fraction + "0" * (-scale % 4)
    groups = [int(aligned[place : place + 4]) for place in range(0, len(aligned), 4)]
    weight = (before + len(whole)) // 4 - 1
    while groups and groups[-1] == 0:
        groups.pop()
    first = 0
    while first < len(groups) and groups[first] == 0:
        first += 1
    groups = groups[first:]
    if not groups:
        return _HEADER.pack(0, 0, _POSITIVE, scale)
    header = _HEADER.pack(len(groups), weight - first, _NEGATIVE if negative else _POSITIVE, scale)
    return header + struct.pack(f">{len(groups)}H", *groups)


def decode_numeric(data: bytes) -> str:
    """Return the number in plain digits, as PostgreSQL writes it; `NaN` and the infinities are defects."""
    count, weight, sign, scale = _HEADER.unpack_from(data)
    if sign not in (_POSITIVE, _NEGATIVE):
        shown = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}.get(sign, preview(data))
        raise ValueDefect(DefectCode.OUT_OF_RANGE, "a numeric column holds finite numbers only", shown)
    groups = struct.unpack_from(f">{count}H", data, _HEADER.size)
    leading = weight + 1
    if leading > 0:
        whole = "".join([f"{group:04}" for group in groups[:leading]]).ljust(4 * leading, "0").lstrip("0") or "0"
        rest = groups[leading:]
        skipped = ""
    else:
        whole, rest, skipped = "0", groups, "0" * (-4 * leading)
    text = f"-{whole}" if sign == _NEGATIVE else whole
    if scale == 0:
        return text
    fraction = skipped + "".join([f"{group:04}" for group in rest])
    return f"{text}.{fraction[:scale].ljust(scale, '0')}"


def same_numeric(a: bytes, b: bytes) -> bool:
    """Tell whether two numbers are equal; the scale does not matter, and NaN equals NaN."""
    return a[:6] == b[:6] and a[8:] == b[8:]
