"""Production as it was: keep it as it is now, and put it back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from localstore.postgres.server import Server
from tests.conftest import run_sql
from tests.faults.world import World


@asynccontextmanager
async def dump_of(world: World) -> AsyncIterator[str]:
    """Keep production as it is now, for `restore`."""
    server = Server.parse(world.url)
    dump = f"{server.database}_dump"
    admin = server.with_database("postgres")
    run_sql(admin, f"CREATE DATABASE {dump} TEMPLATE {server.database}")
    try:
        yield dump
    finally:
        run_sql(admin, f"DROP DATABASE IF EXISTS {dump} WITH (FORCE)")


def restore(world: World, dump: str) -> None:
    """Put production back to what the dump holds."""
    server = Server.parse(world.url)
    run_sql(
        server.with_database("postgres"),
        f"DROP DATABASE {server.database} WITH (FORCE)",
        f"CREATE DATABASE {server.database} TEMPLATE {dump}",
    )
