"""How every command prints its result, its errors and its exit code."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import orjson
import typer

from localstore.errors import LocalStoreError
from localstore.unexpected import ours, traceback_wanted

T = TypeVar("T")

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_KEPT = "\n\t\u200d"
"""Line ends, tabs, and the joiner that emoji are made with."""


def report(result: Mapping[str, Any], render: Callable[[], None], json: bool) -> None:
    """Print `result` as one JSON object, or let `render` print it for people."""
    if json:
        write_json(result)
    else:
        render()


def write_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on one line of stdout."""
    sys.stdout.write(orjson.dumps(dict(value), default=str, option=orjson.OPT_NON_STR_KEYS).decode() + "\n")
    sys.stdout.flush()


def run(work: Coroutine[Any, Any, T], *, json: bool = False) -> T:
    """Run a command's coroutine and return its result; what goes wrong becomes a message and an exit code."""
    try:
        return asyncio.run(work)
    except (typer.Exit, BrokenPipeError):
        raise
    except (Exception, KeyboardInterrupt) as error:
        raise typer.Exit(explain(error, json=json)) from error


def explain(error: BaseException, *, json: bool) -> int:
    """Print what happened and the next command, and return the exit code. Never prints a traceback unasked."""
    if traceback_wanted() and isinstance(error, (LocalStoreError, KeyboardInterrupt)):
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        return fail("interrupted", "interrupted", "run the same command again: it goes on", EXIT_INTERRUPTED, json=json)
    told = ours(error)
    return fail(told.code, told.message, told.hint, told.exit_code, json=json)


def fail(code: str, message: str, hint: str, exit_code: int, *, json: bool) -> int:
    """Print one error and return its exit code."""
    if json:
        write_json({"version": 1, "error": {"code": code, "message": message, "hint": hint}, "exit": exit_code})
    else:
        lines = [f"error: {printable(message)}"] + ([f"Try: {printable(hint)}"] if hint else [])
        print("\n".join(lines), file=sys.stderr)
    return exit_code


def printable(text: str) -> str:
    """Return `text` with what could move a terminal's cursor or reverse its writing replaced."""
    return "".join(char if char.isprintable() or char in _KEPT else "\N{REPLACEMENT CHARACTER}" for char in text)
