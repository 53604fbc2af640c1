"""`sync sweep`: remove blobs' bytes from production's object store that nothing names any more."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from localstore.cli.options import DataOption, JsonOption, QuietOption, TenantsOption
from localstore.cli.output import report
from sync.cli.options import TIMEOUT, TimeoutOption, ToOption
from sync.cli.session import Needs, Session
from sync.cli.tables import megabytes, plural, say
from sync.config import SyncSettings
from sync.staging import UNDO_DAYS

GraceOption = Annotated[
    float,
    typer.Option("--grace", metavar="DAYS", min=0, help="Leave what was wanted, or came, within so many days."),
]


def add_to(app: typer.Typer) -> None:
    """Add this command to `sync`."""
    app.command("sweep")(sweep)


def sweep(
    grace: GraceOption = float(UNDO_DAYS),
    to: ToOption = None,
    data: DataOption = None,
    tenant: TenantsOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Remove blobs' bytes in production's object store that no row, rollback, held change or batch names."""
    named = tuple(dict.fromkeys(tenant)) if tenant else None
    session = Session(data, to, named, SyncSettings(timeout=timeout), json, quiet)
    done = session.run(Needs.PRODUCTION, "sweeping", lambda engine: engine.sweep(named, grace=timedelta(days=grace)))

    def render() -> None:
        for swept in done.tenants:
            what = f"{plural(swept.removed, 'object')} of {swept.seen:,} removed ({megabytes(swept.bytes)})"
            say(f"{swept.tenant}: {what}, {plural(swept.unfinished, 'unfinished upload')} given up")

    if json or not quiet:
        report(done.to_json(), render, json)
