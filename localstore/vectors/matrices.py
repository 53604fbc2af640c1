"""The vectors that a process keeps in memory: bounded, shared by all its tenants, and never older than the file."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from threading import Lock
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

from localstore.sqlite.database import Database
from localstore.vectors.blocks import Block, block_of, joined
from localstore.vectors.states import State, changed_since, state_of

KEPT_BYTES_MAX: Final = 512 * 1024 * 1024
"""Room for 300,000 vectors of 384 dimensions; what does not fit is read from the file at each search."""

BLOCK_BYTES: Final = 16 * 1024 * 1024
"""What a search reads and multiplies at a time."""


SMALL_ROWS: Final = 1_024
"""Blocks of fewer rows are put together, so that many small writes do not make many small blocks."""


@dataclass(slots=True, eq=False)
class _Matrix:
    state: State
    blocks: list[Block]
    used: int

    @property
    def bytes(self) -> int:
        return sum(block.bytes for block in self.blocks)

    @property
    def rows(self) -> int:
        return sum(len(block.items) for block in self.blocks)


_Name: TypeAlias = tuple[str, int]
"""A model and a dimension."""


class Matrices:
    """Blocks of vectors by file, model and dimension; those used least lately go when there are too many."""

    def __init__(self, bytes_max: int = KEPT_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self._files: WeakKeyDictionary[Database, dict[_Name, _Matrix]] = WeakKeyDictionary()
        self._lock = Lock()
        self._clock = count()

    def blocks(self, database: Database, connection: sqlite3.Connection, model: str, dimension: int) -> Iterable[Block]:
        """Return the model's vectors as the connection's read transaction sees them, or as they are even later.

        From memory if they are there: what changed since is read from the file and the rest kept. What does not fit
        into memory is read as it is asked for.
        """
        name, now = (model, dimension), state_of(connection)
        with self._lock:
            known = self._files.get(database, {}).get(name)
        if known is not None:
            known.used = next(self._clock)
            if known.state >= now:
                return known.blocks
            blocks = _patched(database, connection, known, now, name)
            if blocks is not None:
                return self._keep(database, name, _Matrix(now, blocks, known.used))
        (rows,) = connection.execute(f"SELECT count(*) {_FROM}", _arguments(database, name)).fetchone()
        if rows * dimension * 4 > self.bytes_max:
            return _read(database, connection, name)
        return self._keep(database, name, _Matrix(now, list(_read(database, connection, name)), next(self._clock)))

    def _keep(self, database: Database, name: _Name, matrix: _Matrix) -> list[Block]:
        with self._lock:
            of_file = self._files.setdefault(database, {})
            # Another reader may have seen a later state meanwhile.
            if name not in of_file or of_file[name].state < matrix.state:
                of_file[name] = matrix
            self._make_room()
        return matrix.blocks

    @property
    def bytes(self) -> int:
        """Return how much is kept."""
        return sum(matrix.bytes for of_file in self._files.values() for matrix in of_file.values())

    def _make_room(self) -> None:
        bytes_kept = self.bytes
        kept = [(matrix, of_file, name) for of_file in self._files.values() for name, matrix in of_file.items()]
        for matrix, of_file, name in sorted(kept, key=lambda each: each[0].used):
            if bytes_kept <= self.bytes_max:
                return
            bytes_kept -= matrix.bytes
            del of_file[name]


_SELECT: Final = "SELECT item, embedding, content_hash, metadata"
_FROM: Final = (
    "FROM main.vectors WHERE company_id = ? AND model = ? "
    "AND typeof(embedding) = 'blob' AND length(embedding) = ? AND typeof(item) = 'text'"
)
"""Rows that another tool wrote otherwise are no vectors of this dimension; the next push holds them by name."""


def _arguments(database: Database, name: _Name) -> tuple[str, str, int]:
    return database.company_id, name[0], 4 * name[1]


def _read(database: Database, connection: sqlite3.Connection, name: _Name) -> Iterator[Block]:
    cursor = connection.execute(f"{_SELECT} {_FROM}", _arguments(database, name))
    at_a_time = max(1, BLOCK_BYTES // (4 * name[1]))
    while rows := cursor.fetchmany(at_a_time):
        yield block_of(rows, name[1])


def _patched(
    database: Database, connection: sqlite3.Connection, known: _Matrix, now: State, name: _Name
) -> list[Block] | None:
    """Return the blocks with what changed since; None where reading them all is called for."""
    changed = changed_since(connection, known.state, now)
    if changed is None:
        return None
    items = {item for model, item in changed if model == name[0]}
    if not items:
        return known.blocks
    if 4 * len(items) > known.rows:
        return None
    rows = []
    for item in items:
        rows += connection.execute(f"{_SELECT} {_FROM} AND item = ?", (*_arguments(database, name), item)).fetchall()
    blocks = [block.without(items) for block in known.blocks]
    fresh = [block_of(rows, name[1])] if rows else []
    if blocks and fresh and len(blocks[-1].items) < SMALL_ROWS:
        fresh = [joined(blocks.pop(), fresh[0])]
    return [block for block in (*blocks, *fresh) if block.items]


_matrices = Matrices()


def matrices() -> Matrices:
    """Return this process's."""
    return _matrices


def _begin_anew() -> None:
    global _matrices  # noqa: PLW0603 - what is one a process has to change with the process
    _matrices = Matrices()


# A thread that held the lock is not there in a forked child to release it.
os.register_at_fork(after_in_child=_begin_anew)
