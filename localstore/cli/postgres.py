"""`localstore postgres start|stop|status`: keep a store's own server beyond one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from localstore.cli.options import DataOption, JsonOption, QuietOption
from localstore.cli.output import report, run
from localstore.config import Settings
from localstore.errors import PostgresUnavailable
from localstore.postgres.embedded import EmbeddedServer
from localstore.postgres.server import Server

app = typer.Typer(
    help="Run a PostgreSQL of the store's own, the one that --to embedded means.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

VersionOption = Annotated[
    int | None,
    typer.Option("--version", metavar="16|18", help="PostgreSQL's version, for a new server.", show_default=False),
]
UrlOption = Annotated[bool, typer.Option("--url", help="Print only the URL, with its password, for DATABASE_URL.")]


def add_to(root: typer.Typer) -> None:
    """Add these commands to the root command."""
    root.add_typer(app, name="postgres")


@app.command()
def start(
    data: DataOption = None, version: VersionOption = None, json: JsonOption = False, quiet: QuietOption = False
) -> None:
    """Start the store's server and leave it running; its data stay from one start to the next."""
    embedded = _embedded(data, version)
    server = run(embedded.start(), json=json)
    _show(embedded, server, json=json, quiet=quiet)


@app.command()
def stop(data: DataOption = None, json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Stop the store's server; its data stay."""
    embedded = _embedded(data, None)
    ran = run(embedded.stop(), json=json)
    if json or not quiet:
        result = {"version": 1, "server": _described(embedded, None), "stopped": ran, "exit": 0}
        report(result, lambda: print("stopped" if ran else "it did not run"), json)


@app.command()
def status(
    data: DataOption = None, url: UrlOption = False, json: JsonOption = False, quiet: QuietOption = False
) -> None:
    """Say whether the store's server runs, and where."""
    embedded = _embedded(data, None)

    async def look() -> Server | None:
        server = embedded.running()
        if url and server is None:
            raise PostgresUnavailable("the store's server does not run", hint="localstore postgres start")
        return server

    server = run(look(), json=json)
    if url and server is not None:
        print(server.url)
    else:
        _show(embedded, server, json=json, quiet=quiet)


def _embedded(data: Path | None, version: int | None) -> EmbeddedServer:
    return EmbeddedServer(data or Settings.from_environment().data_path, version=version)


def _show(embedded: EmbeddedServer, server: Server | None, *, json: bool, quiet: bool) -> None:
    described = _described(embedded, server)

    def render() -> None:
        if described["postgres"] is None:
            print("this store has no server yet; `localstore postgres start` makes one")
            return
        print(f"PostgreSQL {described['postgres']} {described['url'] or 'does not run'}")
        print(f"data and log    {described['folder']}")
        if server is not None:
            until = "`localstore postgres stop`" if described["kept"] else "the last command that uses it ends"
            print(f"runs until      {until}")
            print("with password   localstore postgres status --url")

    if json or not quiet:
        report({"version": 1, "server": described, "exit": 0}, render, json)


def _described(embedded: EmbeddedServer, server: Server | None) -> dict[str, Any]:
    description = embedded.describe()
    return {
        "running": server is not None,
        "kept": description is not None and description.kept,
        "postgres": None if description is None else description.version,
        "url": None if server is None else server.redacted,
        "folder": None if description is None else str(embedded.folder / description.folder),
    }
