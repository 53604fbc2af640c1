"""The index: which blobs a tenant has, and which object holds each one's bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager

from localstore.blobs.model import BlobInfo, NewBlob
from localstore.errors import BlobKeyTaken, BlobRefused
from localstore.identifiers import preview

Page = list[BlobInfo]


class BlobIndex(ABC):
    """The rows of one tenant's blobs. Each method is one transaction of that tenant and of no other."""

    company_id: str

    @abstractmethod
    async def admit(self, key: str, size: int, quota: int | None) -> None:
        """Raise BlobKeyTaken or BlobRefused where `save` would; what passes here may still fail there."""

    @abstractmethod
    async def save(self, blob: NewBlob, quota: int | None) -> BlobInfo:
        """Insert or replace a blob's row and return what it says now; must be idempotent.

        This is the moment in which a put takes effect. Raises BlobKeyTaken, and BlobRefused beyond the quota.
        """

    @abstractmethod
    async def find(self, key: str) -> BlobInfo | None:
        """Return a blob, or None."""

    @abstractmethod
    async def list(self, prefix: str, after: str | None, limit: int | None) -> Page:
        """Return blobs whose keys begin with `prefix` and come behind `after`, by code points."""

    @abstractmethod
    async def delete(self, key: str) -> bool:
        """Delete a blob's row; return whether there was one."""

    @abstractmethod
    async def delete_prefix(self, prefix: str) -> int:
        """Delete the rows whose keys begin with `prefix`, all or none of them, and return how many they were."""

    @abstractmethod
    async def usage(self) -> tuple[int, int]:
        """Return how many blobs there are, and their bytes."""

    @abstractmethod
    def sweeping(self, hashes: Collection[str]) -> AbstractAsyncContextManager[frozenset[str]]:
        """Give those hashes that anything committed still names; until the context ends, nobody commits another."""


def check_admission(key: str, taken: str | None, size: int, used: int | None, quota: int | None) -> None:
    """Raise what forbids a blob: a key that another one resembles, or the bytes that the tenant has already."""
    if taken is not None:
        raise BlobKeyTaken(
            f"{preview(key)} differs from the blob {preview(taken)} only in case or normal form",
            hint="use the key that is there, or another name",
        )
    if quota is not None and (used or 0) + size > quota:
        raise BlobRefused(
            f"{preview(key)} has {size} bytes, and the tenant may keep {quota} and has {used or 0} already",
            hint="delete blobs that nobody needs, or raise LOCALSTORE_BLOBS_QUOTA",
        )
