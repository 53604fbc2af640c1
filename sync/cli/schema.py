"""`sync schema plan|apply`: what production lacks of the tenants' tables, as SQL, and the change itself."""

from __future__ import annotations

from typing import Annotated

import typer

from localstore.cli.options import DataOption, JsonOption, QuietOption, TenantsOption
from localstore.cli.output import report
from sync.cli.options import TIMEOUT, SchemaOption, TimeoutOption, ToOption
from sync.cli.session import Needs, Session
from sync.cli.tables import cell, grid, plural, print_grid, say
from sync.config import SyncSettings
from sync.schema import ProductionChange, TargetChange

app = typer.Typer(
    help="Bring production to the shape of the tenants' tables.", no_args_is_help=True, rich_markup_mode=None
)

DestructiveOption = Annotated[
    bool, typer.Option("--destructive", help="Do also what loses something or shuts older shapes out.")
]


@app.command()
def plan(
    to: ToOption = None,
    data: DataOption = None,
    tenant: TenantsOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show what production lacks, as the SQL that apply would run, and how columns become its types."""
    session = _session(to, data, tenant, schema, timeout, json=json, quiet=quiet)
    _show(
        session,
        session.run(Needs.STORE, "comparing with production", lambda engine: engine.schema.plan(session.tenants)),
    )


@app.command()
def apply(
    destructive: DestructiveOption = False,
    to: ToOption = None,
    data: DataOption = None,
    tenant: TenantsOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Give production what it lacks and register the tenants' shapes; what loses something needs --destructive."""
    session = _session(to, data, tenant, schema, timeout, json=json, quiet=quiet)
    _show(
        session,
        session.run(
            Needs.STORE,
            "changing production",
            lambda engine: engine.schema.apply(session.tenants, destructive=destructive),
        ),
    )


def _session(
    to: str | None,
    data: DataOption,
    tenant: list[str] | None,
    schema: str | None,
    timeout: float,
    *,
    json: bool,
    quiet: bool,
) -> Session:
    settings = SyncSettings(target=schema, timeout=timeout)
    return Session(data, to, tuple(tenant) if tenant else None, settings, json, quiet)


def _show(session: Session, change: ProductionChange) -> None:
    def render() -> None:
        if session.quiet:
            return
        for target in change.targets:
            _print_target(target, change)
        undone = len(change.undone)
        if not any(target.steps for target in change.targets):
            say("Production has all that the tenants' tables need.")
        elif not change.applied:
            say(f"Nothing was changed. Next: {session.command('schema apply')}")
        if undone:
            loses = any(step.destructive and not step.refused for step in change.undone)
            again = f" Look at the SQL above; then: {session.command('schema apply --destructive')}" if loses else ""
            say(
                f"{plural(undone, 'step')} {'was' if undone == 1 else 'were'} not done.{again}"
                if change.applied
                else f"{plural(undone, 'step')} will not be done.{again}"
            )

    report(change.to_json(), render, session.json)
    raise typer.Exit(change.exit_code)


def _print_target(target: TargetChange, change: ProductionChange) -> None:
    table = grid("table", "column", "in the file", f"in schema {target.target}")
    for entry in target.mapping:
        table.add_row(*map(cell, entry))
    print_grid(table)
    for step in target.steps:
        done = change.applied and step.allowed(destructive=change.destructive)
        say(f"{'done: ' if done else ''}{step}")
        for statement in step.sql:
            say("  " + statement.replace("\n", "\n  ") + ";")
