"""`localstore import json` and `localstore export json`: the JSON layout, in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from localstore.cli.options import DataOption, JsonOption, QuietOption, TenantsOption
from localstore.cli.output import printable, report, run
from localstore.config import Settings
from localstore.interchange.json_export import ExportReport, export_json
from localstore.interchange.json_import import ImportReport, TenantImport, import_json
from localstore.store import LocalStore

import_app = typer.Typer(help="Bring data into the store.", no_args_is_help=True, rich_markup_mode=None)
export_app = typer.Typer(help="Write the store's data out.", no_args_is_help=True, rich_markup_mode=None)

_NOUNS = {
    "tickets": "tickets",
    "conversations": "conversations",
    "knowledge_base": "articles",
    "summaries": "summaries",
    "progress": "progress",
    "attachments": "attachments",
}


def add_to(app: typer.Typer) -> None:
    """Add these commands to the root command."""
    app.add_typer(import_app, name="import")
    app.add_typer(export_app, name="export")


@import_app.callback()
def _import() -> None:
    """Bring data into the store."""


@export_app.callback()
def _export() -> None:
    """Write the store's data out."""


@import_app.command("json")
def import_json_command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Holds <company>/<platform>/tickets/<id>.json …")],
    data: DataOption = None,
    tenant: TenantsOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Import help-desk JSON. Running it again changes nothing; files that cannot be read are listed."""
    settings = Settings.from_environment()

    async def work() -> ImportReport:
        async with LocalStore(data or settings.data_path, settings=settings) as store:
            return await import_json(store, directory, tenants=tenant)

    done = run(work(), json=json)
    report(done.to_json(), lambda: _render_import(done, quiet=quiet), json)
    raise typer.Exit(done.exit_code)


@export_app.command("json")
def export_json_command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the layout is written.")],
    data: DataOption = None,
    tenant: TenantsOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Export help-desk JSON; importing it again gives the same rows."""
    settings = Settings.from_environment()

    async def work() -> ExportReport:
        async with LocalStore(data or settings.data_path, settings=settings) as store:
            return await export_json(store, directory, tenants=tenant)

    done = run(work(), json=json)
    report(done.to_json(), lambda: _render_export(done, quiet=quiet), json)
    raise typer.Exit(done.exit_code)


def _render_import(done: ImportReport, *, quiet: bool) -> None:
    for tenant in done.tenants:
        if not quiet:
            print(f"{tenant.tenant}: {_counts(tenant)}")
        if tenant.error:
            _complain(f"{tenant.tenant}: {tenant.error.message}", tenant.error.hint)
    for broken in done.broken:
        _complain(f"not imported: {broken.path}: {broken.reason}")
    if done.broken:
        _complain("", "correct these files and run the same command again: it takes only what changed")


def _counts(tenant: TenantImport) -> str:
    shown = []
    for name, counts in tenant.tables.items():
        parts = [f"{number} {word}" for word, number in counts.to_json().items() if number]
        if parts:
            shown.append(f"{_NOUNS[name]} {', '.join(parts)}")
    return "; ".join(shown) or "nothing to import"


def _render_export(done: ExportReport, *, quiet: bool) -> None:
    for tenant in done.tenants:
        if not quiet:
            files = ", ".join(f"{number} {_NOUNS[name]}" for name, number in tenant.files.items())
            print(f"{tenant.tenant}: {files or 'nothing to export'} ({tenant.edited} edited)")
        if tenant.error:
            _complain(f"{tenant.tenant}: {tenant.error.message}", tenant.error.hint)
    for skipped in done.skipped:
        _complain(f"not exported whole: {skipped.tenant}/{skipped.row}: {skipped.reason}")


def _complain(message: str, hint: str = "") -> None:
    if message:
        typer.echo(printable(message), err=True)
    if hint:
        typer.echo(f"Try: {printable(hint)}", err=True)
