"""`sync init|plan|push|promote|withdraw|rollback|requeue`: the commands that carry changes, or take them back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from localstore.cli.options import DataOption, JsonOption, QuietOption, TenantsOption
from localstore.cli.output import report
from sync.cli.options import (
    CONCURRENCY,
    TIMEOUT,
    AllowDeletesOption,
    BatchArgument,
    ConcurrencyOption,
    OnError,
    OnErrorOption,
    SchemaOption,
    TimeoutOption,
    ToOption,
)
from sync.cli.outcome import Done, carried, show_result
from sync.cli.session import Needs, Session
from sync.cli.tables import plural, say
from sync.config import SyncSettings
from sync.engine import SyncEngine
from sync.plan import Plan


def add_to(app: typer.Typer) -> None:
    """Add these commands to `sync`."""
    for command in (init, plan, push, promote, withdraw, rollback, requeue):
        app.command(command.__name__)(command)


def init(
    to: ToOption = None,
    data: DataOption = None,
    tenant: TenantsOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make production ready: roles, schemas, and the tables of the tenants that are here."""
    settings = SyncSettings(target=schema, timeout=timeout)
    session = _session(data, to, tenant, settings, json=json, quiet=quiet)
    names = session.run(Needs.NEW, "making production ready", lambda engine: engine.init(session.tenants))

    def render() -> None:
        tables = f" with {plural(len(names), 'table')}: {', '.join(names)}" if names else "; no tenant is here yet"
        say(f"Production is ready{tables}.")

    if json or not quiet:
        report({"version": 1, "tables": list(names), "exit": 0}, render, json)


def plan(
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Save the plan for `promote FILE`.", show_default=False)
    ] = None,
    to: ToOption = None,
    data: DataOption = None,
    tenant: TenantsOption = None,
    schema: SchemaOption = None,
    on_error: OnErrorOption = OnError.HOLD,
    allow_deletes: AllowDeletesOption = None,
    timeout: TimeoutOption = TIMEOUT,
    concurrency: ConcurrencyOption = CONCURRENCY,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show what promoting would do, by doing it and rolling it back. Production stays as it is."""
    settings = _settings(schema, on_error, allow_deletes, timeout, concurrency)
    session = _session(data, to, tenant, settings, json=json, quiet=quiet)

    async def work(engine: SyncEngine) -> Plan:
        planned = await engine.plan(session.tenants)
        if out is not None:
            planned.save(out)
        return planned

    planned = session.run(Needs.STAGED, "planning", work)
    show_result(session, "plan", Done(planned.result), json=planned.to_json() if json else None, saved=out)


def push(
    promote: Annotated[bool, typer.Option("--promote", help="Also promote everything that is staged.")] = False,
    to: ToOption = None,
    data: DataOption = None,
    tenant: TenantsOption = None,
    schema: SchemaOption = None,
    on_error: OnErrorOption = OnError.HOLD,
    allow_deletes: AllowDeletesOption = None,
    timeout: TimeoutOption = TIMEOUT,
    concurrency: ConcurrencyOption = CONCURRENCY,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Seal what changed and stage it in production; with --promote, bring it into effect."""
    settings = _settings(schema, on_error, allow_deletes, timeout, concurrency)
    session = _session(data, to, tenant, settings, json=json, quiet=quiet)
    done = session.run(
        Needs.STORE,
        "pushing and promoting" if promote else "pushing",
        lambda engine: carried(session, engine, engine.push(session.tenants, promote=promote)),
    )
    show_result(session, "push", done)


def promote(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE|BATCH]",
            help="A saved plan, or the last batch to promote; else all that is staged.",
            show_default=False,
        ),
    ] = None,
    to: ToOption = None,
    data: DataOption = None,
    tenant: TenantsOption = None,
    schema: SchemaOption = None,
    on_error: OnErrorOption = OnError.HOLD,
    allow_deletes: AllowDeletesOption = None,
    timeout: TimeoutOption = TIMEOUT,
    concurrency: ConcurrencyOption = CONCURRENCY,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Bring what is staged into effect, each batch in one transaction."""
    settings = _settings(schema, on_error, allow_deletes, timeout, concurrency)
    session = _session(data, to, tenant, settings, json=json, quiet=quiet)
    meant = _meant(what)
    done = session.run(
        Needs.PRODUCTION,
        "promoting",
        lambda engine: carried(session, engine, engine.promote(meant, session.tenants)),
    )
    show_result(session, "promote", done)


def withdraw(
    batch: BatchArgument,
    to: ToOption = None,
    data: DataOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Give up a staged batch and those behind it; their changes travel in the next push."""
    session = _session(data, to, None, SyncSettings(target=schema, timeout=timeout), json=json, quiet=quiet)
    done = session.run(
        Needs.PRODUCTION, "withdrawing", lambda engine: carried(session, engine, engine.withdraw(batch), held=False)
    )
    show_result(session, "withdraw", done)


def rollback(
    batch: BatchArgument,
    to: ToOption = None,
    data: DataOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take a promoted batch back; rows that were written since are left alone and listed."""
    session = _session(data, to, None, SyncSettings(target=schema, timeout=timeout), json=json, quiet=quiet)
    done = session.run(
        Needs.PRODUCTION, "rolling back", lambda engine: carried(session, engine, engine.rollback(batch), held=False)
    )
    show_result(session, "rollback", done)


def requeue(
    batch: BatchArgument,
    to: ToOption = None,
    data: DataOption = None,
    schema: SchemaOption = None,
    timeout: TimeoutOption = TIMEOUT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Put what a rollback took back in line again; the next push carries it."""
    session = _session(data, to, None, SyncSettings(target=schema, timeout=timeout), json=json, quiet=quiet)
    done = session.run(
        Needs.STORE, "requeuing", lambda engine: carried(session, engine, engine.requeue(batch), held=False)
    )
    show_result(session, "requeue", done)


def _meant(what: str | None) -> Plan | str | None:
    """Return the plan that is in the file named, or the text as a batch's id: no id has a dot or a slash."""
    if what is None:
        return None
    looks_like_file = any(char not in "0123456789abcdefABCDEF-" for char in what) or Path(what).is_file()
    return Plan.load(Path(what)) if looks_like_file else what


def _settings(
    schema: str | None, on_error: OnError, allow_deletes: int | None, timeout: float, concurrency: int
) -> SyncSettings:
    return SyncSettings(
        target=schema, concurrency=concurrency, allow_deletes=allow_deletes, on_error=on_error.value, timeout=timeout
    )


def _session(
    data: Path | None, to: str | None, tenants: list[str] | None, settings: SyncSettings, *, json: bool, quiet: bool
) -> Session:
    # Naming a tenant twice is naming it once.
    named = tuple(dict.fromkeys(tenants)) if tenants else None
    return Session(data, to, named, settings, json, quiet)
