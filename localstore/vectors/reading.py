"""Reading one model's vectors out of the tenant's file, block by block or item by item.

Another tool may have written anything into the table, and SQLite keeps it. What is no vector is left out of every read,
and never stands in the way of those that are; the next push holds it by name.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from localstore.codec.vector import DIMENSIONS_MAX
from localstore.vectors.blocks import Block, block_of
from localstore.vectors.values import has_direction

BLOCK_BYTES: Final = 16 * 1024 * 1024
"""What a search reads and multiplies at a time."""

SOUND: Final = (
    "FROM main.vectors WHERE company_id = ? AND typeof(item) = 'text' AND typeof(embedding) = 'blob' "
    f"AND length(embedding) % 4 = 0 AND length(embedding) BETWEEN 4 AND {4 * DIMENSIONS_MAX}"
)
"""The rows that are vectors, as far as SQL can tell; that one has no direction is found out by its numbers."""

OF_MODEL: Final = f"{SOUND} AND model = ?"

OF_DIMENSION: Final = f"{OF_MODEL} AND length(embedding) = ?"

# As bytes: text that is no UTF-8, which SQLite keeps, too, would end the whole statement.
_TEXTS: Final = "CAST(item AS BLOB), {}, ".format(
    ", ".join(f"CASE typeof({name}) WHEN 'text' THEN CAST({name} AS BLOB) END" for name in ("content_hash", "metadata"))
)

_SELECT: Final = f"SELECT {_TEXTS} embedding"

Row: TypeAlias = tuple[str, bytes, str | None, str | None]
"""A vector's item, embedding, content hash and metadata."""


@dataclass(frozen=True, slots=True)
class Source:
    """A company's vectors of one model and dimension."""

    company_id: str
    model: str
    dimension: int

    @property
    def arguments(self) -> tuple[str, str, int]:
        """Return what `OF_DIMENSION` has to be told."""
        return self.company_id, self.model, 4 * self.dimension


def dimension(connection: sqlite3.Connection, company: str, model: str, wanted: int) -> int | None:
    """Return `wanted` if the model has vectors of that dimension, else another one that it has, or None."""
    for condition, arguments in ((OF_DIMENSION, (company, model, 4 * wanted)), (OF_MODEL, (company, model))):
        for (embedding,) in connection.execute(f"SELECT embedding {condition}", arguments):
            if has_direction(np.frombuffer(embedding, "<f4")):
                return len(embedding) // 4
    return None


def count(connection: sqlite3.Connection, source: Source) -> int:
    """Return how many vectors there are."""
    return int(connection.execute(f"SELECT count(*) {OF_DIMENSION}", source.arguments).fetchone()[0])


def read(connection: sqlite3.Connection, source: Source) -> Iterator[Block]:
    """Read all of them, some at a time."""
    cursor = connection.execute(f"{_SELECT} {OF_DIMENSION}", source.arguments)
    at_a_time = max(1, BLOCK_BYTES // (4 * source.dimension))
    while rows := cursor.fetchmany(at_a_time):
        yield block_of(_decoded(rows), source.dimension)


def read_items(connection: sqlite3.Connection, source: Source, items: Iterable[str]) -> Block | None:
    """Read the vectors of these items as one block, None where none of them has one."""
    rows: list[Row] = []
    for item in items:
        rows += _decoded(connection.execute(f"{_SELECT} {OF_DIMENSION} AND item = ?", (*source.arguments, item)))
    return block_of(rows, source.dimension) if rows else None


def read_one(connection: sqlite3.Connection, company: str, model: str, item: str) -> Row | None:
    """Return an item's vector, None where it has none."""
    rows = _decoded(connection.execute(f"{_SELECT} {OF_MODEL} AND item = ?", (company, model, item)))
    return next((row for row in rows if has_direction(np.frombuffer(row[1], "<f4"))), None)


def read_hashes(connection: sqlite3.Connection, company: str, model: str) -> dict[str, str | None]:
    """Return the content hashes of a model's items."""
    rows = _decoded(connection.execute(f"SELECT {_TEXTS} x'' {OF_MODEL}", (company, model)))
    return {item: digest for item, _, digest, _ in rows}


def _decoded(rows: Iterable[Sequence[Any]]) -> list[Row]:
    """Return rows with their texts; those whose item is no text are no vectors, and elsewhere such a text is none."""
    found: list[Row] = []
    for item, digest, metadata, embedding in rows:
        address = _text(item)
        if address is not None:
            found.append((address, embedding, _text(digest), _text(metadata)))
    return found


def _text(data: bytes | None) -> str | None:
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        return None
