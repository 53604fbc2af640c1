"""What every method of the engine stands on: the tenants' files, the link to production, several tenants at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

import asyncpg

from localstore.config import Settings
from localstore.errors import ConfigurationError
from localstore.postgres.embedded import FOLDER, embedded_server
from localstore.postgres.server import Server
from localstore.sqlite.layout import require_tables
from localstore.unexpected import ours
from sync import ledger, pipeline
from sync.config import TARGET_DEFAULT, SyncSettings
from sync.following import OTHERS_MAX, Following
from sync.link import Idle, Link
from sync.listing import held_in_file, held_in_production
from sync.outcome import Options
from sync.production import registered
from sync.results import Failure, HeldItem, Result, TenantResult
from sync.status import TARGET, remembered
from sync.steps.acknowledge import acknowledge

if TYPE_CHECKING:
    from localstore.sqlite.database import Database
    from localstore.store import LocalStore
    from sync.blobs.place import Place

EMBEDDED = "embedded"

OBJECTS = "objects"
"""The folder of an embedded production's objects, beside its database."""


class Access:
    """The way to tenants' files and to production; nothing connects before it is needed."""

    def __init__(self, store: LocalStore | None, to: str | None, settings: SyncSettings) -> None:
        self._store = store
        self._to = to
        self.settings = settings
        self._resources = AsyncExitStack()
        self._server: Server | None = None
        self._idle = Idle()
        self._following = Following()
        self._place: Place | None = None

    async def close(self) -> None:
        """Close the connections, and stop the embedded server if the engine started it."""
        self._server = None
        await self._following.close()
        if self._place is not None:
            await self._place.close()
            self._place = None
        await self._idle.close()
        await self._resources.aclose()

    @property
    def has_production(self) -> bool:
        """Return whether the engine knows a production to talk to."""
        if self._to is not None:
            return True
        return not self.settings.offline and Settings.from_environment().database_url is not None

    async def tenants(self, tenants: Sequence[str] | None = None) -> list[str]:
        """Return the tenants named, or all of the store."""
        if tenants is not None:
            return list(tenants)
        return [] if self._store is None else await self._store.tenants()

    @asynccontextmanager
    async def database(self, tenant: str) -> AsyncIterator[Database]:
        """Open a tenant's file for a block."""
        if self._store is None:
            raise ConfigurationError(
                "this needs the tenants' files, and no store was given", hint="name the store with --data DIR"
            )
        async with self._store.tenant(tenant, create=False) as opened:
            await opened.database.read(require_tables)
            yield opened.database

    async def link(self, target: str | None = None) -> Link:
        """Return the link to production, starting the embedded server if that is what was asked for."""
        if self._server is None:
            self._server = await self._find_server()
        return Link(self._server, target or self.settings.target or TARGET_DEFAULT, self.settings.timeout, self._idle)

    @property
    def place(self) -> Place | None:
        """Return where production's objects are; None where nothing says that it has any."""
        if self._place is None:
            settings = Settings.from_environment() if self._store is None else self._store.settings
            if settings.s3_bucket_name:
                from localstore.blobs.s3 import Bucket
                from sync.blobs.place import BucketPlace

                self._place = BucketPlace(Bucket.from_settings(settings, seconds=self.settings.timeout))
            elif self._to == EMBEDDED and self._store is not None:
                from sync.blobs.place import FolderPlace

                self._place = FolderPlace(self._store.root / FOLDER / OBJECTS)
        return self._place

    async def _find_server(self) -> Server:
        if self._to == EMBEDDED:
            if self._store is None:
                raise ConfigurationError("an embedded production belongs to a store", hint="name it with --data DIR")
            return await self._resources.enter_async_context(embedded_server(self._store.root))
        if self._to is not None:
            return Server.parse(self._to)
        url = Settings.from_environment().database_url
        if url is None:
            raise ConfigurationError("no production was named", hint="--to URL, --to embedded, or set DATABASE_URL")
        return Server.parse(url.get_secret_value())

    def options(self, *, digest: bool = False) -> Options:
        """Return how promotions are to be done."""
        return Options(self.settings.allow_deletes, self.settings.on_error == "abort", digest)

    async def ready(self, *, prepare: bool) -> None:
        """Fail once and early when production cannot be reached, instead of once for each tenant."""
        link = await self.link()

        await link.run(partial(pipeline.open_production, target=link.target, prepare_it=prepare))

    async def target(self, database: Database) -> str:
        """Return production's schema for a tenant: the one named, the one it remembers, or the default."""
        return self.settings.target or await database.read(lambda file: remembered(file, TARGET)) or TARGET_DEFAULT

    async def each(self, tenants: Sequence[str], work: Callable[[str], Awaitable[TenantResult]]) -> Result:
        """Serve several tenants at once; one that fails does not stop the others."""
        turn = asyncio.Semaphore(self.settings.concurrency)

        async def one(tenant: str) -> TenantResult:
            began = monotonic()
            async with turn:
                try:
                    return await work(tenant)
                except Exception as error:  # noqa: BLE001 (what one tenant meets is its result, whatever it is)
                    return TenantResult(tenant, "failed", failure=Failure.of(ours(error)), seconds=monotonic() - began)

        return Result(tuple(await asyncio.gather(*(one(tenant) for tenant in tenants))))

    async def with_staged(self, tenants: Sequence[str] | None) -> list[str]:
        """Return the tenants named, those of the store, or those that have staged batches in production."""
        if tenants is not None or self._store is not None:
            return await self.tenants(tenants)
        link = await self.link()
        return await link.run(partial(ledger.companies_with_staged, target=link.target))

    async def is_local(self, tenant: str) -> bool:
        """Return whether the tenant's file is here."""
        return self._store is not None and tenant in await self._store.tenants()

    async def link_of(self, tenant: str) -> Link:
        """Return the link to the production schema that a tenant goes to."""
        if not await self.is_local(tenant):
            return await self.link()
        async with self.database(tenant) as database:
            return await self.link(await self.target(database))

    async def learn(self, link: Link, tenant: str) -> None:
        """Let the tenant's file, if it is here, learn what became of its batches."""
        if await self.is_local(tenant):
            async with self.database(tenant) as database:
                await link.run(partial(acknowledge, database=database))

    async def followed(self, result: Result, *, others: int = OTHERS_MAX) -> Result:
        """Let Qdrant follow production where QDRANT_URL names one; what fails there is added to the result."""
        return await self._following.after(await self.link(), result, others=others)

    async def held(self, tenants: Sequence[str] | None = None) -> list[HeldItem]:
        """Return every held row: from production where the engine knows one, else from the tenants' files."""
        if self.has_production:
            link = await self.link()

            async def read(connection: asyncpg.Connection) -> list[HeldItem]:
                known = await registered(connection, link.target)
                tables = {name: entry.table for (name, _), entry in known.items()}
                return await held_in_production(connection, tenants, link.target, tables)

            return await link.run(read)
        found: list[HeldItem] = []
        for tenant in await self.tenants(tenants):
            async with self.database(tenant) as database:
                tables = {table.name: table for table in database.tables}
                found += await database.read(partial(held_in_file, tenant=tenant, tables=tables))
        return found
