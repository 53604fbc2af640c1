"""Eight writers on a hybrid tenant while its Postgres is stopped and started all the time.

LOCALSTORE_TEST_FLAPPING_SECONDS says for how long: a minute shows more than the few seconds of an ordinary run.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import asyncpg
import pytest

from localstore import Settings
from sync import HybridStorage, SyncEngine
from sync.hybrid.production import NoAnswer
from tests.faults.mortal import Mortal, mortal_server
from tests.faults.world import COMPANY, World

SECONDS = float(os.environ.get("LOCALSTORE_TEST_FLAPPING_SECONDS", "10"))
WRITERS = 8
WRITES = 4
STORAGES = 2
PLATFORM = "jira"
STATUSES = ("open", "pending", "resolved", "closed")


@pytest.fixture(scope="module")
def server() -> Iterator[Mortal]:
    """Run a server of this module's own."""
    with mortal_server() as started:
        yield started


@dataclass
class Writer:
    """One application: what it wrote last is what it has to read at once, whatever production does."""

    storage: HybridStorage
    name: int
    written: dict[str, dict[str, Any]] = field(default_factory=dict)
    reads: int = 0
    rng: random.Random = field(default_factory=random.Random)

    async def write(self, number: int) -> None:
        """Make a ticket, change it twice, change an older one, and read each of them back."""
        item = f"{self.name}-{number}"
        await self._save(item, number)
        await self.storage.update_processing_status(COMPANY, PLATFORM, item, f"step {number}")
        self.written[item]["processing_status"] = f"step {number}"
        await self.check(item)
        older = self.rng.choice(sorted(self.written))
        await self.storage.save_summary(COMPANY, PLATFORM, older, {"number": number})
        self.written[older]["summary"] = {"number": number}
        await self.check(older)
        await self._save(self.rng.choice(sorted(self.written)), number + 1)

    async def _save(self, item: str, number: int) -> None:
        ticket = {
            "key": item,
            "summary_line": f"{item} in round {number}",
            "status": STATUSES[number % 4],
            "subject": f"{item} in round {number}",
            "conversations": [{"id": 1, "body_text": f"round {number}"}],
        }
        assert await self.storage.save_ticket(COMPANY, PLATFORM, ticket) == item
        self.written[item] = self.written.get(item, {}) | ticket
        await self.check(item)

    async def check(self, item: str) -> None:
        """Claim that a ticket is read as this writer wrote it last."""
        found = await self.storage.get_ticket(COMPANY, PLATFORM, item)
        assert found is not None, item
        expected = self.written[item]
        assert {name: found[name] for name in expected} == expected
        self.reads += 1

    async def look(self) -> None:
        """Read for a while, in which nobody writes, so that production gets to answer, too."""
        until = monotonic() + self.rng.random() * 3
        while monotonic() < until:
            await self.check(self.rng.choice(sorted(self.written)))
            await asyncio.sleep(0.01)


async def flap(server: Mortal, until: float) -> int:
    """Stop the server and start it again every second, now in good order, now at once; return how often."""
    times = 0
    while monotonic() < until:
        await asyncio.to_thread(server.stop, fast=times % 2 == 0)
        await asyncio.to_thread(server.start)
        times += 1
        await asyncio.sleep(1)
    return times


def counted(storage: HybridStorage, answers: Counter[str]) -> None:
    """Count how often production answered a read, and how often it was asked in vain."""
    ask = storage._production.ask

    async def asked(work: Callable[[], Awaitable[Any]]) -> Any:
        try:
            answer = await ask(work)
        except NoAnswer:
            answers["in vain"] += 1
            raise
        answers["answered"] += 1
        return answer

    storage._production.ask = asked  # type: ignore[method-assign]


@pytest.mark.timeout(300 + 3 * SECONDS)
async def test_F28_writers_neither_lose_nor_double_nor_miss_anything_while_postgres_flaps(
    server: Mortal, tmp_path: Path
) -> None:
    """Every writer reads its own writes all along; in the end production equals the file, each change once."""
    name = f"production_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(server.server.url)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    await admin.close()
    world = World(tmp_path / "data", server.server.with_database(name).url)
    async with SyncEngine(to=world.url) as engine:
        await engine.init()
    answers: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        storages = [
            await stack.enter_async_context(
                HybridStorage(world.data, world.url, settings=Settings(hybrid_use_postgres=True))
            )
            for _ in range(STORAGES)
        ]
        for storage in storages:
            counted(storage, answers)
        writers = [Writer(storages[number % STORAGES], number) for number in range(WRITERS)]
        until = monotonic() + SECONDS
        flapping = asyncio.create_task(flap(server, until))

        async def work(writer: Writer, first: int) -> None:
            for number in range(first, first + WRITES):
                await writer.write(number)

        rounds = 0
        while not flapping.done():
            await asyncio.gather(*(work(writer, rounds * WRITES) for writer in writers))
            await asyncio.gather(*(writer.look() for writer in writers))
            rounds += 1
        times = await flapping
        assert (await storages[0].push([COMPANY])).exit_code == 0
        for writer in writers:
            for item in writer.written:
                await writer.check(item)
        listed = await storages[0].list_tickets(COMPANY, limit=None)
    tickets = sorted(item for writer in writers for item in writer.written)
    assert sorted(found["ticket_id"] for found in listed) == tickets
    assert await world.fetch('SELECT ticket_id FROM tickets ORDER BY ticket_id COLLATE "C"') == [(t,) for t in tickets]
    await world.check_settled()
    batches = len(await world.ledger())
    print(
        f"\n{times} restarts in {SECONDS:g} s: {len(tickets)} tickets in {batches} batches, "
        f"{sum(writer.reads for writer in writers)} reads checked, of production {dict(answers)}"
    )
