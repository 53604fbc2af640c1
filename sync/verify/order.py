"""The order in which both sides are walked: what two encoded key parts are compared by."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

from localstore.codec.parse import Tree, parse
from localstore.schema.tables import Kind

Place: TypeAlias = tuple[Any, ...]
"""Where a row stands: an integer or bytes for each part of its key, so that SQLite sorts it as Python does."""

_LONG: Final = struct.Struct(">q")
_INT: Final = struct.Struct(">i")
_SIGN: Final = 1 << 63
_ALL: Final = (1 << 64) - 1


def comparable(kind: Kind) -> Callable[[bytes], int | bytes]:
    """Return what turns a part in production's binary format into what it is ordered by.

    Parts that are equal to production give equal results. For most kinds the order is production's own, too; nothing
    relies on it, because whoever walks a side checks that it is in order and sorts it where it is not.
    """
    return _COMPARABLES.get(kind, bytes)


def _long(data: bytes) -> int:
    return cast("int", _LONG.unpack(data)[0])


def _int(data: bytes) -> int:
    return cast("int", _INT.unpack(data)[0])


def _real(data: bytes) -> bytes:
    bits = int.from_bytes(data, "big")
    if bits == _SIGN:
        bits = 0  # Minus zero is zero.
    return (bits ^ _SIGN if bits < _SIGN else bits ^ _ALL).to_bytes(8, "big")


def _numeric(data: bytes) -> bytes:
    return data[:6] + data[8:]


def _document(data: bytes) -> bytes:
    try:
        return repr(_sorted(parse(data[1:]))).encode()
    except RecursionError:
        return data  # Deeper than any index entry of production is long.


def _sorted(tree: Tree) -> object:
    if isinstance(tree, dict):
        return {key: _sorted(tree[key]) for key in sorted(tree)}
    return [_sorted(item) for item in tree] if isinstance(tree, list) else tree


_COMPARABLES: Final[dict[Kind, Callable[[bytes], int | bytes]]] = {
    Kind.INTEGER: _long,
    Kind.TIMESTAMP: _long,
    Kind.TIME: _long,
    Kind.DATE: _int,
    Kind.REAL: _real,
    Kind.NUMERIC: _numeric,
    Kind.JSON: _document,
}


class OutOfOrder(Exception):
    """Raised when a side does not come in the order of its keys, and so has to be sorted first."""

    def __init__(self, side: str) -> None:
        super().__init__(side)
        self.side = side
