"""Where a company's blobs are: beside its file, or in production and the bucket, by the settings and its mode."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from localstore.blobs.store import Blobs, Limits
from localstore.config import Settings
from localstore.storage.whereabouts import Whereabouts

if TYPE_CHECKING:
    from localstore.blobs.s3 import Bucket


class BlobPlaces:
    """The blobs of all companies, as STORAGE_TYPE says; nothing is opened before it is needed.

    With `file` they are beside the tenants' files, with `postgresql` their rows are in production and their bytes in
    the bucket that `S3_*` name, and with `hybrid` each tenant's mode decides.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._whereabouts = Whereabouts(settings or Settings.from_environment())
        self._limits = Limits.from_settings(self._whereabouts.settings)
        self._bucket: Bucket | None = None

    def __repr__(self) -> str:
        return f"<BlobPlaces {self._whereabouts.settings.storage_type}>"

    async def of(self, company_id: str, *, create: bool = True) -> Blobs:
        """Return a company's blobs; with `create=False`, raise TenantNotFound where its file is missing."""
        tenant = await self._whereabouts.tenant(company_id, create=create)
        return self._in_production(company_id) if tenant is None else tenant.blobs

    async def close(self) -> None:
        """Close what was opened; a later call opens it again."""
        bucket, self._bucket = self._bucket, None
        await self._whereabouts.close()
        if bucket is not None:
            await bucket.close()

    async def __aenter__(self) -> Self:
        """Return the places; they open by themselves."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what was opened."""
        await self.close()

    def _in_production(self, company_id: str) -> Blobs:
        # Importing these takes a second, which nobody should wait who keeps blobs on a disk.
        from localstore.blobs.postgres_index import PostgresIndex
        from localstore.blobs.s3 import Bucket
        from localstore.blobs.s3_objects import S3Objects

        pool = self._whereabouts.pool()
        if self._bucket is None:
            self._bucket = Bucket.from_settings(self._whereabouts.settings)
        return Blobs(PostgresIndex(company_id, pool), S3Objects(self._bucket, company_id), self._limits)
