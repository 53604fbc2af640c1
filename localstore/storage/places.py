"""Where a company's blobs are: beside its file, or in production and the bucket, by the settings and its mode."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from localstore.blobs.store import Blobs, Limits
from localstore.config import Settings, StorageType
from localstore.errors import ConfigurationError, TenantNotFound
from localstore.identifiers import check_tenant_id
from localstore.storage.answers import check_mode
from localstore.store import LocalStore

if TYPE_CHECKING:
    from localstore.blobs.s3 import Bucket
    from localstore.postgres.pool import Pool

_LOCAL = frozenset({"file", "hybrid"})


class BlobPlaces:
    """The blobs of all companies, as STORAGE_TYPE says; nothing is opened before it is needed.

    With `file` they are beside the tenants' files, with `postgresql` their rows are in production and their bytes in
    the bucket that `S3_*` name, and with `hybrid` each tenant's mode decides.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limits = Limits.from_settings(settings)
        self._store: LocalStore | None = None
        self._pool: Pool | None = None
        self._bucket: Bucket | None = None

    async def of(self, company_id: str, *, create: bool = False) -> Blobs | None:
        """Return a company's blobs, or None where there is no such company and none is to be made."""
        check_tenant_id(company_id)
        kind = self._settings.storage_type
        if kind is StorageType.POSTGRESQL:
            return self._in_production(company_id)
        if self._store is None:
            self._store = LocalStore(self._settings.data_path, models=(), settings=self._settings)
        try:
            tenant = await self._store.tenant(company_id, create=create).open()
        except TenantNotFound:
            return None
        mode = await tenant.database.read(_mode)
        if kind is StorageType.HYBRID and mode == StorageType.POSTGRESQL:
            return self._in_production(company_id)
        check_mode(company_id, mode, _LOCAL, f"STORAGE_TYPE={kind}")
        return tenant.blobs

    async def close(self) -> None:
        """Close what was opened; a later call opens it again."""
        store, pool, bucket = self._store, self._pool, self._bucket
        self._store = self._pool = self._bucket = None
        for opened in (store, pool, bucket):
            if opened is not None:
                await opened.close()

    def _in_production(self, company_id: str) -> Blobs:
        # Importing these takes a second, which nobody should wait who keeps blobs on a disk.
        from localstore.blobs.postgres_index import PostgresIndex
        from localstore.blobs.s3 import Bucket
        from localstore.blobs.s3_objects import S3Objects
        from localstore.postgres.pool import Pool
        from localstore.postgres.server import Server

        if self._bucket is None or self._pool is None:
            if self._settings.database_url is None:
                raise ConfigurationError("blobs in production need DATABASE_URL", hint="set DATABASE_URL")
            self._bucket = Bucket.from_settings(self._settings)
            self._pool = Pool(
                Server.parse(self._settings.database_url.get_secret_value()),
                min_size=self._settings.localstore_pool_min,
                max_size=self._settings.localstore_pool_max,
                statement_cache_size=self._settings.localstore_statement_cache,
            )
        return Blobs(PostgresIndex(company_id, self._pool), S3Objects(self._bucket, company_id), self._limits)


def _mode(file: sqlite3.Connection) -> str:
    mode: str = file.execute("SELECT mode FROM localstore_identity").fetchone()[0]
    return mode
