"""A tenant's objects on their way between its folder and production's place, a bounded number at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Self, TypeVar

from localstore.blobs.fetch import fetch, is_intact
from localstore.blobs.local_objects import DiskObjects
from localstore.blobs.objects import Objects, size_if_whole
from localstore.errors import BlobDamaged, ObjectStoreDenied
from localstore.sqlite.database import Database
from localstore.sqlite.threads import in_thread
from localstore.tenant import BLOBS
from sync.blobs.place import Place
from sync.blobs.tally import Tally

T = TypeVar("T")
A = TypeVar("A")


class Lane:
    """The two places of one tenant's objects, here and there."""

    def __init__(self, here: DiskObjects, there: Objects, turns: asyncio.Semaphore, tally: Tally) -> None:
        self._here = here
        self.there = there
        self._turns = turns
        self._tally = tally

    @classmethod
    def of(cls, database: Database, place: Place, tally: Tally) -> Self:
        """Return the lane between a tenant's folder and a place."""
        here = DiskObjects(database.path.parent / BLOBS)
        return cls(here, place.objects(database.company_id, database), place.turns, tally)

    async def bring(self, hashes: Sequence[str]) -> dict[str, int]:
        """Bring what is here and whole; return the sizes of all that is there and whole then."""
        sizes = await self._each(hashes, self._bring)
        return {digest: size for digest, size in zip(hashes, sizes, strict=True) if size is not None}

    async def gone(self, hashes: Sequence[str]) -> list[str]:
        """Return those that are not there."""
        found = await self._each(hashes, self.there.stat)
        return [digest for digest, info in zip(hashes, found, strict=True) if info is None]

    async def fetch(self, wanted: Sequence[tuple[str, int]]) -> dict[str, str]:
        """Bring objects, given by hash and size, from there to here; return why some could not be, by their hashes."""
        reasons = await self._each(wanted, self._fetch)
        return {digest: why for (digest, _), why in zip(wanted, reasons, strict=True) if why is not None}

    async def _each(self, items: Sequence[A], work: Callable[[A], Awaitable[T]]) -> list[T]:
        async def one(item: A) -> T:
            async with self._turns:
                return await work(item)

        tasks = [asyncio.create_task(one(item)) for item in items]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _bring(self, digest: str) -> int | None:
        file = await self._here.file(digest)
        if file is not None:
            try:
                size = await in_thread(partial(size_if_whole, file, digest))
                if size is not None:
                    if await self.there.add(digest, size, file):
                        self._tally.uploaded += 1
                        self._tally.bytes += size
                    return size
            finally:
                await in_thread(file.close)
        # What this box never had, or lost, another one may have brought.
        try:
            found = await self.there.stat(digest)
        except ObjectStoreDenied:
            # So a store answers for what is absent where the credentials may not list.
            return None
        return found.size if found is not None and await is_intact(self.there, digest, found.size) else None

    async def _fetch(self, wanted: tuple[str, int]) -> str | None:
        digest, size = wanted
        found = await self._here.stat(digest)
        if found is not None and await is_intact(self._here, digest, found.size):
            return None
        here = "its bytes" if found is None else "its bytes are damaged here, and whole ones"
        try:
            if not await fetch(self._here, self.there, digest, size):
                return f"{here} are not in production's object store"
        except BlobDamaged:
            return "its bytes in production's object store are not what was put"
        self._tally.downloaded += 1
        self._tally.bytes += size
        return None
