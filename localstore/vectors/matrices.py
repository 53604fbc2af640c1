"""The vectors that a process keeps in memory: bounded, shared by all its tenants, and never older than the file."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from threading import Lock
from typing import Final
from weakref import WeakKeyDictionary

from localstore.sqlite.database import Database
from localstore.sqlite.generations import Generations
from localstore.vectors.blocks import Block, block_of
from localstore.vectors.table import VECTORS

KEPT_BYTES_MAX: Final = 512 * 1024 * 1024
"""Room for 300,000 vectors of 384 dimensions; what does not fit is read from the file at each search."""

BLOCK_BYTES: Final = 16 * 1024 * 1024
"""What a search reads and multiplies at a time."""


@dataclass(slots=True, eq=False)
class _Matrix:
    generation: str
    blocks: list[Block]
    bytes: int
    used: int


@dataclass(slots=True, eq=False)
class _OfFile:
    generations: Generations = field(default_factory=Generations)
    matrices: dict[tuple[str, int], _Matrix] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)


class Matrices:
    """Blocks of vectors by file, model and dimension; those used least lately go when there are too many."""

    def __init__(self, bytes_max: int = KEPT_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self._files: WeakKeyDictionary[Database, _OfFile] = WeakKeyDictionary()
        self._lock = Lock()
        self._clock = count()

    def blocks(self, database: Database, connection: sqlite3.Connection, model: str, dimension: int) -> Iterable[Block]:
        """Return the model's vectors as the connection's read transaction sees them: from memory if they are the same.

        They are kept for the next time if they fit, else read as they are asked for.
        """
        with self._lock:
            file = self._files.setdefault(database, _OfFile())
        with file.lock:
            generation = file.generations.read(connection, (VECTORS.name,))[VECTORS.name]
        known = file.matrices.get((model, dimension))
        if known is not None and known.generation == generation:
            known.used = next(self._clock)
            return known.blocks
        (rows,) = connection.execute(f"SELECT count(*) {_FROM}", _arguments(database, model, dimension)).fetchone()
        if rows * dimension * 4 > self.bytes_max:
            file.matrices.pop((model, dimension), None)
            return _read(database, connection, model, dimension)
        blocks = list(_read(database, connection, model, dimension))
        matrix = _Matrix(generation, blocks, sum(block.bytes for block in blocks), next(self._clock))
        with self._lock:
            file.matrices[model, dimension] = matrix
            self._make_room()
        return blocks

    @property
    def bytes(self) -> int:
        """Return how much is kept."""
        return sum(matrix.bytes for file in self._files.values() for matrix in file.matrices.values())

    def _make_room(self) -> None:
        kept = sorted(
            ((matrix.used, file, name) for file in self._files.values() for name, matrix in file.matrices.items()),
            key=lambda each: each[0],
        )
        for _, file, name in kept:
            if self.bytes <= self.bytes_max:
                return
            del file.matrices[name]


_FROM: Final = (
    "FROM main.vectors WHERE company_id = ? AND model = ? "
    "AND typeof(embedding) = 'blob' AND length(embedding) = ? AND typeof(item) = 'text'"
)
"""Rows that another tool wrote otherwise are no vectors of this dimension; the next push holds them by name."""


def _arguments(database: Database, model: str, dimension: int) -> tuple[str, str, int]:
    return database.company_id, model, 4 * dimension


def _read(database: Database, connection: sqlite3.Connection, model: str, dimension: int) -> Iterator[Block]:
    cursor = connection.execute(
        f"SELECT item, embedding, content_hash, metadata {_FROM}", _arguments(database, model, dimension)
    )
    at_a_time = max(1, BLOCK_BYTES // (4 * dimension))
    while rows := cursor.fetchmany(at_a_time):
        yield block_of(rows, dimension)


_matrices = Matrices()


def matrices() -> Matrices:
    """Return this process's."""
    return _matrices


def _begin_anew() -> None:
    global _matrices  # noqa: PLW0603 - what is one a process has to change with the process
    _matrices = Matrices()


# A thread that held the lock is not there in a forked child to release it.
os.register_at_fork(after_in_child=_begin_anew)
