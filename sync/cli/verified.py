"""`sync verify`, tenant by tenant: one that cannot be compared does not stop the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from localstore.unexpected import ours
from sync.cli.repaired import print_repaired
from sync.cli.session import Session
from sync.cli.tables import LISTED_MAX, brief, plural, print_refusals, say
from sync.engine import SyncEngine
from sync.results import EXIT_DIFFERS, EXIT_DONE, EXIT_REMAINS, Failure, combine

if TYPE_CHECKING:
    from sync.verify.differences import Difference, Verified


@dataclass(frozen=True, slots=True)
class Verification:
    """What was compared, and who could not be."""

    tenants: tuple[Verified, ...]
    failures: tuple[tuple[str, Failure], ...]

    @property
    def exit_code(self) -> int:
        """Return 0 when all are equal, 3 when what differs is held, pending or repaired, else 4; an error's first."""
        codes = [failure.exit_code for _, failure in self.failures]
        return combine(codes + [_exit_code(tenant) for tenant in self.tenants])

    def to_json(self) -> dict[str, Any]:
        """Return the command's JSON."""
        failed = [
            {"tenant": tenant, "equal": None, "tables": {}, "error": why.to_json()} for tenant, why in self.failures
        ]
        tenants = [tenant.to_json() for tenant in self.tenants]
        return {"version": 1, "tenants": tenants + failed, "exit": self.exit_code}


def _exit_code(tenant: Verified) -> int:
    if tenant.equal:
        return EXIT_DONE
    return EXIT_REMAINS if tenant.explained else EXIT_DIFFERS


async def check_all(engine: SyncEngine, tenants: Sequence[str] | None, *, repair: bool = False) -> Verification:
    """Compare each tenant with production, and with `repair` stage what nothing explains."""
    found: list[Verified] = []
    failures: list[tuple[str, Failure]] = []
    for tenant in await engine.tenants(tenants):
        try:
            found += await engine.verify([tenant], repair=repair)
        except Exception as error:  # noqa: BLE001 (what one tenant meets is its result, whatever it is)
            failures.append((tenant, Failure.of(ours(error))))
    return Verification(tuple(found), tuple(failures))


def print_verified(session: Session, done: Verification) -> None:
    """Print one line a tenant, and of those that differ the first differences and all totals."""
    if not session.quiet:
        if not done.tenants and not done.failures:
            say("There are no tenants.")
        for tenant in done.tenants:
            rows = sum(table.rows for table in tenant.tables.values())
            if tenant.equal:
                say(f"{tenant.tenant}: equal, {plural(rows, 'row')} in {plural(len(tenant.tables), 'table')}")
            else:
                _print_differences(tenant, rows)
            if tenant.repaired is not None:
                print_repaired(session, tenant, tenant.repaired)
        _say_next(session, done)
    print_refusals(done.failures, several=len(done.tenants) + len(done.failures) > 1)


def _print_differences(tenant: Verified, rows: int) -> None:
    causes = count_causes([tenant])
    listed = ", ".join(f"{number:,} {why}" for why, number in causes.items())
    say(f"{tenant.tenant}: {plural(sum(causes.values()), 'difference')} in {plural(rows, 'row')} ({listed})")
    differences = [(name, difference) for name, table in tenant.tables.items() for difference in table.differences]
    # What nothing explains is what somebody has to look at, so it is never pushed out of the list.
    differences.sort(key=lambda pair: pair[1].why.value in ("pending", "held"))
    for name, difference in differences[:LISTED_MAX]:
        say(f"  {'/'.join((name, *difference.key))} {_told(difference)}")
    remaining = sum(causes.values()) - min(len(differences), LISTED_MAX)
    if remaining:
        say(f"… and {plural(remaining, 'more difference')}; --json lists up to 1,000 of each table")


def _told(difference: Difference) -> str:
    """Return one difference as a sentence."""
    why = difference.why.value
    # The detail begins with what matters; all of it is in --json.
    detail = difference.detail.split("; ")[0]
    because = detail if detail.startswith(why) else f"{why}: {detail}" if detail else why
    if difference.column is None:
        return f"is only {'in production' if difference.local is None else 'here'}; {because}"
    return f"{difference.column}: here {brief(difference.local)}, production {brief(difference.production)}; {because}"


def count_causes(tenants: Iterable[Verified]) -> dict[str, int]:
    """Return how many differences each cause has."""
    causes: dict[str, int] = {}
    for tenant in tenants:
        for table in tenant.tables.values():
            for why, number in table.causes.items():
                causes[why.value] = causes.get(why.value, 0) + number
    return causes


def _say_next(session: Session, done: Verification) -> None:
    causes = count_causes(done.tenants)
    if "pending" in causes:
        say(f"Pending rows travel with the next push: {session.command('push --promote')}")
    if "held" in causes:
        say(f"Held rows wait for a decision: {session.command('conflicts list')}, {session.command('quarantine list')}")
    if "foreign edit" in causes:
        say("Others wrote in production; nothing here overwrites that.")
    if "drift" in causes and all(tenant.repaired is None for tenant in done.tenants):
        say("Nothing explains the drift: look at those rows on both sides. Where the file is right:")
        say(f"  {session.command('verify --repair')}")
