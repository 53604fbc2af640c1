"""The files of a hybrid storage: tenants begin in mode hybrid, and say how their tables stand towards production."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from functools import partial

from localstore.errors import TenantExists, TenantNotFound
from localstore.sqlite.database import Database
from localstore.sqlite.mode import HYBRID
from localstore.storage.file import FileStorage
from sync.hybrid.standing import Standing, read_standing


class Files(FileStorage):
    """Tenants' files, of which new ones are made in mode hybrid."""

    async def standing(self, company_id: str, tables: Collection[str]) -> Standing | None:
        """Return how tables of the company's file stand, or None where it has no file here."""
        database = await self._database(company_id, create=False)
        return None if database is None else await database.read(partial(read_standing, tables=tables))

    async def mode(self, company_id: str, *, anew: bool = False) -> str | None:
        """Return the mode of the company's file as it was last read, or `anew`; None where it has no file here."""
        database = await self._database(company_id, create=False)
        if database is None:
            return None
        if anew:
            await database.refresh()
        return database.identity.mode

    async def _database(self, company_id: str, *, create: bool) -> Database | None:
        if create:
            try:
                self.store.tenant(company_id, create=False)
            except TenantNotFound:
                # Another task or process may make it in this very moment.
                with suppress(TenantExists):
                    await self.store.create_tenant(company_id, mode=HYBRID)
        return await super()._database(company_id, create=create)
