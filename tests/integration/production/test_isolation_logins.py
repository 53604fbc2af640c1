"""A login limited to companies by `localstore.logins`, against settings, roles and our own records."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from localstore.postgres.connect import Server
from localstore.schema.tables import Column, Kind, Table
from sync.production import prepare, register

if TYPE_CHECKING:
    from tests.integration.production.conftest import Connect, World

Act = Callable[..., AbstractAsyncContextManager[None]]

PRODUCTION = ("tickets", "comments", "notes")
RECORDS = ("tenants", "ledger", "chunks", "undo", "held", "replicas", "followers", "objects", "feed")
LIMITS = "SELECT polrelid::regclass::text FROM pg_policy WHERE polname = 'localstore_login' ORDER BY 1"


async def limit(world: World, url: str, company: str = "alpha") -> None:
    """List the URL's login as one of a company."""
    await world.owner.execute("SELECT localstore.limit_login($1, $2)", Server.parse(url).user, company)


@pytest.fixture
async def limited(world: World, login: Callable[..., str], connected: Connect) -> asyncpg.Connection:
    """Give the connection of an application's login that is limited to alpha."""
    url = login("app_user")
    await limit(world, url)
    return await connected(url)


@pytest.fixture
async def box(world: World, login: Callable[..., str], connected: Connect) -> asyncpg.Connection:
    """Give the connection of a pushing login that is limited to alpha."""
    url = login("localstore_stager", "localstore_promoter", "localstore_reader")
    await limit(world, url)
    return await connected(url)


async def test_without_a_limited_login_there_is_no_second_policy(world: World) -> None:
    """The policies that limit logins cost every query, so they are made only when the first login is listed."""
    assert await world.owner.fetch(LIMITS) == []


async def test_the_first_limited_login_limits_every_table(world: World, limited: asyncpg.Connection) -> None:
    """Listing one login puts a restrictive policy on all of production and on all records of companies."""
    tables = {row[0] for row in await world.owner.fetch(LIMITS)}
    assert tables == {*PRODUCTION, *(f"localstore.{name}" for name in RECORDS)}


@pytest.mark.parametrize("table", PRODUCTION)
@pytest.mark.parametrize("setting", ["beta", "", None, "gamma"])
async def test_R8_a_limited_login_gains_nothing_by_the_setting(
    world: World, limited: asyncpg.Connection, act: Act, table: str, setting: str | None
) -> None:
    """Naming another company, or none, shows and changes nothing, and inserts are refused."""
    async with act(limited, setting):
        assert await limited.fetchval(f"SELECT count(*) FROM {table}") == 0
        assert await limited.execute(f"DELETE FROM {table}") == "DELETE 0"
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await limited.execute(f"INSERT INTO {table} SELECT 'beta', n FROM generate_series(7, 7) n")


@pytest.mark.parametrize("table", PRODUCTION)
async def test_a_limited_login_works_for_its_own_company(
    world: World, limited: asyncpg.Connection, act: Act, table: str
) -> None:
    """The limit takes nothing away from the company that the login is listed for."""
    async with act(limited, "alpha"):
        assert await limited.fetch(f"SELECT company_id FROM {table}") == [("alpha",)]
        assert await limited.execute(f"DELETE FROM {table}") == "DELETE 1"


async def test_a_login_can_be_listed_for_several_companies(
    world: World, login: Callable[..., str], connected: Connect, act: Act
) -> None:
    """Each listed company is open to it, one at a time, by the setting."""
    url = login("app_user")
    await limit(world, url, "alpha")
    await limit(world, url, "beta")
    connection = await connected(url)
    for company in ("alpha", "beta"):
        async with act(connection, company):
            assert await connection.fetch("SELECT company_id FROM tickets") == [(company,)]


async def test_a_login_that_is_not_listed_is_not_limited(
    world: World, limited: asyncpg.Connection, login: Callable[..., str], connected: Connect, act: Act
) -> None:
    """Another login goes on as before: its setting decides."""
    other = await connected(login("app_user"))
    for company in ("alpha", "beta"):
        async with act(other, company):
            assert await other.fetch("SELECT company_id FROM tickets") == [(company,)]


@pytest.mark.parametrize("role", ["", "localstore_stager", "localstore_promoter", "localstore_reader", "app_user"])
async def test_R8_a_limited_login_gains_nothing_by_taking_a_role(
    world: World, box: asyncpg.Connection, act: Act, role: str
) -> None:
    """Whoever it is at the moment, the limit looks at who logged in."""
    for table in PRODUCTION if role != "localstore_stager" else ():
        async with act(box, "beta", role):
            assert await box.fetchval(f"SELECT count(*) FROM {table}") == 0
            assert await box.execute(f"DELETE FROM {table}") == "DELETE 0"
    for table in RECORDS if role != "app_user" else ():
        if (role, table) == ("localstore_stager", "undo"):
            continue
        async with act(box, "beta", role):
            assert await box.fetchval(f"SELECT count(*) FROM localstore.{table}") == (1 if table != "feed" else 3)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO localstore.tenants (company_id) VALUES ('gamma')",
        "UPDATE localstore.tenants SET company_id = 'beta'",
        "UPDATE localstore.ledger SET company_id = 'beta'",
        (
            "INSERT INTO localstore.ledger (batch, company_id, hash, target, state, manifest) "
            "VALUES (gen_random_uuid(), 'beta', 'h', 'public', 'staged', '{}')"
        ),
        "INSERT INTO localstore.chunks (batch, chunk, rows) VALUES (gen_random_uuid(), 0, 0)",
        (
            "INSERT INTO localstore.undo (batch, company_id, tbl, fingerprint, op, key) "
            "VALUES (gen_random_uuid(), 'beta', 'tickets', 'f', 'i', '{1}')"
        ),
        "INSERT INTO localstore.held (batch, company_id) VALUES (gen_random_uuid(), 'beta')",
        "INSERT INTO localstore.replicas (company_id, replica) VALUES ('beta', gen_random_uuid())",
        "INSERT INTO localstore.objects (company_id, hash, size) VALUES ('beta', 'cd', 1)",
        "INSERT INTO localstore.feed (company_id, target, tbl) VALUES ('beta', 'public', 'tickets')",
    ],
)
async def test_a_limited_login_writes_no_record_of_another_company(
    world: World, box: asyncpg.Connection, act: Act, statement: str
) -> None:
    """Ledger, held changes, undo, feed and the rest refuse what is not the login's company's."""
    async with act(box, "beta", "localstore_promoter"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await box.execute(statement)


async def test_a_limited_login_cannot_touch_its_limits(world: World, box: asyncpg.Connection) -> None:
    """The list is neither read nor written by it, nor are the functions behind it to be called."""
    for statement in (
        "SELECT * FROM localstore.logins",
        "DELETE FROM localstore.logins",
        "INSERT INTO localstore.logins VALUES (session_user, 'beta')",
        "SELECT localstore.limit_login(session_user, 'beta')",
        "SELECT localstore.limit_tables()",
        "DROP POLICY localstore_login ON tickets",
        "INSERT INTO localstore.tables VALUES ('public', 'x', 'f', '{}', 'x')",
        "SET ROLE localstore_owner",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await box.execute(statement)


async def test_tables_registered_later_are_limited_at_once(world: World, limited: asyncpg.Connection, act: Act) -> None:
    """A table made after the login was listed has its restrictive policy from the beginning, whatever its column."""
    later = Table(
        name="later",
        columns=(Column("number", Kind.INTEGER, nullable=False),),
        key=("number",),
        company="tenant's",
        has_company=False,
    )
    await register(world.owner, "public", (later,))
    await world.owner.execute("INSERT INTO later VALUES ('alpha', 1), ('beta', 1)")
    async with act(limited, "beta"):
        assert await limited.fetchval("SELECT count(*) FROM later") == 0
    async with act(limited, "alpha"):
        assert await limited.fetchval("SELECT count(*) FROM later") == 1


async def test_writes_of_a_limited_login_reach_the_feed(world: World, limited: asyncpg.Connection) -> None:
    """The feed's function runs as the owner, so a limited application's writes are recorded as any other's."""
    await world.owner.execute("DELETE FROM localstore.feed")
    async with limited.transaction():
        await limited.execute("SELECT set_config('app.current_company_id', 'alpha', true)")
        await limited.execute("UPDATE tickets SET title = 'x'")
    assert await world.owner.fetch("SELECT company_id, key FROM localstore.feed") == [("alpha", ["1"])]


async def test_whoever_no_policy_binds_cannot_be_listed(world: World, login: Callable[..., str]) -> None:
    """A superuser, an owner or an unknown login is refused rather than believed to be limited."""
    for url, error in (
        (login(superuser=True), asyncpg.InvalidRoleSpecificationError),
        (login("localstore_owner"), asyncpg.InvalidRoleSpecificationError),
        ("postgresql://nobody_of_that_name@localhost/x", asyncpg.UndefinedObjectError),
    ):
        with pytest.raises(error):
            await limit(world, url)
    assert await world.owner.fetch(LIMITS) == []


async def test_preparing_again_keeps_the_limits(world: World, limited: asyncpg.Connection, act: Act) -> None:
    """Limits survive a second preparation and registration."""
    await prepare(world.owner)
    await register(world.owner, "public", world.tables)
    async with act(limited, "beta"):
        assert await limited.fetchval("SELECT count(*) FROM tickets") == 0
