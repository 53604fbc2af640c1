"""The engine's way to pull tenants, those of the store and those that only production knows yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from time import monotonic

from localstore.errors import ConfigurationError, TenantNotFound
from sync.access import Access
from sync.authority import mode_of
from sync.results import Result, TenantResult
from sync.steps.pull import pull


class Pulls(Access):
    """What brings production's changes into tenants' files."""

    async def pull(self, tenants: Sequence[str] | None = None) -> Result:
        """Take over what others changed in production; a tenant that is named but not here is made from it.

        What waits to be sent is merged by column and stays pending. Rows that the file cannot hold are left alone and
        listed, and tried again by the next pull.
        """
        return await self._pull(tenants, rebase=False)

    async def rebase(self, tenants: Sequence[str] | None = None) -> Result:
        """Make files new replicas on production's state, as a restored or copied one has to be.

        What they still had to send is merged and remains pending; everything else becomes what production has.
        """
        return await self._pull(tenants, rebase=True)

    async def _pull(self, tenants: Sequence[str] | None, *, rebase: bool) -> Result:
        await self.ready(prepare=False)

        async def one(tenant: str) -> TenantResult:
            began = monotonic()
            if not rebase and not await self.is_local(tenant):
                await self.make(tenant)
            async with self.database(tenant) as database:
                link = await self.link(await self.target(database))
                result = await link.run(partial(pull, database=database, target=link.target, rebase=rebase))
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
