"""What every place that keeps vectors can do: the tenant's file, pgvector and Qdrant."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias

from localstore.sqlite.threads import in_thread
from localstore.vectors.values import (
    Embedding,
    Match,
    Metric,
    Query,
    Stored,
    Vector,
    check_item,
    check_model,
    check_query,
    check_same_dimension,
    check_vector,
    content_hash,
)

Texts: TypeAlias = Mapping[str, str | None] | Callable[[str], str | None]
"""The present text of items: those in the mapping, or whatever the function says; None where there is none any more."""


def _checked(vectors: Iterable[Vector], model: str) -> list[Stored]:
    """Return the vectors as they are kept; thousands of them would hold an event loop up."""
    kept = list({vector.item: check_vector(vector) for vector in vectors}.values())
    if kept:
        check_same_dimension(kept, model)
    return kept


class VectorsInterface(ABC):
    """One tenant's vectors, by model and item. Nothing here reaches another tenant's.

    All vectors of a model have one dimension. What cannot be kept or asked raises InvalidVector, the same everywhere.
    """

    async def put(
        self,
        item: str,
        embedding: Embedding,
        *,
        model: str,
        text: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep the embedding of an item in place of the one before. `text` is what it was made from, for `stale`."""
        digest = None if text is None else content_hash(text)
        await self.put_many([Vector(item, embedding, digest, {} if metadata is None else metadata)], model=model)

    async def put_many(self, vectors: Iterable[Vector], *, model: str) -> int:
        """Keep all of these or none; return how many they are. Of two for one item the last one stays."""
        check_model(model)
        kept = await in_thread(partial(_checked, vectors, model))
        if kept:
            await self._put(model, kept)
        return len(kept)

    async def search(
        self,
        query: Embedding,
        *,
        model: str,
        k: int = 10,
        metric: Metric = "cosine",
        where: Mapping[str, Any] | None = None,
    ) -> list[Match]:
        """Return the `k` nearest vectors among those whose metadata has the values in `where`, the nearest first.

        `where` gives a value for a key, or a list of values of which one will do. Nothing nearer is missed; of equal
        scores the item that sorts first by its bytes comes first.
        """
        return await self._search(check_query(model, query, k, metric, where))

    async def get(self, item: str, *, model: str) -> Vector | None:
        """Return the vector of an item, or None."""
        return await self._get(check_model(model), check_item(item))

    async def delete(self, item: str, *, model: str) -> bool:
        """Remove the vector of an item; return whether there was one."""
        return await self._delete(check_model(model), check_item(item))

    async def delete_model(self, model: str) -> int:
        """Remove all vectors of a model; return how many there were."""
        return await self._delete_model(check_model(model))

    async def stale(self, texts: Texts, *, model: str) -> list[str]:
        """Return the items whose vector was not made from their present text, sorted.

        These are items whose text is another one now or is gone, and items of which nobody said what they were made
        from. A mapping speaks of the items in it alone; a function is asked about every item of the model.
        """
        known = await self._hashes(check_model(model))
        if isinstance(texts, Mapping):
            known = {item: digest for item, digest in known.items() if item in texts}
        find = texts.get if isinstance(texts, Mapping) else texts
        found = []
        for item, digest in known.items():
            text = find(item)
            if text is None or digest is None or content_hash(text) != digest:
                found.append(item)
        return sorted(found, key=str.encode)

    @abstractmethod
    async def count(self, model: str | None = None) -> int:
        """Return how many vectors there are, of one model or of all."""

    @abstractmethod
    async def _put(self, model: str, vectors: list[Stored]) -> None: ...

    @abstractmethod
    async def _search(self, query: Query) -> list[Match]: ...

    @abstractmethod
    async def _get(self, model: str, item: str) -> Vector | None: ...

    @abstractmethod
    async def _delete(self, model: str, item: str) -> bool: ...

    @abstractmethod
    async def _delete_model(self, model: str) -> int: ...

    @abstractmethod
    async def _hashes(self, model: str) -> dict[str, str | None]: ...
