"""Vectors whose truth is production's table and which are found in Qdrant, written to both in this order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg

from localstore.postgres.pool import Pool
from localstore.vectors.pgvector import PgVectors
from localstore.vectors.present import FOLLOW_LOCK, bring_present, remove_absent
from localstore.vectors.qdrant import COLLECTION, QdrantVectors
from localstore.vectors.qdrant_server import Qdrant
from localstore.vectors.values import Match, Query, Stored


class FollowedVectors(PgVectors):
    """A company's vectors in production, with Qdrant beside it for searches.

    A write is committed in production first. Then Qdrant is brought what production has by that time, one writer of
    the company after the other, so that it ends with what production ends with, whoever was the faster. If Qdrant does
    not answer, the error says so and the row is safe: writing it again brings it, and so does the next
    `localstore sync push --promote` or `promote` from anywhere, also where the program has died in between.
    """

    def __init__(
        self, pool: Pool, company_id: str, qdrant: Qdrant, schema: str = "public", collection: str = COLLECTION
    ) -> None:
        super().__init__(pool, company_id, schema)
        self._qdrant = QdrantVectors(qdrant, company_id, collection)

    def __repr__(self) -> str:
        return f"<FollowedVectors of {self._company} in {self._pool!r}, found in {self._qdrant!r}>"

    async def _put(self, model: str, vectors: list[Stored]) -> None:
        await super()._put(model, vectors)
        await self._bring(model, [vector.item for vector in vectors])

    async def _search(self, query: Query) -> list[Match]:
        return await self._qdrant.search(
            query.embedding, model=query.model, k=query.k, metric=query.metric, where=dict(query.where)
        )

    async def _delete(self, model: str, item: str) -> bool:
        deleted = await super()._delete(model, item)
        await self._bring(model, [item])
        return deleted

    async def _delete_model(self, model: str) -> int:
        deleted = await super()._delete_model(model)
        async with self._following() as connection:
            await remove_absent(connection, self._table, self._company, self._qdrant, model)
        return deleted

    async def _bring(self, model: str, items: Sequence[str]) -> None:
        async with self._following() as connection:
            addresses = [(model, item) for item in items]
            await bring_present(connection, self._table, self._company, addresses, self._qdrant)

    @asynccontextmanager
    async def _following(self) -> AsyncIterator[asyncpg.Connection]:
        """Hold the company's lock for a block, in a transaction of its own on the primary that writes nothing."""
        async with self._pool.transaction(self._company) as connection:
            await connection.execute(f"SELECT {FOLLOW_LOCK}", self._company)
            yield connection
