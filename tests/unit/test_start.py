"""A command starts without the packages that it does not need: importing them all takes longer than most commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from localstore import LocalStore
from localstore.cli import BUILT_IN, build

HEAVY = {
    "sqlalchemy",
    "sqlmodel",
    "alembic",
    "asyncpg",
    "fsspec",
    "s3fs",
    "diskcache",
    "numpy",
    "redis",
    "qdrant_client",
}
NEEDED = {
    "--version": set[str](),
    "init": set[str](),
    "tenants create zeta": set[str](),
    "tenants show acme": set[str](),
    "sync status --to postgresql://localhost/nowhere": {"asyncpg"},
}


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """Return the folder of a store with one tenant."""
    async with LocalStore(tmp_path / "data", models=()) as store:
        await store.create_tenant("acme")
    return tmp_path / "data"


@pytest.mark.parametrize("arguments", NEEDED)
def test_a_command_imports_only_what_it_needs(data: Path, arguments: str) -> None:
    """Commands know no models, so none of these needs SQLAlchemy; only what talks to production needs its driver."""
    where = () if arguments == "--version" else ("--data", str(data))
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "localstore", *arguments.split(), *where],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    imported = set(re.findall(r"^import time:[ \d|]+ (\w+)$", done.stderr, re.MULTILINE))
    assert "localstore" in imported
    assert imported & HEAVY == NEEDED[arguments]


def test_each_command_is_found_alone_as_it_is_among_all() -> None:
    """What is loaded for one subcommand holds it, with the help that the whole command has for it."""
    everything = get_command(build())
    assert isinstance(everything, TyperGroup)
    assert {*BUILT_IN, "sync", "demo"} <= set(everything.commands)
    for name, command in everything.commands.items():
        alone = get_command(build(name))
        assert isinstance(alone, TyperGroup)
        assert alone.commands[name].help == command.help
