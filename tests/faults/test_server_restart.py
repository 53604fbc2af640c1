"""PostgreSQL dies under a push, or is restarted, and what was acknowledged stays true."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.faults.mortal import Mortal, mortal_server
from tests.faults.wire import Fate, Message, Rule, Test, Wire, promoting_commit, wire_to
from tests.faults.world import World, note, ticket, writes


@pytest.fixture(scope="module")
def ours() -> Iterator[Mortal]:
    """Run a server of this module's own."""
    with mortal_server() as started:
        yield started


@pytest.fixture
async def shaken(ours: Mortal, tmp_path: Path) -> AsyncIterator[tuple[World, Wire]]:
    """Return a busy world on that server, and a wire to it."""
    name = f"production_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(ours.server.url)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    await admin.close()
    world = World(tmp_path / "data", ours.server.with_database(name).url)
    await world.put(*(row for number in range(60) for row in (ticket(number), note(number, 1))))
    assert (await world.push()).exit_code == 0
    await world.put(*(ticket(number) for number in range(100, 130)))
    world.shell(writes("before", 0))
    async with wire_to(world.url) as wire:
        yield world, wire


MOMENTS: dict[str, Callable[[], Test]] = {
    "in the middle of a COPY": lambda: _copies(7),
    "before the promotion's COMMIT": promoting_commit,
}


def _copies(number: int) -> Test:
    seen = 0

    def test(message: Message) -> bool:
        nonlocal seen
        seen += message.is_copy_data
        return seen > number

    return test


@pytest.mark.parametrize("how", ["restart_at_once", "kill"])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_F3_postgres_dies_and_comes_back_during_a_push(
    shaken: tuple[World, Wire], ours: Mortal, moment: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The push goes on by itself, or ends with one error; the next one completes, and all is there once."""
    world, wire = shaken
    monkeypatch.setattr("sync.bundle.CHUNK_ROWS_MAX", 5)
    wire.rule = _calling(MOMENTS[moment](), getattr(ours, how))
    result = await world.push(wire.url)
    assert result.exit_code in (0, 1), result.to_json()
    if result.exit_code == 1:
        failure = result.tenants[0].failure
        assert failure is not None
        assert failure.code == "postgres_unavailable"
        assert failure.hint
    assert (await world.push()).exit_code == 0
    await world.check_settled()


@pytest.mark.parametrize("moment", MOMENTS)
async def test_F4_backends_terminated_during_a_push_are_replaced(
    shaken: tuple[World, Wire], moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An administrator ends every session of the database: the same push opens new ones and ends well."""
    world, wire = shaken
    monkeypatch.setattr("sync.bundle.CHUNK_ROWS_MAX", 5)

    async def terminate() -> None:
        await world.fetch(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    is_due, done = MOMENTS[moment](), False

    async def rule(message: Message) -> Fate:
        nonlocal done
        if not done and is_due(message):
            done = True
            await terminate()
        return Fate.PASS

    wire.rule = rule
    result = await world.push(wire.url)
    assert done
    assert result.exit_code == 0, result.to_json()
    await world.check_settled()


async def test_P12_postgres_dies_right_after_it_was_given_the_commit(shaken: tuple[World, Wire], ours: Mortal) -> None:
    """Whether the COMMIT was in time or not, its batch takes effect once."""
    world, wire = shaken
    is_commit, given = promoting_commit(), asyncio.Event()

    def rule(message: Message) -> Fate:
        if not is_commit(message) or given.is_set():
            return Fate.PASS
        given.set()
        return Fate.CUT_AFTER

    wire.rule = rule
    pushing = asyncio.create_task(world.push(wire.url))
    await given.wait()
    await asyncio.to_thread(ours.restart_at_once)
    await pushing
    assert (await world.push()).exit_code == 0
    await world.check_settled()


def _calling(test: Test, blocking: Callable[[], None]) -> Rule:
    """Return the rule that calls something at the first message that passes the test, and lets everything pass."""
    done = False

    async def rule(message: Message) -> Fate:
        nonlocal done
        if not done and test(message):
            done = True
            await asyncio.to_thread(blocking)
        return Fate.PASS

    return rule
