"""Killed at moments nobody chose, again and again, while another program writes the file."""

from __future__ import annotations

import os
import random
import secrets
import signal
import time
from pathlib import Path

from tests.faults.killing import Command
from tests.faults.world import World
from tests.faults.writing import Writer
from tests.integration.command import sync

KILLS = 25
CHUNK_ROWS = 10
TICKETS = 60
SEED_VARIABLE = "LOCALSTORE_TEST_SEED"


def push(world: World, output: Path) -> Command:
    """Start a push."""
    return Command(
        *("sync", "push", "--promote", "--data", world.data), url=world.url, output=output, chunk_rows=CHUNK_ROWS
    )


async def test_F1_killed_at_random_moments_while_another_program_writes(busy_world: World, tmp_path: Path) -> None:
    """After any number of kills one clean push leaves both sides equal, with every write in and none twice."""
    world = busy_world
    seed = os.environ.get(SEED_VARIABLE) or secrets.token_hex(4)
    print(f"{SEED_VARIABLE}={seed}")
    chance = random.Random(seed)
    writer = Writer(world.file, "writer", tickets=TICKETS, seed=chance.randrange(2**32))
    began = time.monotonic()
    unkilled = push(world, tmp_path / "out")
    assert unkilled.wait() == 0, unkilled.printed
    length = time.monotonic() - began
    killed = 0
    for number in range(KILLS):
        pushing = push(world, tmp_path / f"out{number}")
        pushing.join(chance.random() * length)
        pushing.kill()
        code = pushing.wait()
        assert code in (0, -signal.SIGKILL), pushing.printed
        killed += code != 0
    inserted = writer.stop()
    assert killed > KILLS // 4
    last = sync("push", "--promote", "--data", world.data, DATABASE_URL=world.url)
    assert last.code == 0, last.all
    await world.check_settled()
    ((there,),) = world.local("SELECT count(*) FROM tickets WHERE platform = 'writer'")
    assert there == inserted
