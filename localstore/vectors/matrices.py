"""The vectors that a process keeps in memory: bounded, shared by all its tenants, and never older than the file."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from threading import Lock
from typing import Final
from weakref import WeakKeyDictionary

from localstore.sqlite.database import Database
from localstore.vectors import reading, sqlite_vec
from localstore.vectors.blocks import Block, joined
from localstore.vectors.reading import Source
from localstore.vectors.states import State, changed_since, state_of
from localstore.vectors.values import Query

KEPT_BYTES_MAX: Final = 512 * 1024 * 1024
"""Room for 300,000 vectors of 384 dimensions; what does not fit is searched in the file."""

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


class Matrices:
    """Blocks of vectors by file, model and dimension; those used least lately go when there are too many."""

    def __init__(self, bytes_max: int = KEPT_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self._files: WeakKeyDictionary[Database, dict[Source, _Matrix]] = WeakKeyDictionary()
        self._lock = Lock()
        self._clock = count()

    def blocks(self, database: Database, connection: sqlite3.Connection, query: Query) -> Iterable[Block]:
        """Return blocks in which the query's nearest are, as the connection's read transaction sees them or even later.

        From memory if they are there: what changed since is read from the file and the rest kept. Of what does not fit
        into memory sqlite-vec chooses who is near, where it loads; else all is read as it is asked for.
        """
        source, now = Source(database.company_id, query.model, query.dimension), state_of(connection)
        with self._lock:
            known = self._files.get(database, {}).get(source)
        if known is not None:
            known.used = next(self._clock)
            if known.state >= now:
                return known.blocks
            blocks = _patched(connection, known, now, source)
            if blocks is not None:
                return self._keep(database, source, _Matrix(now, blocks, known.used))
        if reading.count(connection, source) * source.dimension * 4 > self.bytes_max:
            near = sqlite_vec.candidates(connection, source, query)
            return reading.read(connection, source) if near is None else near
        blocks = list(reading.read(connection, source))
        return self._keep(database, source, _Matrix(now, blocks, next(self._clock)))

    def _keep(self, database: Database, source: Source, matrix: _Matrix) -> list[Block]:
        with self._lock:
            of_file = self._files.setdefault(database, {})
            # Another reader may have seen a later state meanwhile.
            if source not in of_file or of_file[source].state < matrix.state:
                of_file[source] = matrix
            self._make_room()
        return matrix.blocks

    @property
    def bytes(self) -> int:
        """Return how much is kept."""
        return sum(matrix.bytes for of_file in self._files.values() for matrix in of_file.values())

    def _make_room(self) -> None:
        bytes_kept = self.bytes
        kept = [(matrix, of_file, source) for of_file in self._files.values() for source, matrix in of_file.items()]
        for matrix, of_file, source in sorted(kept, key=lambda each: each[0].used):
            if bytes_kept <= self.bytes_max:
                return
            bytes_kept -= matrix.bytes
            del of_file[source]


def _patched(connection: sqlite3.Connection, known: _Matrix, now: State, source: Source) -> list[Block] | None:
    """Return the blocks with what changed since; None where reading them all is called for."""
    changed = changed_since(connection, known.state, now)
    if changed is None:
        return None
    items = {item for model, item in changed if model == source.model}
    if not items:
        return known.blocks
    if 4 * len(items) > known.rows:
        return None
    fresh = reading.read_items(connection, source, items)
    blocks = [block.without(items) for block in known.blocks]
    if fresh is not None:
        if blocks and len(blocks[-1].items) < SMALL_ROWS:
            fresh = joined(blocks.pop(), fresh)
        blocks.append(fresh)
    return [block for block in blocks if block.items]


_matrices = Matrices()


def matrices() -> Matrices:
    """Return this process's."""
    return _matrices


def _begin_anew() -> None:
    global _matrices  # noqa: PLW0603 - what is one a process has to change with the process
    _matrices = Matrices()


# A thread that held the lock is not there in a forked child to release it.
os.register_at_fork(after_in_child=_begin_anew)
