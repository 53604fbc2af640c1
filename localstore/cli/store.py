"""`localstore init`, `tenants` and `config`: a store seen from the outside."""

from __future__ import annotations

import typer

from localstore.cli.options import JsonOption, QuietOption
from localstore.cli.output import report
from localstore.config import Settings

config_app = typer.Typer(help="Look at the settings.", no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the root command."""
    app.add_typer(config_app, name="config")


@config_app.command("show")
def show_config(json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Show every setting; secrets only as whether they are set."""
    shown = Settings.from_environment().shown()

    def render() -> None:
        width = max(len(name) for name in shown)
        for name, value in shown.items():
            print(f"{name.upper():<{width}}  {'-' if value is None else value}")

    if json or not quiet:
        report({"version": 1, "settings": shown, "exit": 0}, render, json)
