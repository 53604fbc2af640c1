"""Migrate companies from their files to production, and say what production has of each now and what it holds back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from localstore.errors import LocalStoreError
from localstore.sqlite.mode import POSTGRESQL
from sync.engine import SyncEngine
from sync.hybrid.production import Production
from sync.hybrid.pusher import Pusher
from sync.results import EXIT_DIFFERS, EXIT_DONE, EXIT_REMAINS, Failure, HeldItem, TenantResult, combine
from sync.verify.differences import Verified


@dataclass(frozen=True, slots=True)
class Moved:
    """Production's tickets and articles of one platform, as `get_platform_stats` counts them."""

    platform: str
    tickets: int
    knowledge_base: int


@dataclass(frozen=True, slots=True)
class CompanyMigration:
    """One company. `tables` counts what the push did by table, `moved` what is in production now by platform.

    `state` is the push's, or postgresql where production is the company's truth already, so that nothing was left to
    move. `verified` is the comparison of file and production, None where there was none. `held` are the rows that
    production did not take: they stay in the file, and in its lists, until somebody decides.
    """

    company: str
    state: str
    tables: Mapping[str, Mapping[str, int]]
    moved: tuple[Moved, ...] = ()
    held: tuple[HeldItem, ...] = ()
    verified: Verified | None = None
    failure: Failure | None = None

    @property
    def complete(self) -> bool:
        """Whether production has everything that the file has."""
        return self.failure is None and (self.verified is None or self.verified.equal)

    @property
    def exit_code(self) -> int:
        """Return what a command would exit with for this company alone."""
        if self.failure is not None:
            return self.failure.exit_code
        if self.verified is None or self.verified.equal:
            return EXIT_DONE
        return EXIT_REMAINS if self.verified.explained else EXIT_DIFFERS

    def to_json(self) -> dict[str, Any]:
        """Return the company's entry."""
        entry: dict[str, Any] = {
            "tenant": self.company,
            "state": self.state,
            "complete": self.complete,
            "tables": {name: dict(counts) for name, counts in self.tables.items()},
            "moved": {
                part.platform: {"tickets": part.tickets, "knowledge_base": part.knowledge_base} for part in self.moved
            },
            "held": [item.to_json() for item in self.held],
        }
        if self.failure is not None:
            entry["error"] = self.failure.to_json()
        return entry

    @classmethod
    def failed(cls, result: TenantResult) -> CompanyMigration:
        """Return the entry of a company whose push failed."""
        return cls(result.tenant, "failed", result.tables, failure=result.failure)


@dataclass(frozen=True, slots=True)
class Migration:
    """All companies that were asked for, in their order."""

    companies: tuple[CompanyMigration, ...]

    @property
    def complete(self) -> bool:
        """Whether production has everything that the files have."""
        return all(company.complete for company in self.companies)

    @property
    def exit_code(self) -> int:
        """Return what a command would exit with."""
        return combine(company.exit_code for company in self.companies)

    def to_json(self) -> dict[str, Any]:
        """Return the result as a command would print it."""
        return {
            "version": 1,
            "tenants": [company.to_json() for company in self.companies],
            "complete": self.complete,
            "exit": self.exit_code,
        }


async def migrate(pusher: Pusher, production: Production, companies: Sequence[str], platform: str | None) -> Migration:
    """Push, promote and verify these companies, and report what is theirs of one platform or of all.

    Safe to run any number of times, and after it was cut anywhere: what is in production already is found there.
    """
    result = await pusher.push(companies)
    found = []
    async with pusher.engine() as engine:
        for tenant in result.tenants:
            try:
                if tenant.failure is not None:
                    found.append(CompanyMigration.failed(tenant))
                else:
                    found.append(await _report(engine, production, tenant, platform))
            except LocalStoreError as error:
                found.append(CompanyMigration.failed(replace(tenant, failure=Failure.of(error))))
    return Migration(tuple(found))


async def _report(
    engine: SyncEngine, production: Production, tenant: TenantResult, platform: str | None
) -> CompanyMigration:
    """Compare a company that was pushed with production and say what is there and what is held."""
    (stands,) = (await engine.status([tenant.tenant])).tenants
    elsewhere = stands.mode == POSTGRESQL
    verified = None if elsewhere else (await engine.verify([tenant.tenant]))[0]
    held = await engine.held([tenant.tenant])
    stats = await (production.truth if elsewhere else production.copies).get_platform_stats(tenant.tenant)
    return CompanyMigration(
        tenant.tenant,
        POSTGRESQL if elsewhere else tenant.state,
        tenant.tables,
        moved=tuple(
            Moved(name, counts["tickets"], counts["knowledge_base"])
            for name, counts in stats.items()
            if platform in (None, name)
        ),
        held=tuple(item for item in held if platform in (None, item.key.get("platform"))),
        verified=verified,
    )
