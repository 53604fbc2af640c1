"""Values as SQLite stores them, and what is said of one that production cannot hold."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeAlias

PREVIEW_CHARACTERS_MAX: Final = 80
"""A preview goes into a table's cell and into a line of a terminal."""

FIELD_BYTES_MAX: Final = 256 * 1024 * 1024
"""A staged row holds a value and its base, and undo keeps it as text (twice the bytes of a blob); PostgreSQL
forms each of these in memory below 1 GiB. What is larger belongs into the blob store."""


class Text(bytes):
    """The bytes of a TEXT value, undecoded.

    Set as a connection's `text_factory` it tells text from a BLOB (plain `bytes`) and lets values through that are
    not valid UTF-8, so that one of them does not end the reading of a table.
    """

    __slots__ = ()


Value: TypeAlias = int | float | Text | bytes
"""A value of SQLite that is not NULL."""


class DefectCode(StrEnum):
    """Why a value cannot go to the other side; a stable word for programs."""

    STORAGE_CLASS = "storage_class"
    NUL = "nul"
    INVALID_UTF8 = "invalid_utf8"
    LONE_SURROGATE = "lone_surrogate"
    MALFORMED = "malformed"
    OUT_OF_RANGE = "out_of_range"
    INEXACT = "inexact"
    DUPLICATE_KEY = "duplicate_key"
    TOO_DEEP = "too_deep"
    TOO_LARGE = "too_large"


class ValueDefect(Exception):
    """Raised when a value would be refused, or changed silently, by the side that it goes to.

    `code` is a `DefectCode`, `message` one sentence for people, `preview` the escaped beginning of the value, at most
    80 characters and never a raw control character, `storage` SQLite's storage class where the value came from SQLite.
    """

    def __init__(self, code: str, message: str, preview: str, storage: str = "") -> None:
        super().__init__(code, message, preview, storage)
        self.code: Final = str(code)
        self.message: Final = message
        self.preview: Final = preview
        self.storage: Final = storage

    def __str__(self) -> str:
        """Return the message."""
        return self.message

    def to_json(self) -> dict[str, str]:
        """Return the defect as plain JSON values; production's jsonb takes every one of them."""
        return {"code": self.code, "message": self.message, "preview": self.preview, "storage": self.storage}


def storage_class(value: Value) -> str:
    """Return SQLite's word for how a value is stored, as `typeof()` does.

    Raise TypeError for what a connection with the right `text_factory` never gives, such as a `str`.
    """
    if isinstance(value, Text):
        return "text"
    if isinstance(value, bytes):
        return "blob"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "real"
    raise TypeError(f"{type(value).__name__} is not what a connection gives whose text_factory is Text")


def preview(value: Value | str) -> str:
    r"""Return the beginning of a value in printable characters, at most 80 of them.

    Control, bidirectional, unassigned and undecodable characters are escaped, so that neither a terminal nor
    production's jsonb is harmed by them. A blob is shown as SQLite's literal.
    """
    if isinstance(value, str):
        shown = _escaped(value[:PREVIEW_CHARACTERS_MAX])
        whole = len(value) <= PREVIEW_CHARACTERS_MAX
    elif isinstance(value, Text):
        begin = bytes(value[: 4 * PREVIEW_CHARACTERS_MAX])
        shown = _escaped(begin.decode("utf-8", "backslashreplace"))
        whole = len(begin) == len(value)
    elif isinstance(value, bytes):
        shown = f"x'{value[:PREVIEW_CHARACTERS_MAX].hex()}'"
        whole = len(value) <= PREVIEW_CHARACTERS_MAX
    else:
        shown, whole = repr(value), True
    if whole and len(shown) <= PREVIEW_CHARACTERS_MAX:
        return shown
    return shown[: PREVIEW_CHARACTERS_MAX - 1] + "…"


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


def defect(code: DefectCode, message: str, value: Value) -> ValueDefect:
    """Build the defect of a value that came from SQLite."""
    return ValueDefect(code, message, preview(value), storage_class(value))


def misplaced(kind: str, value: Value) -> ValueDefect:
    """Build the defect of a value whose storage class its column's kind does not have."""
    storage = storage_class(value)
    article = "an" if kind[0] in "aeiou" else "a"
    message = f"{article} {kind} column holds a value that SQLite stores as {storage}"
    return defect(DefectCode.STORAGE_CLASS, message, value)


def too_large(value: Text | bytes, limit: int = FIELD_BYTES_MAX) -> ValueDefect:
    """Build the defect of a value that has more bytes than production is given."""
    return defect(DefectCode.TOO_LARGE, f"the value has {len(value):,} bytes, more than {limit:,}", value)
