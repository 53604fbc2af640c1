"""Preparing a database: by whom, how often, at what moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from localstore.errors import ConfigurationError, MissingRights
from localstore.postgres.connect import Server
from localstore.postgres.policies import ROLES
from localstore.postgres.quoting import quote_identifier
from localstore.schema.tables import Table
from sync.production import is_prepared, prepare, register, registered, require_rights

if TYPE_CHECKING:
    from tests.integration.production.conftest import Connect

Login = Callable[..., str]
Act = Callable[..., AbstractAsyncContextManager[None]]

SHAPE = """
SELECT n.nspname, c.relname, c.relkind::text, c.relowner::regrole::text, c.relacl::text, c.relrowsecurity
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname LIKE 'localstore%' OR n.nspname = 'public'
ORDER BY 1, 2
"""


@pytest.fixture
async def database_owner(superuser: asyncpg.Connection, login: Login) -> AsyncIterator[str]:
    """Give the URL of a login that may make roles and owns the database, in a cluster without roles of ours.

    Roles belong to the cluster, which the tests share: those that are there step aside meanwhile.
    """
    aside = [row[0] for row in await superuser.fetch("SELECT rolname FROM pg_roles WHERE rolname = ANY ($1)", ROLES)]
    url = login()
    user = quote_identifier(Server.parse(url).user or "")
    database = await superuser.fetchval("SELECT current_database()")
    await superuser.execute("; ".join(f"ALTER ROLE {role} RENAME TO aside_{role}" for role in aside))
    await superuser.execute(f"ALTER ROLE {user} CREATEROLE; ALTER DATABASE {database} OWNER TO {user}")
    yield url
    await superuser.execute(f"ALTER DATABASE {database} OWNER TO CURRENT_USER")
    for (role,) in await superuser.fetch("SELECT rolname FROM pg_roles WHERE rolname = ANY ($1)", ROLES):
        await superuser.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
    await superuser.execute("; ".join(f"ALTER ROLE aside_{role} RENAME TO {role}" for role in aside))


async def test_an_empty_database_is_not_prepared_and_then_is(superuser: asyncpg.Connection) -> None:
    """`is_prepared` tells an empty database from a prepared one."""
    assert not await is_prepared(superuser)
    await prepare(superuser)
    assert await is_prepared(superuser)


async def test_preparing_twice_changes_nothing(superuser: asyncpg.Connection, tables: tuple[Table, ...]) -> None:
    """A second preparation and registration leave every relation, right and owner as it was."""
    await prepare(superuser)
    await register(superuser, "public", tables)
    before = await superuser.fetch(SHAPE)
    await prepare(superuser)
    await register(superuser, "public", tables)
    assert await superuser.fetch(SHAPE) == before


async def test_two_at_once_prepare_and_register_once(
    production: str, connected: Connect, tables: tuple[Table, ...]
) -> None:
    """Boxes that meet an empty production at the same moment all find it prepared, none fails."""
    connections = [await connected(production) for _ in range(4)]

    async def arrive(connection: asyncpg.Connection) -> None:
        await prepare(connection)
        await register(connection, "public", tables)

    await asyncio.gather(*map(arrive, connections))
    assert len(await registered(connections[0], "public")) == len(tables)


async def test_S7_the_roles_cannot_log_in_nor_pass_policies(superuser: asyncpg.Connection) -> None:
    """All five roles are without login, superuser, BYPASSRLS, CREATEROLE and CREATEDB."""
    await prepare(superuser)
    rows = await superuser.fetch(
        "SELECT rolname, rolcanlogin OR rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb AS more FROM pg_roles "
        "WHERE rolname = ANY ($1::text[])",
        list(ROLES),
    )
    assert {(row["rolname"], row["more"]) for row in rows} == {(role, False) for role in ROLES}


async def test_S7_nobody_but_the_owner_may_truncate_anything(
    superuser: asyncpg.Connection, tables: tuple[Table, ...]
) -> None:
    """No role but the owner holds TRUNCATE, REFERENCES or TRIGGER on any table of ours."""
    await prepare(superuser)
    await register(superuser, "public", tables)
    rows = await superuser.fetch(
        """
        SELECT DISTINCT grantee FROM information_schema.table_privileges
        WHERE privilege_type IN ('TRUNCATE', 'REFERENCES', 'TRIGGER')
            AND table_schema IN ('public', 'localstore', 'localstore_staging')
        """
    )
    assert rows == [("localstore_owner",)]


async def test_a_role_that_passes_policies_is_refused(superuser: asyncpg.Connection) -> None:
    """A role of ours that was made by others with BYPASSRLS keeps no tenants apart, so preparing stops."""
    await prepare(superuser)
    await superuser.execute("DROP SCHEMA localstore CASCADE")
    transaction = superuser.transaction()
    await transaction.start()
    try:
        await superuser.execute("ALTER ROLE app_user BYPASSRLS")
        with pytest.raises(MissingRights, match="does not bind app_user") as caught:
            await prepare(superuser)
    finally:
        await transaction.rollback()
    assert "ALTER ROLE app_user NOSUPERUSER NOBYPASSRLS;" in caught.value.hint


async def test_a_database_owner_who_is_no_superuser_prepares_and_works(
    database_owner: str,
    login: Login,
    connected: Connect,
    act: Act,
    tables: tuple[Table, ...],
) -> None:
    """CREATEROLE and the database's ownership suffice for everything; the roles are its own."""
    connection = await connected(database_owner)
    await prepare(connection)
    await register(connection, "public", tables)
    await require_rights(connection)
    async with act(connection, "alpha", "localstore_promoter"):
        await connection.execute("INSERT INTO notes VALUES ('alpha', 1, '{}')")
    async with act(connection, None, "localstore_stager"):
        await connection.execute("INSERT INTO localstore.tenants (company_id) VALUES ('alpha')")
    assert await connection.fetchval("SELECT current_user = session_user")


async def test_an_owner_s_own_queries_stay_bound(
    superuser: asyncpg.Connection, database_owner: str, connected: Connect, tables: tuple[Table, ...]
) -> None:
    """Whoever prepared the database sees no tenant's rows without naming a company."""
    connection = await connected(database_owner)
    await prepare(connection)
    await register(connection, "public", tables)
    await superuser.execute("INSERT INTO notes VALUES ('alpha', 1, '{}')")
    assert await connection.fetchval("SELECT count(*) FROM notes") == 0


async def test_a_login_without_rights_is_told_what_an_owner_runs(
    superuser: asyncpg.Connection, login: Login, connected: Connect
) -> None:
    """Preparing without rights changes nothing, exits 6 and names the command and the GRANT."""
    url = login()
    connection = await connected(url)
    with pytest.raises(MissingRights) as caught:
        await prepare(connection)
    assert caught.value.exit_code == 6
    assert "localstore sync init" in caught.value.hint
    grant = f'GRANT localstore_stager, localstore_promoter, localstore_reader TO "{Server.parse(url).user}";'
    assert grant in caught.value.hint
    assert not await is_prepared(superuser)


async def test_the_hint_s_grant_is_all_that_a_pushing_login_needs(
    superuser: asyncpg.Connection, login: Login, connected: Connect, tables: tuple[Table, ...]
) -> None:
    """After an owner ran what the hint says, the same login goes through preparing and registering."""
    await prepare(superuser)
    await register(superuser, "public", tables)
    url = login()
    connection = await connected(url)
    with pytest.raises(MissingRights) as caught:
        await require_rights(connection)
    await superuser.execute(caught.value.hint.partition("run: ")[2])
    await require_rights(connection)
    await prepare(connection)
    await register(connection, "public", tables)
    assert len(await registered(connection, "public")) == len(tables)


async def test_a_pushing_login_may_not_make_tables(
    superuser: asyncpg.Connection, login: Login, connected: Connect, tables: tuple[Table, ...]
) -> None:
    """Rows and tables are two rights: a table that production does not know needs an owner, and says so."""
    await prepare(superuser)
    connection = await connected(login("localstore_stager", "localstore_promoter", "localstore_reader"))
    with pytest.raises(MissingRights, match="make tables in schema 'public'"):
        await register(connection, "public", tables)
    assert await superuser.fetchval("SELECT to_regclass('tickets') IS NULL")


@pytest.mark.parametrize("target", ["acme", 'My "own"; DROP'])
async def test_another_schema_is_made_and_used(
    superuser: asyncpg.Connection, login: Login, connected: Connect, act: Act, tables: tuple[Table, ...], target: str
) -> None:
    """`--schema` names any schema; applications reach its tables and nothing lands in public."""
    await prepare(superuser, target)
    await register(superuser, target, tables)
    app = await connected(login("app_user"))
    async with act(app, "alpha"):
        relation = f"{quote_identifier(target)}.notes"
        await app.execute(f"INSERT INTO {relation} VALUES ('alpha', 1, '{{}}')")
        assert await app.fetchval(f"SELECT count(*) FROM {relation}") == 1
    assert await superuser.fetchval("SELECT to_regclass('public.notes') IS NULL")
    assert await superuser.fetchval("SELECT DISTINCT target FROM localstore.tables") == target


async def test_a_schema_of_somebody_else_is_named_with_what_its_owner_runs(
    superuser: asyncpg.Connection, database_owner: str, connected: Connect
) -> None:
    """A GRANT that the server only warns about is noticed, instead of failing later."""
    await superuser.execute("CREATE SCHEMA theirs; GRANT USAGE ON SCHEMA theirs TO PUBLIC")
    connection = await connected(database_owner)
    heard: list[str] = []
    connection.add_log_listener(lambda _, message: heard.append(message.sqlstate))
    with pytest.raises(MissingRights, match="theirs") as caught:
        await prepare(connection, "theirs")
    assert 'GRANT CREATE, USAGE ON SCHEMA "theirs" TO localstore_owner' in caught.value.hint


@pytest.mark.parametrize(
    "target", ["", "localstore", "localstore_staging", "pg_catalog", "information_schema", "ü" * 32]
)
async def test_reserved_and_overlong_schemas_are_refused(superuser: asyncpg.Connection, target: str) -> None:
    """Neither our own schemas nor the server's, nor a name that it would cut, can be production."""
    with pytest.raises(ConfigurationError):
        await prepare(superuser, target)
    assert not await is_prepared(superuser)


async def test_a_search_path_of_the_database_does_not_lead_astray(superuser: asyncpg.Connection) -> None:
    """Our tables land in our schemas whatever the login's search path is."""
    await superuser.execute("CREATE SCHEMA first; SET search_path = first, public")
    await prepare(superuser)
    assert await superuser.fetchval("SELECT count(*) FROM pg_class WHERE relnamespace = 'first'::regnamespace") == 0
