"""`localstore backup|restore`: copies of tenants' files, and the way back to one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from localstore.cli.options import DataOption, JsonOption, QuietOption, TenantsOption
from localstore.cli.output import printable, report, run
from localstore.cli.store import TenantArgument, open_store
from localstore.errors import ConfigurationError, LocalStoreError, StoreError
from localstore.identifiers import check_tenant_id
from localstore.sqlite.backup import FOLDER, Backup, back_up, backups, check_backup
from localstore.sqlite.restore import Restored
from localstore.sqlite.restore import restore as put_back
from localstore.sqlite.threads import in_thread

OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Where to, in a folder a tenant; else each tenant's own backups/.",
        show_default=False,
    ),
]
BackupOption = Annotated[
    Path | None,
    typer.Option("--from", metavar="FILE", help="The backup; else the tenant's newest.", show_default=False),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the root command."""
    app.command("backup")(backup)
    app.command("restore")(restore)


def backup(
    data: DataOption = None,
    tenant: TenantsOption = None,
    out: OutOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Copy tenants' files while they are in use; each copy is checked and has a checksum beside it."""

    async def work() -> list[dict[str, Any]]:
        async with open_store(data) as store:
            await store.check()
            entries = []
            for name in tenant or await store.tenants():
                try:
                    opened = await store.tenant(name, create=False).open()
                    made = await back_up(opened.database, None if out is None else out / name)
                    entries.append(made.to_json())
                except LocalStoreError as error:
                    entries.append({"tenant": name, "error": error.to_json()})
            return entries

    entries = run(work(), json=json)
    failed = [entry for entry in entries if "error" in entry]

    def render() -> None:
        for entry in entries:
            if "error" in entry:
                typer.echo(f"error: {entry['tenant']}: {printable(str(entry['error']['message']))}", err=True)
                typer.echo(f"Try: {printable(str(entry['error']['hint']))}", err=True)
            elif not quiet:
                print(printable(f"{entry['tenant']}: {entry['path']} ({entry['bytes']:,} bytes)"))

    code = 1 if failed else 0
    report({"version": 1, "tenants": entries, "exit": code}, render, json)
    raise typer.Exit(code)


def restore(
    tenant: TenantArgument,
    source: BackupOption = None,
    yes: YesOption = False,
    data: DataOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Put a backup in the place of a tenant's file; what stands there is backed up first."""

    async def look() -> tuple[Path, Backup]:
        check_tenant_id(tenant)
        store = open_store(data)
        folder = store.root / tenant
        return folder, await in_thread(lambda: check_backup(source or _newest(folder, tenant), tenant))

    async def do(folder: Path, path: Path) -> Restored:
        return await in_thread(lambda: put_back(folder, tenant, path))

    folder, found = run(look(), json=json)
    run(_agree(tenant, found, yes=yes, json=json), json=json)
    done = run(do(folder, found.path), json=json)

    def render() -> None:
        if not quiet:
            print(printable(f"{tenant} is as it was at {found.made_at}, in epoch {done.epoch}"))
            if done.before is not None:
                print(printable(f"what was there before: {done.before.path}"))

    report({"version": 1, **done.to_json(), "exit": 0}, render, json)


async def _agree(tenant: str, found: Backup, *, yes: bool, json: bool) -> None:
    if yes:
        return
    if json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigurationError(
            f"a restore replaces the file of tenant {tenant} and asks first, which it cannot do here",
            hint="add --yes to the same command",
        )
    question = f"Replace the file of tenant {tenant} by the backup of {found.made_at}?"
    if not typer.confirm(question, err=True):
        raise StoreError("nothing was restored", hint="the same command with --yes does not ask", tenant=tenant)


def _newest(folder: Path, tenant: str) -> Path:
    found = backups(folder / FOLDER)
    if not found:
        raise StoreError(
            f"tenant {tenant} has no backup in {folder / FOLDER}", hint="name one with --from FILE", tenant=tenant
        )
    return found[-1].path
