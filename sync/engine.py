"""SyncEngine: each command of sync as one method, for the tenants of a store or for production alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import UUID, uuid4

from sync import history, ledger, pipeline, reports, takeback
from sync.blobs.tally import Tally
from sync.config import SyncSettings
from sync.decisions import Conflicts, Quarantine
from sync.errors import HeldRows
from sync.link import Link
from sync.modes import Modes
from sync.outcome import Outcome
from sync.plan import Plan, PlannedBatch
from sync.production import register
from sync.production.vectors import index_vectors
from sync.pulling import Pulls
from sync.releases import release_batch
from sync.repairing import repaired
from sync.results import Result, TenantResult, sum_tables
from sync.schema import Schema
from sync.status import TARGET, Status, read_status, remember
from sync.steps.acknowledge import acknowledge
from sync.steps.verify import Verified
from sync.verifying import verified

if TYPE_CHECKING:
    from localstore.store import LocalStore


class SyncEngine(Pulls):
    """Carry tenants' changes to production, and take them back.

    `store` may be missing for what production alone can answer (plan, promote, rollback, log, show and the lists);
    `to` is a URL, `embedded` for a PostgreSQL of the store's own, or None for DATABASE_URL. Nothing connects before
    the first method that needs production.
    """

    def __init__(
        self, store: LocalStore | None = None, to: str | None = None, *, settings: SyncSettings | None = None
    ) -> None:
        super().__init__(store, to, settings or SyncSettings())
        self.conflicts = Conflicts(self)
        self.quarantine = Quarantine(self)
        self.schema = Schema(self)
        self.modes = Modes(self)

    async def __aenter__(self) -> Self:
        """Return the engine."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close what the engine opened."""
        await self.close()

    async def init(self, tenants: Sequence[str] | None = None) -> tuple[str, ...]:
        """Prepare production and make the tables of the store's tenants; return their names. Runs again freely.

        Where no tenant is here yet, the help desk's tables are made, so that a PostgresStorage has what it needs.
        Models of which production has many vectors get their index.
        """
        await self.ready(prepare=True)
        names: set[str] = set()
        found = await self.tenants(tenants)
        for tenant in found:
            async with self.database(tenant) as database:
                link = await self.link(await self.target(database))
                tables = database.tables
                await link.run(partial(register, target=link.target, tables=tables))
                await link.run(partial(index_vectors, target=link.target, company=tenant))
                names.update(table.name for table in tables)
        if tenants is None and not found:
            # Importing the help desk's models takes most of a second, which no other command should wait.
            from localstore.storage.tables import storage_tables

            link, tables = await self.link(), storage_tables()
            await link.run(partial(register, target=link.target, tables=tables))
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
        await self.ready(prepare=True)

        async def one(tenant: str) -> TenantResult:
            began, tally = monotonic(), Tally()
            async with self.database(tenant) as database:
                link = await self.link(await self.target(database))
                await database.write(lambda file: remember(file, TARGET, link.target))
                sending = partial(pipeline.send, database=database, target=link.target, place=self.place, tally=tally)
                staged = await link.run(sending)
                if promote:
                    result = await self._promote(link, tenant)
                    await link.run(partial(acknowledge, database=database))
                else:
                    result = await reports.staged(link, tenant, staged)
                return await reports.finished(link, replace(result, blobs=tally.to_json()), began)

        result = await self.each(await self.tenants(tenants), one)
        return await self.followed(result) if promote else result

    async def plan(self, tenants: Sequence[str] | None = None) -> Plan:
        """Seal and stage what is pending, promote everything staged, and roll it all back: the result is the plan."""
        await self.ready(prepare=self._store is not None)
        planned: dict[str, list[PlannedBatch]] = {}

        async def one(tenant: str) -> TenantResult:
            began, tally = monotonic(), Tally()
            target = self.settings.target
            if await self.is_local(tenant):
                async with self.database(tenant) as database:
                    target = await self.target(database)
                    link = await self.link(target)
                    sending = partial(pipeline.send, database=database, target=link.target, place=self.place)
                    await link.run(partial(sending, tally=tally))
            link = await self.link(target)
            outcomes: list[Outcome] = await link.run(
                lambda connection: pipeline.try_staged(connection, tenant, link.target, self.options(digest=True))
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
                blobs=tally.to_json(),
            )
            return await reports.finished(link, result, began)

        result = await self.each(await self.with_staged(tenants), one)
        batches = tuple(batch for tenant in result.tenants for batch in planned.get(tenant.tenant, ()))
        return Plan((await self.link()).target, datetime.now(UTC), result, batches)

    async def promote(
        self, plan_or_batch: Plan | UUID | str | None = None, tenants: Sequence[str] | None = None
    ) -> Result:
        """Promote what is staged: all of it, up to one batch, or exactly what a plan says.

        For a plan, raises StalePlan (in the tenant's result) if production moved since.
        """
        await self.ready(prepare=False)
        if isinstance(plan_or_batch, Plan):
            return await self._promote_plan(plan_or_batch, tenants)
        only: UUID | None = None
        if plan_or_batch is not None:
            entry = await self.find(str(plan_or_batch))
            only, tenants = entry.batch, [entry.company_id]

        async def one(tenant: str) -> TenantResult:
            began = monotonic()
            link = await self.link_of(tenant)
            result = await self._promote(link, tenant, only=only)
            await self.learn(link, tenant)
            return await reports.finished(link, result, began)

        return await self.followed(await self.each(await self.with_staged(tenants), one))

    async def _promote_plan(self, plan: Plan, tenants: Sequence[str] | None) -> Result:
        link = await self.link(plan.target)
        names = list(dict.fromkeys(batch.tenant for batch in plan.batches))

        async def one(tenant: str) -> TenantResult:
            began = monotonic()
            planned = [(batch.batch, batch.digest) for batch in plan.batches if batch.tenant == tenant]
            await link.run(
                lambda connection: pipeline.promote_planned(
                    connection, tenant, link.target, self.options(digest=True), planned
                )
            )
            result = await reports.promoted(link, tenant, [batch for batch, _ in planned])
            await self.learn(link, tenant)
            return await reports.finished(link, result, began)

        served = [name for name in names if tenants is None or name in tenants]
        return await self.followed(await self.each(served, one))

    async def withdraw(self, batch: UUID | str) -> Result:
        """Give up a staged batch and the later ones of its replica; their changes travel in the next one."""
        entry = await self.find(str(batch))
        link = await self.link(entry.target)

        async def one(tenant: str) -> TenantResult:
            given_up = await link.run(partial(takeback.withdraw, entry=entry))
            await self.learn(link, tenant)
            return TenantResult(tenant, "withdrawn", batch=entry.batch, batches=tuple(given_up))

        return await self.each([entry.company_id], one)

    async def rollback(self, batch: UUID | str) -> Result:
        """Take a promoted batch back; rows written since are left alone and listed.

        Of a batch that is rolled back already, the result tells what that rollback did.
        """
        entry = await self.find(str(batch))
        link = await self.link(entry.target)
        inverse = uuid4()

        async def one(tenant: str) -> TenantResult:
            began = monotonic()
            done = await link.run(partial(takeback.roll_back_once, entry=entry, inverse=inverse))
            await self.learn(link, tenant)
            return TenantResult(
                tenant,
                "rolled_back",
                batch=done.batch,
                batches=(entry.batch,),
                tables=done.counts or {},
                left_alone=tuple((row["row"], row["why"]) for row in done.manifest.get("left_alone", ())),
                seconds=monotonic() - began,
            )

        return await self.followed(await self.each([entry.company_id], one))

    async def requeue(self, batch: UUID | str) -> Result:
        """Put what a rollback took back in line again; the next push carries it."""
        entry = await self.find(str(batch))
        link = await self.link(entry.target)

        async def one(tenant: str) -> TenantResult:
            async with self.database(tenant) as database:
                await link.run(partial(acknowledge, database=database))
                rows = await database.write(lambda file: release_batch(file, entry.undoes or entry.batch))
                return TenantResult(
                    tenant,
                    "requeued" if rows else "unchanged",
                    batch=entry.undoes or entry.batch,
                    held=rows,
                )

        return await self.each([entry.company_id], one)

    async def verify(self, tenants: Sequence[str] | None = None, *, repair: bool = False) -> list[Verified]:
        """Compare tenants' files with production, row by row; `repair` stages a batch of what nothing explains."""
        await self.ready(prepare=False)
        found = []
        for tenant in await self.tenants(tenants):
            async with self.database(tenant) as database:
                link = await self.link(await self.target(database))
                await link.run(partial(acknowledge, database=database))
                found.append(await (repaired(link, database, self.place) if repair else verified(link, database)))
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
                found += await database.read(partial(history.of_file, tenant=tenant, limit=limit))
        return history.Log(tuple(found))

    async def show(self, batch: UUID | str, *, limit: int = 1000) -> history.Shown:
        """Return one batch and the rows that it touched."""
        entry = await self.find(str(batch))
        link = await self.link(entry.target)
        return await link.run(partial(history.show, entry=entry, limit=limit))

    async def find(self, batch: str) -> ledger.Entry:
        """Return the batch whose id begins with `batch`; raises BatchNotFound unless there is exactly one."""
        link = await self.link()
        return await link.run(partial(history.find, batch=batch))

    async def _promote(self, link: Link, tenant: str, *, only: UUID | None = None) -> TenantResult:
        """Promote and report what the ledger says was done, which is true even when an answer was lost."""
        waiting = await link.run(lambda connection: ledger.staged(connection, tenant, link.target))
        try:
            await link.run(
                lambda connection: pipeline.promote_staged(connection, tenant, link.target, self.options(), only=only)
            )
        except HeldRows:
            await self.learn(link, tenant)
            raise
        return await reports.promoted(link, tenant, [entry.batch for entry in waiting])
