"""What the tests of faults share: a tenant with rows that production has, and more that it has not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina

from tests.faults.world import World, note, ticket, writes
from tests.forked import ATTEMPTS_MAX


@pytest.fixture
def hasty() -> Iterator[None]:
    """Do not pause before trying again, where nobody will answer anyway; it is tried as often as otherwise."""
    with stamina.set_testing(True, attempts=ATTEMPTS_MAX, cap=True):
        yield


@pytest.fixture
def world(tmp_path: Path, production: str) -> World:
    """Return an empty store beside an empty production."""
    return World(tmp_path / "data", production)


@pytest.fixture
async def busy_world(world: World) -> World:
    """Return a world where sixty tickets are promoted and some forty changes of every kind are pending."""
    await world.put(*(row for number in range(60) for row in (ticket(number), note(number, 1))))
    assert (await world.push()).exit_code == 0
    await world.put(*(row for number in range(100, 115) for row in (ticket(number), note(number, 1))))
    world.shell(writes("before", 0))
    return world


@pytest.fixture
async def pushed(world: World) -> World:
    """Return a world where twenty tickets are promoted and nothing waits."""
    await world.put(*(row for number in range(20) for row in (ticket(number), note(number, 1))))
    assert (await world.push()).exit_code == 0
    return world
