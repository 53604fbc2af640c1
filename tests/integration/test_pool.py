"""The pool against a real server: one company a transaction, nothing left behind, every failure one of ours."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator

import asyncpg
import pytest

from localstore.errors import ConfigurationError, InvalidIdentifier, MissingRights, PostgresError, PostgresUnavailable
from localstore.postgres.connect import Server, connection_to
from localstore.postgres.policies import protect, roles_sql
from localstore.postgres.pool import Pool
from tests.conftest import Login, run_sql

TABLE = "CREATE TABLE notes (company_id text NOT NULL, id integer, PRIMARY KEY (company_id, id))"
COMPANY = "SELECT current_setting('app.current_company_id', true)"


@pytest.fixture
def prepared(production: str) -> Server:
    """Give a production with the roles and one protected table."""
    server = Server.parse(production)
    run_sql(server, roles_sql(), "GRANT USAGE ON SCHEMA public TO app_user", TABLE, *protect("notes", "company_id"))
    return server


@pytest.fixture
async def pool(prepared: Server, login: Login) -> AsyncIterator[Pool]:
    """Give a pool of one connection, under a login that is only a member of `app_user`."""
    async with Pool(Server.parse(login("app_user")), max_size=1) as pool:
        yield pool


async def test_a_transaction_is_committed_and_shows_one_company(pool: Pool) -> None:
    """What one company writes is there for it afterwards, and for no other."""
    async with pool.transaction("alpha") as connection:
        await connection.execute("INSERT INTO notes VALUES ('alpha', 1)")
    async with pool.transaction("alpha", readonly=True) as connection:
        assert await connection.fetchval("SELECT count(*) FROM notes") == 1
    async with pool.transaction("beta") as connection:
        assert await connection.fetchval("SELECT count(*) FROM notes") == 0
    with pytest.raises(MissingRights, match="row-level security"):
        async with pool.transaction("beta") as connection:
            await connection.execute("INSERT INTO notes VALUES ('alpha', 2)")


async def test_R4_R6_the_same_connection_remembers_no_company(pool: Pool) -> None:
    """The next transaction on a connection has the company it names, and without one it has none."""
    async with pool.transaction("alpha") as connection:
        first = await connection.fetchval("SELECT pg_backend_pid()")
        assert await connection.fetchval(COMPANY) == "alpha"
        assert await connection.fetchval("SELECT current_user") == "app_user"
    async with pool.transaction(None) as connection:
        assert await connection.fetchval("SELECT pg_backend_pid()") == first
        assert await connection.fetchval(COMPANY) == ""
        assert await connection.fetchval("SELECT count(*) FROM notes") == 0


async def test_an_error_in_the_block_rolls_back(pool: Pool) -> None:
    """A block that raises leaves nothing, and its connection serves on."""
    with pytest.raises(KeyError):
        async with pool.transaction("alpha") as connection:
            await connection.execute("INSERT INTO notes VALUES ('alpha', 1)")
            raise KeyError
    async with pool.transaction("alpha") as connection:
        assert await connection.fetchval("SELECT count(*) FROM notes") == 0


async def test_an_error_of_the_driver_comes_out_as_ours_without_detail(pool: Pool) -> None:
    """A broken key is a PostgresError that repeats no value."""
    with pytest.raises(PostgresError, match="duplicate key") as caught:
        async with pool.transaction("alpha") as connection:
            await connection.execute("INSERT INTO notes VALUES ('alpha', 4711), ('alpha', 4711)")
    assert "4711" not in str(caught.value)


async def test_P7_a_swallowed_error_does_not_pass_for_a_commit(pool: Pool) -> None:
    """A transaction in which a statement failed says that it was rolled back."""
    with pytest.raises(PostgresError, match="rolled a transaction back"):
        async with pool.transaction("alpha") as connection:
            await connection.execute("INSERT INTO notes VALUES ('alpha', 1)")
            with pytest.raises(asyncpg.UndefinedTableError):
                await connection.execute("SELECT FROM nowhere")
    async with pool.transaction("alpha") as connection:
        assert await connection.fetchval("SELECT count(*) FROM notes") == 0


async def test_a_read_only_transaction_cannot_write(pool: Pool) -> None:
    """A reader that writes is refused by the server."""
    with pytest.raises(PostgresError, match="read-only"):
        async with pool.transaction("alpha", readonly=True) as connection:
            await connection.execute("INSERT INTO notes VALUES ('alpha', 1)")


@pytest.mark.parametrize("company", ["", "../x", "a'; DROP TABLE notes; --", "A"])
async def test_S1_a_company_that_is_no_identifier_reaches_no_server(pool: Pool, company: str) -> None:
    """What cannot name a tenant is refused before anything is sent."""
    with pytest.raises(InvalidIdentifier):
        async with pool.transaction(company):
            pytest.fail("the transaction began")


async def test_cancelling_a_statement_gives_the_connection_back(pool: Pool, prepared: Server) -> None:
    """A caller that is cancelled in a statement leaves the pool's only connection usable, and nothing written."""

    async def endless() -> None:
        async with pool.transaction("alpha") as connection:
            await connection.execute("INSERT INTO notes VALUES ('alpha', 1)")
            await connection.execute("SELECT pg_sleep(600)")

    task = asyncio.create_task(endless())
    async with connection_to(prepared) as observer:
        while not await observer.fetchval("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)'"):
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with pool.transaction("alpha") as connection:
        assert await connection.fetchval("SELECT count(*) FROM notes") == 0


async def test_F3_connections_that_died_while_idle_are_replaced(prepared: Server, login: Login) -> None:
    """After the server dropped every connection the next transactions work at once."""
    async with Pool(Server.parse(login("app_user")), min_size=3, max_size=3) as pool:
        async with pool.transaction("alpha"):
            pass
        run_sql(
            prepared,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        for _ in range(4):
            async with pool.transaction("alpha") as connection:
                assert await connection.fetchval("SELECT 1") == 1


async def test_F2_a_connection_lost_in_the_block_is_unavailable_and_retryable(pool: Pool, prepared: Server) -> None:
    """A server that goes away in a transaction is a retryable error, and the pool recovers."""
    with pytest.raises(PostgresUnavailable) as caught:
        async with pool.transaction("alpha") as connection:
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            run_sql(prepared, f"SELECT pg_terminate_backend({pid}, 5000)")
            await connection.execute("INSERT INTO notes VALUES ('alpha', 1)")
    assert caught.value.retryable
    async with pool.transaction("alpha") as connection:
        assert await connection.fetchval("SELECT count(*) FROM notes") == 0


async def test_a_pool_that_is_all_in_use_says_so(prepared: Server, login: Login) -> None:
    """Waiting for a connection ends, with an error that tells it from a server that does not answer."""
    async with Pool(Server.parse(login("app_user")), max_size=1, timeout=0.5) as pool, pool.transaction("alpha"):
        with pytest.raises(PostgresUnavailable, match=r"all 1 connections .* were in use"):
            async with pool.transaction("alpha"):
                pytest.fail("there was a second connection")


async def test_an_unreachable_server_is_unavailable(postgres_server: Server) -> None:
    """Nobody listening is one error of ours, at the first use and not before."""
    async with Pool(Server.parse("postgresql://nobody@127.0.0.1:1/none")) as pool:
        with pytest.raises(PostgresUnavailable):
            async with pool.transaction("alpha"):
                pytest.fail("something answered")


async def test_a_login_outside_app_user_is_told_what_it_lacks(prepared: Server, login: Login) -> None:
    """A login without the role has no right to act as it."""
    async with Pool(Server.parse(login())) as pool:
        with pytest.raises(MissingRights):
            async with pool.transaction("alpha"):
                pytest.fail("the transaction began")


async def test_a_closed_pool_refuses_and_closes_twice(pool: Pool) -> None:
    """Closing ends every connection, also those in use; afterwards the pool serves nobody."""
    with pytest.raises(PostgresError):
        async with pool.transaction("alpha") as connection:
            await pool.close(timeout=0)
            await connection.execute("SELECT 1")
    await pool.close()
    with pytest.raises(PostgresError, match="is closed"):
        async with pool.transaction("alpha"):
            pytest.fail("the pool served")


def test_a_pool_made_without_a_loop_serves_two_loops_and_closes_both(prepared: Server, login: Login) -> None:
    """A pool made outside any loop gives each loop connections of its own, and one close ends them all."""
    url = login("app_user")
    pool = Pool(Server.parse(url), max_size=1)

    async def write(number: int) -> int:
        async with pool.transaction("alpha") as connection:
            await connection.execute("INSERT INTO notes VALUES ('alpha', $1)", number)
            return int(await connection.fetchval("SELECT count(*) FROM notes"))

    async def write_and_close() -> int:
        written = await write(2)
        await pool.close()
        return written

    async def still_there() -> int:
        async with connection_to(prepared) as observer:
            return int(
                await observer.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE usename = $1", Server.parse(url).user
                )
            )

    other = asyncio.new_event_loop()
    thread = threading.Thread(target=other.run_forever)
    thread.start()
    try:
        assert asyncio.run_coroutine_threadsafe(write(1), other).result() == 1
        assert asyncio.run(write_and_close()) == 2
        while asyncio.run(still_there()):
            pass
    finally:
        other.call_soon_threadsafe(other.stop)
        thread.join()
        other.close()


def test_a_pool_that_nobody_closes_neither_holds_the_process_nor_loses_a_commit(prepared: Server, login: Login) -> None:
    """A program that ends with its pool open ends at once, and what it committed is there."""
    program = """
import asyncio, sys
from localstore.postgres.pool import Pool
from localstore.postgres.server import Server

pool = Pool(Server.parse(sys.stdin.read()))

async def write(number):
    async with pool.transaction("alpha") as connection:
        await connection.execute("INSERT INTO notes VALUES ('alpha', $1)", number)

asyncio.run(write(1))
asyncio.run(write(2))
"""
    url = login("app_user")
    done = subprocess.run(
        [sys.executable, "-c", program], input=url, text=True, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")

    async def count() -> int:
        async with connection_to(prepared) as observer:
            return int(await observer.fetchval("SELECT count(*) FROM notes"))

    assert asyncio.run(count()) == 2


@pytest.mark.parametrize(("least", "most"), [(-1, 5), (3, 2), (0, 0)])
def test_sizes_that_contradict_each_other_are_refused(least: int, most: int) -> None:
    """A pool that could never hold what it promises fails when it is made."""
    with pytest.raises(ConfigurationError):
        Pool(Server.parse("postgresql://localhost/none"), min_size=least, max_size=most)


def test_a_pool_shows_no_password() -> None:
    """The text form of a pool names its server and keeps its secret."""
    assert "hunter2" not in repr(Pool(Server.parse("postgresql://me:hunter2@localhost/none")))
