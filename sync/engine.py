"""SyncEngine: each command of sync as one method, for the tenants of a store or for production alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import UUID, uuid4

import asyncpg

from localstore.config import Settings
from localstore.errors import ConfigurationError, LocalStoreError
from localstore.postgres.embedded import embedded_server
from localstore.postgres.server import Server
from sync import history, ledger, pipeline, takeback
from sync.config import TARGET_DEFAULT, SyncSettings
from sync.decisions import Conflicts, Quarantine
from sync.link import Link
from sync.listing import held_in_file, held_in_production
from sync.plan import Plan, PlannedBatch
from sync.production import register, registered
from sync.releases import release_batch
from sync.results import Failure, HeldItem, Result, TenantResult, sum_tables
from sync.status import TARGET, VERIFIED_AT, Status, now_text, read_status, remember, remembered
from sync.steps.acknowledge import acknowledge
from sync.steps.promote import Options, Outcome

if TYPE_CHECKING:
    from sync.steps.verify import Verified
    from localstore.sqlite.database import Database
    from localstore.store import LocalStore

EMBEDDED = "embedded"

Work = Callable[[str, "Database | None"], Awaitable[TenantResult]]


class SyncEngine:
    """Carry tenants' changes to production, and take them back.

    `store` may be missing for what production alone can answer (plan, promote, rollback, log, show and the lists);
    `to` is a URL, `embedded` for a PostgreSQL of the store's own, or None for DATABASE_URL. Nothing connects before
    the first method that needs production.
    """

    def __init__(
        self, store: LocalStore | None = None, to: str | None = None, *, settings: SyncSettings | None = None
    ) -> None:
        self._store = store
        self._to = to
        self.settings = settings or SyncSettings()
        self._resources = AsyncExitStack()
        self._server: Server | None = None
        self.conflicts = Conflicts(self)
        self.quarantine = Quarantine(self)

    async def __aenter__(self) -> Self:
        """Return the engine."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close what the engine opened."""
        await self.close()

    async def close(self) -> None:
        """Stop the embedded server, if the engine started it."""
        self._server = None
        await self._resources.aclose()

    # -- what every method stands on -------------------------------------------------------------------------------

    @property
    def has_production(self) -> bool:
        """Return whether the engine knows a production to talk to."""
        return self._to is not None or Settings.from_environment().database_url is not None

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
            yield opened.database

    async def link(self, target: str | None = None) -> Link:
        """Return the link to production, starting the embedded server if that is what was asked for."""
        if self._server is None:
            self._server = await self._find_server()
        return Link(self._server, target or self.settings.target or TARGET_DEFAULT, self.settings.timeout)

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

    def _options(self, *, digest: bool = False) -> Options:
        return Options(self.settings.allow_deletes, self.settings.on_error == "abort", digest)

    async def _ready(self, *, prepare: bool) -> None:
        """Fail once and early when production cannot be reached, instead of once for each tenant."""
        link = await self.link()

        async def check(connection: asyncpg.Connection) -> None:
            await pipeline.open_production(connection, link.target, prepare_it=prepare)

        await link.run(check)

    async def _target(self, database: Database) -> str:
        return self.settings.target or await database.read(lambda file: remembered(file, TARGET)) or TARGET_DEFAULT

    async def _each(self, tenants: Sequence[str], work: Callable[[str], Awaitable[TenantResult]]) -> Result:
        """Serve several tenants at once; one that fails does not stop the others."""
        turn = asyncio.Semaphore(self.settings.concurrency)

        async def one(tenant: str) -> TenantResult:
            began = monotonic()
            async with turn:
                try:
                    return await work(tenant)
                except LocalStoreError as error:
                    return TenantResult(tenant, "failed", failure=Failure.of(error), seconds=monotonic() - began)

        return Result(tuple(await asyncio.gather(*(one(tenant) for tenant in tenants))))

    async def _with_staged(self, tenants: Sequence[str] | None) -> list[str]:
        """Return the tenants named, those of the store, or those that have staged batches in production."""
        if tenants is not None or self._store is not None:
            return await self.tenants(tenants)
        link = await self.link()
        return await link.run(lambda connection: ledger.companies_with_staged(connection, link.target))

    async def _is_local(self, tenant: str) -> bool:
        return self._store is not None and tenant in await self._store.tenants()

    # -- the commands ----------------------------------------------------------------------------------------------

    async def init(self, tenants: Sequence[str] | None = None) -> tuple[str, ...]:
        """Prepare production and make the tables of the store's tenants; return the tables' names. Runs again freely."""
        await self._ready(prepare=True)
        names: set[str] = set()
        for tenant in await self.tenants(tenants):
            async with self.database(tenant) as database:
                link = await self.link(await self._target(database))
                tables = database.tables
                await link.run(lambda connection, link=link, tables=tables: register(connection, link.target, tables))
                names.update(table.name for table in tables)
        return tuple(sorted(names))

    async def status(self, tenants: Sequence[str] | None = None) -> Status:
        """Return where tenants stand, from their files alone."""
        found = []
        for tenant in await self.tenants(tenants):
            async with self.database(tenant) as database:
                found.append(await database.read(read_status))
        return Status(tuple(found))

    async def push(self, tenants: Sequence[str] | None = None, *, promote: bool = False) -> Result:
        """Seal and stage what is pending, and with `promote` promote all that is staged."""
        await self._ready(prepare=True)

        async def one(tenant: str) -> TenantResult:
            began = monotonic()
            async with self.database(tenant) as database:
                link = await self.link(await self._target(database))
                await database.write(lambda file: remember(file, TARGET, link.target))
                staged = await link.run(lambda connection: pipeline.send(connection, database, link.target))
                if promote:
                    result = await self._promote(link, tenant)
                    await link.run(lambda connection: acknowledge(connection, database))
                else:
                    result = await self._staged(link, tenant, staged)
                return await self._finish(link, result, began)

        return await self._each(await self.tenants(tenants), one)

    async def plan(self, tenants: Sequence[str] | None = None) -> Plan:
        """Seal and stage what is pending, promote everything staged, and roll it all back: the result is the plan."""
        await self._ready(prepare=self._store is not None)
        planned: dict[str, list[PlannedBatch]] = {}

        async def one(tenant: str) -> TenantResult:
            began = monotonic()
            target = self.settings.target
            if await self._is_local(tenant):
                async with self.database(tenant) as database:
                    target = await self._target(database)
                    link = await self.link(target)
                    await link.run(lambda connection: pipeline.send(connection, database, link.target))
            link = await self.link(target)
            outcomes: list[Outcome] = await link.run(
                lambda connection: pipeline.try_staged(connection, tenant, link.target, self._options(digest=True))
            )
            planned[tenant] = [
                PlannedBatch(outcome.batch, tenant, outcome.digest or "", outcome.to_json()) for outcome in outcomes
            ]
            result = TenantResult(
                tenant,
                "planned" if outcomes else "unchanged",
                batch=outcomes[-1].batch if outcomes else None,
                batches=tuple(outcome.batch for outcome in outcomes),
                tables=sum_tables(outcome.to_json() for outcome in outcomes),
                held=outcomes[-1].held if outcomes else 0,
            )
            return await self._finish(link, result, began)

        result = await self._each(await self._with_staged(tenants), one)
        batches = tuple(batch for tenant in result.tenants for batch in planned.get(tenant.tenant, ()))
        return Plan((await self.link()).target, datetime.now(UTC), result, batches)

    async def promote(
        self, plan_or_batch: Plan | UUID | str | None = None, tenants: Sequence[str] | None = None
    ) -> Result:
        """Promote what is staged: all of it, up to one batch, or exactly what a plan says.

        For a plan, raises StalePlan (in the tenant's result) if production moved since.
        """
        await self._ready(prepare=False)
        if isinstance(plan_or_batch, Plan):
            return await self._promote_plan(plan_or_batch, tenants)
        only: UUID | None = None
        if plan_or_batch is not None:
            entry = await self.find(str(plan_or_batch))
            only, tenants = entry.batch, [entry.company_id]

        async def one(tenant: str) -> TenantResult:
            began = monotonic()
            link = await self._link_of(tenant)
            result = await self._promote(link, tenant, only=only)
            await self._learn(link, tenant)
            return await self._finish(link, result, began)

        return await self._each(await self._with_staged(tenants), one)

    async def _promote_plan(self, plan: Plan, tenants: Sequence[str] | None) -> Result:
        link = await self.link(plan.target)
        names = list(dict.fromkeys(batch.tenant for batch in plan.batches))

        async def one(tenant: str) -> TenantResult:
            began = monotonic()
            planned = [(batch.batch, batch.digest) for batch in plan.batches if batch.tenant == tenant]
            await link.run(
                lambda connection: pipeline.promote_planned(
                    connection, tenant, link.target, self._options(digest=True), planned
                )
            )
            result = await self._result(link, tenant, [batch for batch, _ in planned])
            await self._learn(link, tenant)
            return await self._finish(link, result, began)

        return await self._each([name for name in names if tenants is None or name in tenants], one)

    async def withdraw(self, batch: UUID | str) -> Result:
        """Give up a staged batch and the later ones of its replica; their changes travel in the next one."""
        entry = await self.find(str(batch))
        link = await self.link(entry.target)

        async def one(tenant: str) -> TenantResult:
            given_up = await link.run(lambda connection: takeback.withdraw(connection, entry))
            await self._learn(link, tenant)
            return TenantResult(tenant, "withdrawn", batch=entry.batch, batches=tuple(given_up))

        return await self._each([entry.company_id], one)

    async def rollback(self, batch: UUID | str) -> Result:
        """Take a promoted batch back; rows written since are left alone and listed."""
        entry = await self.find(str(batch))
        link = await self.link(entry.target)
        inverse = uuid4()

        async def one(tenant: str) -> TenantResult:
            began = monotonic()
            done = await link.run(lambda connection: takeback.roll_back_once(connection, entry, inverse))
            await self._learn(link, tenant)
            return TenantResult(
                tenant,
                "rolled_back",
                batch=inverse,
                batches=(entry.batch,),
                tables=done.counts or {},
                left_alone=tuple((row["row"], row["why"]) for row in done.manifest.get("left_alone", ())),
                seconds=monotonic() - began,
            )

        return await self._each([entry.company_id], one)

    async def requeue(self, batch: UUID | str) -> Result:
        """Put what a rollback took back in line again; the next push carries it."""
        entry = await self.find(str(batch))
        link = await self.link(entry.target)

        async def one(tenant: str) -> TenantResult:
            async with self.database(tenant) as database:
                await link.run(lambda connection: acknowledge(connection, database))
                rows = await database.write(lambda file: release_batch(file, entry.undoes or entry.batch))
                return TenantResult(
                    tenant,
                    "requeued" if rows else "unchanged",
                    batch=entry.undoes or entry.batch,
                    held=rows,
                )

        return await self._each([entry.company_id], one)

    async def verify(self, tenants: Sequence[str] | None = None) -> list[Verified]:
        """Compare tenants' files with production, row by row."""
        from sync.steps.verify import verify

        await self._ready(prepare=False)
        found = []
        for tenant in await self.tenants(tenants):
            async with self.database(tenant) as database:
                link = await self.link(await self._target(database))
                await link.run(lambda connection, database=database: acknowledge(connection, database))

                async def compare(
                    connection: asyncpg.Connection, database: Database = database, link: Link = link
                ) -> Verified:
                    known = await registered(connection, link.target)
                    return await verify(connection, database, link.target, known)

                found.append(await link.run(compare))
                await database.write(lambda file: remember(file, VERIFIED_AT, now_text()))
        return found

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
                found += await database.read(
                    lambda file, tenant=tenant, tables=tables: held_in_file(file, tenant, tables)
                )
        return found

    async def log(self, tenants: Sequence[str] | None = None, *, limit: int = 50) -> history.Log:
        """Return the newest batches: from production where the engine knows one, else from the tenants' files."""
        if self.has_production:
            link = await self.link()
            entries = await link.run(
                lambda connection: ledger.log(connection, None if tenants is None else list(tenants), limit)
            )
            return history.of_ledger(entries)
        found = []
        for tenant in await self.tenants(tenants):
            async with self.database(tenant) as database:
                found += await database.read(lambda file, tenant=tenant: history.of_file(file, tenant, limit))
        return history.Log(tuple(found))

    async def show(self, batch: UUID | str, *, limit: int = 1000) -> history.Shown:
        """Return one batch and the rows that it touched."""
        entry = await self.find(str(batch))
        link = await self.link(entry.target)
        return await link.run(lambda connection: history.show(connection, entry, limit))

    async def find(self, batch: str) -> ledger.Entry:
        """Return the batch whose id begins with `batch`; raises BatchNotFound unless there is exactly one."""
        link = await self.link()
        return await link.run(lambda connection: history.find(connection, batch))

    # -- parts of the commands ----------------------------------------------------------------------------------------

    async def _link_of(self, tenant: str) -> Link:
        if not await self._is_local(tenant):
            return await self.link()
        async with self.database(tenant) as database:
            return await self.link(await self._target(database))

    async def _learn(self, link: Link, tenant: str) -> None:
        """Let the tenant's file, if it is here, learn what became of its batches."""
        if await self._is_local(tenant):
            async with self.database(tenant) as database:
                await link.run(lambda connection: acknowledge(connection, database))

    async def _promote(self, link: Link, tenant: str, *, only: UUID | None = None) -> TenantResult:
        """Promote and report what the ledger says was done, which is true even when an answer was lost."""
        waiting = await link.run(lambda connection: ledger.staged(connection, tenant, link.target))
        await link.run(
            lambda connection: pipeline.promote_staged(connection, tenant, link.target, self._options(), only=only)
        )
        return await self._result(link, tenant, [entry.batch for entry in waiting])

    async def _result(self, link: Link, tenant: str, batches: Sequence[UUID]) -> TenantResult:
        async def read(connection: asyncpg.Connection) -> list[ledger.Entry]:
            found = [await ledger.entry(connection, batch) for batch in batches]
            return [entry for entry in found if entry is not None and entry.state in ledger.IN_EFFECT]

        entries = await link.run(read)
        return TenantResult(
            tenant,
            "promoted" if entries else "unchanged",
            batch=entries[-1].batch if entries else None,
            batches=tuple(entry.batch for entry in entries),
            tables=sum_tables(entry.counts or {} for entry in entries),
        )

    async def _staged(self, link: Link, tenant: str, batches: Sequence[UUID]) -> TenantResult:
        entries = await link.run(lambda connection: ledger.staged(connection, tenant, link.target))
        return TenantResult(
            tenant,
            "staged" if entries else "unchanged",
            batch=entries[-1].batch if entries else None,
            batches=tuple(batches),
            tables=sum_tables(history.staged_counts(entry) for entry in entries if entry.batch in set(batches)),
        )

    async def _finish(self, link: Link, result: TenantResult, began: float) -> TenantResult:
        """Add how long it took and how many rows remain held."""
        held = result.held or await link.run(lambda connection: history.count_held(connection, result.tenant))
        return TenantResult(
            result.tenant,
            result.state,
            batch=result.batch,
            batches=result.batches,
            tables=result.tables,
            seconds=monotonic() - began,
            held=held,
            left_alone=result.left_alone,
        )
