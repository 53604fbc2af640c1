"""`storage.cache` on every storage: what is made through it is kept until a row that it was made from changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from localstore import Settings, StorageInterface, StoreError, Ticket, cached
from localstore.postgres.connect import connection_to
from sync import HybridStorage
from sync.hybrid import production
from tests.contract.conftest import Prepared
from tests.faults.wire import Fate, Message, Wire, wire_to

MADE: list[str] = []


@pytest.fixture(autouse=True)
def below_the_test_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let caches without a server be below the test's own folder."""
    monkeypatch.setenv("DATA_PATH", str(tmp_path / "caches"))
    monkeypatch.delenv("REDIS_URL", raising=False)
    MADE.clear()


@pytest.fixture
async def hybrid(tmp_path: Path, prepared: dict[str, Prepared]) -> AsyncIterator[tuple[HybridStorage, Wire]]:
    """Give a hybrid storage whose way to production can be cut, and that way."""
    async with wire_to(prepared["hybrid"].box.url) as wire:
        url, reading = wire.url, Settings(hybrid_use_postgres=True)
        async with HybridStorage(tmp_path / "hybrid", url, settings=reading) as storage:
            yield storage, wire
            wire.rule = passing
    await prepared["hybrid"].empty()


@cached(tables=(Ticket,), cache=lambda storage, company: storage.cache(company))
async def titles(storage: StorageInterface, company: str) -> list[str]:
    """Return the titles of a company's tickets."""
    MADE.append(company)
    return sorted(str(ticket.get("subject")) for ticket in await storage.list_tickets(company, limit=None))


async def test_a_value_follows_what_the_storage_saves(storage: StorageInterface) -> None:
    """A save or an update is seen by the next call, a read or a save of what is there costs no second making."""
    assert await titles(storage, "acme") == []
    ticket = {"id": 1, "subject": "first"}
    for subject in ("first", "changed", "changed again"):
        ticket["subject"] = subject
        await storage.save_ticket("acme", "jira", ticket)
        assert await titles(storage, "acme") == [subject]
        assert await asyncio.gather(*(titles(storage, "acme") for _ in range(3))) == [[subject]] * 3
    await storage.save_ticket("acme", "jira", {"id": 2, "subject": "second"})
    assert await titles(storage, "acme") == ["changed again", "second"]
    assert await storage.update_processing_status("acme", "jira", "2", "completed")
    before = len(MADE)
    assert await titles(storage, "acme") == ["changed again", "second"]
    assert len(MADE) == before + 1
    await storage.save_ticket("beta", "jira", {"id": 1, "subject": "beta's"})
    assert await titles(storage, "beta") == ["beta's"]
    assert await titles(storage, "acme") == ["changed again", "second"]


async def test_a_company_that_nobody_saved_to_is_not_made(storage: StorageInterface) -> None:
    """Asking the cache of an unknown company, or making a value for it, leaves it unknown."""
    cache = storage.cache("nobody")
    assert await cache.get("key") is None
    assert await titles(storage, "nobody") == []
    assert await storage.list_companies() == []
    await storage.close()
    with pytest.raises(StoreError):
        storage.cache("nobody")


async def test_a_hybrid_s_value_follows_both_places(
    hybrid: tuple[HybridStorage, Wire], prepared: dict[str, Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an application wrote in production counts before the file hears of it; while that is away the file does."""
    monkeypatch.setattr(production, "REST_SECONDS", 0.0)
    storage, wire = hybrid
    await storage.save_ticket("acme", "jira", {"id": 1, "subject": "first"})
    assert (await storage.push(["acme"])).exit_code == 0
    assert await titles(storage, "acme") == ["first"]
    made = len(MADE)
    assert await titles(storage, "acme") == ["first"]
    assert len(MADE) == made
    async with connection_to(prepared["hybrid"].owner) as application:
        await application.execute("UPDATE tickets SET raw_data = $1", '{"id": 1, "subject": "theirs"}')
    assert await titles(storage, "acme") == [
        str(ticket["subject"]) for ticket in await storage.list_tickets("acme", limit=None)
    ]
    assert len(MADE) == made + 1

    wire.rule = cut
    made = len(MADE)
    await storage.save_ticket("acme", "jira", {"id": 2, "subject": "offline"})
    for _ in range(2):
        assert "offline" in await titles(storage, "acme")
    assert len(MADE) == made + 1
    wire.rule = passing
    assert (await storage.push(["acme"])).exit_code == 0
    for _ in range(2):
        assert await titles(storage, "acme") == sorted(
            str(ticket["subject"]) for ticket in await storage.list_tickets("acme", limit=None)
        )


def cut(_: Message) -> Fate:
    """Be the rule of a wire on which nobody answers."""
    return Fate.CUT_BEFORE


def passing(_: Message) -> Fate:
    """Be the rule of a wire on which everything goes through."""
    return Fate.PASS
