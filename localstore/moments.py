"""Stored times: how any spelling of one is read, and how SQLite puts times of several spellings in order.

Whatever we write has one form, `YYYY-MM-DD HH:MM:SS.ffffff` in UTC, whose order as text is the order of time. Other
tools write the same moments in other spellings, with a `T`, an offset or fewer digits, and text does not order those.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

MOMENT: Final = "localstore_moment"
"""The function that every connection of ours has: `moment_text` of a stored time's bytes."""

_LENGTH_MIN: Final = len("2024-01-31")
# Production is given a blank before the offset, and an offset with any of its colons; Python reads neither.
_OFFSET: Final = re.compile(r"(.{16,}?) ?(Z|[+-][0-9]{2})(?::?([0-9]{2})(?::?([0-9]{2}))?)?")

_DAY: Final = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9] "
_REST: Final = ":[0-5][0-9]:[0-5][0-9]." + "[0-9]" * 6


def read_time(text: str) -> datetime | None:
    """Return the moment in UTC of every spelling that production is given, and of what else Python reads.

    Without an offset it is taken as UTC. What is no time, or none of the years 1 to 9999, is None.
    """
    text = text.strip()
    if len(text) < _LENGTH_MIN:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        spelled = _OFFSET.fullmatch(text)
        if spelled is None:
            return None
        try:
            moment = datetime.fromisoformat(spelled[1] + ":".join(part for part in spelled.groups()[1:] if part))
        except ValueError:
            return None
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        return None


def moment_text(stored: bytes | None) -> str | None:
    """Return a stored time in the form that we write; None for what is no time."""
    moment = None if stored is None else read_time(stored.decode(errors="replace"))
    return None if moment is None else moment.replace(tzinfo=None).isoformat(" ", "microseconds")


def otherwise(column: str) -> str:
    """Return SQLite's condition that a column holds something else than NULL and a time in the form that we write.

    Its words are those of partial indexes, which serve only queries that use the same. `IS NOT NULL` is not among
    them: SQLite would rather seek by that in an index of all rows.
    """
    return (
        f"typeof({column}) <> 'null' AND (typeof({column}) <> 'text' OR {column} NOT GLOB '{_DAY}[01][0-9]{_REST}' "
        f"AND {column} NOT GLOB '{_DAY}2[0-3]{_REST}')"
    )


def moment_of(column: str) -> str:
    """Return SQLite's expression of the moment that a column holds, as the text that orders it; NULL for none."""
    return f"{MOMENT}(CAST({column} AS BLOB))"


def ordered(column: str) -> str:
    """Return SQLite's expression that puts a column's times in order, and calls nothing for those that are already."""
    return f"CASE WHEN {otherwise(column)} THEN {moment_of(column)} ELSE {column} END"
