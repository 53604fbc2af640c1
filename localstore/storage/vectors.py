"""Where a company's vectors are: in its file, or in production, by the settings and its mode."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from localstore.config import Settings, StorageType
from localstore.errors import ConfigurationError
from localstore.identifiers import check_tenant_id
from localstore.sqlite.mode import read_mode
from localstore.storage.answers import check_mode
from localstore.store import LocalStore

if TYPE_CHECKING:
    from localstore.postgres.pool import Pool
    from localstore.vectors.interface import VectorsInterface
    from localstore.vectors.qdrant_server import Qdrant

_LOCAL: Final = frozenset({"file", "hybrid"})


class VectorPlaces:
    """The vectors of all companies, as STORAGE_TYPE says; nothing is opened before it is needed.

    With `file` they are in the tenants' files, with `postgresql` in production's table, and with `hybrid` each tenant's
    mode decides. Those in production are found in Qdrant where QDRANT_URL names one; for those in files it says where
    sync carries them.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings.from_environment()
        self._store: LocalStore | None = None
        self._pool: Pool | None = None
        self._qdrant: Qdrant | None = None

    def __repr__(self) -> str:
        return f"<VectorPlaces {self._settings.storage_type}>"

    async def of(self, company_id: str, *, create: bool = True) -> VectorsInterface:
        """Return a company's vectors; with `create=False`, raise TenantNotFound where its file is missing."""
        check_tenant_id(company_id)
        kind = self._settings.storage_type
        if kind is StorageType.POSTGRESQL:
            return self._in_production(company_id)
        if self._store is None:
            self._store = LocalStore(self._settings.data_path, models=(), settings=self._settings)
        tenant = await self._store.tenant(company_id, create=create).open()
        mode = await tenant.database.read(read_mode)
        if kind is StorageType.HYBRID and mode == StorageType.POSTGRESQL:
            return self._in_production(company_id)
        check_mode(company_id, mode, _LOCAL, f"STORAGE_TYPE={kind}")
        return tenant.vectors

    async def close(self) -> None:
        """Close what was opened; a later call opens it again."""
        store, pool, qdrant = self._store, self._pool, self._qdrant
        self._store = self._pool = self._qdrant = None
        for opened in (store, pool, qdrant.client if qdrant is not None else None):
            if opened is not None:
                await opened.close()

    async def __aenter__(self) -> Self:
        """Return the places; they open by themselves."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what was opened."""
        await self.close()

    def _in_production(self, company_id: str) -> VectorsInterface:
        # Importing these takes a second, which nobody should wait who keeps vectors in files.
        from localstore.postgres.pool import Pool
        from localstore.postgres.server import Server
        from localstore.vectors.pgvector import PgVectors

        if self._pool is None:
            if self._settings.database_url is None:
                raise ConfigurationError("vectors in production need DATABASE_URL", hint="set DATABASE_URL")
            replica = self._settings.database_replica_url
            self._pool = Pool(
                Server.parse(self._settings.database_url.get_secret_value()),
                replica=None if replica is None else Server.parse(replica.get_secret_value()),
                min_size=self._settings.localstore_pool_min,
                max_size=self._settings.localstore_pool_max,
                statement_cache_size=self._settings.localstore_statement_cache,
            )
        if self._settings.qdrant_url is None:
            return PgVectors(self._pool, company_id)
        from localstore.vectors.qdrant_server import connect

        if self._qdrant is None:
            self._qdrant = connect(self._settings.qdrant_url)
        from localstore.vectors.followed import FollowedVectors

        return FollowedVectors(self._pool, company_id, self._qdrant)
