"""What is shown of values that differ: a line's worth, around the place where two long texts part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import orjson

from localstore.codec import ValueDefect, decode_binary, preview
from localstore.schema.tables import Kind

if TYPE_CHECKING:
    from sync.verify.frames import Defects, Frames

CONTEXT: Final = 24
"""Characters shown before the place where two texts part."""

_CHUNK: Final = 4_096
_ROW_COLUMNS: Final = 4


def both(kind: Kind, ours: bytes | None, theirs: bytes | None) -> tuple[str | None, str | None]:
    """Return the previews of two values of a column; None for NULL."""
    if ours is not None and theirs is not None and kind in (Kind.TEXT, Kind.JSON):
        one, other = _text(kind, ours), _text(kind, theirs)
        start = _parting(one, other) - CONTEXT
        if start > 0:
            return "…" + preview(one[start:]), "…" + preview(other[start:])
        return preview(one), preview(other)
    return _one(kind, ours), _one(kind, theirs)


def row_shown(frames: Frames, fields: Sequence[bytes | None], defects: Defects) -> str:
    """Return the beginning of a row: its first columns beside the key."""
    rest = [at for at, column in enumerate(frames.columns) if column.name not in frames.table.production_key]
    shown = []
    for at in rest[:_ROW_COLUMNS]:
        value = defects[at][0] if at in defects else _one(frames.columns[at].kind, fields[at])
        shown.append(f"{frames.columns[at].name}={value}")
    return preview(", ".join(shown))


def _one(kind: Kind, data: bytes | None) -> str | None:
    if data is None:
        return None
    try:
        # Only its beginning is shown of a text, so only that is decoded.
        return (
            preview(data[:_CHUNK].decode(errors="ignore")) if kind is Kind.TEXT else preview(decode_binary(kind, data))
        )
    except ValueDefect as defect:
        return defect.preview


def _text(kind: Kind, data: bytes) -> str:
    if kind is not Kind.JSON:
        return data.decode()
    try:
        # Order of keys and spaces aside, so that what is shown is what differs.
        return orjson.dumps(orjson.loads(data[1:]), option=orjson.OPT_SORT_KEYS).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return data[1:].decode()


def _parting(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    at = 0
    while at < len(one) and one[at : at + _CHUNK] == other[at : at + _CHUNK]:
        at += _CHUNK
    pairs = zip(one[at : at + _CHUNK], other[at : at + _CHUNK], strict=False)
    return at + next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)) - at)
