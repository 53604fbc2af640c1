"""Reads from a real streaming replica: never older than what the pool wrote, and never lost with the replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from localstore.errors import PostgresUnavailable
from localstore.helpdesk.repository import TicketRepository
from localstore.postgres import replica as replicas
from localstore.postgres.connect import Server, connection_to
from localstore.postgres.pool import Pool
from tests.conftest import Login
from tests.integration.helpdesk import make_tables
from tests.integration.replica import Standby, standby_of

ACME = ("acme", "jira")


@pytest.fixture(scope="module")
def standby(postgres_server: Server) -> Iterator[Standby]:
    """Run a replica of the tests' server."""
    with standby_of(postgres_server) as running:
        yield running


@pytest.fixture
async def app(production: str, login: Login) -> Server:
    """Give the login of an application, a member of `app_user` only, to a production with the help desk's tables."""
    await make_tables(production)
    return Server.parse(login("app_user"))


@pytest.fixture
async def pool(app: Server, standby: Standby, postgres_server: Server) -> AsyncIterator[Pool]:
    """Give a pool whose replica has the database and the login already."""
    await caught_up(standby, postgres_server)
    async with Pool(app, replica=standby.of(app)) as pool:
        async with pool.transaction("acme"):
            """A commit, so that the replica is asked for nothing older than the tables."""
        await until_replica(pool)
        yield pool


async def is_replica(connection: asyncpg.Connection) -> bool:
    """Return whether the connection leads to a replica."""
    return bool(await connection.fetchval("SELECT pg_is_in_recovery()"))


async def caught_up(standby: Standby, server: Server) -> None:
    """Wait until the replica has all that was written: one that does not know a database yet is left alone for long."""
    async with connection_to(server) as primary, connection_to(standby.of(server)) as replica:
        written = await primary.fetchval("SELECT pg_current_wal_insert_lsn()::text")
        while not await replica.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", written):
            await asyncio.sleep(0.01)


async def until_replica(pool: Pool) -> None:
    """Read until the replica answers."""
    while not await pool.read("acme", is_replica):
        await asyncio.sleep(0.01)


async def replay(standby: Standby, server: Server, function: str) -> None:
    """Pause or resume the replica's replay, and wait until it does."""
    async with connection_to(standby.of(server)) as connection:
        await connection.execute(f"SELECT pg_wal_replay_{function}()")
        wanted = "paused" if function == "pause" else "not paused"
        while await connection.fetchval("SELECT pg_get_wal_replay_pause_state()") != wanted:
            await asyncio.sleep(0.01)


async def test_reads_go_to_the_replica_and_writes_do_not(pool: Pool) -> None:
    """A read is answered by the replica under the company's policy; a transaction that may write is not there."""
    await TicketRepository(pool).create_ticket(*ACME, {"ticket_id": "1"})
    await until_replica(pool)
    assert len(await TicketRepository(pool).get_tickets(*ACME)) == 1
    async with pool.transaction("other", readonly=True) as connection:
        assert await is_replica(connection)
        assert await connection.fetchval("SELECT count(*) FROM tickets") == 0
        assert await connection.fetchval("SELECT current_user") == "app_user"
    async with pool.transaction("acme") as connection:
        assert not await is_replica(connection)


async def test_every_write_is_read_back_at_once(pool: Pool) -> None:
    """However far the replica is, a read after a write shows it; eight writers at once."""
    repository = TicketRepository(pool)

    async def write(writer: int) -> None:
        for number in range(15):
            name = f"{writer}-{number}"
            await repository.create_ticket(*ACME, {"ticket_id": name, "title": "a"})
            await repository.update_ticket(*ACME, name, {"title": "b"})
            read = await repository.get_ticket_by_id(*ACME, name)
            assert read is not None
            assert read.title == "b"

    await asyncio.gather(*map(write, range(8)))
    await until_replica(pool)
    assert (await repository.get_ticket_stats(*ACME))["total_tickets"] == 120


async def test_a_replica_that_stands_still_is_not_asked(pool: Pool, standby: Standby, postgres_server: Server) -> None:
    """While replay is paused, reads after a write come from the primary; when it goes on, from the replica."""
    repository = TicketRepository(pool)
    await replay(standby, postgres_server, "pause")
    try:
        assert await pool.read("acme", is_replica)
        await repository.create_ticket(*ACME, {"ticket_id": "1"})
        assert not await pool.read("acme", is_replica)
        assert await repository.get_ticket_by_id(*ACME, "1") is not None
    finally:
        await replay(standby, postgres_server, "resume")
    await until_replica(pool)
    assert await repository.get_ticket_by_id(*ACME, "1") is not None


async def test_reads_survive_a_replica_that_stops_and_return_when_it_is_back(
    pool: Pool, standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the replica gone, idle connections and all, every read is answered; later the replica is asked again."""
    monkeypatch.setattr(replicas, "REST_SECONDS", 0.5)
    repository = TicketRepository(pool)
    await repository.create_ticket(*ACME, {"ticket_id": "1"})
    await until_replica(pool)
    await asyncio.to_thread(standby.stop)
    try:
        for _ in range(3):
            assert await repository.get_ticket_by_id(*ACME, "1") is not None
            assert not await pool.read("acme", is_replica)
    finally:
        await asyncio.to_thread(standby.start)
    await until_replica(pool)


async def test_a_read_that_loses_its_replica_begins_again_on_the_primary(
    pool: Pool, standby: Standby, postgres_server: Server
) -> None:
    """A replica that drops the connection in the middle of a read costs its caller nothing."""
    asked: list[bool] = []

    async def read(connection: asyncpg.Connection) -> int:
        asked.append(await is_replica(connection))
        if asked[-1]:
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            async with connection_to(standby.of(postgres_server)) as other:
                await other.execute("SELECT pg_terminate_backend($1, 5000)", pid)
        return int(await connection.fetchval("SELECT 1"))

    assert await pool.read("acme", read) == 1
    assert asked == [True, False]


async def test_an_error_of_the_read_itself_is_not_tried_twice(pool: Pool) -> None:
    """What fails on the replica for its own sake is raised, not repeated on the primary."""
    asked = []

    async def read(connection: asyncpg.Connection) -> None:
        asked.append(1)
        raise KeyError

    with pytest.raises(KeyError):
        await pool.read("acme", read)
    assert asked == [1]


async def test_a_replica_that_is_not_there_is_done_without(app: Server) -> None:
    """A wrong replica costs one attempt; every read and write works."""
    nowhere = Server.parse("postgresql://nobody@127.0.0.1:1/none")
    async with Pool(app, replica=nowhere) as pool:
        repository = TicketRepository(pool)
        assert await repository.get_tickets(*ACME) == []
        await repository.create_ticket(*ACME, {"ticket_id": "1"})
        assert len(await repository.get_tickets(*ACME)) == 1
    async with Pool(nowhere, replica=app) as pool:
        with pytest.raises(PostgresUnavailable):
            await pool.read("acme", is_replica)


async def test_a_primary_given_as_replica_answers_as_primary(app: Server) -> None:
    """A server that replays nothing never counts as a replica, so nothing older than a write is read."""
    async with Pool(app, replica=app) as pool:
        repository = TicketRepository(pool)
        await repository.create_ticket(*ACME, {"ticket_id": "1"})
        assert len(await repository.get_tickets(*ACME)) == 1


async def test_a_promoted_replica_is_not_read_from(app: Server, postgres_server: Server) -> None:
    """A replica that became a server of its own no longer has our rows, and is not asked for them."""
    with standby_of(postgres_server) as orphan:
        async with Pool(app, replica=orphan.of(app)) as pool:
            await until_replica(pool)
            async with connection_to(orphan.of(postgres_server)) as connection:
                assert await connection.fetchval("SELECT pg_promote()")
            assert not await pool.read("acme", is_replica)
            # Where nothing was written since, only its being promoted tells.
            assert pool._replica is not None
            assert not pool._replica.behind_unknown


def test_a_place_in_the_log_reads_as_postgres_writes_it() -> None:
    """Places beyond four gigabytes compare as numbers."""
    assert replicas._written(replicas._read("1A/FF00")) == "1A/FF00"
    assert replicas._read("1/0") > replicas._read("0/FFFFFFFF")
