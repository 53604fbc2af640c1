"""The connection to Postgres is cut, stalls or lies, at every kind of moment: each batch still takes effect once."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections.abc import AsyncIterator

import pytest

from localstore import LocalStore
from localstore.errors import PostgresUnavailable
from localstore.postgres.connect import connection_to
from localstore.postgres.server import Server
from localstore.storage.tables import MODELS
from sync import SyncEngine, pulse
from sync.config import SyncSettings
from sync.link import Link
from tests.faults.wire import Fate, Message, Test, Wire, nth, once, promoting_commit, wire_to
from tests.faults.world import COMPANY, World, ticket, writes

SEED_VARIABLE = "LOCALSTORE_TEST_SEED"
CUTS = 12
HANGS_SECONDS = 90.0
"""Far more than any of these takes, so that only a wait without an end fails."""


@pytest.fixture
async def wire(busy_world: World) -> AsyncIterator[Wire]:
    """Return a wire to the busy world's production."""
    async with wire_to(busy_world.url) as laid:
        yield laid


@pytest.mark.parametrize("fate", [Fate.CUT_BEFORE, Fate.CUT_AFTER, Fate.LOSE_ANSWER])
async def test_F2_P12_a_promotion_whose_commit_goes_unanswered_takes_effect_once(
    busy_world: World, wire: Wire, fate: Fate
) -> None:
    """Whether the COMMIT arrived or not is asked of the ledger, and the same push ends well and reports what it did."""
    wire.rule = once(promoting_commit(), fate)
    result = await busy_world.push(wire.url)
    assert result.exit_code == 0, result.to_json()
    assert result.tenants[0].state == "promoted"
    assert result.totals["inserted"] > 30
    await busy_world.check_settled()


async def test_F2_no_unanswered_commit_of_a_push_loses_or_doubles_anything(busy_world: World, wire: Wire) -> None:
    """Each COMMIT of a push in turn is carried out but never answered; every push ends well all the same."""
    commits = 0

    def count(message: Message) -> Fate:
        nonlocal commits
        commits += message.is_commit
        return Fate.PASS

    wire.rule = count
    assert (await busy_world.push(wire.url)).exit_code == 0
    assert commits > 4
    for number in range(commits):
        busy_world.shell(writes(f"round{number}", 20 + 4 * (number % 8)))
        wire.rule = nth(lambda message: message.is_commit, number, Fate.LOSE_ANSWER)
        result = await busy_world.push(wire.url)
        assert result.exit_code == 0, (number, result.to_json())
    await busy_world.check_settled()


@pytest.mark.parametrize("fate", [Fate.CUT_BEFORE, Fate.CUT_AFTER])
async def test_F4_a_copy_cut_in_its_middle_is_sent_again_whole(
    busy_world: World, wire: Wire, fate: Fate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk whose COPY was cut leaves no row behind and is sent again; those before it are not."""
    monkeypatch.setattr("sync.bundle.CHUNK_ROWS_MAX", 5)
    # A chunk is three messages of data: its header, its rows, its trailer.
    wire.rule = nth(lambda message: message.is_copy_data, 7, fate)
    result = await busy_world.push(wire.url)
    assert result.exit_code == 0, result.to_json()
    await busy_world.check_settled()


async def test_F3_cut_at_messages_chosen_by_chance(busy_world: World, wire: Wire) -> None:
    """Whichever message the cut hits, one push or the next brings both sides together."""
    seed = os.environ.get(SEED_VARIABLE) or secrets.token_hex(4)
    print(f"{SEED_VARIABLE}={seed}")
    chance = random.Random(seed)
    start = wire.messages
    assert (await busy_world.push(wire.url)).exit_code == 0
    length = wire.messages - start
    for number in range(CUTS):
        busy_world.shell(writes(f"cut{number}", 20 + 4 * (number % 8)))
        place = chance.randrange(1, length)
        fate = chance.choice((Fate.CUT_BEFORE, Fate.CUT_AFTER, Fate.LOSE_ANSWER))
        wire.rule = once(_from(wire.messages + place, answered=fate is Fate.LOSE_ANSWER), fate)
        result = await busy_world.push(wire.url)
        assert result.exit_code == 0, (place, fate, result.to_json())
    await busy_world.check_settled()


async def test_P7_a_commit_answered_by_rollback_is_noticed_and_tried_again(busy_world: World, wire: Wire) -> None:
    """The server rolls back at COMMIT and raises nothing: the ledger says so, and the promotion runs once more."""
    wire.rule = once(promoting_commit(), Fate.ROLL_BACK)
    result = await busy_world.push(wire.url)
    assert result.exit_code == 0, result.to_json()
    await busy_world.check_settled()


@pytest.mark.usefixtures("hasty")
async def test_P7_what_is_always_rolled_back_is_never_acknowledged(busy_world: World, wire: Wire) -> None:
    """A production that rolls every promotion back gets one clear error, keeps nothing, and the marks remain."""
    is_promoting = promoting_commit()
    before = await busy_world.fetch("SELECT * FROM tickets ORDER BY ticket_id")
    ((marks,),) = busy_world.local("SELECT count(*) FROM localstore_marks")
    wire.rule = lambda message: Fate.ROLL_BACK if is_promoting(message) else Fate.PASS
    result = await busy_world.push(wire.url)
    assert result.exit_code == 1
    failure = result.tenants[0].failure
    assert failure is not None
    assert failure.code == "promotion_failed"
    assert failure.hint
    assert await busy_world.fetch("SELECT * FROM tickets ORDER BY ticket_id") == before
    assert busy_world.local("SELECT count(*) FROM localstore_marks") == [(marks,)]
    wire.heal()
    assert (await busy_world.push(wire.url)).exit_code == 0
    await busy_world.check_settled()


async def test_P4_P7_a_trigger_that_raises_at_commit_holds_its_row_only(busy_world: World) -> None:
    """A deferred constraint trigger of production's own refuses one row: that row is held, the others arrive."""
    await busy_world.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF NEW.title = 'refused' THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON tickets DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION refuse();
    """)
    await busy_world.put(ticket("bad", title="refused"))
    result = await busy_world.push()
    assert result.exit_code == 3, result.to_json()
    assert result.totals["quarantined"] == 1
    async with LocalStore(busy_world.data, MODELS) as store, SyncEngine(store, to=busy_world.url) as engine:
        (item,) = await engine.quarantine.list()
        assert (item.address, item.reason) == ("tickets/jira/bad", "constraint")
        await busy_world.execute("DROP TRIGGER refuse ON tickets")
        await engine.quarantine.retry("tickets/jira/bad")
    assert (await busy_world.push()).exit_code == 0
    await busy_world.check_settled()


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("moment", ["login", "copy", "commit"])
async def test_F24_a_connection_that_stalls_without_closing_is_given_up(
    busy_world: World, wire: Wire, moment: str
) -> None:
    """Half-open, nothing answers and nothing is refused: the push ends with one error, and the next run completes."""
    tests: dict[str, Test] = {
        "login": lambda message: message.number > 0,
        "copy": lambda message: message.is_copy_data,
        "commit": promoting_commit(),
    }
    wire.rule = once(tests[moment], Fate.STALL)
    settings = SyncSettings(timeout=1.0)
    async with (
        asyncio.timeout(HANGS_SECONDS),
        LocalStore(busy_world.data, MODELS) as store,
        SyncEngine(store, to=wire.url, settings=settings) as engine,
    ):
        error = await _failure(engine)
    assert "did not answer" in error
    wire.heal()
    assert (await busy_world.push(wire.url)).exit_code == 0
    await busy_world.check_settled()


async def test_F24_a_statement_that_is_only_slow_is_not_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement may take longer than the timeout, as long as the server answers others."""
    asked: list[bool] = []
    ask = pulse._is_silent

    async def told(server: Server, seconds: float) -> bool:
        asked.append(await ask(server, seconds))
        return asked[-1]

    monkeypatch.setattr(pulse, "_is_silent", told)
    link = Link(Server.parse(world.url), "public", timeout=2.0)
    slow = "SELECT 'done' FROM (SELECT pg_advisory_lock(24)) AS waited"
    async with connection_to(link.server) as other, asyncio.timeout(HANGS_SECONDS):
        await other.execute("SELECT pg_advisory_lock(24)")
        work = asyncio.create_task(link.run(lambda connection: connection.fetchval(slow)))
        while not asked:
            await asyncio.sleep(0.01)
        await other.execute("SELECT pg_advisory_unlock(24)")
        assert await work == "done"
    assert not any(asked)


async def _failure(engine: SyncEngine) -> str:
    """Push, and return the message of what went wrong, for the whole command or for the tenant."""
    try:
        result = await engine.push(promote=True)
    except PostgresUnavailable as error:
        return error.message
    failure = result.tenants[0].failure
    assert failure is not None, result.to_json()
    assert failure.code == "postgres_unavailable"
    assert result.tenants[0].tenant == COMPANY
    return failure.message


def _from(place: int, *, answered: bool) -> Test:
    """Return the test for the first message from a place on, or the first of those that the server answers."""
    return lambda message: message.number >= place and (message.is_answered or not answered)
