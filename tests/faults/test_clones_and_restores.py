"""A file that is copied or restored, and a production that is: each told apart, and nothing overwritten."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from sync.bundle import Sealed
from sync.steps.stage import stage
from tests.faults.dumps import dump_of, restore
from tests.faults.killing import Command
from tests.faults.world import COMPANY, World, ticket, writes
from tests.integration.command import Outcome, sync

REFUSED = 6


def push(world: World) -> Outcome:
    """Push with the real command."""
    return sync("push", "--promote", "--data", world.data, "--json", DATABASE_URL=world.url)


async def everything(world: World) -> dict[str, list[tuple[Any, ...]]]:
    """Return all that production holds, our own tables included."""
    names = await world.fetch(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
        "WHERE schemaname IN ('public', 'localstore', 'localstore_staging')"
    )
    return {name: await world.fetch(f"SELECT t::text FROM {name} t ORDER BY 1") for (name,) in names}


def everything_local(world: World) -> list[str]:
    """Return all that the tenant's file holds, and the names in its outbox."""
    with closing(sqlite3.connect(world.file)) as connection:
        rows = [line for line in connection.iterdump() if "localstore_state" not in line]
    return rows + sorted(str(path) for path in world.outbox.rglob("*"))


def check_refused(outcome: Outcome, code: str) -> None:
    """Claim that a guard refused the only tenant, and said what to do."""
    assert outcome.code == REFUSED, outcome.all
    (tenant,) = outcome.json["tenants"]
    assert tenant["state"] == "failed"
    assert tenant["error"]["code"] == code
    assert "rebase" in tenant["error"]["hint"]


async def test_F18_the_second_of_two_clones_is_refused_at_the_first_fork(busy_world: World, tmp_path: Path) -> None:
    """Of a copied store only the one that pushes first goes on; the other is refused and changes nothing anywhere."""
    first = busy_world
    assert (await first.push()).exit_code == 0
    second = World(tmp_path / "clone", first.url)
    shutil.copytree(first.data, second.data)
    first.shell(writes("first", 20))
    second.shell(writes("second", 20))
    assert push(first).code == 0
    before, local = await everything(first), everything_local(second)
    check_refused(push(second), "stale_file")
    check_refused(sync("plan", "--data", second.data, "--json", DATABASE_URL=second.url), "stale_file")
    assert await everything(first) == before
    assert everything_local(second) == local
    first.shell(writes("more", 30))
    assert push(first).code == 0
    await first.check_settled()


async def test_F18_a_clone_that_had_sealed_already_is_refused_as_a_fork(
    busy_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clones that each sealed a batch of the same number: the first to arrive has it, the other is a fork."""
    first = busy_world
    assert (await first.push()).exit_code == 0
    second = World(tmp_path / "clone", first.url)
    shutil.copytree(first.data, second.data)
    second.shell(writes("second", 20))
    with monkeypatch.context() as cut:
        cut.setattr("sync.pipeline.stage", _unreachable)
        assert (await second.push()).exit_code == 1
    first.shell(writes("first", 20))
    assert push(first).code == 0
    before = await everything(first)
    check_refused(push(second), "fork")
    assert await everything(first) == before
    await first.check_settled()


async def _unreachable(*_: object) -> None:
    raise ConnectionResetError("the network went away")


async def test_F17_a_file_restored_from_an_older_copy_is_refused(busy_world: World, tmp_path: Path) -> None:
    """A backup older than production's knowledge of it is told apart, whatever was written to it since."""
    world = busy_world
    assert (await world.push()).exit_code == 0
    backup = tmp_path / "backup.db"
    with closing(sqlite3.connect(world.file)) as source, closing(sqlite3.connect(backup)) as copy:
        source.backup(copy)
    world.shell(writes("lost", 20))
    assert (await world.push()).exit_code == 0
    for leftover in ("store.db-wal", "store.db-shm"):
        (world.file.parent / leftover).unlink(missing_ok=True)
    shutil.copyfile(backup, world.file)
    world.shell(writes("restored", 30))
    before, local = await everything(world), everything_local(world)
    check_refused(push(world), "stale_file")
    check_refused(push(world), "stale_file")
    assert await everything(world) == before
    assert everything_local(world) == local


async def test_a_production_restored_from_an_older_dump_catches_up(busy_world: World) -> None:
    """Acknowledged batches that production no longer knows are sent again, in their order, with what is new."""
    world = busy_world
    assert (await world.push()).exit_code == 0
    async with dump_of(world) as dump:
        for number in range(3):
            world.shell(writes(f"after{number}", 20 + 4 * number))
            assert (await world.push()).exit_code == 0
        known = await world.ledger()
        restore(world, dump)
        world.shell(writes("new", 40))
        again = push(world)
        assert again.code == 0, again.all
        assert len(again.json["tenants"][0]["batches"]) == 4
        assert set(known) < set(await world.ledger())
        await world.check_settled()


async def test_a_production_lost_altogether_is_filled_again(busy_world: World) -> None:
    """An empty database in production's place gets every batch of the file that was ever acknowledged."""
    world = busy_world
    assert (await world.push()).exit_code == 0
    world.shell(writes("after", 20))
    assert (await world.push()).exit_code == 0
    restore(world, "template0")
    again = push(world)
    assert again.code == 0, again.all
    await world.check_settled()


async def test_a_restored_production_keeps_what_an_application_wrote_there(busy_world: World) -> None:
    """What was written into the restored production in the meantime is not overwritten by batches sent again."""
    world = busy_world
    assert (await world.push()).exit_code == 0
    async with dump_of(world) as dump:
        world.shell("UPDATE tickets SET status = 'ours' WHERE ticket_id IN ('30', '31')")
        assert (await world.push()).exit_code == 0
        restore(world, dump)
        await world.execute(
            f"SET app.current_company_id = '{COMPANY}'; UPDATE tickets SET status = 'theirs' WHERE ticket_id = '30'"
        )
        again = push(world)
        assert again.code == 3, again.all
        assert again.json["totals"]["conflicts"] == 1
        rows = await world.fetch("SELECT ticket_id, status FROM tickets WHERE ticket_id IN ('30', '31') ORDER BY 1")
        assert rows == [("30", "theirs"), ("31", "ours")]


async def test_F18_two_clones_that_push_at_the_same_moment(busy_world: World, tmp_path: Path) -> None:
    """However two clones meet, one wins and goes on, the other is refused with exit 6, and production has one chain."""
    first = busy_world
    assert (await first.push()).exit_code == 0
    second = World(tmp_path / "clone", first.url)
    shutil.copytree(first.data, second.data)
    worlds = {"first": first, "second": second}
    for name, world in worlds.items():
        world.shell(writes(name, 20))
        await world.put(*(ticket(f"{name}-{number}") for number in range(30)))
    pushing = {
        name: Command(
            *("sync", "push", "--promote", "--data", world.data),
            url=world.url,
            output=tmp_path / f"out-{name}",
            chunk_rows=3,
        )
        for name, world in worlds.items()
    }
    codes = {name: command.wait() for name, command in pushing.items()}
    assert sorted(codes.values()) == [0, REFUSED], [command.printed for command in pushing.values()]
    (winner,) = (name for name, code in codes.items() if code == 0)
    await worlds[winner].check_settled()


async def test_F18_a_clone_that_is_outrun_between_the_comparison_and_its_staging(
    busy_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other clone's batch arrives after the chains were compared: the ledger itself refuses the second one."""
    first = busy_world
    assert (await first.push()).exit_code == 0
    second = World(tmp_path / "clone", first.url)
    shutil.copytree(first.data, second.data)
    first.shell(writes("first", 20))
    second.shell(writes("second", 20))

    async def outrun(connection: asyncpg.Connection, sealed: Sealed, target: str, mode: str) -> str:
        monkeypatch.undo()
        assert (await first.push()).exit_code == 0
        return await stage(connection, sealed, target, mode)

    monkeypatch.setattr("sync.pipeline.stage", outrun)
    refused = await second.push()
    assert refused.exit_code == REFUSED, refused.to_json()
    assert refused.tenants[0].failure is not None
    assert refused.tenants[0].failure.code == "fork"
    await first.check_settled()
