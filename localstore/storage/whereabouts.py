"""Where a company's truth is, for what is kept beside its rows: its file here, or production."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from localstore.config import Settings, StorageType
from localstore.errors import ConfigurationError
from localstore.identifiers import check_tenant_id
from localstore.sqlite.mode import POSTGRESQL, read_mode
from localstore.storage.answers import check_mode
from localstore.store import LocalStore

if TYPE_CHECKING:
    from localstore.postgres.pool import Pool
    from localstore.tenant import Tenant

_LOCAL: Final = frozenset({"file", "hybrid"})


class Whereabouts:
    """The store of DATA_PATH and the pool of DATABASE_URL, of which STORAGE_TYPE and a tenant's mode choose one.

    Nothing is opened before it is needed.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._store: LocalStore | None = None
        self._pool: Pool | None = None

    async def tenant(self, company_id: str, *, create: bool) -> Tenant | None:
        """Return the company's tenant, opened, or None where production is its truth.

        With `create=False`, raises TenantNotFound where its file is missing. Raises WrongMode for a tenant whose mode
        STORAGE_TYPE does not serve.
        """
        check_tenant_id(company_id)
        kind = self.settings.storage_type
        if kind is StorageType.POSTGRESQL:
            return None
        if self._store is None:
            self._store = LocalStore(self.settings.data_path, models=(), settings=self.settings)
        tenant = await self._store.tenant(company_id, create=create).open()
        mode = await tenant.database.read(read_mode)
        if kind is StorageType.HYBRID and mode == POSTGRESQL:
            return None
        check_mode(company_id, mode, _LOCAL, f"STORAGE_TYPE={kind}")
        return tenant

    def pool(self) -> Pool:
        """Return the pool of DATABASE_URL, whose reads go to DATABASE_REPLICA_URL where that is set."""
        # Importing these takes a second, which nobody should wait who keeps everything in files.
        from localstore.postgres.pool import Pool
        from localstore.postgres.server import Server

        if self._pool is None:
            url, replica = self.settings.database_url, self.settings.database_replica_url
            if url is None:
                raise ConfigurationError("what is in production needs DATABASE_URL", hint="set DATABASE_URL")
            self._pool = Pool.from_settings(
                Server.parse(url.get_secret_value()),
                self.settings,
                replica=None if replica is None else Server.parse(replica.get_secret_value()),
            )
        return self._pool

    async def close(self) -> None:
        """Close what was opened; a later call opens it again."""
        store, pool = self._store, self._pool
        self._store = self._pool = None
        for opened in (store, pool):
            if opened is not None:
                await opened.close()
