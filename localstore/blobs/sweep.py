"""Garbage collection: objects that no row names any more, found by comparing both sides, after a grace time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from localstore.blobs.index import BlobIndex
from localstore.blobs.objects import ObjectInfo, Objects

TOGETHER: Final = 100
"""Objects that are judged and removed in one go; nobody else writes to the index meanwhile."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did: objects it saw, objects and bytes it removed, unfinished files it removed."""

    seen: int
    removed: int
    bytes: int
    unfinished: int


async def sweep(index: BlobIndex, objects: Objects, before: datetime) -> Swept:
    """Remove the objects older than `before` that nothing names.

    Whether one is named is asked, and it is removed, while nobody can commit a row; a put that found the object here
    looks again after its commit, and brings it back from what it still has at hand.
    """
    seen = removed = size = 0
    async for page in objects.pages():
        seen += len(page)
        old = [found for found in page if found.modified < before]
        for group in _groups(old):
            async with index.sweeping([found.hash for found in group]) as named:
                for found in group:
                    if found.hash not in named and await objects.remove(found.hash, before):
                        removed += 1
                        size += found.size
    return Swept(seen, removed, size, await objects.remove_unfinished(before))


def _groups(found: list[ObjectInfo]) -> list[list[ObjectInfo]]:
    return [found[start : start + TOGETHER] for start in range(0, len(found), TOGETHER)]
