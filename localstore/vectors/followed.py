"""Vectors whose truth is production's table and which are found in Qdrant, written to both in this order."""

from __future__ import annotations

from localstore.postgres.pool import Pool
from localstore.vectors.pgvector import PgVectors
from localstore.vectors.qdrant import COLLECTION, QdrantVectors
from localstore.vectors.qdrant_server import Qdrant
from localstore.vectors.values import Match, Query, Stored


class FollowedVectors(PgVectors):
    """A company's vectors in production, with Qdrant beside it for searches.

    A write is committed in production first. If Qdrant then does not answer, the error says so and the row is safe:
    writing it again brings it, and so does the next `localstore sync push --promote`, which follows all of production.
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
        await self._qdrant.bring(model, vectors, ())

    async def _search(self, query: Query) -> list[Match]:
        return await self._qdrant.search(
            query.embedding, model=query.model, k=query.k, metric=query.metric, where=dict(query.where)
        )

    async def _delete(self, model: str, item: str) -> bool:
        deleted = await super()._delete(model, item)
        await self._qdrant.bring(model, (), (item,))
        return deleted

    async def _delete_model(self, model: str) -> int:
        deleted = await super()._delete_model(model)
        await self._qdrant.delete_model(model)
        return deleted
