"""Bring many objects from one place to another, each checked by its hash, and say which could not be had.

Safe to run twice: what has arrived is not brought again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from localstore.blobs.fetch import fetch, is_intact
from localstore.blobs.named import Missing, NamedObject
from localstore.blobs.objects import Objects
from localstore.errors import BlobDamaged, ForeignFile

AT_ONCE: Final = 4
"""Objects on their way at once: enough for the disk to sync one while another one is read."""


@dataclass(frozen=True, slots=True)
class Brought:
    """How many objects and bytes are there now, how many of those came just now, and what could not be had."""

    objects: int
    bytes: int
    new_objects: int
    new_bytes: int
    missing: tuple[Missing, ...]


async def bring(here: Objects, there: Objects, named: Sequence[NamedObject], *, reread: bool) -> Brought:
    """Bring the objects that are not `here` from `there`.

    Those that are here already count by their size, or with `reread` only if all their bytes are what they should be;
    damaged ones are replaced where the other place has them whole.
    """
    sizes: list[tuple[int, bool]] = []
    missing: list[Missing] = []

    async def one(wanted: NamedObject) -> tuple[int, bool] | Missing:
        try:
            found = await _bring(here, there, wanted.hash, reread=reread)
        except (BlobDamaged, ForeignFile) as error:
            return Missing(wanted.hash, wanted.key, error.message)
        return found or Missing(wanted.hash, wanted.key, f"the object {wanted.hash[:12]} is not in {there!r}")

    for start in range(0, len(named), AT_ONCE):
        tasks = [asyncio.create_task(one(wanted)) for wanted in named[start : start + AT_ONCE]]
        try:
            for found in await asyncio.gather(*tasks):
                if isinstance(found, Missing):
                    missing.append(found)
                else:
                    sizes.append(found)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    new = [size for size, is_new in sizes if is_new]
    return Brought(len(sizes), sum(size for size, _ in sizes), len(new), sum(new), tuple(missing))


async def _bring(here: Objects, there: Objects, digest: str, *, reread: bool) -> tuple[int, bool] | None:
    """Return an object's size and whether it came just now; None where it is in neither place."""
    found, source = await here.stat(digest), await there.stat(digest)
    if found is not None:
        is_alike = source is not None and source.size == found.size
        if (is_alike and not reread) or await is_intact(here, digest, found.size):
            return found.size, False
    if source is None:
        return None
    try:
        # A damaged one is replaced only by what has arrived whole.
        return (source.size, True) if await fetch(here, there, digest, source.size) else None
    except BlobDamaged as error:
        if found is None:
            raise
        raise BlobDamaged(f"the object {digest[:12]} is damaged in both places") from error
