"""Vectors in the tenant's own file: rows like any others, searched exactly in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import numpy as np

from localstore.errors import InvalidVector
from localstore.sqlite import mode
from localstore.sqlite.database import Database
from localstore.vectors import reading, table
from localstore.vectors.blocks import parsed, search
from localstore.vectors.interface import VectorsInterface
from localstore.vectors.matrices import matrices
from localstore.vectors.values import Match, Query, Stored, Vector, check_model, check_same_dimension, other_dimension

_KEY = "company_id = ? AND model = ? AND item = ?"


class Vectors(VectorsInterface):
    """The vectors in a tenant's file. They are captured and travel to production like all rows.

    A search sees what is committed, by whatever tool, and finds exactly the nearest.
    """

    def __init__(self, company_id: str, opened: Callable[[], Awaitable[Database]]) -> None:
        self._company = company_id
        self._opened = opened

    def __repr__(self) -> str:
        return f"<Vectors of {self._company}>"

    async def count(self, model: str | None = None) -> int:
        """Return how many vectors there are, of one model or of all."""
        rows, arguments = reading.SOUND, [self._company]
        if model is not None:
            rows, arguments = reading.OF_MODEL, [*arguments, check_model(model)]

        def work(connection: sqlite3.Connection) -> int:
            if not table.is_made(connection):
                return 0
            return int(connection.execute(f"SELECT count(*) {rows}", arguments).fetchone()[0])

        return await (await self._opened()).read(work)

    async def _put(self, model: str, vectors: list[Stored]) -> None:
        database = await self._opened()
        if await database.write(partial(_put_all, self._company, model, vectors)):
            await database.refresh()

    async def _search(self, query: Query) -> list[Match]:
        database = await self._opened()

        def work(connection: sqlite3.Connection) -> list[Match]:
            if not table.is_made(connection):
                return []
            known = reading.dimension(connection, self._company, query.model, query.dimension)
            if known is None:
                return []
            if known != query.dimension:
                raise other_dimension(query.model, known, query.dimension)
            return search(matrices().blocks(database, connection, query), query)

        return await database.read(work)

    async def _get(self, model: str, item: str) -> Vector | None:
        def work(connection: sqlite3.Connection) -> Vector | None:
            if not table.is_made(connection):
                return None
            row = reading.read_one(connection, self._company, model, item)
            if row is None:
                return None
            _, embedding, digest, metadata = row
            return Vector(item, np.frombuffer(embedding, "<f4"), digest, parsed(metadata or "{}"))

        return await (await self._opened()).read(work)

    async def _delete(self, model: str, item: str) -> bool:
        return await self._delete_where(_KEY, (self._company, model, item)) > 0

    async def _delete_model(self, model: str) -> int:
        return await self._delete_where("company_id = ? AND model = ?", (self._company, model))

    async def _delete_where(self, condition: str, arguments: Sequence[str]) -> int:
        def work(connection: sqlite3.Connection) -> int:
            if not table.is_made(connection):
                return 0
            return _guarded(
                self._company,
                lambda: connection.execute(f"DELETE FROM vectors WHERE {condition}", arguments).rowcount,
            )

        return await (await self._opened()).write(work)

    async def _hashes(self, model: str) -> dict[str, str | None]:
        def work(connection: sqlite3.Connection) -> dict[str, str | None]:
            if not table.is_made(connection):
                return {}
            return reading.read_hashes(connection, self._company, model)

        return await (await self._opened()).read(work)


def _put_all(company: str, model: str, vectors: Sequence[Stored], connection: sqlite3.Connection) -> bool:
    """Write the vectors, updating what is there; return whether the table had to be made."""
    made = not table.is_made(connection)
    if made:
        table.make(connection)
    check_same_dimension(vectors, model, reading.dimension(connection, company, model, vectors[0].dimension))
    _guarded(company, lambda: _write(connection, company, model, vectors))
    return made


def _write(connection: sqlite3.Connection, company: str, model: str, vectors: Sequence[Stored]) -> int:
    for vector in vectors:
        values = (vector.dimension, vector.content_hash, vector.metadata, vector.embedding)
        key = (company, model, vector.item)
        # Not an upsert: what a REPLACE would remove is marked before an insert, whether or not it is one.
        updated = connection.execute(
            f"UPDATE vectors SET dimension = ?, content_hash = ?, metadata = ?, embedding = ? WHERE {_KEY}",
            (*values, *key),
        ).rowcount
        if not updated:
            connection.execute(
                "INSERT INTO vectors (dimension, content_hash, metadata, embedding, company_id, model, item) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*values, *key),
            )
    return len(vectors)


def _guarded(company: str, work: Callable[[], int]) -> int:
    """Run a write; a closed file's refusal becomes our error, and so does that of a constraint somebody added."""
    try:
        return work()
    except sqlite3.IntegrityError as error:
        raise mode.refusal(error, company) or InvalidVector(
            f"the file refuses a vector: {error}", hint="look at the constraints and triggers of its table vectors"
        ) from error
