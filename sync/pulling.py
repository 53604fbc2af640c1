"""The engine's way to pull tenants, those of the store and those that only production knows yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

import asyncpg

from localstore.errors import ConfigurationError, TenantNotFound
from sync.access import Access
from sync.authority import mode_of
from sync.blobs.tally import Tally
from sync.results import Result, TenantResult
from sync.steps.pull import pull

if TYPE_CHECKING:
    from sync.blobs.sweep import SweptAll


class Pulls(Access):
    """What brings production's changes into tenants' files."""

    async def pull(self, tenants: Sequence[str] | None = None, *, blobs: bool = False) -> Result:
        """Take over what others changed in production; a tenant that is named but not here is made from it.

        What waits to be sent is merged by column and stays pending. Rows that the file cannot hold are left alone and
        listed, and tried again by the next pull. Blobs' bytes come when they are read, or all at once with `blobs`.
        """
        if blobs and self.place is None:
            raise ConfigurationError("nothing says where production's blobs are", hint="set S3_BUCKET_NAME and S3_*")
        return await self._pull(tenants, rebase=False, blobs=blobs)

    async def rebase(self, tenants: Sequence[str] | None = None) -> Result:
        """Make files new replicas on production's state, as a restored or copied one has to be.

        What they still had to send is merged and remains pending; everything else becomes what production has.
        """
        return await self._pull(tenants, rebase=True)

    async def sweep(self, tenants: Sequence[str] | None = None, *, grace: timedelta | None = None) -> SweptAll:
        """Remove blobs' bytes in production's object store that nothing names and nobody wanted for the grace time.

        By default the grace is as long as a promotion can be taken back, and it must be longer than any push takes.
        Tenants are those named, of the store, or, without one, all that production lists.
        """
        from sync.blobs.sweep import GRACE, SweptAll, sweep

        await self.ready(prepare=False)
        if self.place is None:
            raise ConfigurationError("nothing says where production's blobs are", hint="set S3_BUCKET_NAME and S3_*")
        link = await self.link()
        names = await self.tenants(tenants) if tenants is not None or self._store is not None else None
        if names is None:
            names = await link.run(_listed)
        older = GRACE if grace is None else grace
        return SweptAll(tuple([await sweep(link, name, self.place.objects(name), older) for name in names]))

    async def _pull(self, tenants: Sequence[str] | None, *, rebase: bool, blobs: bool = False) -> Result:
        await self.ready(prepare=False)

        async def one(tenant: str) -> TenantResult:
            began = monotonic()
            if not rebase and not await self.is_local(tenant):
                await self.make(tenant)
            async with self.database(tenant) as database:
                link = await self.link(await self.target(database))
                result = await link.run(partial(pull, database=database, target=link.target, rebase=rebase))
                if blobs and self.place is not None:
                    from sync.blobs.download import download

                    tally = Tally()
                    left = (*result.left_alone, *await download(database, self.place, tally))
                    result = replace(result, blobs=tally.to_json(), left_alone=left)
                return replace(result, seconds=monotonic() - began)

        return await self.each(await self.tenants(tenants), one)

    async def make(self, tenant: str) -> None:
        """Make an empty tenant, in the mode that it has in production, for what production has of it."""
        if self._store is None:
            raise ConfigurationError(
                "a pull needs a store to write to, and none was given", hint="name the store with --data DIR"
            )

        mode = await (await self.link()).run(partial(mode_of, company=tenant))
        if mode is None:
            raise TenantNotFound(
                f"there is no tenant {tenant}, neither here nor in production",
                hint="`localstore sync log` lists production's batches with their tenants",
                tenant=tenant,
            )
        await self._store.create_tenant(tenant, mode=mode)


async def _listed(connection: asyncpg.Connection) -> list[str]:
    rows = await connection.fetch("SELECT company_id FROM localstore.tenants ORDER BY 1")
    return [row["company_id"] for row in rows]
