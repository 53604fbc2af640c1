"""Where a company's blobs are: beside its file, or in production and the bucket, by the settings and its mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localstore.blobs.store import Blobs, Limits
from localstore.config import Settings
from localstore.errors import TenantNotFound
from localstore.storage.whereabouts import Whereabouts

if TYPE_CHECKING:
    from localstore.blobs.s3 import Bucket


class BlobPlaces:
    """The blobs of all companies, as STORAGE_TYPE says; nothing is opened before it is needed.

    With `file` they are beside the tenants' files, with `postgresql` their rows are in production and their bytes in
    the bucket that `S3_*` name, and with `hybrid` each tenant's mode decides.
    """

    def __init__(self, settings: Settings) -> None:
        self._whereabouts = Whereabouts(settings)
        self._limits = Limits.from_settings(settings)
        self._bucket: Bucket | None = None

    async def of(self, company_id: str, *, create: bool = False) -> Blobs | None:
        """Return a company's blobs, or None where there is no such company and none is to be made."""
        try:
            tenant = await self._whereabouts.tenant(company_id, create=create)
        except TenantNotFound:
            return None
        return self._in_production(company_id) if tenant is None else tenant.blobs

    async def close(self) -> None:
        """Close what was opened; a later call opens it again."""
        bucket, self._bucket = self._bucket, None
        await self._whereabouts.close()
        if bucket is not None:
            await bucket.close()

    def _in_production(self, company_id: str) -> Blobs:
        # Importing these takes a second, which nobody should wait who keeps blobs on a disk.
        from localstore.blobs.postgres_index import PostgresIndex
        from localstore.blobs.s3 import Bucket
        from localstore.blobs.s3_objects import S3Objects

        pool = self._whereabouts.pool()
        if self._bucket is None:
            self._bucket = Bucket.from_settings(self._whereabouts.settings)
        return Blobs(PostgresIndex(company_id, pool), S3Objects(self._bucket, company_id), self._limits)
