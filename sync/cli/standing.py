"""`sync status`, tenant by tenant: one whose file cannot be read does not hide the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from localstore.unexpected import ours
from sync.cli.session import Session
from sync.cli.tables import cell, grid, print_grid, print_refusals, say, when
from sync.engine import SyncEngine
from sync.results import Failure, combine
from sync.status import TenantStatus


@dataclass(frozen=True, slots=True)
class Standing:
    """Where tenants stand, and whose file could not be read."""

    tenants: tuple[TenantStatus, ...]
    failures: tuple[tuple[str, Failure], ...]

    @property
    def exit_code(self) -> int:
        """Return 0, or the code of what went wrong."""
        return combine(failure.exit_code for _, failure in self.failures)

    def to_json(self) -> dict[str, Any]:
        """Return the command's JSON; a tenant that could not be read has an error in place of its numbers."""
        failed = [{"tenant": tenant, "error": failure.to_json()} for tenant, failure in self.failures]
        tenants = [tenant.to_json() for tenant in self.tenants]
        return {"version": 1, "tenants": tenants + failed, "exit": self.exit_code}


async def read_all(engine: SyncEngine, tenants: Sequence[str] | None) -> Standing:
    """Read each tenant's file."""
    found: list[TenantStatus] = []
    failures: list[tuple[str, Failure]] = []
    for tenant in await engine.tenants(tenants):
        try:
            found += (await engine.status([tenant])).tenants
        except Exception as error:  # noqa: BLE001 (what one tenant meets is its result, whatever it is)
            failures.append((tenant, Failure.of(ours(error))))
    return Standing(tuple(found), tuple(failures))


def print_standing(session: Session, found: Standing) -> None:
    """Print a line a tenant, and the next command for what waits."""
    if not session.quiet:
        if found.tenants:
            _print_table(session, found.tenants)
        elif not found.failures:
            say("There are no tenants yet. Next: localstore tenants create TENANT, or localstore import json DIR")
    print_refusals(found.failures, several=len(found.tenants) + len(found.failures) > 1)


def _print_table(session: Session, tenants: Sequence[TenantStatus]) -> None:
    names = ("pending", "conflicts", "quarantined")
    table = grid("tenant", "mode", *names, "last promoted", "verified", numbers=names)
    for one in tenants:
        numbers = [f"{number:,}" if number else "·" for number in (one.pending, one.conflicts, one.quarantined)]
        times = (cell(when(one.last_promoted)), cell(when(one.verified_at)))
        table.add_row(cell(one.tenant), cell(one.mode), *numbers, *times)
    print_grid(table)
    if any(one.pending for one in tenants):
        say(f"Pending rows travel with the next push: {session.command('push --promote')}")
    if any(one.conflicts for one in tenants):
        say(f"Both sides changed some rows: {session.command('conflicts list')}")
    if any(one.quarantined for one in tenants):
        say(f"Rows that production could not take, or gave back in a rollback: {session.command('quarantine list')}")
