"""A reader of JSON as strict as `jsonb`, which knows the reason for a refusal and needs no recursion."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import Final, TypeAlias

from localstore.codec.numeric import encode_literal
from localstore.codec.values import DefectCode, Text, ValueDefect, defect, preview, too_large

DEPTH_MAX: Final = 10_000
"""PostgreSQL 15 to 18 refuse a document from about 14,500 levels on, with the default `max_stack_depth`."""

JSONB_BYTES_MAX: Final = 0x0FFF_FFFF
"""PostgreSQL's limit for the inside of one array or object."""

TOKEN_BYTES_MAX: Final = 12
"""What a token takes in `jsonb` beyond its length as text, at most: an entry, a header and padding."""

Tree: TypeAlias = "dict[str, Tree] | list[Tree] | str | bytes | bool | None"
"""A document as equality sees it; a number is its binary `numeric` without the scale."""

# No group is possessive: Python before 3.11.5 lets such a group match half of what it stands for, "1." for one.
_TOKEN: Final = re.compile(
    r"[ \t\n\r]*+(?:([{}\[\],:])"
    r'|("[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*")'
    r"|(-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?)"
    r"|(true|false|null)|\Z)"
)
_WORDS: Final[dict[str, bool | None]] = {"true": True, "false": False, "null": None}


def parse(document: bytes) -> Tree:
    """Return a document's tree, and raise ValueDefect for what jsonb refuses or drops."""
    value = Text(document)
    builder = _Builder(value)
    for mark, leaf in _tokens(value):
        if mark == "":
            builder.take(leaf)
        elif mark in (":", ","):
            builder.divide(mark)
        else:
            builder.close(mark)
    return builder.finish()


def same_trees(a: Tree, b: Tree) -> bool:
    """Compare without recursion: a document may be deeper than Python's stack."""
    pairs = [(a, b)]
    while pairs:
        one, other = pairs.pop()
        if isinstance(one, dict) and isinstance(other, dict):
            if one.keys() != other.keys():
                return False
            pairs.extend((one[key], other[key]) for key in one)
        elif isinstance(one, list) and isinstance(other, list):
            if len(one) != len(other):
                return False
            pairs.extend(zip(one, other, strict=True))
        elif type(one) is not type(other) or one != other:
            return False
    return True


class _Expected(Enum):
    """What the next token may be. The first ones of a container may also close it."""

    VALUE = auto()
    FIRST_VALUE = auto()
    KEY = auto()
    FIRST_KEY = auto()
    COLON = auto()
    MORE = auto()


class _Builder:
    """A tree that grows token by token. The outermost container is a list that the document stands in."""

    def __init__(self, value: Text) -> None:
        self.value = value
        self.root: list[Tree] = []
        self.containers: list[dict[str, Tree] | list[Tree]] = [self.root]
        self.expected = _Expected.VALUE
        self.key = ""
        self.jsonb_bytes = len(value)

    def take(self, leaf: Tree) -> None:
        """Add a key or a value; an object and an array are open from then on."""
        parent = self.containers[-1]
        self.jsonb_bytes += TOKEN_BYTES_MAX
        if self.expected in (_Expected.KEY, _Expected.FIRST_KEY) and isinstance(leaf, str) and isinstance(parent, dict):
            if leaf in parent:
                message = f'the JSON has the key "{preview(leaf)}" twice in one object, and jsonb would keep the last'
                raise defect(DefectCode.DUPLICATE_KEY, message, self.value)
            self.key = leaf
            self.expected = _Expected.COLON
            return
        if self.expected not in (_Expected.VALUE, _Expected.FIRST_VALUE):
            raise _malformed(self.value)
        if isinstance(parent, dict):
            parent[self.key] = leaf
        else:
            parent.append(leaf)
        self.expected = _Expected.MORE
        if isinstance(leaf, (dict, list)):
            self.open(leaf)

    def open(self, container: dict[str, Tree] | list[Tree]) -> None:
        """Go one level down."""
        if len(self.containers) > DEPTH_MAX:
            message = f"the JSON is nested more than {DEPTH_MAX:,} levels deep"
            raise defect(DefectCode.TOO_DEEP, message, self.value)
        self.containers.append(container)
        self.expected = _Expected.FIRST_KEY if isinstance(container, dict) else _Expected.FIRST_VALUE

    def divide(self, mark: str) -> None:
        """Go on behind a colon or a comma."""
        if mark == ":" and self.expected is _Expected.COLON:
            self.expected = _Expected.VALUE
        elif mark == "," and self.expected is _Expected.MORE and len(self.containers) > 1:
            self.expected = _Expected.KEY if isinstance(self.containers[-1], dict) else _Expected.VALUE
        else:
            raise _malformed(self.value)

    def close(self, mark: str) -> None:
        """Go one level up."""
        mine, empty = (
            ("}", _Expected.FIRST_KEY) if isinstance(self.containers[-1], dict) else ("]", _Expected.FIRST_VALUE)
        )
        if len(self.containers) == 1 or mark != mine or self.expected not in (_Expected.MORE, empty):
            raise _malformed(self.value)
        self.containers.pop()
        self.expected = _Expected.MORE

    def finish(self) -> Tree:
        """Return the tree of a document that is whole and small enough."""
        if self.expected is not _Expected.MORE or len(self.containers) > 1:
            raise _malformed(self.value)
        if self.jsonb_bytes > JSONB_BYTES_MAX:
            raise too_large(self.value, JSONB_BYTES_MAX)
        return self.root[0]


def _tokens(value: Text) -> Iterator[tuple[str, Tree]]:
    """Yield a closing or dividing mark, or an empty mark and a value; an object and an array begin empty."""
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        message = f"the JSON is not valid UTF-8 at byte {error.start:,}"
        raise defect(DefectCode.INVALID_UTF8, message, value) from None
    place = 0
    while match := _TOKEN.match(text, place):
        place = match.end()
        mark, string, number, word = match.groups()
        if mark == "{":
            yield "", {}
        elif mark == "[":
            yield "", []
        elif mark:
            yield mark, None
        elif string:
            yield "", _string(string, value)
        elif number:
            packed = encode_literal(number.encode(), value)
            yield "", packed[:6] + packed[8:]
        elif word:
            yield "", _WORDS[word]
        else:
            return
    raise _malformed(value)


def _string(token: str, value: Text) -> str:
    """Return what a string spells."""
    if "\\" not in token:
        return token[1:-1]
    string: str = json.loads(token)
    if "\0" in string:
        raise defect(DefectCode.NUL, "the JSON holds an escaped U+0000, which jsonb cannot store", value)
    if not string.isascii() and any("\ud800" <= character <= "\udfff" for character in string):
        message = "the JSON holds half of a surrogate pair, which jsonb cannot store"
        raise defect(DefectCode.LONE_SURROGATE, message, value)
    return string


def _malformed(value: Text) -> ValueDefect:
    return defect(DefectCode.MALFORMED, "the text is not JSON", value)
