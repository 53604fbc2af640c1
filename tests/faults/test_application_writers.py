"""Applications write to production while batches are promoted over the same rows: none of their writes is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import asyncpg
import pytest

from localstore import LocalStore
from localstore.storage.tables import MODELS
from sync import SyncEngine
from tests.faults.wire import Fate, Message, Wire, promoting_commit, wire_to
from tests.faults.world import COMPANY, World, note, ticket

ROUNDS = 12
APPLICATIONS = 3
TICKETS = 24
GONE = "gone"


@dataclass
class Application:
    """A program that writes to production as any other does; `last` is its last word on each ticket."""

    name: str
    connection: asyncpg.Connection
    chance: random.Random
    last: dict[str, str] = field(default_factory=dict)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def work(self) -> None:
        """Insert, update and delete until told to stop; what did not touch a row was no write."""
        number = 0
        while not self.done.is_set():
            number += 1
            key = self._mine()
            word = f"{self.name}-{number}"
            if self.chance.random() < 0.15:
                tag = await self.connection.execute("DELETE FROM tickets WHERE ticket_id = $1", key)
                self._note(tag, key, GONE)
            elif self.chance.random() < 0.3:
                tag = await self.connection.execute(
                    "INSERT INTO tickets (company_id, platform, ticket_id, status) "
                    "SELECT 'acme', 'jira', $1, $2 WHERE $1 NOT IN (SELECT ticket_id FROM conversations) "
                    "ON CONFLICT DO NOTHING",
                    key,
                    word,
                )
                self._note(tag, key, word)
            else:
                tag = await self.connection.execute("UPDATE tickets SET status = $2 WHERE ticket_id = $1", key, word)
                self._note(tag, key, word)

    def _mine(self) -> str:
        """Return a ticket of those that no other application writes, so that its last word is known."""
        place = int(self.name) + APPLICATIONS * self.chance.randrange(TICKETS // APPLICATIONS)
        return str(place)

    def _note(self, tag: str, key: str, word: str) -> None:
        if not tag.endswith(" 0"):
            self.last[key] = word


async def connect(world: World) -> asyncpg.Connection:
    """Return an application's connection."""
    return await asyncpg.connect(world.url, server_settings={"app.current_company_id": COMPANY})


@pytest.fixture
async def shared(world: World) -> World:
    """Return a world whose tickets are half of them promoted; the other half is new on both sides."""
    await world.put(*(ticket(number) for number in range(0, TICKETS, 2)))
    assert (await world.push()).exit_code == 0
    return world


async def test_P9_no_write_of_an_application_is_lost_under_promotions(shared: World) -> None:
    """What an application wrote last stands in production, whatever was promoted over the same rows meanwhile."""
    chance = random.Random("applications")
    applications = [
        Application(str(number), await connect(shared), random.Random(number)) for number in range(APPLICATIONS)
    ]
    working = [asyncio.create_task(application.work()) for application in applications]
    try:
        async with LocalStore(shared.data, MODELS) as store, SyncEngine(store, to=shared.url) as engine:
            tenant = store.tenant(COMPANY)
            for number in range(ROUNDS):
                keys = chance.sample(range(TICKETS), 8)
                await tenant.put_many(
                    ticket(key, status=f"ours-{number}", priority=f"ours-{number}") for key in keys[:6]
                )
                for key in keys[6:]:
                    await tenant.delete(type(ticket(0)), ("jira", str(key)))
                result = await engine.push(promote=True)
                assert result.exit_code in (0, 3), result.to_json()
    finally:
        for application in applications:
            application.done.set()
        await asyncio.gather(*working)
        for application in applications:
            await application.connection.close()
    last = {key: word for application in applications for key, word in application.last.items()}
    assert len(last) == TICKETS
    there = dict(await shared.fetch("SELECT ticket_id, status FROM tickets"))
    lost = {key: (word, there.get(key)) for key, word in last.items() if there.get(key, GONE) != word}
    assert lost == {}


@pytest.fixture
async def wired(shared: World) -> AsyncIterator[Wire]:
    """Return a wire to the shared world's production."""
    async with wire_to(shared.url) as wire:
        yield wire


async def test_P5_a_promotion_that_deadlocks_with_an_application_is_tried_again(shared: World, wired: Wire) -> None:
    """Locks taken in opposite order end one of the two; where it is the promotion, it runs again and ends well."""
    await shared.put(note(0, 1))
    assert (await shared.push()).exit_code == 0
    await shared.put(ticket(0, priority="ours"), note(0, 1, "ours"))
    application = await connect(shared)
    await application.execute("SET deadlock_timeout = '60s'")
    await application.execute("BEGIN")
    await application.execute("UPDATE conversations SET author_name = 'theirs'")
    attempts = 0

    def count(message: Message) -> Fate:
        nonlocal attempts
        attempts += b'UPDATE "public"."tickets" t SET' in message.body
        return Fate.PASS

    wired.rule = count
    pushing = asyncio.create_task(shared.push(wired.url))
    # The promotion writes the ticket first and now waits for its conversation; the application does it in reverse.
    await somebody_waits(shared)
    tag = await application.execute("UPDATE tickets SET assignee_name = 'theirs' WHERE ticket_id = '0'")
    await application.execute("COMMIT")
    await application.close()
    result = await pushing
    assert (result.exit_code, tag) == (0, "UPDATE 1"), result.to_json()
    assert attempts > 1
    assert await shared.fetch("SELECT priority, assignee_name FROM tickets WHERE ticket_id = '0'") == [
        ("ours", "theirs")
    ]
    assert await shared.fetch("SELECT content, author_name FROM conversations") == [("ours", "theirs")]


async def somebody_waits(world: World) -> None:
    """Return once a transaction waits for another one's row."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
    while not await world.value(waiting):
        await asyncio.sleep(0.01)


MEANWHILE = {
    "update": ("0", "UPDATE tickets SET status = 'theirs' WHERE ticket_id = '0'", [("theirs",)]),
    "delete": ("0", "DELETE FROM tickets WHERE ticket_id = '0'", []),
    "insert": (
        "1",
        "INSERT INTO tickets (company_id, platform, ticket_id, status) VALUES ('acme', 'jira', '1', 'theirs')",
        [("theirs",)],
    ),
}
"""What an application does to a ticket, the ticket's number, and its status afterwards."""


@pytest.mark.parametrize("what", MEANWHILE)
async def test_P9_a_write_that_commits_while_the_promotion_waits_for_it_is_seen(
    shared: World, wired: Wire, what: str
) -> None:
    """An application's open transaction on the very row: the promotion waits, and then does not overwrite it."""
    key, statement, expected = MEANWHILE[what]
    await shared.put(ticket(key, status="ours"))
    application = await connect(shared)
    await application.execute("BEGIN")
    await application.execute(statement)
    pushing = asyncio.create_task(shared.push(wired.url))
    await somebody_waits(shared)
    await application.execute("COMMIT")
    await application.close()
    result = await pushing
    assert result.exit_code == 3, result.to_json()
    assert result.totals["conflicts"] == 1
    assert await shared.fetch("SELECT status FROM tickets WHERE ticket_id = $1", key) == expected


async def test_P9_a_write_just_after_the_promotion_stands(shared: World, wired: Wire) -> None:
    """An application that waited for the promotion's lock writes over what was promoted, and a rollback spares it."""
    await shared.put(ticket(0, status="ours"), ticket(2, status="ours"))
    application = await connect(shared)
    writing: list[asyncio.Task[str]] = []
    is_commit = promoting_commit()

    async def rule(message: Message) -> Fate:
        if is_commit(message) and not writing:
            statement = "UPDATE tickets SET status = 'theirs' WHERE ticket_id = '0'"
            writing.append(asyncio.create_task(application.execute(statement)))
            await somebody_waits(shared)
        return Fate.PASS

    wired.rule = rule
    result = await shared.push(wired.url)
    assert result.exit_code == 0, result.to_json()
    assert (await writing[0]).endswith(" 1")
    await application.close()
    async with SyncEngine(to=shared.url) as engine:
        taken = await engine.rollback(result.tenants[0].batch)
    assert [row for row, _ in taken.tenants[0].left_alone] == ["tickets/jira/0"]
    rows = await shared.fetch("SELECT ticket_id, status FROM tickets WHERE ticket_id IN ('0', '2') ORDER BY 1")
    assert rows == [("0", "theirs"), ("2", "open")]
