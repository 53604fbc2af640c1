"""The way of a batch: sealed, staged, promoted, acknowledged, taken back; on a real SQLite and a real PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from localstore import LocalStore
from localstore.helpdesk.models import Conversation, KnowledgeArticle, Ticket
from sync import SyncEngine

pytestmark = pytest.mark.usefixtures("production")


def ticket(number: int, **columns: Any) -> Ticket:
    """Return a ticket of company acme."""
    fields: dict[str, Any] = {"title": f"Ticket {number}", "status": "open", "priority": "low", **columns}
    return Ticket(company_id="acme", platform="freshdesk", ticket_id=str(number), **fields)


def note(number: int, part: int, content: str = "hello") -> Conversation:
    """Return a conversation of a ticket."""
    return Conversation(
        company_id="acme", platform="freshdesk", ticket_id=str(number), conversation_id=str(part), content=content
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    """Return a store of help-desk tenants."""
    async with LocalStore(tmp_path / "data") as opened:
        yield opened


@pytest.fixture
async def engine(store: LocalStore, production: str) -> AsyncIterator[SyncEngine]:
    """Return an engine between the store and an empty production."""
    async with SyncEngine(store, to=production) as opened:
        yield opened


@pytest.fixture
async def app(production: str) -> AsyncIterator[asyncpg.Connection]:
    """Return a superuser's connection to production, which stands for an application that writes there."""
    connection = await asyncpg.connect(production, server_settings={"app.current_company_id": "acme"})
    yield connection
    await connection.close()


def counts(result: object, table: str = "tickets") -> dict[str, int]:
    """Return the counts of the first tenant's table that are not zero."""
    tables = result.tenants[0].tables  # type: ignore[attr-defined]
    return {name: number for name, number in tables.get(table, {}).items() if number}


async def test_push_promote_brings_rows_and_a_second_push_moves_nothing(
    store: LocalStore, engine: SyncEngine, app: asyncpg.Connection
) -> None:
    """What was put locally is in production once, however often it is pushed."""
    tenant = store.tenant("acme")
    await tenant.put_many([ticket(1), ticket(2, tags=["a", "b"], raw_data={"x": [1, 2.50]}), note(1, 1), note(1, 2)])
    result = await engine.push(promote=True)
    assert result.exit_code == 0, result.to_json()
    assert counts(result) == {"inserted": 2}
    assert counts(result, "conversations") == {"inserted": 2}
    assert await app.fetchval("SELECT count(*) FROM tickets") == 2
    again = await engine.push(promote=True)
    assert again.tenants[0].state == "unchanged"
    assert again.tenants[0].tables == {}


async def test_an_edit_pushes_one_row_and_rollback_restores_it(
    store: LocalStore, engine: SyncEngine, app: asyncpg.Connection
) -> None:
    """One edited row is one updated row, and its rollback gives production the former values back."""
    tenant = store.tenant("acme")
    await tenant.put_many([ticket(number) for number in range(50)])
    await engine.push(promote=True)
    before = await app.fetch("SELECT * FROM tickets ORDER BY ticket_id")
    edited = await tenant.get(Ticket, ("freshdesk", "7"))
    assert edited is not None
    edited.status = "solved"
    await tenant.put(edited)
    result = await engine.push(promote=True)
    assert counts(result) == {"updated": 1}
    assert await app.fetchval("SELECT status FROM tickets WHERE ticket_id = '7'") == "solved"
    batch = result.tenants[0].batch
    assert batch is not None
    taken = await engine.rollback(batch)
    assert taken.exit_code == 0, taken.to_json()
    assert counts(taken) == {"updated": 1}
    assert await app.fetch("SELECT * FROM tickets ORDER BY ticket_id") == before
    pushed = await engine.push(promote=True)
    assert pushed.exit_code == 3
    assert await app.fetchval("SELECT status FROM tickets WHERE ticket_id = '7'") == "open"
    await engine.requeue(batch)
    requeued = await engine.push(promote=True)
    assert requeued.exit_code == 0
    assert counts(requeued) == {"updated": 1}
    assert await app.fetchval("SELECT status FROM tickets WHERE ticket_id = '7'") == "solved"


async def test_deletes_travel_and_come_back(store: LocalStore, engine: SyncEngine, app: asyncpg.Connection) -> None:
    """A deleted ticket takes its conversations with it in production; a rollback brings all of them back."""
    tenant = store.tenant("acme")
    await tenant.put_many([ticket(1), ticket(2), note(1, 1), note(1, 2), note(2, 1)])
    await engine.push(promote=True)
    before = await app.fetch("SELECT * FROM conversations ORDER BY ticket_id, conversation_id")
    await tenant.delete(Ticket, ("freshdesk", "1"))
    result = await engine.push(promote=True)
    assert counts(result) == {"deleted": 1}
    assert counts(result, "conversations") == {"deleted": 2}
    assert await app.fetchval("SELECT count(*) FROM conversations") == 1
    batch = result.tenants[0].batch
    assert batch is not None
    await engine.rollback(batch)
    assert await app.fetch("SELECT * FROM conversations ORDER BY ticket_id, conversation_id") == before
    assert await app.fetchval("SELECT count(*) FROM tickets") == 2


async def test_F23_rollback_spares_rows_written_since(
    store: LocalStore, engine: SyncEngine, app: asyncpg.Connection
) -> None:
    """A row that an application wrote after the promotion is left alone and listed; the others go back."""
    tenant = store.tenant("acme")
    await tenant.put_many([ticket(1), ticket(2), ticket(3)])
    result = await engine.push(promote=True)
    await app.execute("UPDATE tickets SET priority = 'urgent' WHERE ticket_id = '2'")
    batch = result.tenants[0].batch
    assert batch is not None
    taken = await engine.rollback(batch)
    assert taken.exit_code == 3
    assert [row for row, _ in taken.tenants[0].left_alone] == ["tickets/freshdesk/2"]
    assert [row["ticket_id"] for row in await app.fetch("SELECT ticket_id FROM tickets")] == ["2"]


async def test_P9_a_change_under_a_local_change_is_held_as_a_conflict(
    store: LocalStore, engine: SyncEngine, app: asyncpg.Connection
) -> None:
    """The same column changed on both sides is not overwritten but held; different columns merge."""
    tenant = store.tenant("acme")
    await tenant.put_many([ticket(1), ticket(2)])
    await engine.push(promote=True)
    await app.execute("UPDATE tickets SET status = 'closed' WHERE ticket_id = '1'")
    await app.execute("UPDATE tickets SET status = 'closed' WHERE ticket_id = '2'")
    for number, column in ((1, "status"), (2, "priority")):
        row = await tenant.get(Ticket, ("freshdesk", str(number)))
        setattr(row, column, "ours")
        await tenant.put(row)
    result = await engine.push(promote=True)
    assert result.exit_code == 3
    assert counts(result) == {"updated": 1, "conflicts": 1}
    rows = await app.fetch("SELECT status, priority FROM tickets ORDER BY ticket_id")
    assert [tuple(row) for row in rows] == [("closed", "low"), ("closed", "ours")]
    (conflict,) = await engine.conflicts.list()
    assert conflict.address == "tickets/freshdesk/1"
    assert conflict.production == {"status": "closed"}
    assert conflict.local is not None
    assert conflict.local["status"] == "ours"
    await engine.conflicts.resolve("tickets/freshdesk/1", "local")
    resolved = await engine.push(promote=True)
    assert resolved.exit_code == 0, resolved.to_json()
    assert await app.fetchval("SELECT status FROM tickets WHERE ticket_id = '1'") == "ours"


async def test_resolving_for_production_takes_its_value(
    store: LocalStore, engine: SyncEngine, app: asyncpg.Connection
) -> None:
    """A conflict resolved for production leaves production as it is and makes the local row equal."""
    tenant = store.tenant("acme")
    await tenant.put(ticket(1))
    await engine.push(promote=True)
    await app.execute("UPDATE tickets SET status = 'closed'")
    row = await tenant.get(Ticket, ("freshdesk", "1"))
    assert row is not None
    row.status = "ours"
    await tenant.put(row)
    await engine.push(promote=True)
    await engine.conflicts.resolve("tickets/freshdesk/1", "production")
    assert (await engine.push(promote=True)).exit_code == 0
    assert await app.fetchval("SELECT status FROM tickets") == "closed"
    row = await tenant.get(Ticket, ("freshdesk", "1"))
    assert row is not None
    assert row.status == "closed"


async def test_V1_F27_a_bad_value_is_held_with_its_children_and_blocks_nothing(
    store: LocalStore, engine: SyncEngine, app: asyncpg.Connection
) -> None:
    """U+0000 in one ticket holds it and its conversations; all others go; mended, everything follows."""
    tenant = store.tenant("acme")
    await tenant.put_many([ticket(1), ticket(2, description="a\0b"), note(1, 1), note(2, 1), note(2, 2)])
    result = await engine.push(promote=True)
    assert result.exit_code == 3
    assert counts(result) == {"inserted": 1, "quarantined": 1}
    assert counts(result, "conversations") == {"inserted": 1, "quarantined": 2}
    items = await engine.quarantine.list()
    assert {(item.address, item.reason, item.column) for item in items} == {
        ("tickets/freshdesk/2", "value", "description"),
        ("conversations/freshdesk/2/1", "waits", "ticket_id"),
        ("conversations/freshdesk/2/2", "waits", "ticket_id"),
    }
    await engine.quarantine.fix("tickets/freshdesk/2", "description", "ab")
    mended = await engine.push(promote=True)
    assert mended.exit_code == 0, [item.to_json() for item in await engine.held()]
    assert await app.fetchval("SELECT count(*) FROM conversations") == 3
    assert await app.fetchval("SELECT description FROM tickets WHERE ticket_id = '2'") == "ab"


async def test_F22_a_staged_batch_can_be_planned_promoted_elsewhere_and_found_stale(
    store: LocalStore, engine: SyncEngine, app: asyncpg.Connection, production: str, tmp_path: Path
) -> None:
    """A plan changes nothing, is promoted by a machine without the file, and refuses once production moved."""
    tenant = store.tenant("acme")
    await tenant.put_many([ticket(1), ticket(2)])
    plan = await engine.plan()
    assert counts(plan) == {"inserted": 2}
    assert await app.fetchval("SELECT count(*) FROM tickets") == 0
    plan.save(tmp_path / "plan.json")
    async with SyncEngine(to=production) as reviewer:
        done = await reviewer.promote(type(plan).load(tmp_path / "plan.json"))
        assert done.exit_code == 0, done.to_json()
        assert counts(done) == {"inserted": 2}
        row = await tenant.get(Ticket, ("freshdesk", "1"))
        assert row is not None
        row.status = "ours"
        await tenant.put(row)
        stale = await engine.plan()
        await app.execute("UPDATE tickets SET priority = 'theirs' WHERE ticket_id = '1'")
        refused = await reviewer.promote(stale)
        assert refused.exit_code == 5, refused.to_json()
        assert await app.fetchval("SELECT status FROM tickets WHERE ticket_id = '1'") == "open"
        taken = await reviewer.rollback(str(done.tenants[0].batch)[:13])
        assert taken.tenants[0].left_alone == (("tickets/freshdesk/1", "written in production since"),)


async def test_withdrawn_changes_travel_in_the_next_batch(
    store: LocalStore, engine: SyncEngine, app: asyncpg.Connection
) -> None:
    """A withdrawn batch is never promoted, and its changes are not lost."""
    tenant = store.tenant("acme")
    await tenant.put(ticket(1))
    staged = await engine.push()
    assert staged.tenants[0].state == "staged"
    await tenant.put(ticket(2))
    await engine.push()
    batch = staged.tenants[0].batch
    assert batch is not None
    gone = await engine.withdraw(batch)
    assert len(gone.tenants[0].batches) == 2
    assert (await engine.promote()).tenants[0].state == "unchanged"
    assert await app.fetchval("SELECT count(*) FROM tickets") == 0
    result = await engine.push(promote=True)
    assert counts(result) == {"inserted": 2}


async def test_two_staged_batches_compose_when_the_first_is_held(
    store: LocalStore, engine: SyncEngine, app: asyncpg.Connection
) -> None:
    """An update sealed behind an insert that is held becomes part of that insert."""
    tenant = store.tenant("acme")
    await tenant.put_many([ticket(1, description="a\0b")])
    await engine.push()
    row = await tenant.get(Ticket, ("freshdesk", "1"))
    assert row is not None
    row.status = "later"
    await tenant.put(row)
    await engine.push()
    row.description = "ab"
    await tenant.put(row)
    await engine.push()
    result = await engine.promote()
    assert result.exit_code == 0, [item.to_json() for item in await engine.held()]
    assert tuple(await app.fetchrow("SELECT status, description FROM tickets")) == ("later", "ab")


async def test_a_delete_of_a_row_still_referenced_is_held(
    store: LocalStore, engine: SyncEngine, app: asyncpg.Connection
) -> None:
    """Production's own conversation of a ticket keeps that ticket, though the key says ON DELETE CASCADE."""
    tenant = store.tenant("acme")
    await tenant.put_many([ticket(1), note(1, 1)])
    await engine.push(promote=True)
    await app.execute(
        "INSERT INTO conversations (company_id, platform, ticket_id, conversation_id, id) "
        "VALUES ('acme', 'freshdesk', '1', 'theirs', gen_random_uuid())"
    )
    await tenant.delete(Ticket, ("freshdesk", "1"))
    result = await engine.push(promote=True)
    assert result.exit_code == 3
    assert counts(result) == {"quarantined": 1}
    assert counts(result, "conversations") == {"deleted": 1}
    assert await app.fetchval("SELECT count(*) FROM tickets") == 1


async def test_P2_swapped_unique_values_are_promoted(store: LocalStore, engine: SyncEngine, tmp_path: Path) -> None:
    """Articles and tickets in one batch, in any order, with other writers' sqlite3 connections in between."""
    tenant = store.tenant("acme")
    await tenant.put_many([KnowledgeArticle(company_id="acme", platform="zendesk", article_id="1", title="A")])
    with sqlite3.connect(tmp_path / "data" / "acme" / "store.db") as shell:
        shell.execute("UPDATE knowledge_base SET title = 'B'")
    shell.close()
    result = await engine.push(promote=True)
    assert counts(result, "knowledge_base") == {"inserted": 1}


async def test_C16_a_gap_in_capture_is_closed_by_a_snapshot(
    store: LocalStore, engine: SyncEngine, app: asyncpg.Connection, tmp_path: Path
) -> None:
    """What was written while triggers were gone still arrives; what an application wrote meanwhile is a conflict."""
    tenant = store.tenant("acme")
    await tenant.put_many([ticket(number) for number in range(1, 6)])
    await engine.push(promote=True)
    await store.close()
    with sqlite3.connect(tmp_path / "data" / "acme" / "store.db") as shell:
        triggers = shell.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'tickets'")
        for (name,) in triggers.fetchall():
            shell.execute(f'DROP TRIGGER "{name}"')
        shell.execute("UPDATE tickets SET status = 'unseen' WHERE ticket_id IN ('1', '2')")
        shell.execute("DELETE FROM tickets WHERE ticket_id = '5'")
    shell.close()
    await app.execute("UPDATE tickets SET status = 'theirs' WHERE ticket_id = '2'")
    async with LocalStore(store.root) as again, SyncEngine(again, to=engine._to) as second:
        result = await second.push(promote=True)
        assert counts(result) == {"updated": 1, "unchanged": 2, "conflicts": 1}, result.to_json()
        assert await app.fetchval("SELECT status FROM tickets WHERE ticket_id = '1'") == "unseen"
        assert await app.fetchval("SELECT status FROM tickets WHERE ticket_id = '2'") == "theirs"
        assert (await second.push(promote=True)).tenants[0].state == "unchanged"


async def test_a_withdrawn_release_is_carried_by_the_next_batch(
    store: LocalStore, engine: SyncEngine, app: asyncpg.Connection
) -> None:
    """A requeued change whose batch is withdrawn is not forgotten."""
    tenant = store.tenant("acme")
    await tenant.put(ticket(1))
    first = (await engine.push(promote=True)).tenants[0].batch
    assert first is not None
    await engine.rollback(first)
    await engine.requeue(first)
    staged = (await engine.push()).tenants[0].batch
    assert staged is not None
    await engine.withdraw(staged)
    result = await engine.push(promote=True)
    assert counts(result) == {"inserted": 1}, result.to_json()
    assert await app.fetchval("SELECT count(*) FROM tickets") == 1


async def test_an_expired_undo_is_refused_and_expired_bundles_go(
    store: LocalStore, engine: SyncEngine, app: asyncpg.Connection, tmp_path: Path
) -> None:
    """After 30 days a batch can no longer be taken back, which is said, and its bundle is no longer kept."""
    tenant = store.tenant("acme")
    await tenant.put(ticket(1))
    first = (await engine.push(promote=True)).tenants[0].batch
    assert first is not None
    kept = tmp_path / "data" / "acme" / "outbox" / "kept" / f"{first}.bundle"
    assert kept.exists()
    await app.execute("UPDATE localstore.ledger SET promoted_at = now() - interval '31 days'")
    with sqlite3.connect(tmp_path / "data" / "acme" / "store.db") as shell:
        shell.execute("UPDATE localstore_batches SET acknowledged_at = '2020-01-01T00:00:00+00:00'")
    shell.close()
    await tenant.put(ticket(2))
    await engine.push(promote=True)
    assert not kept.exists()
    assert await app.fetchval("SELECT count(*) FROM localstore.undo") == 1
    refused = await engine.rollback(first)
    assert refused.exit_code == 6
    assert await app.fetchval("SELECT count(*) FROM tickets") == 2


async def test_old_feed_goes_but_for_the_newest_entry_of_each_row(
    store: LocalStore, engine: SyncEngine, app: asyncpg.Connection
) -> None:
    """What others wrote over 30 days ago shrinks to one entry a row: evidence enough."""
    tenant = store.tenant("acme")
    await tenant.put_many([ticket(1), ticket(2)])
    await engine.push(promote=True)
    for status in ("one", "two", "three"):
        await app.execute("UPDATE tickets SET status = $1 WHERE ticket_id = '1'", status)
    await app.execute("UPDATE localstore.feed SET at = now() - interval '31 days'")
    await app.execute("UPDATE tickets SET status = 'lately' WHERE ticket_id = '2'")
    await app.execute("UPDATE localstore.ledger SET promoted_at = now() - interval '31 days'")
    await tenant.put(ticket(3))
    await engine.push(promote=True)
    kept = await app.fetch(
        "SELECT key[2] AS ticket, count(*) FROM localstore.feed WHERE key IS NOT NULL GROUP BY 1 ORDER BY 1"
    )
    assert [tuple(row) for row in kept] == [("1", 1), ("2", 1)]
