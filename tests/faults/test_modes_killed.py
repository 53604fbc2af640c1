"""The crash table's line *mode change*: the command dies in the middle of one, with an application writing on."""

from __future__ import annotations

import os
import random
import secrets
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from localstore import LocalStore
from localstore.storage.tables import MODELS
from sync import SyncEngine
from tests.faults.following import Follower
from tests.faults.killing import Command
from tests.faults.mode_points import MODE_POINTS, point_name
from tests.faults.world import COMPANY, World, ticket

WAY = ("file", "hybrid", "postgresql")

CHANGES = 10
SECONDS_MAX = 1.5
"""About as long as the longest way takes here; where it takes longer more of them die."""

SEED_VARIABLE = "LOCALSTORE_TEST_SEED"

# What production and the file must say right after the kill: proof that the point was the one meant.
FOUND = {
    ("file", "hybrid"): {
        "compared, nothing declared": ("file", "file"),
        "declared in production, not in the file": ("hybrid", "file"),
        "declared in both, nobody told": ("hybrid", "hybrid"),
    },
    ("hybrid", "postgresql"): {
        "carried while others write": ("hybrid", "hybrid"),
        "closed, nothing carried yet": ("hybrid", "advancing"),
        "closed, the rest staged": ("hybrid", "advancing"),
        "closed, the rest promoted": ("hybrid", "advancing"),
        "compared, nothing declared": ("hybrid", "advancing"),
        "COMMIT is sent, its answer not read": ("postgresql", "advancing"),
        "declared in production, not in the file": ("postgresql", "advancing"),
        "declared in both, nobody told": ("postgresql", "postgresql"),
    },
    ("postgresql", "hybrid"): {
        "taken in while others write": ("postgresql", "postgresql"),
        "COMMIT is sent, its answer not read": ("hybrid", "postgresql"),
        "declared in production, nothing taken in": ("hybrid", "postgresql"),
        "the last taken in, nothing committed": ("hybrid", "postgresql"),
        "the file is open, nobody told": ("hybrid", "hybrid"),
    },
    ("hybrid", "file"): {
        "nothing declared": ("hybrid", "hybrid"),
        "declared in production, not in the file": ("file", "hybrid"),
    },
}


@dataclass(slots=True)
class Moving:
    """A world whose tenant is moved by commands, each a process of its own."""

    world: World
    folder: Path
    runs: list[Command] = field(default_factory=list)

    def start(self, verb: str, until: str, point: str | None = None) -> Command:
        """Start `mode VERB`."""
        command = Command(
            *("mode", verb, COMPANY, "--until", until, "--data", self.world.data),
            url=self.world.url,
            output=self.folder / f"out{len(self.runs)}",
            point=point,
        )
        self.runs.append(command)
        return command

    def run(self, verb: str, until: str, point: str | None = None) -> None:
        """Run `mode VERB` to its end, or to its death at the point."""
        command = self.start(verb, until, point)
        assert command.wait() == (0 if point is None else -signal.SIGKILL), (verb, until, point, command.printed)

    def go(self, start: str, end: str, point: str | None = None) -> None:
        """Bring the tenant from one mode to another."""
        named = None if point is None else point_name(start, end, point)
        self.run("advance" if WAY.index(start) < WAY.index(end) else "back", end, named)

    async def modes(self) -> tuple[str, str]:
        """Return production's mode and the file's, once the server has done with whoever was killed."""
        await self.world.execute("SELECT FROM localstore.tenants FOR UPDATE")
        production = await self.world.value("SELECT mode FROM localstore.tenants WHERE company_id = $1", COMPANY)
        ((file,),) = self.world.local("SELECT mode FROM localstore_identity")
        return production, file

    async def check(self, *confirmed: dict[str, str]) -> None:
        """Claim that both sides are equal, and hold each ticket once as it was confirmed last."""
        await self.world.check_rows()
        async with LocalStore(self.world.data, MODELS) as store, SyncEngine(store, to=self.world.url) as engine:
            (verified,) = await engine.verify()
            assert verified.equal, verified.to_json()
        titles = dict(await self.world.fetch("SELECT ticket_id, title FROM tickets WHERE ticket_id LIKE '%-%'"))
        assert titles == {number: title for one in confirmed for number, title in one.items()}


@pytest.fixture
async def moving(world: World, tmp_path: Path) -> Moving:
    """Give a tenant of twenty tickets that production has."""
    await world.put(*(ticket(number) for number in range(20)))
    assert (await world.push()).exit_code == 0
    return Moving(world, tmp_path)


async def test_F1_changes_that_die_at_moments_nobody_chose(moving: Moving) -> None:
    """To and fro, killed again and again, with applications of both kinds writing on: every confirmed write stays."""
    world = moving.world
    seed = os.environ.get(SEED_VARIABLE) or secrets.token_hex(4)
    print(f"{SEED_VARIABLE}={seed}")
    chance = random.Random(seed)
    followers = [Follower(world.data, world.url, COMPANY, f"follower{number}", hybrid=number == 1) for number in (0, 1)]
    for number in range(CHANGES):
        verb, end = ("advance", "postgresql") if number % 2 == 0 else ("back", "file")
        until = end if chance.random() < 0.8 else "hybrid"
        moved = moving.start(verb, until)
        moved.join(chance.random() * SECONDS_MAX)
        moved.kill()
        # A change may be refused while the background of the one that died still pushes, but nothing else goes wrong.
        assert moved.wait() in (0, 6, -signal.SIGKILL), moved.printed
    moving.run("advance", "postgresql")
    confirmed = [follower.stop() for follower in followers]
    async with LocalStore(world.data, MODELS) as store, SyncEngine(store, to=world.url) as engine:
        assert (await engine.pull()).exit_code == 0
    await moving.check(*confirmed)


@pytest.mark.parametrize("change", MODE_POINTS, ids=" to ".join)
async def test_F1_a_change_of_mode_that_dies_is_finished_or_undone(moving: Moving, change: tuple[str, str]) -> None:
    """Killed at each point, with an application writing on, the same verb finishes it and the other one undoes it."""
    start, end = change
    world = moving.world
    if start != "file":
        moving.run("advance", start)
    follower = Follower(world.data, world.url, COMPANY, "follower")
    for point in MODE_POINTS[change]:
        moving.go(start, end, point)
        assert await moving.modes() == FOUND[change][point], point
        moving.go(start, end)
        assert await moving.modes() == (end, end), point
        moving.go(end, start)
        if len(set(FOUND[change][point])) == 1:
            continue
        moving.go(start, end, point)
        moving.go(end, start)
        assert await moving.modes() == (start, start), point
    confirmed = follower.stop()
    assert confirmed
    moving.run("advance", "postgresql")
    async with LocalStore(world.data, MODELS) as store, SyncEngine(store, to=world.url) as engine:
        assert (await engine.pull()).exit_code == 0
    await moving.check(confirmed)


async def test_F1_a_closed_file_opens_with_what_production_was_given_meanwhile(moving: Moving) -> None:
    """Commands that die one after the other leave the file closed, and no way of opening it skips the last writes."""
    world = moving.world
    closed = point_name("hybrid", "postgresql", "closed, nothing carried yet")
    moving.run("advance", "postgresql")
    moving.go("postgresql", "hybrid", "declared in production, nothing taken in")
    assert await moving.modes() == ("hybrid", "postgresql")
    await world.execute("UPDATE tickets SET title = 'first' WHERE ticket_id = '0'")
    moving.run("advance", "postgresql", closed)
    assert await moving.modes() == ("hybrid", "advancing")
    moving.run("back", "hybrid")
    assert world.local("SELECT title FROM tickets WHERE ticket_id = '0'") == [("first",)]
    moving.run("advance", "postgresql", closed)
    await world.execute("UPDATE tickets SET title = 'second' WHERE ticket_id = '0'")
    moving.run("back", "hybrid")
    assert world.local("SELECT title FROM tickets WHERE ticket_id = '0'") == [("second",)]
    await moving.check()
