"""Ways round row-level security, tried by a login that is a member of `app_user` only, directly and behind a pooler."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack
from typing import TYPE_CHECKING

import asyncpg
import pytest

from localstore.postgres.connect import Server, connection_to
from localstore.postgres.pool import Pool
from tests.integration.pooler import NO_POOLER, PROGRAM, pooler_of

if TYPE_CHECKING:
    from tests.integration.production.conftest import World

Act = Callable[..., AbstractAsyncContextManager[None]]

DIRECT, POOLED = "direct", "pooled"


@pytest.fixture(params=[DIRECT, pytest.param(POOLED, marks=pytest.mark.skipif(PROGRAM is None, reason=NO_POOLER))])
def server(request: pytest.FixtureRequest, world: World, login: Callable[..., str]) -> Iterator[Server]:
    """Give production as an application's login reaches it, without and with a pooler in between."""
    server = Server.parse(login("app_user"))
    with ExitStack() as stack:
        yield stack.enter_context(pooler_of([server]))[0] if request.param == POOLED else server


@pytest.fixture
async def app(server: Server) -> AsyncIterator[asyncpg.Connection]:
    """Give a connection of that login."""
    async with connection_to(server) as connection:
        yield connection


async def test_R1_an_application_is_no_owner_and_nothing_that_policies_do_not_bind(
    world: World, app: asyncpg.Connection, act: Act
) -> None:
    """The login is neither superuser nor owner nor exempt, and sees of every table its company's rows at most."""
    assert await app.fetchrow(
        "SELECT rolsuper, rolbypassrls, pg_has_role('localstore_owner', 'MEMBER') FROM pg_roles "
        "WHERE rolname = session_user"
    ) == (False, False, False)
    for company, expected in ((None, []), ("alpha", ["alpha"])):
        async with act(app, company):
            for table in world.tables:
                found = await app.fetch(f"SELECT DISTINCT {table.company} FROM {table.name}")
                assert [row[0] for row in found] == expected


async def test_R7_a_pool_leaves_nothing_on_a_session(server: Server, app: asyncpg.Connection) -> None:
    """Its transactions need no statement, lock, table or setting that would stay with a session for the next client."""
    async with Pool(server, max_size=4) as pool:
        for number in range(8):
            async with pool.transaction("alpha") as connection:
                assert await connection.fetchval("SELECT $1::int + count(*) FROM tickets", number) == number + 1
    for _ in range(4):
        assert await app.fetchrow(
            """
            SELECT (SELECT count(*) FROM pg_prepared_statements),
                (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'),
                (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
                coalesce(current_setting('app.current_company_id', true), ''), current_user = session_user
            """
        ) == (0, 0, 0, "", True)


async def test_R8_a_limited_login_gains_nothing_by_any_setting(
    world: World, server: Server, app: asyncpg.Connection, act: Act
) -> None:
    """A setting guards against mistakes only; a login limited to alpha has alpha's rows, whatever it sets."""
    await world.owner.execute("SELECT localstore.limit_login($1, 'alpha')", server.user)
    for company, expected in (("alpha", ["alpha"]), ("beta", []), ("", []), (None, [])):
        async with act(app, company):
            for table in world.tables:
                found = await app.fetch(f"SELECT {table.company} FROM {table.name}")
                assert [row[0] for row in found] == expected
    async with act(app, "beta"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await app.execute("INSERT INTO notes VALUES ('beta', 2, '[]')")


async def test_R16_what_a_superuser_derives_from_a_table_is_not_open_by_itself(
    world: World, app: asyncpg.Connection, act: Act
) -> None:
    """Views, materialised ones and functions of others take a grant; a granted view of the invoker's shows own rows."""
    await world.owner.execute(
        """
        CREATE VIEW plain AS SELECT * FROM tickets;
        CREATE MATERIALIZED VIEW stored AS SELECT * FROM tickets;
        CREATE VIEW invokers WITH (security_invoker = true) AS SELECT * FROM tickets;
        GRANT SELECT ON invokers TO app_user;
        CREATE FUNCTION definers() RETURNS SETOF tickets LANGUAGE sql SECURITY DEFINER AS 'SELECT * FROM tickets';
        REVOKE ALL ON FUNCTION definers() FROM PUBLIC;
        """
    )
    for source in ("plain", "stored", "definers()"):
        async with act(app, "alpha"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await app.fetch(f"SELECT * FROM {source}")
    async with act(app, "alpha"):
        assert await app.fetch("SELECT company_id FROM invokers") == [("alpha",)]
    async with act(app, None):
        assert await app.fetch("SELECT company_id FROM invokers") == []


async def test_R17_a_part_of_a_table_is_not_open_by_itself(world: World, app: asyncpg.Connection, act: Act) -> None:
    """A child of a table has no policies of its own: it takes a grant, and its parent shows own rows of it only."""
    await world.owner.execute(
        "CREATE TABLE tickets_old () INHERITS (tickets); "
        "INSERT INTO tickets_old SELECT company, 'old', NULL, 'old' FROM unnest(ARRAY['alpha', 'beta']) company"
    )
    for statement in (
        "SELECT FROM tickets_old",
        "DELETE FROM tickets_old",
        "INSERT INTO tickets_old VALUES ('beta', 'x')",
    ):
        async with act(app, "alpha"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await app.execute(statement)
    async with act(app, "alpha"):
        assert await app.fetch("SELECT company_id, ticket_id FROM tickets ORDER BY 2") == [
            ("alpha", "1"),
            ("alpha", "old"),
        ]
        assert await app.execute("UPDATE tickets SET title = 'x' WHERE company_id = 'beta'") == "UPDATE 0"
