"""Several pushes of one tenant at once, and writers that never rest."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from localstore import LocalStore
from localstore.storage.tables import MODELS
from sync import SyncEngine, ledger
from sync.bundle import Bundle
from sync.steps import stage
from tests.faults.killing import Command
from tests.faults.world import World, ticket, writes
from tests.faults.writing import Writer
from tests.integration.command import sync

ROUNDS = 5
WRITERS = 8
TICKETS = 60


def push(world: World, output: Path) -> Command:
    """Start a push in small chunks, so that two of them meet often."""
    return Command(*("sync", "push", "--promote", "--data", world.data), url=world.url, output=output, chunk_rows=3)


async def test_F20_two_processes_push_one_tenant_at_once(busy_world: World, tmp_path: Path) -> None:
    """Two commands started together both end well, and every batch takes effect once."""
    world = busy_world
    for number in range(ROUNDS):
        both = [push(world, tmp_path / f"{number}{name}") for name in "ab"]
        for pushing in both:
            assert pushing.wait() == 0, pushing.printed
        world.shell(writes(f"round{number}", 20 + 4 * number))
        await world.put(*(ticket(f"{number}-{more}") for more in range(20)))
    assert (await world.push()).exit_code == 0
    await world.check_settled()


async def test_F20_two_pushes_first_meet_an_unprepared_production(world: World, tmp_path: Path) -> None:
    """The very first push of two processes at once prepares production once and carries every row once."""
    await world.put(*(ticket(number) for number in range(50)))
    for pushing in [push(world, tmp_path / name) for name in "ab"]:
        assert pushing.wait() == 0, pushing.printed
    await world.check_settled()


async def test_two_engines_of_one_process_push_at_once(busy_world: World) -> None:
    """Two engines on one store, in one process, both end well, and every batch takes effect once."""
    world = busy_world
    async with (
        LocalStore(world.data, MODELS) as store,
        SyncEngine(store, to=world.url) as first,
        SyncEngine(store, to=world.url) as second,
    ):
        for number in range(ROUNDS):
            results = await asyncio.gather(*(engine.push(promote=True) for engine in (first, second)))
            assert [result.exit_code for result in results] == [0, 0], [result.to_json() for result in results]
            world.shell(writes(f"round{number}", 20 + 4 * number))
    assert (await world.push()).exit_code == 0
    await world.check_settled()


async def test_F20_a_batch_finished_by_another_process_in_the_middle_is_left_at_that(
    busy_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another push stages, promotes and puts aside the bundle that this one has just begun to stage: both end well."""
    others: list[int] = []

    def outrun(path: Path) -> Bundle:
        if not others:
            others.append(push(busy_world, tmp_path / "other").wait())
        return Bundle(path)

    monkeypatch.setattr(stage, "Bundle", outrun)
    result = await busy_world.push()
    assert (result.exit_code, others) == (0, [0]), result.to_json()
    await busy_world.check_settled()


async def test_a_batch_withdrawn_between_two_looks_is_no_fork(
    busy_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A withdrawal by another process, just when this one compares both chains, is not taken for a fork."""
    world = busy_world
    async with LocalStore(world.data, MODELS) as store, SyncEngine(store, to=world.url) as engine:
        batch = (await engine.push()).tenants[0].batch
        assert batch is not None
        chain = ledger.chain

        async def outrun(*arguments: Any) -> list[ledger.Entry]:
            found = await chain(*arguments)
            monkeypatch.undo()
            await engine.withdraw(batch)
            return found

        monkeypatch.setattr(ledger, "chain", outrun)
        result = await engine.push(promote=True)
        assert result.exit_code == 0, result.to_json()
    await world.check_settled()


@pytest.mark.parametrize("promote", [True, False])
async def test_eight_writers_write_while_it_is_pushed(busy_world: World, tmp_path: Path, promote: bool) -> None:
    """Eight programs write all the time: no push fails, no write is lost, and the last push brings everything."""
    world = busy_world
    writers = [Writer(world.file, f"writer{number}", tickets=TICKETS, seed=number) for number in range(WRITERS)]
    try:
        for number in range(ROUNDS):
            pushing = Command(
                *("sync", "push", "--data", world.data),
                *(("--promote",) if promote else ()),
                url=world.url,
                output=tmp_path / f"out{number}",
            )
            assert pushing.wait() == 0, pushing.printed
    finally:
        inserted = {writer.name: writer.stop() for writer in writers}
    last = sync("push", "--promote", "--data", world.data, DATABASE_URL=world.url)
    assert last.code == 0, last.all
    await world.check_settled()
    there = dict(world.local("SELECT platform, count(*) FROM tickets WHERE platform <> 'jira' GROUP BY 1"))
    assert there == {name: count for name, count in inserted.items() if count}
