"""The `localstore` command: its own subcommands and those that other packages add."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated, Any, Final

import typer
from typer.exceptions import TyperException

from localstore.cli.output import EXIT_USAGE, explain, fail
from localstore.errors import ConfigurationError

ENTRY_POINTS = "localstore.commands"
BUILT_IN: Final[Mapping[str, str]] = {
    "init": "store",
    "tenants": "store",
    "config": "store",
    "backup": "backup",
    "restore": "backup",
    "import": "interchange",
    "export": "interchange",
    "postgres": "postgres",
    "schema": "schema",
    "cache": "cache",
    "blobs": "blobs",
}
"""Our own subcommands, each with the module beside this one whose `add_to` adds it."""

VERSION: Final = "--version"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    code = _run(given)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _nobody_reads()
    sys.exit(code)


def build(wanted: str | None = None) -> typer.Typer:
    """Return the whole command, or only as much of it as the subcommand `wanted` needs, which starts much faster."""
    app = typer.Typer(
        name="localstore",
        help="Tenants in SQLite files, offline, and their way into production.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    if wanted == VERSION:
        return app
    modules, added = _providers(wanted)
    for module in modules:
        import_module(f"{__name__}.{module}").add_to(app)
    for entry_point in added:
        _add(app, entry_point)
    return app


def _providers(wanted: str | None) -> tuple[Sequence[str], Sequence[EntryPoint]]:
    """Return the modules of ours and the entry points of other packages that a subcommand may come from."""
    if wanted is not None and wanted in BUILT_IN:
        return (BUILT_IN[wanted],), ()
    found = sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name)
    named = [point for point in found if point.name == wanted]
    # A package may add commands under other names than its entry point's; such a one is found among all.
    return ((), named) if named else (tuple(dict.fromkeys(BUILT_IN.values())), found)


def _run(arguments: list[str]) -> int:
    json = "--json" in arguments
    try:
        command = typer.main.get_command(build(arguments[0] if arguments else None))
        outcome = command.main(args=arguments, prog_name="localstore", standalone_mode=False)
    except typer.Exit as stop:
        return stop.exit_code
    except TyperException as error:
        return _explain_usage(error, arguments, json=json)
    except BrokenPipeError:
        return _nobody_reads()
    except (Exception, KeyboardInterrupt, typer.Abort) as error:  # noqa: BLE001 - the outermost handler
        return explain(KeyboardInterrupt() if isinstance(error, typer.Abort) else error, json=json)
    return outcome if isinstance(outcome, int) else 0


def _nobody_reads() -> int:
    """Return the exit code for output whose reader has gone, and keep the interpreter from failing on it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _explain_usage(error: TyperException, arguments: list[str], *, json: bool) -> int:
    message = error.format_message()
    context = getattr(error, "ctx", None)
    if not arguments or type(error).__name__ == "NoArgsIsHelpError":
        print(message)
        return EXIT_USAGE
    path = context.command_path if context is not None else "localstore"
    return fail("usage", message, f"{path} --help", EXIT_USAGE, json=json)


def _add(app: typer.Typer, entry_point: EntryPoint) -> None:
    """Add a package's commands: a typer app under the entry point's name, or whatever a callable adds itself."""
    try:
        added: Any = entry_point.load()
        if isinstance(added, typer.Typer):
            app.add_typer(added, name=entry_point.name)
        else:
            added(app)
    except Exception as error:  # noqa: BLE001 - another package's import may raise anything
        _add_broken(app, entry_point, error)


def _add_broken(app: typer.Typer, entry_point: EntryPoint, error: Exception) -> None:
    """Add a command that says why the real one is missing, and shows it in the help."""
    reason = f"cannot be loaded: {type(error).__name__}: {error}"

    def broken() -> None:
        raise ConfigurationError(
            f"the command {entry_point.name!r} ({entry_point.value}) {reason}",
            hint="install the package that provides it again",
        ) from error

    settings = {"ignore_unknown_options": True, "allow_extra_args": True}
    app.command(entry_point.name, help=f"({reason})", context_settings=settings)(broken)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"localstore {version('localstore')}")
        raise typer.Exit


def _root(
    _version: Annotated[
        bool, typer.Option(VERSION, callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Tenants in SQLite files, offline, and their way into production."""
