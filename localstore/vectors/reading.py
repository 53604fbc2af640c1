"""Reading one model's vectors out of the tenant's file, block by block or item by item."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from localstore.vectors.blocks import Block, block_of

BLOCK_BYTES: Final = 16 * 1024 * 1024
"""What a search reads and multiplies at a time."""

FROM: Final = (
    "FROM main.vectors WHERE company_id = ? AND model = ? "
    "AND typeof(embedding) = 'blob' AND length(embedding) = ? AND typeof(item) = 'text'"
)
"""Rows that another tool wrote otherwise are no vectors of this dimension; the next push holds them by name."""

_SELECT: Final = "SELECT item, embedding, content_hash, metadata"


@dataclass(frozen=True, slots=True)
class Source:
    """A company's vectors of one model and dimension."""

    company_id: str
    model: str
    dimension: int

    @property
    def arguments(self) -> tuple[str, str, int]:
        """Return what `FROM` has to be told."""
        return self.company_id, self.model, 4 * self.dimension


def count(connection: sqlite3.Connection, source: Source) -> int:
    """Return how many vectors there are."""
    return int(connection.execute(f"SELECT count(*) {FROM}", source.arguments).fetchone()[0])


def read(connection: sqlite3.Connection, source: Source) -> Iterator[Block]:
    """Read all of them, some at a time."""
    cursor = connection.execute(f"{_SELECT} {FROM}", source.arguments)
    at_a_time = max(1, BLOCK_BYTES // (4 * source.dimension))
    while rows := cursor.fetchmany(at_a_time):
        yield block_of(rows, source.dimension)


def read_items(connection: sqlite3.Connection, source: Source, items: Iterable[str]) -> Block | None:
    """Read the vectors of these items as one block, None where none of them has one."""
    rows = []
    for item in items:
        rows += connection.execute(f"{_SELECT} {FROM} AND item = ?", (*source.arguments, item)).fetchall()
    return block_of(rows, source.dimension) if rows else None
