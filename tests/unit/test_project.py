"""What the project promises about itself: pinned versions, plain names, imports that open nothing."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent

# Imports every module of a package and prints what one of them did that an import must not do.
WATCH = """
import importlib, os, pkgutil, sys

seen = []

def watch(event, arguments):
    if event in ("socket.connect", "socket.bind", "sqlite3.connect", "subprocess.Popen", "os.mkdir", "os.fork"):
        seen.append(f"{event} {arguments[:1]}")
    elif event == "open" and isinstance(arguments[2], int):
        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and arguments[0] != os.devnull:
            seen.append(f"open {arguments[0]}")

package = importlib.import_module(sys.argv[1])
# Clients of servers bring urllib3 along, which binds a socket of its own to see whether this machine has IPv6.
import urllib3
sys.addaudithook(watch)
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print("\\n".join(seen))
"""


def project() -> dict[str, object]:
    """Return the `project` table of pyproject.toml."""
    table: dict[str, object] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return table


def normal(name: str) -> str:
    """Return a distribution's name in its one normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_constraints_are_names_and_versions_only() -> None:
    """Nothing but names and versions is pinned: no address of an index, no path, no hash."""
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line), line


def test_every_dependency_is_pinned() -> None:
    """Whatever pyproject.toml asks for, in any extra, has its version in constraints.txt."""
    table = project()
    extras = table["optional-dependencies"]
    asked = list(table["dependencies"])  # type: ignore[call-overload]
    for wanted in extras.values():  # type: ignore[attr-defined]
        asked += wanted
    pinned = {normal(line.partition("==")[0]) for line in (REPOSITORY / "constraints.txt").read_text().splitlines()}
    names = {normal(re.split(r"[\[<>=!~ ]", requirement)[0]) for requirement in asked}
    assert names - pinned == {"localstore"}


@pytest.mark.parametrize("package", ["localstore", "sync"])
def test_importing_opens_nothing(package: str) -> None:
    """Importing every module makes no connection, no process and no file."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", WATCH, package], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_no_module_is_named_for_nothing() -> None:
    """A module's name says what it does; these say nothing."""
    empty = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
    modules = [path for package in ("localstore", "sync") for path in (REPOSITORY / package).rglob("*.py")]
    assert modules
    assert not [str(path) for path in modules if path.stem in empty]
