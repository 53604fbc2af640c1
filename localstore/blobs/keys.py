"""The rules for blobs' keys: text in segments that every file system, object store and terminal takes for the same."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from localstore.errors import InvalidIdentifier
from localstore.identifiers import preview

KEY_BYTES_MAX: Final = 1024
"""What S3 takes for a key, and what fits production's index together with the company."""

SEGMENT_BYTES_MAX: Final = 255
"""What a file system takes for a name, so that every blob can be written out under its key."""

_DEVICE: Final = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³]) *(\.|$)", re.IGNORECASE)
_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_BLANK: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
"""Letters, marks and signs that nothing is to be seen of."""

_LAST: Final = "\U0010ffff"


def check_key(key: str) -> str:
    """Return `key` when it can name a blob, else raise InvalidIdentifier.

    A key is text in normal form C. Capitals, spaces, dots and any script are fine; what a file system, a URL or a
    reader could take for something else is not.
    """
    reason = _reason(key)
    if reason is None:
        return key
    raise InvalidIdentifier(
        f"{preview(key)} cannot be a blob's key: {reason}",
        hint="use names separated by /, without control characters, backslashes and colons, and in normal form C "
        "(unicodedata.normalize('NFC', key))",
    )


def check_prefix(prefix: str) -> str:
    """Return `prefix` when keys may begin with it: any text that can be stored, also an empty one."""
    if _encoded(prefix) is not None and "\0" not in prefix:
        return prefix
    raise InvalidIdentifier(f"{preview(prefix)} cannot begin a blob's key", hint="use the beginning of a key, as text")


def fold(key: str) -> str:
    """Return what keys share that differ only in case or normal form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", key).casefold())


def after_prefix(prefix: str) -> str | None:
    """Return the first text by code points behind all that begins with `prefix`, or None where there is none."""
    shortened = prefix.rstrip(_LAST)
    if not shortened:
        return None
    following = ord(shortened[-1]) + 1
    # Surrogates are no characters, so they cannot be part of a text that is stored.
    return shortened[:-1] + chr(0xE000 if 0xD800 <= following <= 0xDFFF else following)


def _reason(key: object) -> str | None:
    if not isinstance(key, str):
        return "it is no text"
    encoded = _encoded(key)
    if encoded is None:
        return "it holds a lone surrogate"
    if not unicodedata.is_normalized("NFC", key):
        return "it is not in normal form C"
    if len(encoded) > KEY_BYTES_MAX or len(fold(key).encode()) > KEY_BYTES_MAX:
        return f"it is longer than {KEY_BYTES_MAX} bytes"
    return next((reason for segment in key.split("/") if (reason := _segment_reason(segment))), None)


def _segment_reason(segment: str) -> str | None:
    if not segment:
        return "a part of it is empty"
    # Wide and combined dots are dots, and wide spaces spaces, to whoever normalises a path for compatibility.
    if unicodedata.normalize("NFKC", segment) in {".", ".."}:
        return "a part of it is . or .."
    # An ellipsis at the end, as titles have it, is no single dot.
    if unicodedata.normalize("NFKC", segment[-1]) in {".", " "}:
        return "a part of it ends in a dot or a space"
    if not any(_is_visible(character) for character in segment):
        return "a part of it cannot be seen"
    if _DEVICE.match(segment):
        return "a part of it names a device"
    if any(character in "\\:" or _is_unseen(character) for character in segment):
        return "it holds a backslash, a colon, or a character that controls how text is shown"
    if len(segment.encode()) > SEGMENT_BYTES_MAX:
        return f"a part of it is longer than {SEGMENT_BYTES_MAX} bytes"
    return None


def _is_unseen(character: str) -> bool:
    return character in _BIDI or unicodedata.category(character) in {"Cc", "Zl", "Zp"}


def _is_visible(character: str) -> bool:
    return unicodedata.category(character)[0] not in "CZ" and character not in _BLANK


def _encoded(text: str) -> bytes | None:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None
