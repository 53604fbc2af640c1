"""Tenants stay apart while a promotion runs, and the logins of boxes need no more rights than they are given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from localstore import LocalStore
from localstore.helpdesk.models import Conversation, Ticket
from sync import SyncEngine, ledger
from sync.outcome import Options
from sync.production import registered
from sync.steps.promote import promote, promotion
from tests.conftest import Login

TABLES = ("tickets", "conversations", "knowledge_base", "processing_progress")
MADE_UP = (None, "", "nobody", "acme'--", "ACME", "acme ", "%")


def rows_of(company: str) -> list[object]:
    """Return a ticket with a conversation."""
    return [
        Ticket(company_id=company, platform="freshdesk", ticket_id="1", title=f"of {company}"),
        Conversation(company_id=company, platform="freshdesk", ticket_id="1", conversation_id="1", content="hello"),
    ]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    """Return a store with two tenants that use the same keys."""
    async with LocalStore(tmp_path / "data") as opened:
        for company in ("acme", "beta"):
            await opened.tenant(company).put_many(rows_of(company))
        yield opened


async def seen_and_changed(url: str, company: str | None) -> tuple[set[str], int]:
    """Return the companies whose rows a login sees, in any table, and how many rows it changes when it tries."""
    connection = await asyncpg.connect(url)
    try:
        seen: set[str] = set()
        changed = 0
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SET LOCAL lock_timeout = '5s'")
        if company is not None:
            await connection.execute("SELECT set_config('app.current_company_id', $1, true)", company)
        for table in TABLES:
            seen |= {row["company_id"] for row in await connection.fetch(f"SELECT company_id FROM {table}")}
            for statement in (
                f"UPDATE {table} SET platform = platform WHERE company_id <> $1",
                f"DELETE FROM {table} WHERE company_id <> $1",
            ):
                tag = await connection.execute(statement, company or "")
                changed += int(tag.rsplit(" ", 1)[-1])
        await transaction.rollback()
        return seen, changed
    finally:
        await connection.close()


async def test_R_an_app_login_sees_only_its_company_also_during_a_promotion(
    store: LocalStore, production: str, login: Login
) -> None:
    """With its rows written and not committed, a promotion opens no door; nor does its commit."""
    async with SyncEngine(store, to=production) as engine:
        await engine.push(["beta"], promote=True)
        await engine.push(["acme"])
        app = login("app_user")
        link = await engine.link()
        async with link.connection() as connection:
            known = await registered(connection, "public")
            (batch,) = await ledger.staged(connection, "acme", "public")
            async with promotion(connection, "acme"):
                await promote(connection, batch, known, Options())
                for setting in MADE_UP:
                    assert await seen_and_changed(app, setting) == (set(), 0), setting
                assert await seen_and_changed(app, "beta") == ({"beta"}, 0)
                assert await seen_and_changed(app, "acme") == (set(), 0)
        for setting in MADE_UP:
            assert await seen_and_changed(app, setting) == (set(), 0), setting
        assert await seen_and_changed(app, "acme") == ({"acme"}, 0)


async def test_a_promotion_is_bound_to_its_company_by_the_same_policies(store: LocalStore, production: str) -> None:
    """Inside a promotion of one company the other's rows are neither seen nor written, whatever the statement says."""
    async with SyncEngine(store, to=production) as engine:
        await engine.push(promote=True)
        link = await engine.link()
        async with link.connection() as connection, promotion(connection, "acme"):
            assert await connection.fetchval("SELECT count(*) FROM tickets WHERE company_id = 'beta'") == 0
            assert await connection.execute("UPDATE tickets SET title = 'x' WHERE company_id = 'beta'") == "UPDATE 0"
            assert await connection.execute("DELETE FROM tickets WHERE company_id = 'beta'") == "DELETE 0"
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(
                    "INSERT INTO tickets (company_id, platform, ticket_id) VALUES ('beta', 'freshdesk', '2')"
                )


async def test_S7_a_box_pushes_with_three_roles_and_no_other_right(
    store: LocalStore, production: str, login: Login
) -> None:
    """Once an owner has prepared production, a login that is only stager, promoter and reader does everything else."""
    async with SyncEngine(store, to=production) as owner:
        await owner.init()
    box = login("localstore_stager", "localstore_promoter", "localstore_reader")
    async with SyncEngine(store, to=box) as engine:
        result = await engine.push(promote=True)
        assert result.exit_code == 0, result.to_json()
        assert all(found.equal for found in await engine.verify())
        batch = result.tenants[0].batch
        assert batch is not None
        assert (await engine.rollback(batch)).exit_code == 0
        assert len(await engine.held()) == 2
        await engine.requeue(batch)
        assert (await engine.push(promote=True)).exit_code == 0
        assert (await engine.plan()).exit_code == 0
        assert len((await engine.log()).lines) == 4
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        connection = await asyncpg.connect(box)
        try:
            await connection.execute("TRUNCATE tickets")
        finally:
            await connection.close()


async def test_S7_a_limited_box_reaches_its_own_tenant_only(store: LocalStore, production: str, login: Login) -> None:
    """A box whose login is limited pushes its tenant; for another one it is refused and changes nothing."""
    async with SyncEngine(store, to=production) as owner:
        await owner.init()
    box = login("localstore_stager", "localstore_promoter", "localstore_reader", name="box_acme")
    connection = await asyncpg.connect(production)
    await connection.execute("SELECT localstore.limit_login('box_acme', 'acme')")
    async with SyncEngine(store, to=box) as engine:
        assert (await engine.push(["acme"], promote=True)).exit_code == 0
        refused = await engine.push(["beta"], promote=True)
        assert refused.tenants[0].state == "failed"
        assert refused.exit_code == 6, refused.to_json()
    assert await connection.fetchval("SELECT count(*) FROM tickets WHERE company_id = 'beta'") == 0
    await connection.execute("DELETE FROM localstore.logins")
    await connection.close()


async def test_two_tenants_promote_at_once(store: LocalStore, production: str) -> None:
    """Promotions of different companies do not wait for each other, nor do they mix."""
    async with SyncEngine(store, to=production) as engine:
        await engine.push()
        link = await engine.link()
        async with link.connection() as first, link.connection() as second:
            known = await registered(first, "public")
            async with promotion(first, "acme"), promotion(second, "beta"):
                for connection, company in ((first, "acme"), (second, "beta")):
                    (batch,) = await ledger.staged(connection, company, "public")
                    async with asyncio.timeout(30):
                        await promote(connection, batch, known, Options())
        assert all(found.equal for found in await engine.verify())
