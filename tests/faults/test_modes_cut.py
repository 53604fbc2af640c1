"""The connection is lost while a mode changes: the outcome is asked for, and where nobody answers nobody writes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from localstore import LocalStore
from localstore.errors import PostgresUnavailable
from localstore.storage.tables import MODELS
from sync import SyncEngine
from sync.errors import ModeInDoubt, NotReady
from tests.faults.wire import Fate, Message, Rule, Test, Wire, once, wire_to
from tests.faults.world import COMPANY, World, ticket


def mode_commit() -> Test:
    """Return the test for the COMMIT that sets a mode."""
    said = False

    def test(message: Message) -> bool:
        nonlocal said
        said = said or b"UPDATE localstore.tenants SET mode" in message.body
        return said and message.is_commit

    return test


def from_then_on(test: Test, fate: Fate) -> Rule:
    """Return the rule that cuts every message once one has passed the test, which meets its fate."""
    met = False

    def rule(message: Message) -> Fate:
        nonlocal met
        if met:
            return Fate.CUT_BEFORE
        met = test(message)
        return fate if met else Fate.PASS

    return rule


@pytest.fixture
async def wire(world: World) -> AsyncIterator[Wire]:
    """Return a wire to the production of a tenant in mode hybrid."""
    await world.put(*(ticket(number) for number in range(5)))
    assert (await world.push()).exit_code == 0
    async with LocalStore(world.data, MODELS) as store, SyncEngine(store, to=world.url) as engine:
        await engine.modes.advance(COMPANY)
    async with wire_to(world.url) as laid:
        yield laid


@asynccontextmanager
async def engine_on(world: World, url: str) -> AsyncIterator[SyncEngine]:
    """Open the store and an engine."""
    async with LocalStore(world.data, MODELS) as store, SyncEngine(store, to=url) as engine:
        yield engine


def mode(world: World) -> str:
    """Return the file's mode."""
    ((found,),) = world.local("SELECT mode FROM localstore_identity")
    return str(found)


async def test_F2_P12_a_mode_whose_commit_goes_unanswered_is_set_once(world: World, wire: Wire) -> None:
    """Whether the COMMIT arrived is asked of production on a new connection, forwards and back."""
    for fate in (Fate.CUT_BEFORE, Fate.CUT_AFTER, Fate.LOSE_ANSWER):
        async with engine_on(world, wire.url) as engine:
            wire.rule = once(mode_commit(), fate)
            assert (await engine.modes.advance(COMPANY)).mode == "postgresql"
            wire.rule = once(mode_commit(), fate)
            assert (await engine.modes.back(COMPANY)).mode == "hybrid"
    await world.check_rows()


async def test_P7_a_mode_whose_commit_is_answered_by_a_rollback_is_not_believed(world: World, wire: Wire) -> None:
    """No driver's error tells of it; production is asked, and the file takes writes again."""
    async with engine_on(world, wire.url) as engine:
        wire.rule = once(mode_commit(), Fate.ROLL_BACK)
        with pytest.raises(NotReady, match=r"rolled the new mode .* back"):
            await engine.modes.advance(COMPANY)
    assert mode(world) == "hybrid"
    world.shell("UPDATE tickets SET status = 'open again'")


@pytest.mark.parametrize("fate", [Fate.CUT_BEFORE, Fate.LOSE_ANSWER])
async def test_F2_an_outcome_that_nobody_can_tell_keeps_both_sides_from_writing(
    world: World, wire: Wire, fate: Fate
) -> None:
    """Production went away at the COMMIT: the file stays closed until `advance` or `back` has asked it."""
    async with engine_on(world, wire.url) as engine:
        wire.rule = from_then_on(mode_commit(), fate)
        with pytest.raises(ModeInDoubt) as caught:
            await engine.modes.advance(COMPANY)
        assert f"localstore mode back {COMPANY}" in caught.value.hint
        assert mode(world) == "advancing"
        wire.heal()
        done = await (engine.modes.advance if fate is Fate.CUT_BEFORE else engine.modes.back)(COMPANY)
        assert done.mode == ("postgresql" if fate is Fate.CUT_BEFORE else "hybrid")
    await world.check_rows()


async def test_F3_a_production_that_goes_away_before_it_was_told_leaves_the_file_open(world: World, wire: Wire) -> None:
    """While the rest is carried nothing is decided yet, so nothing has to wait for production's return."""

    def closed(message: Message) -> bool:
        return mode(world) == "advancing"

    async with engine_on(world, wire.url) as engine:
        wire.rule = from_then_on(closed, Fate.CUT_BEFORE)
        with pytest.raises(PostgresUnavailable):
            await engine.modes.advance(COMPANY)
    assert mode(world) == "hybrid"
    world.shell("UPDATE tickets SET status = 'open again'")
