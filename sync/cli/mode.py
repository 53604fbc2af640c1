"""`localstore mode status|advance|back`: where a tenant's truth is, and moving it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from localstore.cli.options import DataOption, JsonOption, QuietOption
from localstore.cli.output import report
from sync.cli.options import TIMEOUT, SchemaOption, TimeoutOption, ToOption
from sync.cli.session import Needs, Session
from sync.cli.tables import say
from sync.config import SyncSettings
from sync.engine import SyncEngine
from sync.moded import ModeChange, ModeStatuses

app = typer.Typer(
    help="Where a tenant's truth is: in its file, in its file and followed by production, or in production.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Mode(StrEnum):
    """A mode that a tenant can be brought to."""

    FILE = "file"
    HYBRID = "hybrid"
    POSTGRESQL = "postgresql"


TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id.", show_default=False)]
UntilOption = Annotated[
    Mode | None,
    typer.Option(
        "--until",
        help="Go as far as this mode, by as many steps as it takes; there, do nothing. Else one step.",
        show_default=False,
    ),
]


@app.command("status")
def status(
    tenant: TenantArgument,
    to: ToOption = None,
    data: DataOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Say in which mode a tenant is, by production and by its file, and whether a change was cut off."""
    session = _session(data, to, tenant, None, timeout, json=json, quiet=quiet)
    found: ModeStatuses = session.run(Needs.EITHER, "reading", lambda engine: engine.modes.status([tenant]))

    def render() -> None:
        for one in found.tenants:
            say(f"{one.tenant}: mode {one.mode}" + (", and a change of it is not finished" if one.changing else ""))
            there = f"says {one.production or 'nothing of it'}" if one.asked else "was not asked"
            here = f"says {one.file}" if one.file else "is not here"
            say(f"  production {there}, the file {here}")
            if one.pending or one.held:
                say(f"  {one.pending or 0:,} rows pending, {one.held or 0:,} held")
            say(f"Next: {one.next}")

    if json or not quiet:
        report(found.to_json(), render, json)


@app.command("advance")
def advance(
    tenant: TenantArgument,
    until: UntilOption = None,
    to: ToOption = None,
    data: DataOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Bring a tenant from file to hybrid, or from hybrid to postgresql; or finish what was cut off."""
    session = _session(data, to, tenant, schema, timeout, json=json, quiet=quiet)
    _move(session, Needs.STORE, lambda engine: engine.modes.advance(tenant, until=until))


@app.command("back")
def back(
    tenant: TenantArgument,
    until: UntilOption = None,
    to: ToOption = None,
    data: DataOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Bring a tenant from postgresql to hybrid, or from hybrid to file; or undo what was cut off."""
    session = _session(data, to, tenant, schema, timeout, json=json, quiet=quiet)
    _move(session, Needs.NEW, lambda engine: engine.modes.back(tenant, until=until))


def _move(session: Session, needs: Needs, work: Callable[[SyncEngine], Awaitable[ModeChange]]) -> None:
    done = session.run(needs, "changing the mode", work)

    def render() -> None:
        if done.before == done.mode:
            say(f"{done.tenant} is in mode {done.mode} already.")
        else:
            say(f"{done.tenant}: from {done.before} to {done.mode} in {done.seconds:.1f} s")

    if session.json or not session.quiet:
        report(done.to_json(), render, session.json)


def _session(
    data: Path | None, to: str | None, tenant: str, schema: str | None, timeout: float, *, json: bool, quiet: bool
) -> Session:
    return Session(data, to, (tenant,), SyncSettings(target=schema, timeout=timeout), json, quiet)
