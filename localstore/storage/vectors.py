"""Where a company's vectors are: in its file, or in production, by the settings and its mode."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from localstore.config import Settings
from localstore.storage.whereabouts import Whereabouts

if TYPE_CHECKING:
    from localstore.vectors.interface import VectorsInterface
    from localstore.vectors.qdrant_server import Qdrant


class VectorPlaces:
    """The vectors of all companies, as STORAGE_TYPE says; nothing is opened before it is needed.

    With `file` they are in the tenants' files, with `postgresql` in production's table, and with `hybrid` each tenant's
    mode decides. Those in production are found in Qdrant where QDRANT_URL names one; for those in files it says where
    sync carries them.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._whereabouts = Whereabouts(settings or Settings.from_environment())
        self._qdrant: Qdrant | None = None

    def __repr__(self) -> str:
        return f"<VectorPlaces {self._whereabouts.settings.storage_type}>"

    async def of(self, company_id: str, *, create: bool = True) -> VectorsInterface:
        """Return a company's vectors; with `create=False`, raise TenantNotFound where its file is missing."""
        tenant = await self._whereabouts.tenant(company_id, create=create)
        return self._in_production(company_id) if tenant is None else tenant.vectors

    async def close(self) -> None:
        """Close what was opened; a later call opens it again."""
        qdrant, self._qdrant = self._qdrant, None
        await self._whereabouts.close()
        if qdrant is not None:
            await qdrant.client.close()

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
        from localstore.vectors.pgvector import PgVectors

        pool, url = self._whereabouts.pool(), self._whereabouts.settings.qdrant_url
        if url is None:
            return PgVectors(pool, company_id)
        from localstore.vectors.followed import FollowedVectors
        from localstore.vectors.qdrant_server import connect

        if self._qdrant is None:
            self._qdrant = connect(url)
        return FollowedVectors(pool, company_id, self._qdrant)
