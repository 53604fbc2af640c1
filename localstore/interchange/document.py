"""JSON documents as text: read strictly, and edited member by member without touching the rest of the text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import orjson

# What JSON calls white space; Python's own idea of it is wider.
_SPACE = " \t\n\r"


class BrokenDocument(ValueError):
    """Raised when a text is not one JSON object; its message is the reason."""


def decode(data: bytes) -> str:
    """Return the bytes as text, without a byte order mark, which is no part of JSON."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BrokenDocument(f"not UTF-8 (byte {error.start})") from error


def parse(text: str) -> dict[str, Any]:
    """Return the object that the text holds.

    U+0000 and lone surrogates written as escapes are legal JSON and are read; NaN and Infinity are not. Raises
    `BrokenDocument`.
    """
    try:
        value = orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        value = _parse_patiently(text)
    if not isinstance(value, dict):
        raise BrokenDocument("not a JSON object")
    return value


def _parse_patiently(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise BrokenDocument(f"not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from error
    except RecursionError as error:
        raise BrokenDocument("not readable: nested too deeply") from error
    except BrokenDocument:
        raise
    except ValueError as error:
        raise BrokenDocument("not readable: a number has too many digits") from error


def _refuse_constant(name: str) -> NoReturn:
    raise BrokenDocument(f"not JSON: {name} is not a JSON value")


def dump(value: Any, *, indent: bool = False) -> str:
    """Return a value as JSON text that holds no raw surrogate, sorted as it is given."""
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else 0).decode()
    except TypeError:
        # Lone surrogates and integers beyond 64 bits are legal JSON, but only the standard library writes them.
        return json.dumps(value, allow_nan=False, indent=2 if indent else None)


def replace_members(text: str, members: Mapping[str, Any]) -> str:
    """Return the object's text with these top-level members; all other text stays as it is.

    A member that is there has its value replaced (the last one, where a name stands twice: the one that readers take);
    the others are added at the end.
    """
    spans: dict[str, tuple[int, int]] = {}
    end_of_last = -1
    for name, start, end in _members(text):
        spans[name] = (start, end)
        end_of_last = end
    added = [f"{dump(name)}: {dump(value)}" for name, value in members.items() if name not in spans]
    if added:
        if end_of_last < 0:
            end_of_last = text.index("{") + 1
            glue = ""
        else:
            glue = ", "
        text = text[:end_of_last] + glue + ", ".join(added) + text[end_of_last:]
    replaced = sorted(
        ((spans[name], value) for name, value in members.items() if name in spans),
        reverse=True,
        key=lambda item: item[0],
    )
    for (start, end), value in replaced:
        text = text[:start] + dump(value) + text[end:]
    return text


def _members(text: str) -> Iterator[tuple[str, int, int]]:
    """Give each top-level member's name and the span of its value."""
    decoder = json.JSONDecoder()
    place = _skip(text, text.index("{") + 1)
    while text[place] != "}":
        if text[place] == ",":
            place = _skip(text, place + 1)
        name, place = decoder.raw_decode(text, place)
        start = _skip(text, _skip(text, place) + 1)
        _, end = decoder.raw_decode(text, start)
        yield name, start, end
        place = _skip(text, end)


def _skip(text: str, place: int) -> int:
    while text[place] in _SPACE:
        place += 1
    return place
