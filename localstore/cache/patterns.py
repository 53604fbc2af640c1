"""Patterns over keys, read in one place so that they mean the same whatever holds the keys.

`*` is any run of characters, `?` one character, `[abc]`, `[a-z]` and `[^a]` one of (or outside) a set, and a backslash
takes the next character as it is. A `[` that nothing closes is an ordinary character, and so is a `\\` at the end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from localstore.cache.keys import KEY_BYTES_MAX
from localstore.errors import InvalidIdentifier
from localstore.identifiers import preview

PATTERN_BYTES_MAX: Final = 4 * KEY_BYTES_MAX
"""Room for the longest key with each of its characters in brackets; a longer pattern only takes long to decide."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern: the text with which every match begins, and the expression that decides."""

    literal: str
    expression: re.Pattern[str]

    def matches(self, key: str) -> bool:
        """Return whether the whole key matches."""
        return self.expression.fullmatch(key) is not None


def check_pattern(text: str) -> str:
    """Return `text` when it can be a pattern: any text that UTF-8 can hold, up to PATTERN_BYTES_MAX bytes of it."""
    try:
        if len(text.encode()) <= PATTERN_BYTES_MAX:
            return text
    except (UnicodeEncodeError, AttributeError):
        pass
    raise InvalidIdentifier(
        f"{preview(text)} cannot be a pattern of cache keys",
        hint=f"give a text of at most {PATTERN_BYTES_MAX} bytes in UTF-8",
    )


@lru_cache(maxsize=256)
def compile_pattern(text: str) -> Pattern:
    """Return the pattern that a checked `text` describes."""
    fixed = [""]
    literal: list[str] = []
    place, plain = 0, True
    while place < len(text):
        part, length, character = _next(text, place)
        place += length
        plain = plain and character is not None
        if plain and character is not None:
            literal.append(character)
        if part is None:
            fixed.append("")
        else:
            fixed[-1] += part
    return Pattern("".join(literal), re.compile(_joined(fixed), re.DOTALL))


def _joined(fixed: list[str]) -> str:
    """Return one expression for fixed pieces with a run between any two.

    Each piece but the last is taken where it is found first and never looked for again, which changes no answer and
    keeps a pattern of many runs from taking forever.
    """
    first, *others = fixed
    if not others:
        return first
    return first + "".join(f"(?>.*?{piece})" for piece in others[:-1] if piece) + ".*" + others[-1]


def _next(text: str, place: int) -> tuple[str | None, int, str | None]:
    """Return the next piece as an expression (None: a run), its length, and the character if it is one."""
    character = text[place]
    if character == "*":
        return None, 1, None
    if character == "?":
        return ".", 1, None
    if character == "[":
        end = _closing(text, place + 1)
        if end is not None:
            return _set(text[place + 1 : end]), end + 1 - place, None
    if character == "\\" and place + 1 < len(text):
        return re.escape(text[place + 1]), 2, text[place + 1]
    return re.escape(character), 1, character


def _closing(text: str, place: int) -> int | None:
    while place < len(text):
        if text[place] == "]":
            return place
        place += 2 if text[place] == "\\" else 1
    return None


def _set(inside: str) -> str:
    """Return the expression of a set; an empty one matches nothing, an empty one turned round anything."""
    inverted = inside.startswith("^")
    members = _characters(inside[inverted:])
    ranges: list[str] = []
    place = 0
    while place < len(members):
        character = members[place][0]
        if place + 2 < len(members) and members[place + 1] == ("-", False):
            first, last = sorted((character, members[place + 2][0]))
            ranges.append(f"{re.escape(first)}-{re.escape(last)}")
            place += 3
        else:
            ranges.append(re.escape(character))
            place += 1
    if not ranges:
        return "." if inverted else "(?!)"
    return f"[{'^' if inverted else ''}{''.join(ranges)}]"


def _characters(inside: str) -> list[tuple[str, bool]]:
    """Return the characters of a set, each with whether a backslash stood before it."""
    found: list[tuple[str, bool]] = []
    place = 0
    while place < len(inside):
        escaped = inside[place] == "\\" and place + 1 < len(inside)
        place += escaped
        found.append((inside[place], escaped))
        place += 1
    return found
