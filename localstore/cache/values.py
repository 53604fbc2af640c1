"""What a cache keeps: JSON by orjson, and only values that come back equal to what was set."""

from __future__ import annotations

from typing import Any, Final

import orjson

from localstore.cache.failures import RefusedEntry
from localstore.errors import InvalidRow

_MADE: Final = b"\x01"
"""Begins a value that was made from rows. JSON never begins with it, and what was set by hand is plain JSON."""


def encode(value: object) -> bytes:
    """Return a value as JSON; raises InvalidRow for one that JSON cannot hold or would give back as another."""
    try:
        data = orjson.dumps(value)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise _refused(str(error)) from error
    # NaN becomes null, a tuple a list and a UUID a text, all of it silently: whoever got the value back would find
    # another one than on the day when the cache was empty.
    if orjson.loads(data) != value:
        raise _refused(f"in JSON this {type(value).__name__} would come back as another value")
    return data


def decode(data: bytes) -> Any:
    """Return the value that `encode` wrote; raises RefusedEntry for anything else."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        raise RefusedEntry("it is not JSON") from None


def bind(data: bytes, states: dict[str, str]) -> bytes:
    """Return the value's bytes with the states of the tables from whose rows it was made."""
    return _MADE + orjson.dumps(states, option=orjson.OPT_SORT_KEYS) + b"\n" + data if states else data


def unbind(stored: bytes) -> tuple[bytes, dict[str, str]]:
    """Return the value's bytes and the states that it was bound to; none for a value that was set by hand."""
    if not stored.startswith(_MADE):
        return stored, {}
    head, found, data = stored[len(_MADE) :].partition(b"\n")
    states = decode(head)
    if not found or not isinstance(states, dict):
        raise RefusedEntry("it does not say what it was made from")
    return data, states


def _refused(why: str) -> InvalidRow:
    return InvalidRow(
        f"a cache cannot keep this value: {why}",
        hint="give it what JSON can hold: None, booleans, integers of 64 bits, floats, texts, lists, dicts by texts",
    )
