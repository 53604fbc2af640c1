"""JSON documents: texts that `jsonb` takes as they are, and the equality that `jsonb` judges by.

Production parses the text itself, so that encoding is finding out whether it would refuse the text or drop a part of
it. Nearly every document is shown to be sound by a few passes at C speed (`_is_surely_sound`); the rest is parsed,
which also finds the reason.
"""

from __future__ import annotations

import re
from typing import Final

import orjson

from localstore.codec.numeric import decode_numeric, encode_numeric
from localstore.codec.parse import parse, same_trees
from localstore.codec.values import Text, Value, misplaced

VERSION: Final = b"\x01"
"""The binary format is this byte and the text."""

# With these limits no text as short as 32 MiB can hit one of jsonb's, and no number without a long run of digits or a
# long exponent one of numeric's (131,072 digits before the point, 16,383 after it).
_SURE_BYTES_MAX: Final = 32 * 1024 * 1024
_SURE_DIGITS: Final = b"0" * 15_000
_SURE_EXPONENT: Final = b"0e0000"
_SIGNS: Final = b"+-"
_BACKSLASH: Final = 0x5C
_COLON: Final = 0x3A
_NUMBER_SHAPE: Final = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x65 if byte == 0x45 else byte for byte in range(256))
_LONG_EXPONENT: Final = re.compile(rb"(?:^|[\[,:])[ \t\n\r]*+-?[0-9]++(?:\.[0-9]++)?[eE][+-]?[0-9]{4}")

# A float keeps 15 significant digits of any decimal whose exponent has at most two digits, and an integer of 18 digits
# is no float. The shapes are quick to find and mostly stand in strings; the expression looks closer.
_EXACT_DIGITS: Final = b"0" * 16
_EXACT_EXPONENT: Final = b"0e000"
_EXACT_SHAPE: Final = bytes(
    0x30 if byte == 0x2E or 0x30 <= byte <= 0x39 else 0x65 if byte == 0x45 else byte for byte in range(256)
)
_INEXACT: Final = re.compile(
    rb"(?:^|[\[,:])[ \t\n\r]*+-?(?:[0-9]{19}|(?=[0-9.]{16})[0-9]++(?:\.[0-9]++(?:[eE,\]} \t\n\r]|$)|[eE])"
    rb"|[0-9]++(?:\.[0-9]++)?[eE][+-]?[0-9]{3})"
)


def encode_json(value: Value) -> bytes:
    """Return the document; a number that SQLite's affinity made of a text is the document that it spells."""
    if type(value) is Text:
        # The fast parser takes no subclass of bytes.
        document = bytes(value)
        if not _is_surely_sound(document):
            parse(document)
        return VERSION + document
    if type(value) is int or type(value) is float:
        return VERSION + decode_numeric(encode_numeric(value)).encode()
    raise misplaced("json", value)


def _is_surely_sound(value: bytes) -> bool:
    r"""Tell whether jsonb takes a text for certain and drops nothing of it; a doubt is False.

    A key that stands twice in an object vanishes when the document is parsed and written again, and with it a colon;
    colons in strings stay, unless they were escaped.
    """
    if len(value) > _SURE_BYTES_MAX:
        return False
    if _BACKSLASH in value and (b"\\u0000" in value or b"\\u003a" in value or b"\\u003A" in value):
        return False
    try:
        written = orjson.dumps(orjson.loads(value))
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return False
    if written.count(_COLON) != value.count(_COLON):
        return False
    shape = value.translate(_NUMBER_SHAPE, _SIGNS)
    if _SURE_EXPONENT in shape and _LONG_EXPONENT.search(value) is not None:
        return False
    return len(value) < len(_SURE_DIGITS) or _SURE_DIGITS not in shape


def decode_json(data: bytes) -> str:
    """Return the document's text as production writes it."""
    return data[1:].decode()


def same_json(a: bytes, b: bytes) -> bool:
    """Tell whether two documents are equal to jsonb: order of keys, spaces, escapes and a number's scale aside."""
    if a == b:
        return True
    if _same_surely(a[1:], b[1:]):
        return True
    return same_trees(parse(a[1:]), parse(b[1:]))


def alike_json(a: bytes, b: bytes) -> bool:
    """Tell whether production shows two documents alike, a number's scale included; a doubt is False."""
    return a == b or _same_surely(a[1:], b[1:])


def _same_surely(a: bytes, b: bytes) -> bool:
    """Tell whether two documents are equal for certain, to the scale of a number; a doubt is False.

    Both are written anew with sorted keys, which loses nothing as long as floats keep every number exactly.
    """
    for text in (a, b):
        shape = text.translate(_EXACT_SHAPE, _SIGNS)
        if (_EXACT_DIGITS in shape or _EXACT_EXPONENT in shape) and _INEXACT.search(text) is not None:
            return False
    try:
        return orjson.dumps(orjson.loads(a), option=orjson.OPT_SORT_KEYS) == orjson.dumps(
            orjson.loads(b), option=orjson.OPT_SORT_KEYS
        )
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return False
