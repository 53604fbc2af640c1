"""Vectors in memory, some thousands at a time, and the exact search through them."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from localstore.vectors.values import Floats, Match, Query, Scalar, scalar

ITEM_BYTES: Final = 200
"""About what an item costs in memory beside its numbers and metadata."""

_EPSILON: Final = float(np.finfo(np.float32).eps)


@dataclass(slots=True, eq=False)
class Block:
    """A run of vectors of one model and dimension. `codes` are made of the metadata when a filter first asks."""

    items: list[str]
    rows: Floats
    hashes: list[str | None]
    metadata: list[str]
    lengths: NDArray[np.float64]
    codes: dict[str, tuple[NDArray[np.int32], dict[tuple[str, object], int]]] = field(default_factory=dict)
    bytes: int = field(init=False)

    def __post_init__(self) -> None:
        """Note about how much memory the block takes."""
        self.bytes = int(self.rows.nbytes) + sum(map(len, self.metadata)) + ITEM_BYTES * len(self.items)

    def passing(self, where: Sequence[tuple[str, tuple[Scalar, ...]]]) -> NDArray[np.bool_]:
        """Return which rows have, for each key, one of the values that will do."""
        passing = np.ones(len(self.items), np.bool_)
        for key, choices in where:
            codes, known = self._coded(key)
            wanted = [known[found] for choice in choices if (found := scalar(choice)) in known]
            passing &= np.isin(codes, np.array(wanted, np.int32))
        return passing

    def without(self, items: Collection[str]) -> Block:
        """Return the block without the rows of these items: itself where it has none of them."""
        kept = [place for place, item in enumerate(self.items) if item not in items]
        return self if len(kept) == len(self.items) else self.chosen(kept)

    def chosen(self, places: list[int]) -> Block:
        """Return a block of these rows alone."""
        return Block(
            [self.items[place] for place in places],
            self.rows[places],
            [self.hashes[place] for place in places],
            [self.metadata[place] for place in places],
            self.lengths[places],
        )

    def _coded(self, key: str) -> tuple[NDArray[np.int32], dict[tuple[str, object], int]]:
        found = self.codes.get(key)
        if found is None:
            known: dict[tuple[str, object], int] = {}
            codes = np.full(len(self.items), -1, np.int32)
            for place, text in enumerate(self.metadata):
                value = scalar(parsed(text).get(key))
                if value is not None:
                    codes[place] = known.setdefault(value, len(known))
            found = self.codes[key] = codes, known
        return found


def block_of(rows: Sequence[tuple[str, bytes, str | None, str | None]], dimension: int) -> Block:
    """Make a block of (item, embedding, content hash, metadata) rows; vectors without a direction are left out."""
    numbers = np.frombuffer(b"".join(row[1] for row in rows), "<f4").reshape(len(rows), dimension)
    with np.errstate(all="ignore"):
        # Row by row in one order, so that equal vectors have equal lengths wherever they stand.
        lengths = np.sqrt(np.square(numbers, dtype=np.float64).sum(axis=1))
    usable = np.isfinite(lengths) & (lengths > 0)
    items, hashes = [row[0] for row in rows], [row[2] for row in rows]
    block = Block(items, numbers, hashes, [row[3] or "{}" for row in rows], lengths)
    return block if usable.all() else block.chosen(np.flatnonzero(usable).tolist())


def joined(one: Block, other: Block) -> Block:
    """Return a block with the rows of both."""
    return Block(
        one.items + other.items,
        np.concatenate((one.rows, other.rows)),
        one.hashes + other.hashes,
        one.metadata + other.metadata,
        np.concatenate((one.lengths, other.lengths)),
    )


def search(blocks: Iterable[Block], query: Query) -> list[Match]:
    """Return the nearest vectors of all blocks, the nearest first, those of one score by their items' bytes."""
    best: list[tuple[float, bytes, Match]] = []
    for block in blocks:
        best = heapq.nsmallest(query.k, [*best, *_nearest(block, query)], key=lambda found: found[:2])
    return [match for _, _, match in best]


def _nearest(block: Block, query: Query) -> list[tuple[float, bytes, Match]]:
    """Return the block's candidates as (distance, item, match).

    A product in 32 bits finds who may be among the nearest, with a margin for its error; those are measured again in
    64 bits, where equal vectors get equal scores wherever they stand.
    """
    places = np.flatnonzero(block.passing(query.where)) if query.where else None
    rows = block.rows if places is None else block.rows[places]
    lengths = block.lengths if places is None else block.lengths[places]
    if not len(rows):
        return []
    if len(rows) > query.k:
        with np.errstate(all="ignore"):
            rough, margin = _rough(rows, lengths, query)
        limit = np.partition(rough, query.k - 1)[query.k - 1] + margin
        # What is not a number may be anything.
        near = np.flatnonzero(~(rough > limit))
        rows, lengths = rows[near], lengths[near]
        places = near if places is None else places[near]
    elif places is None:
        places = np.arange(len(rows))
    distances = _exact(rows, lengths, query)
    if len(distances) > query.k:
        limit = np.partition(distances, query.k - 1)[query.k - 1]
        kept = np.flatnonzero(distances <= limit)
        places, distances = places[kept], distances[kept]
    sign = 1.0 if query.metric == "l2" else -1.0
    found = []
    for place, distance in zip(places.tolist(), distances.tolist(), strict=True):
        item = block.items[place]
        metadata = parsed(block.metadata[place])
        found.append((distance, item.encode(), Match(item, sign * distance + 0.0, block.hashes[place], metadata)))
    return found


def _rough(rows: Floats, lengths: NDArray[np.float64], query: Query) -> tuple[NDArray[np.float64], float]:
    """Return what orders the rows as their distances do, and by how much any of these numbers may be wrong."""
    products = (rows @ query.embedding).astype(np.float64)
    length = float(np.linalg.norm(query.embedding.astype(np.float64)))
    longest = float(lengths.max())
    wrong = 2 * query.dimension * _EPSILON * length
    if query.metric == "cosine":
        return -products / lengths, wrong
    if query.metric == "dot":
        return -products, wrong * longest
    return lengths * lengths - 2 * products, 2 * wrong * longest + _EPSILON * longest * longest


def _exact(rows: Floats, lengths: NDArray[np.float64], query: Query) -> NDArray[np.float64]:
    """Return the distances: the negated score, or for `l2` the score."""
    wide, asked = rows.astype(np.float64), query.embedding.astype(np.float64)
    distances: NDArray[np.float64]
    if query.metric == "l2":
        distances = np.sqrt(np.square(wide - asked).sum(axis=1))
        return distances
    distances = -(wide * asked).sum(axis=1)
    if query.metric == "cosine":
        distances = np.clip(distances / (lengths * np.linalg.norm(asked)), -1.0, 1.0)
    return distances


def parsed(text: str | bytes) -> dict[str, Any]:
    """Return metadata; another tool may have written something else there, which no filter finds."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
