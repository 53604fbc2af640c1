"""Verification between a real tenant's file and a real production: what differs is found, and its cause is named."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from localstore import LocalStore
from localstore.helpdesk.models import Conversation, KnowledgeArticle, ProcessingProgress, Ticket
from localstore.sqlite.database import Database, Snapshot
from sync import SyncEngine
from sync.production import registered
from sync.steps.verify import Difference, TableVerified, Verified, Why, verify

Login = Callable[..., str]

MODELS = [Ticket, Conversation, KnowledgeArticle, ProcessingProgress]


def ticket(number: int, **columns: object) -> Ticket:
    """Return a ticket of company acme."""
    fields: dict[str, Any] = {"title": f"Ticket {number}", "status": "open", "priority": "low", **columns}
    return Ticket(company_id="acme", platform="freshdesk", ticket_id=str(number), **fields)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    """Return a store of help-desk tenants."""
    async with LocalStore(tmp_path / "data", models=MODELS) as opened:
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


async def verified(engine: SyncEngine) -> Verified:
    """Return what a verification says of the only tenant."""
    (found,) = await engine.verify()
    return found


async def table(engine: SyncEngine, name: str = "tickets") -> TableVerified:
    """Return what a verification says of one table."""
    return (await verified(engine)).tables[name]


async def silently(app: asyncpg.Connection, *statements: str) -> None:
    """Write as nobody that the feed knows of: what remains is drift."""
    async with app.transaction():
        await app.execute("SET LOCAL session_replication_role = replica")
        for statement in statements:
            await app.execute(statement)


def brief(differences: tuple[Difference, ...]) -> list[tuple[str, str | None, str]]:
    """Return the last key part, the column and the cause of each difference, sorted."""
    return sorted(((found.key[-1], found.column, found.why.value) for found in differences), key=str)


async def local(store: LocalStore, work: Callable[[sqlite3.Connection], object]) -> None:
    """Run SQL in the tenant's file, as the shell would."""
    tenant = store.tenant("acme")
    await tenant.open()
    await tenant.database.write(work)


async def test_a_promoted_tenant_is_equal(store: LocalStore, engine: SyncEngine) -> None:
    """After a push nothing differs, whatever the rows hold."""
    note = Conversation(company_id="acme", platform="freshdesk", ticket_id="2", conversation_id="1", content="hello")
    await store.tenant("acme").put_many([ticket(1), ticket(2, raw_data={"b": [1.50, "é\n"], "a": None}), note])
    await engine.push(promote=True)
    found = await verified(engine)
    assert found.equal
    assert found.explained
    assert found.tenant == "acme"
    assert {name: seen.rows for name, seen in found.tables.items() if seen.rows} == {"tickets": 2, "conversations": 1}


async def test_what_was_not_pushed_is_pending(store: LocalStore, engine: SyncEngine) -> None:
    """An insert, an update and a delete that were not promoted are named as pending, by row and by column."""
    tenant = store.tenant("acme")
    await tenant.put_many([ticket(1), ticket(2), ticket(3)])
    await engine.push(promote=True)
    await tenant.put(ticket(4))
    await tenant.delete(Ticket, ("freshdesk", "1"))
    await local(store, lambda file: file.execute("UPDATE tickets SET title = 'new' WHERE ticket_id = '2'"))
    found = await verified(engine)
    assert not found.equal
    assert found.explained
    seen = found.tables["tickets"]
    assert seen.rows == 3
    assert brief(seen.differences) == [("1", None, "pending"), ("2", "title", "pending"), ("4", None, "pending")]
    title = next(one for one in seen.differences if one.column)
    assert (title.local, title.production) == ("new", "Ticket 2")


async def test_a_staged_batch_is_still_pending(store: LocalStore, engine: SyncEngine) -> None:
    """What was sealed and staged is pending until it is promoted."""
    tenant = store.tenant("acme")
    await tenant.put(ticket(1))
    await engine.push(promote=True)
    await tenant.put(ticket(2))
    await engine.push()
    assert brief((await table(engine)).differences) == [("2", None, "pending")]
    await engine.promote()
    assert (await verified(engine)).equal


async def test_a_tenant_that_was_never_pushed_is_pending_whole(store: LocalStore, engine: SyncEngine) -> None:
    """Before the first push production knows no table, and every row is pending."""
    await store.tenant("acme").put_many([ticket(1), ticket(2)])
    await engine.init()
    found = await verified(engine)
    assert not found.equal
    assert found.explained
    assert found.tables["tickets"].causes == {Why.PENDING: 2}


async def test_what_an_application_wrote_is_a_foreign_edit(
    store: LocalStore, engine: SyncEngine, app: asyncpg.Connection
) -> None:
    """A change, a new row and a deletion by an application are foreign edits; their writer is named."""
    await store.tenant("acme").put_many([ticket(1), ticket(2), ticket(3)])
    await engine.push(promote=True)
    await app.execute("UPDATE tickets SET title = 'theirs' WHERE ticket_id = '1'")
    await app.execute("DELETE FROM tickets WHERE ticket_id = '2'")
    await app.execute("INSERT INTO tickets (company_id, platform, ticket_id) VALUES ('acme', 'jira', 'X-1')")
    found = await verified(engine)
    assert not found.explained
    seen = found.tables["tickets"]
    assert brief(seen.differences) == [
        ("1", "title", "foreign edit"),
        ("2", None, "foreign edit"),
        ("X-1", None, "foreign edit"),
    ]
    login = await app.fetchval("SELECT session_user")
    assert all(f"written by {login} at 20" in one.detail for one in seen.differences)


async def test_what_nobody_wrote_is_drift(store: LocalStore, engine: SyncEngine, app: asyncpg.Connection) -> None:
    """A difference that no mark, no held change and no feed entry accounts for is drift."""
    await store.tenant("acme").put_many([ticket(1), ticket(2)])
    await engine.push(promote=True)
    await silently(
        app,
        "UPDATE tickets SET status = 'lost' WHERE ticket_id = '1'",
        "DELETE FROM tickets WHERE ticket_id = '2'",
        "INSERT INTO tickets (company_id, platform, ticket_id) VALUES ('acme', 'jira', 'X-1')",
    )
    found = await verified(engine)
    assert not found.explained
    assert brief(found.tables["tickets"].differences) == [
        ("1", "status", "drift"),
        ("2", None, "drift"),
        ("X-1", None, "drift"),
    ]


async def test_causes_are_told_apart_within_one_row(
    store: LocalStore, engine: SyncEngine, app: asyncpg.Connection
) -> None:
    """A pending change of one column does not excuse what an application did to another."""
    await store.tenant("acme").put(ticket(1))
    await engine.push(promote=True)
    await local(store, lambda file: file.execute("UPDATE tickets SET title = 'ours'"))
    await app.execute("UPDATE tickets SET status = 'theirs'")
    found = await verified(engine)
    assert brief(found.tables["tickets"].differences) == [("1", "status", "foreign edit"), ("1", "title", "pending")]
    assert not found.explained


async def test_our_own_later_write_ends_what_an_earlier_edit_explains(
    store: LocalStore, engine: SyncEngine, app: asyncpg.Connection
) -> None:
    """An application's edit that this replica has overwritten since does not explain a difference that came later."""
    await store.tenant("acme").put(ticket(1))
    await engine.push(promote=True)
    await app.execute("UPDATE tickets SET status = 'theirs', title = 'ours'")
    await local(store, lambda file: file.execute("UPDATE tickets SET title = 'ours'"))
    await engine.push(promote=True)
    await local(store, lambda file: file.execute("UPDATE tickets SET title = 'ours again'"))
    result = await engine.push(promote=True)
    assert result.exit_code == 0, result.to_json()
    await silently(app, "UPDATE tickets SET title = 'lost'")
    differences = (await table(engine)).differences
    assert brief(differences) == [("1", "status", "foreign edit"), ("1", "title", "drift")]


async def test_a_held_value_is_held(store: LocalStore, engine: SyncEngine) -> None:
    """V1: a row whose text production cannot store differs because it is held, with the reason."""
    await store.tenant("acme").put_many([ticket(1), ticket(2, title="a\0b")])
    await engine.push(promote=True)
    found = await verified(engine)
    assert not found.equal
    assert found.explained
    (only,) = found.tables["tickets"].differences
    assert (only.key, only.column, only.why) == (("freshdesk", "2"), None, Why.HELD)
    assert "value" in only.detail
    assert "U+0000" in only.detail


async def test_a_held_key_is_found_by_its_looks(store: LocalStore, engine: SyncEngine) -> None:
    """V3: a row whose very key production cannot store is held, and only in the file."""
    await store.tenant("acme").put(ticket(1))
    await local(
        store,
        lambda file: file.execute(
            "INSERT INTO tickets (company_id, platform, ticket_id, title) "
            "VALUES ('acme', 'jira', CAST(x'ff61' AS TEXT), 'x')"
        ),
    )
    await engine.push(promote=True)
    found = await verified(engine)
    (only,) = found.tables["tickets"].differences
    assert only.why is Why.HELD
    assert only.production is None
    assert found.tables["tickets"].rows == 2


async def test_a_conflict_is_held_by_column(store: LocalStore, engine: SyncEngine, app: asyncpg.Connection) -> None:
    """A column that both sides changed is held; a column that only production changed is a foreign edit."""
    await store.tenant("acme").put(ticket(1))
    await engine.push(promote=True)
    await local(store, lambda file: file.execute("UPDATE tickets SET title = 'ours'"))
    await app.execute("UPDATE tickets SET title = 'theirs', status = 'theirs'")
    await engine.push(promote=True)
    assert brief((await table(engine)).differences) == [("1", "status", "foreign edit"), ("1", "title", "held")]


async def test_a_rollback_leaves_held_rows(store: LocalStore, engine: SyncEngine) -> None:
    """What a rollback took back is held, whether it was an insert, an update or a delete."""
    tenant = store.tenant("acme")
    await tenant.put_many([ticket(1), ticket(2)])
    await engine.push(promote=True)
    await tenant.put(ticket(3))
    await tenant.delete(Ticket, ("freshdesk", "1"))
    await local(store, lambda file: file.execute("UPDATE tickets SET title = 'ours' WHERE ticket_id = '2'"))
    batch = (await engine.push(promote=True)).tenants[0].batch
    assert batch is not None
    assert (await verified(engine)).equal
    await engine.rollback(batch)
    found = await verified(engine)
    assert brief(found.tables["tickets"].differences) == [
        ("1", None, "held"),
        ("2", "title", "held"),
        ("3", None, "held"),
    ]
    assert found.explained


async def test_another_replicas_batch_is_a_foreign_edit(
    store: LocalStore, engine: SyncEngine, production: str, tmp_path: Path
) -> None:
    """What another box promoted, this file does not have; the other replica is named."""
    await store.tenant("acme").put_many([ticket(1), ticket(2)])
    await engine.push(promote=True)
    async with LocalStore(tmp_path / "other", models=MODELS) as other:
        await other.tenant("acme").put(ticket(9))
        async with SyncEngine(other, to=production) as second:
            await second.push(promote=True)
        replica = other.tenant("acme").database.identity.replica
    (only,) = (await table(engine)).differences
    assert (only.key, only.why) == (("freshdesk", "9"), Why.FOREIGN_EDIT)
    assert f"replica {replica}" in only.detail


async def test_an_emptied_table_is_a_foreign_edit(
    store: LocalStore, engine: SyncEngine, app: asyncpg.Connection
) -> None:
    """R15: a TRUNCATE names no rows, yet it explains every missing one."""
    await store.tenant("acme").put_many([ticket(1), ticket(2)])
    await engine.push(promote=True)
    await app.execute("TRUNCATE tickets CASCADE")
    assert (await table(engine)).causes == {Why.FOREIGN_EDIT: 2}


async def test_other_companies_rows_are_not_seen(
    store: LocalStore, engine: SyncEngine, app: asyncpg.Connection
) -> None:
    """R16: production's rows of other companies take no part, whoever the login is."""
    await store.tenant("acme").put(ticket(1))
    await engine.push(promote=True)
    await app.execute("INSERT INTO tickets (company_id, platform, ticket_id) VALUES ('other', 'jira', 'X-1')")
    assert (await verified(engine)).equal


async def test_the_json_of_a_difference_names_its_key(store: LocalStore, engine: SyncEngine) -> None:
    """The command's JSON has the key by column, the cause and the count."""
    tenant = store.tenant("acme")
    await tenant.put(ticket(1))
    await engine.push(promote=True)
    await tenant.put(ticket(2))
    shown = (await verified(engine)).to_json()
    assert shown["tenant"] == "acme"
    assert shown["equal"] is False
    assert shown["tables"]["tickets"]["rows"] == 2
    assert shown["tables"]["tickets"]["different"] == 1
    (only,) = shown["tables"]["tickets"]["differences"]
    assert only["key"] == {"platform": "freshdesk", "ticket_id": "2"}
    assert only["why"] == "pending"
    assert only["column"] is None


async def test_a_promotion_between_the_two_snapshots_is_no_drift(
    store: LocalStore, engine: SyncEngine, production: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch promoted and acknowledged after production was looked at makes the verification look again."""
    tenant = store.tenant("acme")
    await tenant.put_many([ticket(1), ticket(2)])
    await engine.push(promote=True)
    await local(store, lambda file: file.execute("UPDATE tickets SET title = 'new'"))
    snapshot = Database.snapshot
    interleaved = False

    @asynccontextmanager
    async def later(database: Database) -> AsyncIterator[Snapshot]:
        nonlocal interleaved
        if not interleaved:
            interleaved = True
            await engine.push(promote=True)
        async with snapshot(database) as opened:
            yield opened

    connection = await asyncpg.connect(production)
    try:
        known = await registered(connection, "public")
        monkeypatch.setattr(Database, "snapshot", later)
        found = await verify(connection, tenant.database, "public", known)
    finally:
        await connection.close()
    assert interleaved
    assert found.equal, found.tables["tickets"].differences


async def test_reading_rights_suffice(store: LocalStore, engine: SyncEngine, production: str, login: Login) -> None:
    """A login that is a member of the reader's role alone can verify, and sees what differs and why."""
    tenant = store.tenant("acme")
    await tenant.put_many([ticket(1), ticket(2, title="a\0b")])
    await engine.push(promote=True)
    connection = await asyncpg.connect(login("localstore_reader"))
    try:
        known = await registered(connection, "public")
        found = await verify(connection, tenant.database, "public", known)
    finally:
        await connection.close()
    assert found.tables["tickets"].causes == {Why.HELD: 1}


async def test_a_limited_login_verifies_its_own_company(
    store: LocalStore, engine: SyncEngine, app: asyncpg.Connection, login: Login
) -> None:
    """R8: a login limited to another company finds nothing of this one, so that all of it differs."""
    tenant = store.tenant("acme")
    await tenant.put(ticket(1))
    await engine.push(promote=True)
    url = login("localstore_reader")
    connection = await asyncpg.connect(url)
    try:
        known = await registered(connection, "public")
        name = await connection.fetchval("SELECT session_user")
        for company, equal in (("other", False), ("acme", True)):
            await app.execute("DELETE FROM localstore.logins")
            await app.execute("SELECT localstore.limit_login($1, $2)", name, company)
            found = await verify(connection, tenant.database, "public", known)
            assert found.equal is equal
    finally:
        await connection.close()
        await app.execute("DELETE FROM localstore.logins")


async def test_writers_go_on_while_verifying(store: LocalStore, engine: SyncEngine) -> None:
    """Puts that are committed while a verification runs neither wait for it nor show as drift."""
    tenant = store.tenant("acme")
    await tenant.put_many([ticket(number) for number in range(3_000)])
    await engine.push(promote=True)

    async def write() -> None:
        for number in range(200):
            await tenant.put(ticket(number, title="meanwhile"))

    found, _ = await asyncio.gather(verified(engine), write())
    assert found.explained
    later = await table(engine)
    assert set(later.causes) == {Why.PENDING}
    assert {one.key[-1] for one in later.differences} == {str(number) for number in range(200)}
