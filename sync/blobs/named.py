"""Which objects must be in production: those that open batches name, and those that held rows wait for."""

from __future__ import annotations

import re
import sqlite3
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from localstore.blobs.table import TABLE, hash_place
from localstore.schema.postgres import COPIED_COLUMNS
from sync.bundle import Bundle

WAITS_FOR: Final = "object "
"""What a held row waits for whose bytes production lacks begins so; the hash follows."""

_HASH: Final = re.compile(r"[0-9a-f]{64}")
_WAITING: Final = (
    "SELECT h.key, h.waits_for, EXISTS (SELECT 1 FROM localstore_releases r WHERE r.tbl = h.tbl AND r.key = h.key) "
    "FROM localstore_held h WHERE h.tbl = ? AND h.reason = 'waits' AND h.waits_for LIKE ? || '%'"
)

_count = struct.Struct(">h")
_length = struct.Struct(">i")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A held row, by its key as the file has it, the object it waits for, and whether it is in line again."""

    key: str
    hash: str
    released: bool


def named_by(bundles: Iterable[Bundle]) -> frozenset[str]:
    """Return the hashes of the objects that the batches name; what is no hash names nothing."""
    return frozenset(digest for bundle in bundles for digest in _hashes(bundle) if _HASH.fullmatch(digest))


def waiting(file: sqlite3.Connection) -> list[Waiting]:
    """Return the held rows that wait for an object."""
    rows = file.execute(_WAITING, (TABLE, WAITS_FOR)).fetchall()
    found = [Waiting(key, waits_for.removeprefix(WAITS_FOR), bool(released)) for key, waits_for, released in rows]
    return [row for row in found if _HASH.fullmatch(row.hash)]


def _hashes(bundle: Bundle) -> Iterator[str]:
    table = next((table for table in bundle.head().tables if table.name == TABLE), None)
    place = None if table is None else hash_place(table)
    if place is None:
        return
    for chunk in bundle.chunks():
        if chunk.table == TABLE:
            yield from _fields(chunk.payload, len(COPIED_COLUMNS) + place)


def _fields(payload: bytes, wanted: int) -> Iterator[str]:
    """Read one field of each row of a binary COPY; NULLs are left out."""
    at = 0
    while at < len(payload):
        (fields,) = _count.unpack_from(payload, at)
        at += _count.size
        for field in range(fields):
            (size,) = _length.unpack_from(payload, at)
            at += _length.size
            if size >= 0:
                if field == wanted:
                    yield payload[at : at + size].decode()
                at += size
