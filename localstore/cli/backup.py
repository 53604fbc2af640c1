"""`localstore backup|restore`: copies of tenants' files, and the way back to one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from localstore.blobs.backup import PutBack, back_up
from localstore.blobs.backup import restore as put_back
from localstore.cli.options import DataOption, JsonOption, QuietOption, TenantsOption
from localstore.cli.output import printable, report, run
from localstore.cli.store import TenantArgument, open_store
from localstore.errors import ConfigurationError, LocalStoreError, StoreError
from localstore.identifiers import check_tenant_id
from localstore.sqlite.backup import FOLDER, Backup, backups, check_backup
from localstore.sqlite.threads import in_thread
from localstore.tenant import BLOBS

EXIT_MISSING: Final = 3
"""Done, but the bytes of some blobs could not be had; the others were."""

_LISTED: Final = 20
"""How many of those are listed for people; JSON names all."""

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
    typer.Option(
        "--from",
        metavar="FILE",
        help="The backup; else the newest that no restore made.",
        show_default=False,
    ),
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
    """Copy tenants' files with their blobs while they are in use; each copy is checked and has a checksum beside it."""

    async def work() -> list[dict[str, Any]]:
        async with open_store(data) as store:
            await store.check()
            entries = []
            for name in tenant or await store.tenants():
                try:
                    opened = await store.tenant(name, create=False).open()
                    made = await back_up(opened.database, opened.folder / BLOBS, None if out is None else out / name)
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
                continue
            if not quiet:
                blobs = f", {entry['objects']:,} objects of blobs ({entry['object_bytes']:,} bytes)"
                size = f"({entry['bytes']:,} bytes){blobs if entry['objects'] else ''}"
                print(printable(f"{entry['tenant']}: {entry['path']} {size}"))
            _say_missing(entry["tenant"], entry["missing"], "was not backed up")

    code = 1 if failed else EXIT_MISSING if any(entry["missing"] for entry in entries) else 0
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
    """Put a backup in the place of a tenant's file, and its blobs' bytes; the file there is backed up first."""

    async def look() -> tuple[Path, Backup]:
        check_tenant_id(tenant)
        store = open_store(data)
        folder = store.root / tenant
        return folder, await in_thread(lambda: check_backup(source or _newest(folder, tenant), tenant))

    async def do(folder: Path) -> PutBack:
        return await put_back(folder, found, folder / BLOBS)

    folder, found = run(look(), json=json)
    run(_agree(tenant, found, yes=yes, json=json), json=json)
    done = run(do(folder), json=json)
    result = done.to_json()

    def render() -> None:
        if not quiet:
            print(printable(f"{tenant} is as it was at {found.made_at}, in epoch {result['epoch']}"))
            if done.objects:
                print(f"objects of blobs that came back: {done.objects:,} ({done.bytes:,} bytes)")
            if result["before"] is not None:
                print(printable(f"what was there before: {result['before']}"))
            print(f"next, if the tenant is synced: {result['next']}")
        _say_missing(tenant, result["missing"], "did not come back")

    code = EXIT_MISSING if done.missing else 0
    report({"version": 1, **result, "exit": code}, render, json)
    raise typer.Exit(code)


def _say_missing(tenant: str, missing: list[dict[str, str]], what: str) -> None:
    if not missing:
        return
    for lost in missing[:_LISTED]:
        typer.echo(printable(f"{tenant}: {lost['key']} {what}: {lost['why']}"), err=True)
    if len(missing) > _LISTED:
        typer.echo(f"{tenant}: and {len(missing) - _LISTED:,} more, which --json names", err=True)
    typer.echo(f"Try: localstore sync pull --blobs --tenant {tenant}, or put the blobs again", err=True)


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
    # What a restore replaced is kept to be named, not to be taken by the next one: run again, it would undo itself.
    found = [backup for backup in backups(folder / FOLDER) if backup.reason != "restore"]
    if not found:
        raise StoreError(
            f"tenant {tenant} has no backup in {folder / FOLDER}", hint="name one with --from FILE", tenant=tenant
        )
    return found[-1].path
