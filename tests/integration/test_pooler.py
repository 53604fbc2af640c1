"""Everything through PgBouncer in transaction mode: transactions of many clients share two server connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from localstore import LocalStore
from localstore.errors import PostgresError
from localstore.helpdesk import Ticket
from localstore.helpdesk.repository import TicketRepository
from localstore.postgres.connect import Server, connection_to
from localstore.postgres.pool import Pool
from sync import SyncEngine
from tests.conftest import Login
from tests.integration.helpdesk import make_tables
from tests.integration.pooler import NO_POOLER, PROGRAM, SERVERS, pooler_of

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=NO_POOLER)

CLIENTS = 8
COMPANY = "SELECT coalesce(current_setting('app.current_company_id', true), '')"


@pytest.fixture
async def app(production: str, login: Login) -> AsyncIterator[Server]:
    """Give the login of an application, a member of `app_user` only, behind a pooler."""
    await make_tables(production)
    with pooler_of([Server.parse(login("app_user"))]) as (pooled,):
        yield pooled


async def test_R6_no_company_leaks_between_clients_of_a_pooler(app: Server) -> None:
    """Eight clients of eight companies on two server connections each see their own rows, and others' never."""
    seen: set[int] = set()

    async def work(number: int) -> None:
        company = f"company{number}"
        async with Pool(app, max_size=2) as pool:
            repository = TicketRepository(pool)
            for ticket in range(10):
                await repository.create_ticket(company, "jira", {"ticket_id": str(ticket), "title": company})
                async with pool.transaction(company, readonly=True) as connection:
                    assert await connection.fetchval(COMPANY) == company
                    assert await connection.fetch("SELECT DISTINCT title FROM tickets") == [(company,)]
                    seen.add(await connection.fetchval("SELECT pg_backend_pid()"))
                async with pool.transaction(None) as connection:
                    assert await connection.fetchval("SELECT count(*) FROM tickets") == 0

    await asyncio.gather(*map(work, range(CLIENTS)))
    assert len(seen) <= SERVERS


async def test_R6_a_setting_that_another_program_left_is_not_ours(app: Server) -> None:
    """A client that sets a company for its session shows it to the next one; a pool's transactions do not take it."""
    async with connection_to(app) as careless, Pool(app) as pool:
        await careless.execute("SET app.current_company_id = 'leaked'")
        async with connection_to(app) as bystander:
            leaked = [await bystander.fetchval(COMPANY) for _ in range(3)]
        assert "leaked" in leaked
        async with pool.transaction(None) as connection:
            assert await connection.fetchval(COMPANY) == ""
        async with pool.transaction("acme") as connection:
            assert await connection.fetchval(COMPANY) == "acme"


async def test_R7_statements_need_no_connection_of_their_own(app: Server) -> None:
    """The same statements over and over, from many tasks, meet no statement prepared by somebody else."""
    async with Pool(app, max_size=CLIENTS) as pool:
        repository = TicketRepository(pool)
        await repository.create_ticket("acme", "jira", {"ticket_id": "1"})

        async def read(number: int) -> None:
            for _ in range(10):
                async with pool.transaction("acme", readonly=True) as connection:
                    assert await connection.fetchval("SELECT $1::int", number) == number
                assert len(await repository.get_tickets("acme", "jira", {"status": [None, str(number)]})) == 1

        await asyncio.gather(*map(read, range(CLIENTS)))


async def test_a_push_goes_through_a_pooler(production: str, login: Login, tmp_path: Path) -> None:
    """Seal, stage, plan, promote, verify, take back: the whole engine works behind a pooler."""
    owner = Server.parse(login(superuser=True))
    with pooler_of([owner]) as (pooled,):
        async with LocalStore(tmp_path / "data") as store, SyncEngine(store, to=pooled.url) as engine:
            tickets = [Ticket(company_id="acme", platform="jira", ticket_id=str(number)) for number in range(300)]
            await store.tenant("acme").put_many(tickets)
            await engine.push(promote=True)
            assert all(verified.equal for verified in await engine.verify())
            await store.tenant("acme").put(Ticket(company_id="acme", platform="jira", ticket_id="1", title="edited"))
            plan = await engine.plan()
            batch = (await engine.promote(plan)).tenants[0].batch
            assert batch is not None
            await engine.rollback(batch)
            async with connection_to(Server.parse(production)) as connection:
                rows = await connection.fetch("SELECT count(*), count(title) FROM tickets")
            assert rows == [(300, 0)]


async def test_an_error_behind_a_pooler_leaves_its_server_connection_clean(app: Server) -> None:
    """After failed transactions the shared connections serve others as if nothing had been."""
    async with Pool(app, max_size=4) as pool:
        for _ in range(2 * SERVERS):
            with pytest.raises(PostgresError):
                async with pool.transaction("acme") as connection:
                    await connection.execute("SELECT FROM nowhere")
        for _ in range(2 * SERVERS):
            async with pool.transaction("other") as connection:
                assert await connection.fetchval(COMPANY) == "other"
