"""`sync conflicts …` and `sync quarantine …`: the held rows, and what is decided about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from localstore.cli.options import DataOption, JsonOption, QuietOption, TenantsOption
from localstore.cli.output import report
from sync.cli.options import TIMEOUT, RowArgument, SchemaOption, TimeoutOption, ToOption
from sync.cli.session import Needs, Session
from sync.cli.tables import brief, cell, grid, print_grid, print_held, print_next, say
from sync.config import SyncSettings
from sync.results import HeldItem

Values: TypeAlias = Mapping[str, str | None]

VALUE_MAX = 200
"""Characters of a value that showing one row shows; --json has all."""

conflicts = typer.Typer(help="Rows that both sides changed.", no_args_is_help=True, rich_markup_mode=None)
quarantine = typer.Typer(help="Rows that production could not take.", no_args_is_help=True, rich_markup_mode=None)


class Side(StrEnum):
    """Whose values win."""

    LOCAL = "local"
    PRODUCTION = "production"


def add_to(app: typer.Typer) -> None:
    """Add these commands to `sync`."""
    app.add_typer(conflicts, name="conflicts")
    app.add_typer(quarantine, name="quarantine")


@conflicts.command("list")
def list_conflicts(
    to: ToOption = None,
    data: DataOption = None,
    tenant: TenantsOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """List the conflicts: of production, or without one those that the tenants' files know."""
    session = _session(to, data, tenant, schema, timeout, json=json, quiet=quiet)
    items = session.run(Needs.EITHER, "reading", lambda engine: engine.conflicts.list(session.tenants))
    _list(session, items, "There are no conflicts.")


@conflicts.command("show")
def show_conflict(
    row: RowArgument,
    to: ToOption = None,
    data: DataOption = None,
    tenant: TenantsOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show one conflict column by column: the base, our value, production's."""
    session = _session(to, data, tenant, schema, timeout, json=json, quiet=quiet)
    item = session.run(Needs.EITHER, "reading", lambda engine: engine.conflicts.show(row, session.tenants))
    _show(session, item)


@conflicts.command("resolve")
def resolve_conflict(
    row: RowArgument,
    use: Annotated[Side, typer.Option("--use", help="Whose values win.")],
    to: ToOption = None,
    data: DataOption = None,
    tenant: TenantsOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Decide a conflict for the whole row; the next push carries the decision."""
    session = _session(to, data, tenant, schema, timeout, json=json, quiet=quiet)
    item = session.run(
        Needs.STORE, "deciding", lambda engine: engine.conflicts.resolve(row, use.value, session.tenants)
    )
    _decided(session, item, f"{item.tenant}: {item.address} takes the values of {use.value}")


@quarantine.command("list")
def list_quarantine(
    to: ToOption = None,
    data: DataOption = None,
    tenant: TenantsOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """List the rows in quarantine: of production, or without one those that the tenants' files know."""
    session = _session(to, data, tenant, schema, timeout, json=json, quiet=quiet)
    items = session.run(Needs.EITHER, "reading", lambda engine: engine.quarantine.list(session.tenants))
    _list(session, items, "Nothing is in quarantine.")


@quarantine.command("show")
def show_quarantined(
    row: RowArgument,
    to: ToOption = None,
    data: DataOption = None,
    tenant: TenantsOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show one row in quarantine: why, and its values."""
    session = _session(to, data, tenant, schema, timeout, json=json, quiet=quiet)
    item = session.run(Needs.EITHER, "reading", lambda engine: engine.quarantine.show(row, session.tenants))
    _show(session, item)


@quarantine.command("fix")
def fix(
    row: RowArgument,
    column: Annotated[str, typer.Option("--column", metavar="COLUMN", help="The column to set.")],
    value: Annotated[
        str | None, typer.Option("--value", metavar="VALUE", help="Its new value.", show_default=False)
    ] = None,
    null: Annotated[bool, typer.Option("--null", help="Set it to NULL.")] = False,
    to: ToOption = None,
    data: DataOption = None,
    tenant: TenantsOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Set one column of a held row; the next push tries the row again."""
    if null == (value is not None):
        raise typer.BadParameter("give either --value VALUE or --null")
    session = _session(to, data, tenant, schema, timeout, json=json, quiet=quiet)
    item = session.run(Needs.STORE, "fixing", lambda engine: engine.quarantine.fix(row, column, value, session.tenants))
    _decided(session, item, f"{item.tenant}: {item.address} has a new {column}")


@quarantine.command("retry")
def retry(
    row: RowArgument,
    to: ToOption = None,
    data: DataOption = None,
    tenant: TenantsOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Try a held row again as it is, with the next push."""
    session = _session(to, data, tenant, schema, timeout, json=json, quiet=quiet)
    item = session.run(Needs.STORE, "releasing", lambda engine: engine.quarantine.retry(row, session.tenants))
    _decided(session, item, f"{item.tenant}: {item.address} is tried again")


@quarantine.command("discard")
def discard(
    row: RowArgument,
    to: ToOption = None,
    data: DataOption = None,
    tenant: TenantsOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Give up a held change: the row here becomes what production has."""
    session = _session(to, data, tenant, schema, timeout, json=json, quiet=quiet)
    item = session.run(Needs.STORE, "discarding", lambda engine: engine.quarantine.discard(row, session.tenants))
    _decided(session, item, f"{item.tenant}: {item.address} is again what production has")


def _session(
    to: str | None,
    data: Path | None,
    tenants: list[str] | None,
    schema: str | None,
    timeout: float,
    *,
    json: bool,
    quiet: bool,
) -> Session:
    settings = SyncSettings(target=schema, timeout=timeout)
    return Session(data, to, tuple(dict.fromkeys(tenants)) if tenants else None, settings, json, quiet)


def _list(session: Session, items: Sequence[HeldItem], none: str) -> None:
    def render() -> None:
        if not items:
            say(none)
            return
        print_held(items)
        _print_decisions(session, items)

    if session.json or not session.quiet:
        report({"version": 1, "items": [item.to_json() for item in items], "exit": 0}, render, session.json)


def _print_decisions(session: Session, items: Sequence[HeldItem]) -> None:
    """Print what can be done about the first row of each kind."""
    conflicting = [item for item in items if item.reason == "conflict"]
    if conflicting:
        say(f"Look:    {session.command(f'conflicts show {conflicting[0].address}')}")
        say(f"Decide:  {session.command(f'conflicts resolve {conflicting[0].address} --use local|production')}")
    bad = [item for item in items if item.reason in ("value", "constraint")]
    if bad:
        column = bad[0].column or "COLUMN"
        say(f"Correct: {session.command(f'quarantine fix {bad[0].address} --column {column} --value VALUE')}")
        say(f"Give up: {session.command(f'quarantine discard {bad[0].address}')}")
    print_next(session, [item for item in items if item.reason == "rolled_back"])


def _show(session: Session, item: HeldItem) -> None:
    def render() -> None:
        say(f"row     {item.address}")
        say(f"tenant  {item.tenant}")
        say(f"reason  {item.reason}{f': {item.detail}' if item.detail else ''}")
        if item.waits_for:
            say(f"waits   for {item.waits_for}")
        say(f"since   {item.since}{f', batch {item.batch}' if item.batch else ''}")
        sides = {"base": item.base, "here": item.local, "production": item.production}
        known = {name: values for name, values in sides.items() if values is not None}
        columns = list(dict.fromkeys(column for values in known.values() for column in values))
        # A new row has a value in few of its columns; the refused value itself is not sent, so it cannot be shown.
        columns = [name for name in columns if name == item.column or any(map(_of(name), known.values()))]
        table = grid("column", *known)
        for column in columns:
            table.add_row(cell(column), *(cell(_value(item, column, side)) for side in known.values()))
        if columns:
            print_grid(table)
        _print_decisions(session, [item])

    if session.json or not session.quiet:
        report({"version": 1, "item": item.to_json(), "exit": 0}, render, session.json)


def _of(name: str) -> Callable[[Values], str | None]:
    return lambda values: values.get(name)


def _value(item: HeldItem, column: str, side: Values) -> str:
    if column not in side:
        return ""
    if item.reason == "value" and column == item.column and side is item.local:
        return "(refused)"
    return brief(side[column], VALUE_MAX)


def _decided(session: Session, item: HeldItem, what: str) -> None:
    def render() -> None:
        say(f"{what}. Next: {session.command('push --promote')}")

    if session.json or not session.quiet:
        report({"version": 1, "item": item.to_json(), "exit": 0}, render, session.json)
