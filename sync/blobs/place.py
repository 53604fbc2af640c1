"""Where production's objects are: the bucket that `S3_*` name, or a folder of an embedded production's own."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final

from localstore.blobs.local_objects import DiskObjects
from localstore.blobs.objects import Objects
from localstore.blobs.s3 import Bucket
from localstore.blobs.s3_objects import S3Objects
from localstore.blobs.uploads import Uploads
from localstore.identifiers import check_tenant_id
from localstore.sqlite.database import Database

OBJECTS_TOGETHER: Final = 4
"""Enough to fill a line with small ones; large ones send several parts at once besides, each of them in memory."""


class Place(ABC):
    """The objects of all companies in one production; each company's are apart from the others'.

    `turns` bounds how many objects are under way at once, of all tenants that a command serves.
    """

    def __init__(self) -> None:
        self.turns = asyncio.Semaphore(OBJECTS_TOGETHER)

    @abstractmethod
    def objects(self, company_id: str, database: Database | None = None) -> Objects:
        """Return a company's objects; uploads that are cut off go on by what `database` remembers of them."""

    @abstractmethod
    async def close(self) -> None:
        """Close what was opened."""


class BucketPlace(Place):
    """A bucket, each company below its own prefix."""

    def __init__(self, bucket: Bucket) -> None:
        super().__init__()
        self._bucket = bucket

    def __repr__(self) -> str:
        return f"<BucketPlace {self._bucket!r}>"

    def objects(self, company_id: str, database: Database | None = None) -> Objects:
        """Return a company's objects."""
        name = f"{self._bucket.endpoint_url or ''}/{self._bucket.name}"
        uploads = None if database is None else Uploads(database, name)
        return S3Objects(self._bucket, company_id, uploads)

    async def close(self) -> None:
        """Close the bucket."""
        await self._bucket.close()


class FolderPlace(Place):
    """A folder, each company in its own: what an embedded production has in place of a bucket."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def __repr__(self) -> str:
        return f"<FolderPlace {str(self._folder)!r}>"

    def objects(self, company_id: str, database: Database | None = None) -> Objects:
        """Return a company's objects."""
        del database
        return DiskObjects(self._folder / check_tenant_id(company_id))

    async def close(self) -> None:
        """Do nothing: files are open for no longer than a call."""
