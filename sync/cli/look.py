"""`sync status|verify|log|show`: the commands that look, and the repair of what `verify` finds."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from localstore.cli.options import DataOption, JsonOption, QuietOption, TenantsOption
from localstore.cli.output import report
from sync.cli.options import TIMEOUT, BatchArgument, LimitOption, SchemaOption, TimeoutOption, ToOption
from sync.cli.session import Needs, Session
from sync.cli.standing import print_standing, read_all
from sync.cli.tables import brief, cell, grid, plural, print_counts, print_grid, say, short, when
from sync.cli.verified import Verification, check_all, print_verified
from sync.config import SyncSettings
from sync.history import Log, Shown
from sync.results import TenantResult

LOG_LIMIT = 50
SHOW_LIMIT = 20


def add_to(app: typer.Typer) -> None:
    """Add these commands to `sync`."""
    for command in (status, verify, log, show):
        app.command(command.__name__)(command)


def status(
    data: DataOption = None,
    tenant: TenantsOption = None,
    to: ToOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Say where each tenant stands, from its file alone: it needs no network and asks none."""
    session = Session(data, to, tuple(dict.fromkeys(tenant)) if tenant else None, json=json, quiet=quiet)
    found = session.run(Needs.STORE, "reading", lambda engine: read_all(engine, session.tenants))

    report(found.to_json(), lambda: print_standing(session, found), json)
    raise typer.Exit(found.exit_code)


def verify(
    repair: Annotated[
        bool, typer.Option("--repair", help="Stage a batch of the drift, in which production becomes what the file is.")
    ] = False,
    to: ToOption = None,
    data: DataOption = None,
    tenant: TenantsOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare each tenant with production, row by row, and say of each difference why it is there."""
    settings = SyncSettings(target=schema, timeout=timeout)
    session = Session(data, to, tuple(dict.fromkeys(tenant)) if tenant else None, settings, json, quiet)
    done: Verification = session.run(
        Needs.STORE, "comparing", lambda engine: check_all(engine, session.tenants, repair=repair)
    )
    report(done.to_json(), lambda: print_verified(session, done), json)
    raise typer.Exit(done.exit_code)


def log(
    limit: LimitOption = LOG_LIMIT,
    to: ToOption = None,
    data: DataOption = None,
    tenant: TenantsOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """List batches, the newest first: production's ledger, or without one what the tenants' files know."""
    settings = SyncSettings(target=schema, timeout=timeout)
    session = Session(data, to, tuple(dict.fromkeys(tenant)) if tenant else None, settings, json, quiet)
    found: Log = session.run(Needs.EITHER, "reading", lambda engine: engine.log(session.tenants, limit=limit))

    def render() -> None:
        if not found.lines:
            say("No batch was ever sealed.")
            return
        table = grid("batch", "tenant", "what", "state", "rows", "when", "by", numbers=("rows",))
        for line in found.lines:
            what = f"rollback of {short(line.undoes)}" if line.undoes else line.kind
            table.add_row(
                cell(short(line.batch)),
                cell(line.tenant),
                cell(what),
                cell(line.state.replace("_", " ")),
                f"{line.rows:,}",
                cell(when(line.at)),
                cell(line.by),
            )
        print_grid(table)

    _show(session, found.to_json(), render)


def show(
    batch: BatchArgument,
    limit: LimitOption = SHOW_LIMIT,
    to: ToOption = None,
    data: DataOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show one batch: what it did, and the rows it wrote with their former values."""
    session = Session(data, to, None, SyncSettings(target=schema, timeout=timeout), json, quiet)
    found: Shown = session.run(Needs.PRODUCTION, "reading", lambda engine: engine.show(batch, limit=limit))

    def render() -> None:
        line = found.line
        say(f"batch   {line.batch}")
        say(f"tenant  {line.tenant}")
        say(
            f"state   {line.state.replace('_', ' ')}{f' on {line.at}' if line.at else ''}"
            f"{f' by {line.by}' if line.by else ''}"
        )
        if line.undoes:
            say(f"undoes  {line.undoes}")
        print_counts([TenantResult(line.tenant, line.state, tables=found.counts)])
        if not found.rows:
            say("It wrote nothing in production." if line.state != "staged" else "It is not in production yet.")
            return
        table = grid("row", "action", "before")
        for row in found.rows:
            before = "" if row.before is None else ", ".join(f"{name}={brief(v)}" for name, v in row.before.items())
            table.add_row(cell(row.row), cell(row.action), cell(before))
        print_grid(table)
        if found.total > len(found.rows):
            more = session.command(f"show {short(line.batch)} --limit {found.total}")
            say(f"… and {plural(found.total - len(found.rows), 'more row')}: {more}")

    _show(session, found.to_json(), render)


def _show(session: Session, result: dict[str, Any], render: Any) -> None:
    if session.json or not session.quiet:
        report(result, render, session.json)
