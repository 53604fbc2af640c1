"""Vectors in Qdrant: one collection for all tenants, of which every call sees its own tenant's points alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, TypeVar
from uuid import UUID, uuid5

import numpy as np
from qdrant_client import models

from localstore.identifiers import check_tenant_id
from localstore.vectors.blocks import block_of, parsed, search
from localstore.vectors.interface import VectorsInterface
from localstore.vectors.qdrant_server import Qdrant, translated
from localstore.vectors.values import (
    METRICS,
    Match,
    Metric,
    Query,
    Scalar,
    Stored,
    Vector,
    check_model,
    check_same_dimension,
    other_dimension,
    scalar,
)

T = TypeVar("T")

COLLECTION: Final = "localstore"

POINTS_AT_A_TIME: Final = 256
"""A request of this many vectors of 1,536 dimensions stays well below a server's 32 MiB."""

ROWS_AT_A_TIME: Final = 1_000
"""What is listed in one request."""

MORE: Final = 16
"""So many more than asked for are fetched: Qdrant knows no order among equal scores."""

TENANT_LINKS: Final = 16
"""Qdrant's own default number of links, but for a graph of each tenant's points instead of one of all."""

_NAMESPACE: Final = UUID("5b0d6a52-6f0c-5a53-9a0e-3f6a4f2a8f5c")
_DISTANCES: Final = {
    "cosine": models.Distance.COSINE,
    "dot": models.Distance.DOT,
    "l2": models.Distance.EUCLID,
}
_RAW: Final[Metric] = "dot"
"""The metric whose vectors Qdrant keeps as they were given: those for the cosine lose their length."""


class QdrantVectors(VectorsInterface):
    """A company's vectors in Qdrant. Every call filters by company, of which, with model and item, an id is made.

    A point has a vector for each metric, named by dimension and metric. Qdrant has no transactions: a put of more than
    256 vectors that is cut off may be there in part, and putting them again completes it.
    """

    def __init__(self, qdrant: Qdrant, company_id: str, collection: str = COLLECTION) -> None:
        self._qdrant = qdrant
        self._client = qdrant.client
        self._company = check_tenant_id(company_id)
        self._collection = collection
        self._names: set[str] | None = None

    def __repr__(self) -> str:
        return f"<QdrantVectors of {self._company} in {self._qdrant!r}>"

    async def count(self, model: str | None = None) -> int:
        """Return how many vectors there are, of one model or of all."""
        mine = self._filter(None if model is None else check_model(model))
        with translated(self._qdrant):
            if not await self._known():
                return 0
            return (await self._client.count(self._collection, count_filter=mine, exact=True)).count

    async def bring(self, model: str, vectors: Sequence[Stored], gone: Iterable[str]) -> None:
        """Make these items of a model what they are elsewhere: those in `gone` have no vector any more. Runs again."""
        with translated(self._qdrant):
            if vectors:
                await self._prepare({vector.dimension for vector in vectors})
            for some in _runs(vectors):
                points = [self._point(model, vector) for vector in some]
                await self._client.upsert(self._collection, points=points, wait=True)
            if not await self._known():
                return
            for items in _runs(gone):
                chosen = models.PointIdsList(points=[self._id(model, item) for item in items])
                await self._client.delete(self._collection, points_selector=chosen, wait=True)

    async def addresses(self, model: str | None = None) -> AsyncIterator[list[tuple[str, str]]]:
        """Yield the models and items of all vectors, or of one model's, some at a time; they may go meanwhile."""
        with translated(self._qdrant):
            async for records in self._all(self._filter(model), ["model", "item"]):
                yield [(record["model"], record["item"]) for record in records]

    async def _put(self, model: str, vectors: list[Stored]) -> None:
        with translated(self._qdrant):
            check_same_dimension(vectors, model, await self._dimension(model))
        await self.bring(model, vectors, ())

    async def _search(self, query: Query) -> list[Match]:
        with translated(self._qdrant):
            limit = query.k + MORE
            while True:
                points = await self._nearest(query, limit)
                if len(points) < limit or _is_beyond(points[-1].score, points[query.k - 1].score):
                    break
                limit *= 2
            if not points:
                await self._refuse_other_dimension(query)
        # Measured again here, in 64 bits: equal vectors get equal scores, and all places give the same ones.
        rows = [_row(point, query.dimension) for point in points]
        asked = Query(query.model, query.embedding, query.k, query.metric, ())
        return search([block_of(rows, query.dimension)] if rows else [], asked)

    async def _refuse_other_dimension(self, query: Query) -> None:
        known = await self._dimension(query.model)
        if known is not None and known != query.dimension:
            raise other_dimension(query.model, known, query.dimension)

    async def _nearest(self, query: Query, limit: int) -> list[models.ScoredPoint]:
        if _name(query.dimension, query.metric) not in await self._known():
            return []
        found = await self._client.query_points(
            self._collection,
            query=query.embedding.tolist(),
            using=_name(query.dimension, query.metric),
            query_filter=self._filter(query.model, query.where),
            # The engine in the client always is exact.
            search_params=None if self._qdrant.in_process else models.SearchParams(exact=True),
            limit=limit,
            with_payload=True,
            with_vectors=[_name(query.dimension, _RAW)],
        )
        return found.points

    async def _get(self, model: str, item: str) -> Vector | None:
        with translated(self._qdrant):
            record = await self._record(model, item, with_vectors=True)
        if record is None:
            return None
        _, data, digest, metadata = _row(record, (record.payload or {})["dimension"])
        stored = Stored(item, len(data) // 4, digest, metadata, data)
        return Vector(item, stored.floats, digest, parsed(metadata))

    async def _delete(self, model: str, item: str) -> bool:
        with translated(self._qdrant):
            if await self._record(model, item) is None:
                return False
        await self.bring(model, (), (item,))
        return True

    async def _delete_model(self, model: str) -> int:
        count = await self.count(model)
        if count:
            chosen = models.FilterSelector(filter=self._filter(model))
            with translated(self._qdrant):
                await self._client.delete(self._collection, points_selector=chosen, wait=True)
        return count

    async def _hashes(self, model: str) -> dict[str, str | None]:
        with translated(self._qdrant):
            found = self._all(self._filter(model), ["item", "content_hash"])
            return {record["item"]: record["content_hash"] async for records in found for record in records}

    async def _record(self, model: str, item: str, *, with_vectors: bool = False) -> models.Record | None:
        if not await self._known():
            return None
        found = await self._client.retrieve(self._collection, ids=[self._id(model, item)], with_vectors=with_vectors)
        mine = {"company_id": self._company, "model": model, "item": item}
        return next((record for record in found if mine.items() <= (record.payload or {}).items()), None)

    async def _all(self, mine: models.Filter, fields: list[str]) -> AsyncIterator[list[dict[str, Any]]]:
        if not await self._known():
            return
        offset: Any = None
        while True:
            records, offset = await self._client.scroll(
                self._collection, scroll_filter=mine, limit=ROWS_AT_A_TIME, offset=offset, with_payload=fields
            )
            yield [record.payload or {} for record in records]
            if offset is None:
                return

    async def _dimension(self, model: str) -> int | None:
        """Return the dimension of the model's vectors, None where it has none."""
        if not await self._known():
            return None
        records, _ = await self._client.scroll(
            self._collection, scroll_filter=self._filter(model), limit=1, with_payload=["dimension"]
        )
        return int((records[0].payload or {})["dimension"]) if records else None

    async def _known(self) -> set[str]:
        """Return the names of the collection's vectors; nothing where there is no collection yet."""
        if not self._names and await self._client.collection_exists(self._collection):
            info = await self._client.get_collection(self._collection)
            self._names = set(info.config.params.vectors or {})  # type: ignore[arg-type]
        return self._names or set()

    async def _prepare(self, dimensions: set[int]) -> None:
        """Make the collection and its indexes, and the vectors' names of these dimensions, where they are missing."""
        wanted = {_name(dimension, metric): (dimension, metric) for dimension in dimensions for metric in METRICS}
        if wanted.keys() <= await self._known():
            return
        if not await self._client.collection_exists(self._collection):
            await self._make()
        self._names = None
        for name, (dimension, metric) in wanted.items():
            if name not in await self._known():
                config = models.DenseVectorConfig(size=dimension, distance=_DISTANCES[metric])
                named = models.DenseVectorNameConfig(dense=config)
                await self._client.create_vector_name(self._collection, name, named)
                self._names = None

    async def _make(self) -> None:
        await self._client.create_collection(
            self._collection, vectors_config={}, hnsw_config=models.HnswConfigDiff(m=0, payload_m=TENANT_LINKS)
        )
        if self._qdrant.in_process:
            return  # It has no indexes and looks at every point.
        for field, is_tenant in (("company_id", True), ("model", False), ("facts", False)):
            schema = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=is_tenant or None)
            await self._client.create_payload_index(self._collection, field, field_schema=schema, wait=True)

    def _id(self, model: str, item: str) -> str:
        return str(uuid5(_NAMESPACE, f"{self._company}\0{model}\0{item}"))

    def _point(self, model: str, vector: Stored) -> models.PointStruct:
        numbers = vector.floats.tolist()
        return models.PointStruct(
            id=self._id(model, vector.item),
            vector={_name(vector.dimension, metric): numbers for metric in METRICS},
            payload={
                "company_id": self._company,
                "model": model,
                "item": vector.item,
                "dimension": vector.dimension,
                "content_hash": vector.content_hash,
                "metadata": vector.metadata,
                "facts": [
                    _fact(key, value) for key, value in parsed(vector.metadata).items() if scalar(value) is not None
                ],
            },
        )

    def _filter(self, model: str | None, where: Sequence[tuple[str, tuple[Scalar, ...]]] = ()) -> models.Filter:
        """Return the condition of a call: always this company's, then what the caller asks for."""
        must: list[models.Condition] = [_has("company_id", [self._company])]
        if model is not None:
            must.append(_has("model", [model]))
        must += [_has("facts", [_fact(key, choice) for choice in choices]) for key, choices in where]
        return models.Filter(must=must)


def _runs(everything: Iterable[T]) -> Iterator[list[T]]:
    """Yield what fits into a request each."""
    rest = iter(everything)
    while run := list(islice(rest, POINTS_AT_A_TIME)):
        yield run


def _has(field: str, values: list[str]) -> models.FieldCondition:
    return models.FieldCondition(key=field, match=models.MatchAny(any=values))


def _fact(key: str, value: Scalar) -> str:
    """Return one fact of the metadata as a word to filter by, so that no key's spelling means anything to Qdrant."""
    plain = int(value) if isinstance(value, float) and value.is_integer() else value
    return json.dumps([key, plain], ensure_ascii=False)


def _name(dimension: int, metric: Metric) -> str:
    return f"{metric}-{dimension}"


def _row(point: models.ScoredPoint | models.Record, dimension: int) -> tuple[str, bytes, str | None, str]:
    """Return a point as a row of the file's table."""
    payload: dict[str, Any] = point.payload or {}
    vectors: Any = point.vector
    numbers = np.array(vectors[_name(dimension, _RAW)], "<f4").tobytes()
    return payload["item"], numbers, payload["content_hash"], payload["metadata"]


def _is_beyond(last: float, kth: float) -> bool:
    """Return whether a score is certainly not the k-th's: Qdrant counts in 32 bits."""
    return abs(last - kth) > 1e-4 * max(1.0, abs(kth))
