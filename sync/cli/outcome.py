"""What a carrying command did, printed: the table, one sentence a tenant, what remains, and the exit code."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from localstore.cli.output import report
from sync.cli.session import Session
from sync.cli.tables import (
    LISTED_MAX,
    megabytes,
    plural,
    print_counts,
    print_failures,
    print_held,
    print_next,
    say,
    short,
)
from sync.engine import SyncEngine
from sync.results import HeldItem, Result, TenantResult

NOTHING = {
    "plan": "Nothing is waiting to be promoted",
    "push": "Nothing new to push",
    "promote": "Nothing is staged",
    "pull": "Nothing new to pull",
    "requeue": "Nothing to put in line: that batch was not taken back, or its changes are in line already",
}


@dataclass(frozen=True, slots=True)
class Done:
    """A command's result, and the rows that remain held, which people want to see at once."""

    result: Result
    held: tuple[HeldItem, ...] = ()


async def carried(session: Session, engine: SyncEngine, doing: Awaitable[Result], *, held: bool = True) -> Done:
    """Do it, and fetch what remains held where somebody will read it."""
    result = await doing
    remain = [tenant.tenant for tenant in result.tenants if tenant.held]
    if not held or not remain or session.json or session.quiet:
        return Done(result)
    return Done(result, tuple(await engine.held(remain)))


def show_result(
    session: Session, verb: str, done: Done, *, json: Mapping[str, Any] | None = None, saved: Path | None = None
) -> None:
    """Print the result of `verb` and end the command with its exit code. `json` stands in for the result's own."""
    result = done.result

    def render() -> None:
        if not session.quiet:
            print_counts(result.tenants)
            _say_tenants(verb, result)
            _say_next(session, verb, result, saved)
        if not session.quiet and done.held:
            print_held(done.held, at_most=LISTED_MAX, several=len(result.tenants) > 1)
            print_next(session, done.held)
        print_failures(result)

    report(json if json is not None else result.to_json(), render, session.json)
    raise typer.Exit(result.exit_code)


def _say_tenants(verb: str, result: Result) -> None:
    if not result.tenants:
        say("Nothing is staged." if verb in ("plan", "promote") else "There are no tenants.")
        return
    idle = [tenant for tenant in result.tenants if tenant.state == "unchanged"]
    for tenant in result.tenants:
        if tenant.failure is None and tenant not in idle:
            say(f"{tenant.tenant}: {_sentence(tenant)}")
            _say_blobs(tenant)
            for row, why in tenant.left_alone[:LISTED_MAX]:
                say(f"  left alone: {row} ({why})")
            if len(tenant.left_alone) > LISTED_MAX:
                say(f"  … and {plural(len(tenant.left_alone) - LISTED_MAX, 'more row')} left alone")
    if idle:
        names = idle[0].tenant if len(idle) == 1 else plural(len(idle), "tenant")
        say(f"{NOTHING.get(verb, 'Nothing to do')} ({names}).")


def _say_blobs(tenant: TenantResult) -> None:
    """Say what went beside the rows, and what could not."""
    moved = [f"{plural(tenant.blobs[way], 'blob')} {way}" for way in ("uploaded", "downloaded") if tenant.blobs[way]]
    if moved:
        say(f"  {', '.join(moved)} ({megabytes(tenant.blobs['bytes'])})")
    if tenant.blobs["missing"]:
        say(f"  {plural(tenant.blobs['missing'], 'blob')} without their bytes in production's object store")


def _sentence(tenant: TenantResult) -> str:
    batch = short(tenant.batch)
    took = f" in {tenant.seconds:.1f} s" if tenant.seconds else ""
    match tenant.state:
        case "staged":
            return f"staged as batch {batch}{took}" if tenant.batches else f"nothing new; batch {batch} is staged"
        case "promoted":
            return f"promoted in {_batches(tenant)}{took}"
        case "planned":
            return f"would be promoted in {_batches(tenant)}; planned{took}"
        case "withdrawn":
            return f"withdrawn: {', '.join(map(short, tenant.batches)) or batch}"
        case "rolled_back":
            taken = ", ".join(map(short, tenant.batches))
            return f"batch {taken} taken back{took} (by batch {batch})"
        case "pulled" | "rebased":
            return f"{tenant.state}{took}"
        case "requeued":
            return f"{plural(tenant.held, 'row')} of batch {batch} in line again"
    return tenant.state


def _batches(tenant: TenantResult) -> str:
    return (
        f"batch {short(tenant.batch)}"
        if len(tenant.batches) == 1
        else f"{len(tenant.batches)} batches, the last {short(tenant.batch)}"
    )


def _say_next(session: Session, verb: str, result: Result, saved: Path | None) -> None:
    states = {tenant.state for tenant in result.tenants}
    if verb == "push" and "staged" in states:
        say(f"Next: {session.command('plan')}, or {session.command('promote')}")
    elif verb == "plan" and "planned" in states:
        held = sum(tenant.held for tenant in result.tenants)
        if held:
            say(f"{plural(held, 'row')} would remain held.")
        say(f"Production is unchanged. Next: {session.command('promote' if saved is None else f'promote {saved}')}")
        if saved is not None:
            say("The plan can be promoted on any machine; it is refused if production has moved by then.")
    elif verb in ("withdraw", "requeue") and states & {"withdrawn", "requeued"}:
        say(f"The changes remain in the tenant's file. Next: {session.command('push')}")
    elif verb == "rollback" and "rolled_back" in states:
        batch = short(result.tenants[0].batches[0])
        say(f"What was taken back is kept locally. To bring it again: {session.command(f'requeue {batch}')}")
