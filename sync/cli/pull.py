"""`sync pull|rebase`: the commands that bring production's changes into tenants' files."""

from __future__ import annotations

from typing import Annotated

import typer

from localstore.cli.options import DataOption, JsonOption, QuietOption, TenantsOption
from sync.cli.options import CONCURRENCY, TIMEOUT, ConcurrencyOption, SchemaOption, TimeoutOption, ToOption
from sync.cli.outcome import carried, show_result
from sync.cli.session import Needs, Session
from sync.config import SyncSettings


def add_to(app: typer.Typer) -> None:
    """Add these commands to `sync`."""
    app.command("pull")(pull)
    app.command("rebase")(rebase)


def pull(
    blobs: Annotated[bool, typer.Option("--blobs", help="Also bring blobs' bytes, else read on demand.")] = False,
    to: ToOption = None,
    data: DataOption = None,
    tenant: TenantsOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    concurrency: ConcurrencyOption = CONCURRENCY,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Bring in what others changed in production; a tenant named that is not here is made from it."""
    session = _session(data, to, tenant, schema, timeout, concurrency, json=json, quiet=quiet)
    # Without a tenant to make, a folder that is no store was named by mistake.
    needs = Needs.NEW if session.tenants else Needs.STORE
    done = session.run(
        needs, "pulling", lambda engine: carried(session, engine, engine.pull(session.tenants, blobs=blobs), held=False)
    )
    show_result(session, "pull", done)


def rebase(
    to: ToOption = None,
    data: DataOption = None,
    tenant: TenantsOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    concurrency: ConcurrencyOption = CONCURRENCY,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a restored or copied file a new replica on production's state; what it still had to send is merged."""
    session = _session(data, to, tenant, schema, timeout, concurrency, json=json, quiet=quiet)
    done = session.run(
        Needs.STORE, "rebasing", lambda engine: carried(session, engine, engine.rebase(session.tenants), held=False)
    )
    show_result(session, "rebase", done)


def _session(
    data: DataOption,
    to: str | None,
    tenants: list[str] | None,
    schema: str | None,
    timeout: float,
    concurrency: int,
    *,
    json: bool,
    quiet: bool,
) -> Session:
    named = tuple(dict.fromkeys(tenants)) if tenants else None
    return Session(data, to, named, SyncSettings(target=schema, timeout=timeout, concurrency=concurrency), json, quiet)
