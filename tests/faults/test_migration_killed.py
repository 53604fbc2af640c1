"""A migration that is killed goes on where it was when it is called again."""

from __future__ import annotations

import asyncio
import importlib
import signal

import pytest

from sync import HybridStorage
from sync.hybrid.migration import Migration
from tests.faults.killing import TIMEOUT_SECONDS, plant
from tests.faults.world import COMPANY, World
from tests.forked import processes

CHUNK_ROWS = 10


async def migrate(world: World) -> Migration:
    """Bring the tenant's file to production."""
    async with HybridStorage(world.data, world.url) as storage:
        return await storage.migrate_data(COMPANY)


def be_migration(world: World, point: str) -> None:
    """Be the program that is killed at the point."""
    importlib.import_module("sync.bundle").CHUNK_ROWS_MAX = CHUNK_ROWS  # type: ignore[attr-defined]
    plant(point)
    asyncio.run(migrate(world))


@pytest.mark.parametrize(
    "point",
    [
        "the bundle has its name but no record",
        "three chunks are staged",
        "COMMIT is sent, its answer not read",
        "promoted, not yet acknowledged",
    ],
)
async def test_F1_a_migration_killed_anywhere_is_finished_by_the_next(busy_world: World, point: str) -> None:
    """After a SIGKILL at the point the second call moves what was left; all is there once."""
    process = processes.Process(target=be_migration, args=(busy_world, point))
    process.start()
    await asyncio.to_thread(process.join, TIMEOUT_SECONDS)
    assert process.exitcode == -signal.SIGKILL
    process.close()
    migration = await migrate(busy_world)
    assert migration.complete, migration.to_json()
    (company,) = migration.companies
    (moved,) = company.moved
    assert moved.tickets == busy_world.local("SELECT count(*) FROM tickets")[0][0]
    await busy_world.check_settled()
