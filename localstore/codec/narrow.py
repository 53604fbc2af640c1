"""The way back from a wider kind: a value of it as the narrower kind holds it, where nothing of it is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from localstore.codec.numeric import decode_numeric
from localstore.codec.scalars import encode_integer
from localstore.codec.values import DefectCode, ValueDefect, preview
from localstore.schema.tables import Kind

_DIGITS_MAX: Final = 19
"""Digits of the greatest integer of 64 bits; more of them are not even read as a number."""


def _whole(data: bytes) -> bytes:
    """Return a decimal number without a fraction as an integer; a scale of zeros is none."""
    text = decode_numeric(data)
    whole, _, fraction = text.partition(".")
    if fraction.strip("0"):
        raise ValueDefect(DefectCode.OUT_OF_RANGE, "an integer column holds no fractions", preview(text))
    if len(whole.lstrip("-")) > _DIGITS_MAX:
        raise ValueDefect(DefectCode.OUT_OF_RANGE, "the integer needs more than 64 bits", preview(text))
    return encode_integer(int(whole))


NARROWERS: Final[Mapping[tuple[Kind, Kind], Callable[[bytes], bytes]]] = {(Kind.INTEGER, Kind.NUMERIC): _whole}
"""For each pair that `widens` allows, narrow and wide: the function on binary values that raises ValueDefect."""
