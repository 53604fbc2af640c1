"""Connecting to a real server: what arrives, what is refused, and in which words."""

from __future__ import annotations

import asyncio
import socket
import traceback
from collections.abc import Iterator
from contextlib import closing

import asyncpg
import pytest

from localstore.errors import MissingRights, PostgresDenied, PostgresUnavailable
from localstore.postgres.connect import (
    Server,
    close,
    connect,
    connection_to,
    is_connection_error,
    is_retryable,
    session_settings,
    translate,
)
from tests.conftest import Login
from tests.integration.proxy import proxy_to

SECRET = "hunter2"


@pytest.fixture
def silent() -> Iterator[Server]:
    """Return a server that takes connections and never says a word."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield Server(("127.0.0.1",), (listener.getsockname()[1],), "zoe", SECRET, "prod")


async def test_connection_speaks_utc_and_utf8(production: str) -> None:
    """A connection reads times in UTC and text in UTF-8, whatever the server's defaults are."""
    server = Server.parse(production)
    async with connection_to(server) as connection:
        await connection.execute("ALTER ROLE CURRENT_USER SET TimeZone = 'Asia/Seoul'")
    async with connection_to(server) as connection:
        await connection.execute("ALTER ROLE CURRENT_USER RESET TimeZone")
        row = await connection.fetchrow(
            "SELECT current_setting('TimeZone') AS zone, current_setting('client_encoding') AS encoding"
        )
    assert row is not None
    assert row["zone"] == "UTC"
    assert row["encoding"] == "UTF8"


async def test_login_connects_as_itself(login: Login) -> None:
    """A login made for a test arrives under its own name with the roles it was given."""
    async with connection_to(Server.parse(login("pg_read_all_data"))) as connection:
        member = await connection.fetchval("SELECT pg_has_role(session_user, 'pg_read_all_data', 'MEMBER')")
        name = await connection.fetchval("SELECT session_user")
    assert member is True
    assert name.startswith("login_")


async def test_unix_socket_is_a_host(production: str) -> None:
    """A folder in the place of the host means the unix socket in it."""
    server = Server.parse(production)
    async with connection_to(server) as connection:
        folder = await connection.fetchval("SHOW unix_socket_directories")
    by_socket = Server.parse(
        f"postgresql://{server.user}:{server.password}@/{server.database}?host={folder}&port={server.ports[0]}"
    )
    async with connection_to(by_socket) as connection:
        assert await connection.fetchval("SELECT inet_client_addr()") is None


async def test_password_comes_from_the_environment(production: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL without a password takes PGPASSWORD's."""
    server = Server.parse(production)
    monkeypatch.setenv("PGPASSWORD", server.password or "")
    without = Server(server.hosts, server.ports, server.user, None, server.database)
    async with connection_to(without) as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_S5_wrong_password_is_denied_without_repeating_it(production: str) -> None:
    """A refused password is one clear error that shows neither the wrong one nor the right one."""
    server = Server.parse(production)
    with pytest.raises(PostgresDenied) as caught:
        await connect(server.with_login("postgres", SECRET))
    shown = "".join(traceback.format_exception(caught.value)) + caught.value.hint
    assert SECRET not in shown
    assert (server.password or "-") not in shown
    assert "PGPASSWORD" in caught.value.hint


async def test_missing_database_is_denied_by_name(production: str) -> None:
    """A database that does not exist is named, with what to do."""
    with pytest.raises(PostgresDenied, match="no_such_database") as caught:
        await connect(Server.parse(production).with_database("no_such_database"))
    assert "create the database" in caught.value.hint


async def test_unreachable_server_is_unavailable(silent: Server) -> None:
    """A port that nobody listens on is an error that may pass."""
    free = Server(("127.0.0.1",), (1,), "zoe", SECRET, "prod")
    with pytest.raises(PostgresUnavailable, match=r"postgresql://zoe@127\.0\.0\.1:1/prod cannot be reached") as caught:
        await connect(free)
    assert caught.value.retryable
    assert is_retryable(caught.value)


async def test_unknown_host_is_unavailable() -> None:
    """A name that no resolver knows is an error that may pass."""
    with pytest.raises(PostgresUnavailable, match="cannot be reached"):
        await connect(Server.parse(f"postgres://zoe:{SECRET}@no-such-host.invalid/prod"))


async def test_F24_server_that_never_answers_is_given_up(silent: Server) -> None:
    """A server that takes the connection and says nothing is given up after the time limit."""
    with pytest.raises(PostgresUnavailable, match="did not answer in time"):
        await connect(silent, timeout=0.2)


async def test_F24_close_does_not_wait_for_a_dead_peer(production: str) -> None:
    """Closing a connection whose peer vanished ends, and the connection is closed."""
    async with proxy_to(Server.parse(production)) as proxy:
        connection = await connect(proxy.server)
        proxy.stall()
        await close(connection, timeout=0.2)
        assert connection.is_closed()


async def test_cut_connection_is_unavailable(production: str) -> None:
    """A connection cut in the middle of a statement is an error that may pass, and its outcome is not known."""
    async with proxy_to(Server.parse(production)) as proxy:
        with pytest.raises(PostgresUnavailable) as caught:
            async with connection_to(proxy.server) as connection:
                statement = asyncio.ensure_future(connection.fetchval("SELECT pg_sleep(60)"))
                while b"pg_sleep" not in proxy.sent:
                    await asyncio.sleep(0)
                proxy.cut()
                await statement
    assert caught.value.__cause__ is not None
    assert is_connection_error(caught.value.__cause__)
    assert is_retryable(caught.value)


async def test_statement_on_a_closed_connection_is_unavailable(production: str) -> None:
    """The driver's own complaint about a closed connection counts as a lost connection."""
    server = Server.parse(production)
    connection = await connect(server)
    await close(connection)
    with pytest.raises(asyncpg.InterfaceError) as caught:
        await connection.execute("SELECT 1")
    assert is_connection_error(caught.value)
    assert isinstance(translate(caught.value, server), PostgresUnavailable)


async def test_R7_login_sends_only_what_a_pooler_knows(production: str) -> None:
    """PgBouncer refuses a login with settings that it does not track, so none is sent."""
    async with proxy_to(Server.parse(production)) as proxy:
        connection = await connect(proxy.server)
        await close(connection)
        # The first packet may ask for TLS; the one that holds the settings names the user.
        begin = proxy.sent.index(b"\0\3\0\0") + 4
        fields = bytes(proxy.sent[begin : proxy.sent.index(b"\0\0", begin)]).split(b"\0")
    names = {name.decode() for name in fields[::2]}
    assert "user" in names
    assert names <= {"user", "database", "client_encoding", "TimeZone", "DateStyle", "application_name"}


async def test_R7_no_named_statement_stays_behind(production: str) -> None:
    """Statements with arguments leave nothing prepared in the server's session, which may be another's next."""
    async with connection_to(Server.parse(production)) as connection:
        for number in range(3):
            assert await connection.fetchval("SELECT $1::bigint", number) == number
        assert await connection.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0


async def test_R6_session_settings_end_with_the_transaction(production: str) -> None:
    """What values' text depends on is fixed inside a transaction and back as it was after it."""
    async with connection_to(Server.parse(production)) as connection:
        await connection.execute("SET bytea_output = 'escape'; SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Seoul'")
        text = "SELECT '\\x00'::bytea::text || ' ' || '2024-02-01 00:00:00+00'::timestamptz::text"
        async with connection.transaction():
            await session_settings(connection)
            assert await connection.fetchval(text) == "\\x00 2024-02-01 00:00:00+00"
        assert await connection.fetchval(text) == "\\000 01/02/2024 09:00:00 KST"


async def test_missing_right_is_named_without_values(production: str, login: Login) -> None:
    """A statement that the login may not run is an error of rights, with exit code 6."""
    server = Server.parse(login())
    with pytest.raises(MissingRights, match="permission denied") as caught:
        async with connection_to(server) as connection:
            await connection.execute("CREATE SCHEMA mine")
    assert caught.value.exit_code == 6


async def test_S5_detail_of_an_error_stays_out(production: str) -> None:
    """Postgres puts values of rows into DETAIL and CONTEXT; neither comes through."""
    server = Server.parse(production)
    async with connection_to(server) as connection:
        await connection.execute("CREATE TABLE notes (body text PRIMARY KEY)")
        await connection.execute("INSERT INTO notes VALUES ($1)", SECRET)
        with pytest.raises(asyncpg.UniqueViolationError) as caught:
            await connection.execute("INSERT INTO notes VALUES ($1)", SECRET)
    assert SECRET in (caught.value.detail or "")
    error = translate(caught.value, server)
    assert SECRET not in error.message + error.hint
    assert "23505" in error.message
    assert not is_retryable(caught.value)


async def test_P5_lock_not_available_is_retryable(production: str) -> None:
    """A lock that another transaction holds is worth another try."""
    server = Server.parse(production)
    async with connection_to(server) as one, connection_to(server) as two, one.transaction():
        await one.execute("CREATE TABLE held_by_one (x int)")
        await one.execute("SELECT pg_advisory_xact_lock(7)")
        await two.execute("SET lock_timeout = '20ms'")
        with pytest.raises(asyncpg.LockNotAvailableError) as caught:
            await two.execute("SELECT pg_advisory_lock(7)")
    assert is_retryable(caught.value)


async def test_serialization_failure_is_retryable(production: str) -> None:
    """A transaction that lost against another is worth another try."""
    server = Server.parse(production)
    async with connection_to(server) as one, connection_to(server) as two:
        await one.execute("CREATE TABLE counter (n int); INSERT INTO counter VALUES (1)")
        with pytest.raises(asyncpg.SerializationError) as caught:
            async with one.transaction(isolation="repeatable_read"):
                await one.fetchval("SELECT n FROM counter")
                await two.execute("UPDATE counter SET n = 2")
                await one.execute("UPDATE counter SET n = 3")
    assert is_retryable(caught.value)


async def test_F3_server_that_shuts_down_is_unavailable(production: str) -> None:
    """A session ended by the server's operator is an error that may pass."""
    server = Server.parse(production)
    async with connection_to(server) as operator:
        with pytest.raises(PostgresUnavailable) as caught:
            async with connection_to(server) as connection:
                pid = await connection.fetchval("SELECT pg_backend_pid()")
                await operator.execute(f"SELECT pg_terminate_backend({int(pid)}, 5000)")
                await connection.execute("SELECT 1")
    assert is_retryable(caught.value)
