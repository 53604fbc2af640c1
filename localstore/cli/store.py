"""`localstore init`, `tenants` and `config`: a store seen from the outside."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Annotated, Any

import typer

from localstore.cli.options import DataOption, JsonOption, QuietOption
from localstore.cli.output import report, run
from localstore.config import Settings
from localstore.postgres.quoting import quote_identifier
from localstore.sqlite.layout import require_tables
from localstore.sqlite.marks import pending
from localstore.store import LocalStore
from localstore.tenant import Tenant

tenants_app = typer.Typer(help="List, make and look at tenants.", no_args_is_help=True, rich_markup_mode=None)
config_app = typer.Typer(help="Look at the settings.", no_args_is_help=True, rich_markup_mode=None)

TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the root command."""
    app.command("init")(init)
    app.add_typer(tenants_app, name="tenants")
    app.add_typer(config_app, name="config")


def open_store(data: Path | None) -> LocalStore:
    """Return the store that the options and the environment name, with no models: files describe themselves."""
    settings = Settings.from_environment()
    return LocalStore(data or settings.data_path, models=(), settings=settings)


def init(data: DataOption = None, json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Make a folder a store; what is there already stays as it is."""

    async def work() -> dict[str, Any]:
        async with open_store(data) as store:
            created = await store.create()
            return {"version": 1, "data": str(store.root), "created": created, "exit": 0}

    result = run(work(), json=json)

    def render() -> None:
        print(f"{'Made a store in' if result['created'] else 'There is a store already in'} {result['data']}")

    _show(result, render, json=json, quiet=quiet)


@tenants_app.command("list")
def list_tenants(data: DataOption = None, json: JsonOption = False, quiet: QuietOption = False) -> None:
    """List the tenants of a store."""

    async def work() -> dict[str, Any]:
        async with open_store(data) as store:
            await store.check()
            return {"version": 1, "tenants": [{"tenant": name} for name in await store.tenants()], "exit": 0}

    result = run(work(), json=json)

    def render() -> None:
        for entry in result["tenants"]:
            print(entry["tenant"])

    _show(result, render, json=json, quiet=quiet)


@tenants_app.command("create")
def create_tenant(
    tenant: TenantArgument, data: DataOption = None, json: JsonOption = False, quiet: QuietOption = False
) -> None:
    """Make a new tenant."""

    async def work() -> dict[str, Any]:
        async with open_store(data) as store:
            return {"version": 1, **await _describe(await store.create_tenant(tenant)), "exit": 0}

    result = run(work(), json=json)
    _show(result, lambda: print(f"Made tenant {tenant} in {result['path']}"), json=json, quiet=quiet)


@tenants_app.command("show")
def show_tenant(
    tenant: TenantArgument, data: DataOption = None, json: JsonOption = False, quiet: QuietOption = False
) -> None:
    """Show a tenant: its mode, its replica, its tables and what production has not acknowledged yet."""

    async def work() -> dict[str, Any]:
        async with open_store(data) as store:
            await store.check()
            return {"version": 1, **await _describe(store.tenant(tenant, create=False)), "exit": 0}

    result = run(work(), json=json)

    def render() -> None:
        for name in ("tenant", "path", "mode", "replica", "epoch", "bytes"):
            print(f"{name:<10}{result[name]}")
        for name, counts in result["tables"].items():
            print(f"{'table':<10}{name}: {counts['rows']} rows, {counts['pending']} pending")

    _show(result, render, json=json, quiet=quiet)


@config_app.command("show")
def show_config(json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Show every setting; secrets only as whether they are set."""

    async def work() -> dict[str, Any]:
        return {"version": 1, "settings": Settings.from_environment().shown(), "exit": 0}

    result = run(work(), json=json)

    def render() -> None:
        width = max(map(len, result["settings"]))
        for name, value in result["settings"].items():
            print(f"{name.upper():<{width}}  {'-' if value is None else value}")

    _show(result, render, json=json, quiet=quiet)


def _show(result: dict[str, Any], render: Any, *, json: bool, quiet: bool) -> None:
    if json or not quiet:
        report(result, render, json)


async def _describe(tenant: Tenant) -> dict[str, Any]:
    await tenant.open()
    database = tenant.database

    def count(connection: sqlite3.Connection) -> dict[str, Any]:
        require_tables(connection)
        (acknowledged,) = connection.execute(
            "SELECT coalesce(max(marks_to), 0) FROM localstore_batches WHERE state = 'acknowledged'"
        ).fetchone()
        waiting = pending(connection, acknowledged)
        return {
            table.name: {
                "rows": connection.execute(f"SELECT count(*) FROM {quote_identifier(table.name)}").fetchone()[0],
                "pending": waiting.get(table.name, 0),
            }
            for table in database.tables
        }

    identity = database.identity
    return {
        "tenant": identity.company_id,
        "path": str(database.path),
        "mode": identity.mode,
        "replica": identity.replica,
        "epoch": identity.epoch,
        "bytes": database.path.stat().st_size,
        "tables": await database.read(count),
    }
