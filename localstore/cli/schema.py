"""`localstore schema plan|apply`: tenants' files compared with the models, and brought to their shape."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localstore.cli.options import DataOption, JsonOption, QuietOption, TenantsOption
from localstore.cli.output import printable, report, run
from localstore.config import Settings
from localstore.errors import ConfigurationError
from localstore.sqlite.prepare import Models
from localstore.store import LocalStore

if TYPE_CHECKING:
    from localstore.evolution import Before, SchemaChange, TenantChange

HOOKS = "localstore.before_schema_change"
"""Entry points of this group are called with each file that is about to change; sync seals what is pending."""

HELPDESK = "localstore.helpdesk.models"

app = typer.Typer(help="Bring tenants' files to the shape of the models.", no_args_is_help=True, rich_markup_mode=None)

ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--models",
        metavar="MODULE",
        help="Import the models from this module, such as app.models; may be given again. Else the help desk's.",
        show_default=False,
    ),
]
DestructiveOption = Annotated[
    bool, typer.Option("--destructive", help="Do also what loses something, such as dropping a column.")
]
CONCURRENCY = 4
ConcurrencyOption = Annotated[int, typer.Option("--concurrency", metavar="N", min=1, help="Files changed at once.")]


def add_to(root: typer.Typer) -> None:
    """Add these commands to the root command."""
    root.add_typer(app, name="schema")


@app.command()
def plan(
    models: ModelsOption = None,
    data: DataOption = None,
    tenant: TenantsOption = None,
    concurrency: ConcurrencyOption = CONCURRENCY,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show what apply would do to each tenant's file. Nothing is written."""
    change = run(_change(models, data, tenant, concurrency, apply=False, destructive=False), json=json)
    _show(change, json=json, quiet=quiet)


@app.command()
def apply(
    models: ModelsOption = None,
    destructive: DestructiveOption = False,
    data: DataOption = None,
    tenant: TenantsOption = None,
    concurrency: ConcurrencyOption = CONCURRENCY,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Bring each tenant's file to the models' shape, after a backup, in one transaction a file."""
    change = run(_change(models, data, tenant, concurrency, apply=True, destructive=destructive), json=json)
    _show(change, json=json, quiet=quiet)


async def _change(
    modules: list[str] | None,
    data: Path | None,
    tenants: list[str] | None,
    concurrency: int,
    *,
    apply: bool,
    destructive: bool,
) -> SchemaChange:
    # Alembic takes a while to import, and every command passes by here.
    from localstore.evolution import Evolution

    settings = Settings.from_environment()
    models = Models(tuple(import_models(modules or [HELPDESK])))
    async with LocalStore(data or settings.data_path, models=(), settings=settings) as store:
        await store.check()
        # Tenants that have no help desk are not given one because nobody named their models.
        evolution = Evolution(store, models, concurrency, hooks() if apply else (), only_known=not modules)
        if apply:
            return await evolution.apply(tenants, destructive=destructive)
        return await evolution.plan(tenants)


def import_models(modules: Iterable[str]) -> list[type[Any]]:
    """Return the models that modules define or import, in the order of their definition."""
    from localstore.models import tenant_models

    found: dict[type[Any], None] = {}
    for name in modules:
        # The command may be installed elsewhere; the user's modules are where the user is.
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise ConfigurationError(
                f"the module {name} cannot be imported: {error}",
                hint="run the command where Python finds the module, or set PYTHONPATH",
            ) from error
        named = {value for value in vars(module).values() if isinstance(value, type)}
        below = [model for model in tenant_models() if model in named or f"{model.__module__}.".startswith(f"{name}.")]
        others = [value for value in vars(module).values() if isinstance(value, type) and hasattr(value, "__table__")]
        if not below and not others:
            raise ConfigurationError(f"the module {name} has no models", hint="name the module that defines them")
        found.update(dict.fromkeys((*below, *others)))
    return list(found)


def hooks() -> tuple[Before, ...]:
    """Return what other packages want done to a file before it changes."""
    return tuple(point.load() for point in sorted(entry_points(group=HOOKS), key=lambda point: point.name))


def _show(change: SchemaChange, *, json: bool, quiet: bool) -> None:
    def render() -> None:
        if not quiet:
            current = [tenant.tenant for tenant in change.tenants if tenant.state == "current"]
            for tenant in change.tenants:
                _print_tenant(tenant, applied=change.applied)
            if current:
                print(f"up to date: {', '.join(current) if len(current) <= 3 else f'{len(current)} tenants'}")
            unknown = [tenant.tenant for tenant in change.tenants if tenant.state == "unknown"]
            if unknown:
                names = ", ".join(unknown) if len(unknown) <= 3 else f"{len(unknown)} tenants"
                print(f"not looked at: {names}; name the module of their models with --models")
            if not change.applied and any(tenant.state == "planned" for tenant in change.tenants):
                print("Nothing was changed. Next: localstore schema apply, with the same options")
        for tenant in change.tenants:
            if tenant.error is not None:
                typer.echo(f"error: {tenant.tenant}: {printable(tenant.error.message)}", err=True)
                if tenant.error.hint:
                    typer.echo(f"Try: {printable(tenant.error.hint)}", err=True)

    report(change.to_json(), render, json)
    raise typer.Exit(change.exit_code)


def _print_tenant(tenant: TenantChange, *, applied: bool) -> None:
    if tenant.state in ("current", "failed", "unknown"):
        return
    took = f" in {tenant.seconds:.1f} s; backup {tenant.backup}" if tenant.backup else ""
    print(f"{tenant.tenant}: {tenant.state}{took}")
    for step in tenant.steps:
        undone = applied and tenant.state == "refused" and step.destructive and not step.refused
        print(printable(f"  {step}{': not done without --destructive' if undone else ''}"))
