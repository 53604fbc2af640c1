"""HybridStorage beyond the contract: who answers a read, what happens in the background, what is where in the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from localstore import (
    ConfigurationError,
    KnowledgeArticle,
    LocalStore,
    PostgresStorage,
    Settings,
    TenantNotFound,
    Ticket,
)
from localstore.postgres.connect import Server, connection_to
from localstore.sqlite.mode import read_mode
from sync import HybridStorage, SyncEngine
from sync.hybrid.standing import Standing, read_standing
from tests.contract.conftest import HYBRID, Prepared, down
from tests.faults.wire import Fate, Message, Wire, wire_to

COMPANY, PLATFORM = "wedosoft", "freshdesk"
READING = Settings(hybrid_use_postgres=True)
MODES = "SELECT company_id, mode FROM localstore.tenants ORDER BY 1"


@pytest.fixture
async def production(prepared: dict[str, Prepared]) -> AsyncIterator[Prepared]:
    """Give a database that is empty at first and afterwards."""
    yield prepared[HYBRID]
    await prepared[HYBRID].empty()


@pytest.fixture
async def wire(production: Prepared) -> AsyncIterator[Wire]:
    """Lay a wire to it, as a box that may push and nothing else."""
    async with wire_to(production.box.url) as wire:
        yield wire


@pytest.fixture
async def storage(tmp_path: Path, wire: Wire) -> AsyncIterator[HybridStorage]:
    """Give a storage that reads from production where it may."""
    async with HybridStorage(tmp_path / "data", wire.url, settings=READING) as storage:
        yield storage
        wire.rule = down


async def until(condition: Callable[[], bool]) -> None:
    """Wait for the background; a condition that never holds ends at the test's own limit."""
    while not condition():
        await asyncio.sleep(0.01)


async def settle(storage: HybridStorage) -> None:
    """Push, and wait until nobody has anything left to do."""
    pushed = await storage.push()
    assert pushed.exit_code == 0, str(pushed.to_json())
    await until(lambda: not storage.status.waiting)


async def execute(server: Server, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
    """Run a statement in production as its superuser."""
    async with connection_to(server) as connection:
        return [tuple(row) for row in await connection.fetch(statement, *arguments)]


async def title_in(production: Prepared) -> list[tuple[Any, ...]]:
    """Return the tickets that production has."""
    return await execute(production.owner, "SELECT company_id, ticket_id, title FROM tickets ORDER BY 1, 2")


async def test_F28_what_is_saved_while_production_is_away_travels_by_itself_when_it_is_back(
    storage: HybridStorage, wire: Wire, production: Prepared
) -> None:
    """No call fails meanwhile; why nothing travels is told by the status, and by nothing else once it has travelled."""
    wire.rule = down
    assert await storage.save_ticket(COMPANY, PLATFORM, {"id": 1, "subject": "offline"}) == "1"
    await until(lambda: COMPANY in storage.status.failures)
    assert storage.status.waiting == (COMPANY,)
    assert storage.status.failures[COMPANY].code == "postgres_unavailable"
    assert len(await storage.list_tickets(COMPANY)) == 1
    wire.heal()
    await until(lambda: not storage.status.waiting and not storage.status.failures)
    assert await title_in(production) == [(COMPANY, "1", "offline")]


async def test_a_new_company_begins_in_mode_hybrid_here_and_there(
    storage: HybridStorage, production: Prepared, tmp_path: Path
) -> None:
    """The first save makes the file in mode hybrid, and production lists the company so when it first hears of it."""
    await storage.save_ticket(COMPANY, PLATFORM, {"id": 1})
    await settle(storage)
    async with LocalStore(tmp_path / "data", models=()) as store:
        database = (await store.tenant(COMPANY, create=False).open()).database
        assert await database.read(read_mode) == "hybrid"
    assert await execute(production.owner, MODES) == [(COMPANY, "hybrid")]


async def test_a_read_is_productions_for_the_tables_of_which_nothing_waits(
    storage: HybridStorage, production: Prepared, tmp_path: Path
) -> None:
    """What others edited there is seen; with an article pending, tickets still are, and what counts articles is not."""
    await storage.save_ticket(COMPANY, PLATFORM, {"id": 1})
    await settle(storage)
    await execute(production.owner, "UPDATE tickets SET summary = '\"edited there\"'")
    await execute(
        production.owner,
        "INSERT INTO tickets (company_id, platform, ticket_id, raw_data, created_at) VALUES ($1, $2, '2', '{}', now())",
        COMPANY,
        PLATFORM,
    )
    found = await storage.get_ticket(COMPANY, PLATFORM, "1")
    assert found is not None
    assert found["summary"] == "edited there"
    async with LocalStore(tmp_path / "data", models=(KnowledgeArticle,)) as store:
        await store.tenant(COMPANY).put(KnowledgeArticle(company_id=COMPANY, platform=PLATFORM, article_id="1"))
        assert await storage.get_platform_stats(COMPANY) == {PLATFORM: {"tickets": 1, "knowledge_base": 1, "total": 2}}
        assert len(await storage.list_tickets(COMPANY)) == 2


async def test_without_the_setting_reads_are_the_files(wire: Wire, production: Prepared, tmp_path: Path) -> None:
    """HYBRID_USE_POSTGRES is off by default."""
    async with HybridStorage(tmp_path / "data", wire.url, settings=Settings()) as storage:
        await storage.save_ticket(COMPANY, PLATFORM, {"id": 1})
        await settle(storage)
        await execute(production.owner, "UPDATE tickets SET summary = '\"edited there\"'")
        found = await storage.get_ticket(COMPANY, PLATFORM, "1")
        assert found is not None
        assert "summary" not in found


@pytest.mark.parametrize("fate", [Fate.CUT_BEFORE, Fate.LOSE_ANSWER, Fate.STALL])
async def test_a_read_that_production_drops_is_answered_by_the_file(
    storage: HybridStorage, wire: Wire, fate: Fate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut or silent in the middle of the read: the caller sees its ticket, and the status says what happened."""
    monkeypatch.setattr("sync.hybrid.production.ANSWER_SECONDS", 0.5)
    monkeypatch.setattr("localstore.postgres.connections.ROLLBACK_SECONDS", 0.2)
    await storage.save_ticket(COMPANY, PLATFORM, {"id": 1, "subject": "mine"})
    await settle(storage)
    reading = 0

    def rule(message: Message) -> Fate:
        nonlocal reading
        reading += b'FROM "public"."tickets"' in message.body or b"FROM public.tickets" in message.body
        return fate if reading else Fate.PASS

    wire.rule = rule
    found = await storage.get_ticket(COMPANY, PLATFORM, "1")
    assert reading
    assert found is not None
    assert found["subject"] == "mine"
    assert storage.status.reads is not None
    assert storage.status.reads.code == "postgres_unavailable"


async def test_F17_a_production_that_comes_back_as_an_older_state_is_not_read_before_it_has_caught_up(
    storage: HybridStorage, wire: Wire, production: Prepared
) -> None:
    """Restored while it was away, it lacks what it had acknowledged; no read misses that, and it is sent again."""
    for number in (1, 2):
        await storage.save_ticket(COMPANY, PLATFORM, {"id": number})
        await settle(storage)
    wire.rule = down
    wire.cut_all()
    assert len(await storage.list_tickets(COMPANY)) == 2
    async with connection_to(production.owner) as connection:
        await connection.execute(
            "DELETE FROM localstore.ledger WHERE seq = 2; DELETE FROM tickets WHERE ticket_id = '2'; "
            "DELETE FROM localstore.undo WHERE key[2] = '2'"
        )
    wire.heal()
    while len(await title_in(production)) == 1:
        assert await storage.get_ticket(COMPANY, PLATFORM, "2") is not None
    await until(lambda: not storage.status.waiting)
    assert len(await storage.list_tickets(COMPANY)) == 2


async def test_a_held_row_is_read_from_the_file_at_every_moment(
    storage: HybridStorage, production: Prepared, tmp_path: Path
) -> None:
    """From its commit on, over its promotion and ever after, the row is never neither pending nor held."""
    async with LocalStore(tmp_path / "data", models=(Ticket,)) as store:
        tenant = await store.create_tenant(COMPANY, mode="hybrid")
        await tenant.put(Ticket(company_id=COMPANY, platform=PLATFORM, ticket_id="1", title="a\0b"))
        seen: list[Standing] = []

        async def watch(pushing: asyncio.Task[Any]) -> None:
            while not pushing.done():
                seen.append(await tenant.database.read(partial(read_standing, tables=("tickets",))))

        pushing = asyncio.create_task(storage.push([COMPANY]))
        await watch(pushing)
        assert (await pushing).exit_code == 3
        assert seen
        assert not [standing for standing in seen if standing.settled]
        after = await tenant.database.read(partial(read_standing, tables=("tickets",)))
        assert (after.pending, after.held) == (False, True)
    found = await storage.get_ticket(COMPANY, PLATFORM, "1")
    assert found is not None
    assert found["title"] == "a\0b"
    assert storage.status.held == {COMPANY: 1}
    assert await title_in(production) == []


async def test_a_company_whose_truth_is_production_is_served_there(
    storage: HybridStorage, production: Prepared, tmp_path: Path
) -> None:
    """It is read and written in production, by the same calls, and has no file here; the lists name it, too."""
    async with PostgresStorage(production.app.url) as direct:
        await direct.save_ticket("theirs", PLATFORM, {"id": 1, "subject": "direct"})
        found = await storage.get_ticket("theirs", PLATFORM, "1")
        assert found == await direct.get_ticket("theirs", PLATFORM, "1")
        assert await storage.update_processing_status("theirs", PLATFORM, "1", "done") is True
        await storage.save_ticket("theirs", PLATFORM, {"id": 2})
        await storage.save_ticket("ours", PLATFORM, {"id": 1})
        assert len(await direct.list_tickets("theirs", processing_status="done")) == 1
        assert len(await direct.list_tickets("theirs")) == 2
    assert await storage.list_companies() == ["ours", "theirs"]
    assert not (tmp_path / "data" / "theirs").exists()


async def test_a_company_of_another_box_is_brought_here_before_it_is_written(
    storage: HybridStorage, production: Prepared, tmp_path: Path
) -> None:
    """A second box builds on what production has: its change is one of a column, and nothing conflicts."""
    await storage.save_ticket(COMPANY, PLATFORM, {"id": 1, "subject": "from the first"})
    await settle(storage)
    async with HybridStorage(tmp_path / "second", production.box.url, settings=READING) as second:
        assert (await second.get_ticket(COMPANY, PLATFORM, "1") or {})["subject"] == "from the first"
        done = await asyncio.gather(*(second.save_summary(COMPANY, PLATFORM, "1", number) for number in range(4)))
        assert done == [True] * 4
        assert (await second.get_ticket(COMPANY, PLATFORM, "1") or {})["subject"] == "from the first"
        await settle(second)
        assert second.status.held == {}
    rows = await execute(production.owner, "SELECT title, summary IS NOT NULL FROM tickets")
    assert rows == [("from the first", True)]


async def test_a_storage_follows_its_companies_from_mode_to_mode(
    storage: HybridStorage, production: Prepared, tmp_path: Path
) -> None:
    """Advanced to production and back with the storage open: each call goes where the truth is, and none is lost."""
    await storage.save_ticket(COMPANY, PLATFORM, {"id": 1})
    await settle(storage)
    async with LocalStore(tmp_path / "data", models=()) as store, SyncEngine(store, to=production.owner.url) as engine:
        await engine.modes.advance(COMPANY, until="postgresql")
        await storage.save_ticket(COMPANY, PLATFORM, {"id": 2})
        assert [row[1] for row in await title_in(production)] == ["1", "2"]
        assert await storage.update_processing_status(COMPANY, PLATFORM, "1", "done") is True
        assert len(await storage.list_tickets(COMPANY)) == 2
        await engine.modes.back(COMPANY, until="hybrid")
    assert [found["processing_status"] for found in await storage.list_tickets(COMPANY, status=None)] == [
        "pending",
        "done",
    ]
    await storage.save_ticket(COMPANY, PLATFORM, {"id": 3})
    await settle(storage)
    assert [row[1] for row in await title_in(production)] == ["1", "2", "3"]


async def test_a_closed_storage_does_not_wait_for_a_silent_production(
    storage: HybridStorage, wire: Wire, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The last push is given up after a while; the commit is in the file and travels with the next storage."""
    monkeypatch.setattr("sync.hybrid.pusher.CLOSE_SECONDS", 0.2)
    monkeypatch.setattr("sync.hybrid.production.ANSWER_SECONDS", 0.2)
    monkeypatch.setattr("localstore.postgres.connections.ROLLBACK_SECONDS", 0.2)
    wire.rule = lambda _: Fate.STALL
    await storage.save_ticket(COMPANY, PLATFORM, {"id": 1})
    await storage.close()
    assert storage.status.failures[COMPANY].code == "postgres_unavailable"
    wire.heal()
    async with HybridStorage(tmp_path / "data", wire.url, settings=READING) as next_one:
        assert len(await next_one.list_tickets(COMPANY)) == 1
        await until(lambda: COMPANY not in next_one.status.waiting)
        assert next_one.status.failures == {}


async def test_migrate_data_moves_verifies_and_says_what_is_held(
    storage: HybridStorage, wire: Wire, production: Prepared, tmp_path: Path
) -> None:
    """Each company's counts by platform and its held rows with their reasons; `platform` narrows what is told only."""
    async with LocalStore(tmp_path / "data", models=(Ticket,)) as store:
        for company in ("alpha", "beta"):
            rows = [
                Ticket(company_id=company, platform=platform, ticket_id=str(number), title=f"{number}")
                for platform in ("jira", "zendesk")
                for number in range(3)
            ]
            await store.tenant(company).put_many(rows)
        await store.tenant("beta").put(Ticket(company_id="beta", platform="jira", ticket_id="bad", title="\0"))
    migration = await storage.migrate_data()
    assert (migration.complete, migration.exit_code) == (False, 3)
    alpha, beta = migration.companies
    assert alpha.complete
    assert [(part.platform, part.tickets) for part in alpha.moved] == [("jira", 3), ("zendesk", 3)]
    assert [(item.address, item.reason) for item in beta.held] == [("tickets/jira/bad", "value")]
    again = await storage.migrate_data("beta", "zendesk")
    assert [(part.platform, part.tickets) for part in again.companies[0].moved] == [("zendesk", 3)]
    assert again.companies[0].held == ()
    assert again.to_json()["tenants"][0]["moved"] == {"zendesk": {"tickets": 3, "knowledge_base": 0}}
    assert len(await title_in(production)) == 12
    assert len(await storage.list_tickets("beta")) == 7


async def test_migrate_data_says_what_it_cannot_do(storage: HybridStorage, wire: Wire) -> None:
    """A company that is not here fails in the result, and a platform that cannot be is refused."""
    migration = await storage.migrate_data("nobody")
    failure = migration.companies[0].failure
    assert failure is not None
    assert failure.code == TenantNotFound.code
    assert storage.status.waiting == ()
    with pytest.raises(ConfigurationError):
        await storage.migrate_data(platform="../x")


async def test_a_login_without_the_rights_of_a_box_saves_and_is_told(production: Prepared, tmp_path: Path) -> None:
    """A member of app_user only cannot push: saves go to the file, and the status names what an owner can run."""
    async with HybridStorage(tmp_path / "data", production.app.url, settings=READING) as storage:
        await storage.save_ticket(COMPANY, PLATFORM, {"id": 1})
        await until(lambda: COMPANY in storage.status.failures)
        assert storage.status.failures[COMPANY].code == "missing_rights"
        assert "GRANT" in storage.status.failures[COMPANY].hint
        assert len(await storage.list_tickets(COMPANY)) == 1
    assert await title_in(production) == []


def test_production_needs_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without DATABASE_URL the error names it, and no repr shows a password."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        HybridStorage()
    assert "s3cret" not in repr(HybridStorage("data", "postgresql://me:s3cret@127.0.0.1:1/x"))
