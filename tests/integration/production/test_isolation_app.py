"""An application's login, a member of `app_user` and nothing else, against every table there is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import asyncpg
import pytest

if TYPE_CHECKING:
    from tests.integration.production.conftest import Connect, World

Act = Callable[..., AbstractAsyncContextManager[None]]

PRODUCTION = ("tickets", "comments", "notes")
# Policies call companies_of_login as whoever queries; it tells a login about itself only. The rest is for storages.
APPLICATIONS = [
    *("companies", "companies_of_login", "mode_of_company", "register_company"),
    *("rows_unchanged", "states_of_rows"),
]
NOBODY = [pytest.param(None, id="unset"), pytest.param("", id="empty"), pytest.param("gamma", id="made-up")]
CHANGES = {"tickets": "title = 'x'", "comments": "body = 'x'", "notes": "raw = '[]'"}
OTHERS_ROW = {
    "tickets": "INSERT INTO tickets VALUES ('beta', '2', 'new@example.com', 'x')",
    "comments": "INSERT INTO comments VALUES ('beta', '1', 2, 'x')",
    "notes": "INSERT INTO notes VALUES ('beta', 2, '[]')",
}


@pytest.fixture
async def app(world: World, login: Callable[..., str], connected: Connect) -> asyncpg.Connection:
    """Give the connection of a login that is only a member of `app_user`."""
    return await connected(login("app_user"))


async def everything(owner: asyncpg.Connection) -> dict[str, list[str]]:
    """Return all rows of production as a superuser sees them, with the transactions that wrote them."""
    return {
        table: [
            row[0]
            for row in await owner.fetch(f"SELECT t::text || t.xmin::text || t.ctid::text FROM {table} t ORDER BY 1")
        ]
        for table in PRODUCTION
    }


@pytest.mark.parametrize("setting", NOBODY)
@pytest.mark.parametrize("table", PRODUCTION)
async def test_R3_R4_without_a_company_nothing_is_seen_or_changed(
    world: World, app: asyncpg.Connection, act: Act, table: str, setting: str | None
) -> None:
    """With no setting, an empty one or a made-up one, a login reads, updates, deletes and inserts nothing."""
    before = await everything(world.owner)
    async with act(app, setting):
        assert await app.fetchval(f"SELECT count(*) FROM {table}") == 0
        assert await app.execute(f"UPDATE {table} SET {CHANGES[table]}") == "UPDATE 0"
        assert await app.execute(f"DELETE FROM {table}") == "DELETE 0"
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await app.execute(OTHERS_ROW[table])
    assert await everything(world.owner) == before


@pytest.mark.parametrize("table", PRODUCTION)
async def test_a_company_sees_and_changes_its_own_rows_only(
    world: World, app: asyncpg.Connection, act: Act, table: str
) -> None:
    """A login that names a company reads and changes that company's row of a key both companies have."""
    async with act(app, "alpha"):
        assert await app.fetch(f"SELECT company_id FROM {table}") == [("alpha",)]
        assert await app.fetch(f"SELECT FROM {table} WHERE company_id = 'beta' FOR UPDATE") == []
        assert await app.execute(f"UPDATE {table} SET {CHANGES[table]} WHERE company_id = 'beta'") == "UPDATE 0"
        assert await app.execute(f"DELETE FROM {table} WHERE company_id = 'beta'") == "DELETE 0"
        assert await app.execute(f"UPDATE {table} SET {CHANGES[table]}") == "UPDATE 1"
        assert await app.execute(f"DELETE FROM {table}") == "DELETE 1"


@pytest.mark.parametrize("table", PRODUCTION)
async def test_R10_no_row_is_given_to_another_company(
    world: World, app: asyncpg.Connection, act: Act, table: str
) -> None:
    """A row of another company is neither inserted nor made by moving one's own."""
    before = await everything(world.owner)
    for statement in (OTHERS_ROW[table], f"UPDATE {table} SET company_id = 'beta'"):
        async with act(app, "alpha"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
                await app.execute(statement)
    assert await everything(world.owner) == before


async def test_R1_the_owner_is_bound_by_the_same_policies(world: World, act: Act) -> None:
    """Without a company the tables' owner sees none of their rows either."""
    async with act(world.owner, None, "localstore_owner"):
        for table in PRODUCTION:
            assert await world.owner.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_R5_a_setting_made_outside_a_transaction_is_gone_at_once(world: World, app: asyncpg.Connection) -> None:
    """SET LOCAL without a transaction opens nothing."""
    messages: list[str] = []
    app.add_log_listener(lambda _, message: messages.append(message.sqlstate))
    await app.execute("SET LOCAL app.current_company_id = 'alpha'")
    assert messages == ["25P01"]
    assert await app.fetchval("SELECT count(*) FROM tickets") == 0


async def test_R6_a_setting_ends_with_its_transaction(world: World, app: asyncpg.Connection) -> None:
    """What the next transaction on the same connection sees is nothing, as after a pooler changed clients."""
    async with app.transaction():
        await app.execute("SELECT set_config('app.current_company_id', 'alpha', true)")
        assert await app.fetchval("SELECT count(*) FROM tickets") == 1
    assert await app.fetchval("SELECT current_setting('app.current_company_id', true)") == ""
    assert await app.fetchval("SELECT count(*) FROM tickets") == 0


async def test_R11_one_permissive_policy_stands_on_every_table(world: World) -> None:
    """Permissive policies are OR-ed, so there is exactly one, for all commands, and it is forced."""
    rows = await world.owner.fetch(
        """
        SELECT c.relname, c.relforcerowsecurity, array_agg(p.polname::text), array_agg(p.polcmd::text),
            bool_and(p.polpermissive), bool_and(p.polroles = ARRAY['app_user'::regrole::oid])
        FROM pg_class c JOIN pg_policy p ON p.polrelid = c.oid
        WHERE c.relnamespace = 'public'::regnamespace GROUP BY c.oid
        """
    )
    assert {tuple(map(str, row)) for row in rows} == {
        (table, "True", "['localstore_company']", "['*']", "True", "True") for table in PRODUCTION
    }


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE tickets DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE tickets NO FORCE ROW LEVEL SECURITY",
        "CREATE POLICY mine ON tickets FOR ALL USING (true)",
        "DROP POLICY localstore_company ON tickets",
        "ALTER POLICY localstore_company ON tickets USING (true)",
        "ALTER TABLE tickets DISABLE TRIGGER ALL",
        "CREATE TRIGGER mine AFTER DELETE ON tickets EXECUTE FUNCTION tsvector_update_trigger()",
        "ALTER TABLE tickets OWNER TO CURRENT_USER",
        "CREATE TABLE public.mine (LIKE tickets)",
        "CREATE INDEX ON tickets (title)",
        "SET ROLE localstore_promoter",
        "SET ROLE localstore_stager",
        "SET ROLE localstore_reader",
        "SET ROLE localstore_owner",
        "SET SESSION AUTHORIZATION postgres",
        "SET session_replication_role = replica",
    ],
)
async def test_R11_an_application_cannot_change_what_binds_it(
    world: World, app: asyncpg.Connection, statement: str
) -> None:
    """Policies, triggers, ownership and other roles are out of an application's reach."""
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute(statement)


async def test_an_application_cannot_pass_its_rights_on(world: World, app: asyncpg.Connection) -> None:
    """GRANT by a login without grant options gives nothing; the server only warns."""
    warned: list[str] = []
    app.add_log_listener(lambda _, message: warned.append(message.sqlstate))
    await app.execute("GRANT SELECT, TRUNCATE ON tickets TO PUBLIC")
    assert warned == ["01007"]
    assert not await world.owner.fetchval("SELECT has_table_privilege('localstore_stager', 'tickets', 'SELECT')")


async def test_row_security_off_is_an_error_and_no_way_round(world: World, app: asyncpg.Connection, act: Act) -> None:
    """Asking for row security to be off refuses the query instead of answering it unfiltered."""
    async with act(app, "alpha"):
        await app.execute("SET LOCAL row_security = off")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await app.fetch("SELECT * FROM tickets")


async def test_R12_returning_and_on_conflict_work_for_ones_own_rows(
    world: World, app: asyncpg.Connection, act: Act
) -> None:
    """An upsert of an own key updates the own row and gives it back."""
    upsert = (
        "INSERT INTO tickets VALUES ($1, '1', 'c@example.com', 'upserted') "
        "ON CONFLICT (company_id, ticket_id) DO UPDATE SET title = excluded.title RETURNING company_id, title"
    )
    async with act(app, "alpha"):
        assert await app.fetch(upsert, "alpha") == [("alpha", "upserted")]
    async with act(app, "alpha"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await app.fetch(upsert, "beta")


async def test_R12_on_conflict_do_nothing_tells_nothing_of_others(
    world: World, app: asyncpg.Connection, act: Act
) -> None:
    """A key that another company has is refused like one that nobody has."""
    messages = []
    for key in ("1", "nobody's"):
        async with act(app, "alpha"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError) as caught:
                await app.execute("INSERT INTO tickets VALUES ('beta', $1) ON CONFLICT DO NOTHING", key)
            messages.append(str(caught.value))
    assert messages[0] == messages[1]


async def test_merge_does_not_reach_others_rows(world: World, app: asyncpg.Connection, act: Act) -> None:
    """MERGE matches own rows only, so another company's row is neither updated nor deleted."""
    before = await everything(world.owner)
    async with act(app, "alpha"):
        tag = await app.execute(
            "MERGE INTO tickets t USING (VALUES ('beta', '1')) s (company, ticket) "
            "ON t.company_id = s.company AND t.ticket_id = s.ticket "
            "WHEN MATCHED AND s.company = 'none' THEN DELETE WHEN MATCHED THEN UPDATE SET title = 'x'"
        )
        assert tag == "MERGE 0"
    assert await everything(world.owner) == before


async def test_R13_a_unique_value_of_another_company_is_free(world: World, app: asyncpg.Connection, act: Act) -> None:
    """Unique keys are led by the company: another's value can be taken and does not show by an error."""
    async with act(app, "alpha"):
        assert await app.execute("UPDATE tickets SET email = 'beta@example.com'") == "UPDATE 1"
        await app.execute("SET CONSTRAINTS ALL IMMEDIATE")
        with pytest.raises(asyncpg.UniqueViolationError):
            await app.execute("INSERT INTO tickets VALUES ('alpha', '9', 'beta@example.com')")


async def test_R14_a_reference_does_not_cross_companies(world: World, app: asyncpg.Connection, act: Act) -> None:
    """A foreign key finds parents of its own company only, although its check sees every row."""
    await world.owner.execute("INSERT INTO tickets VALUES ('beta', 'only beta', NULL, NULL)")
    async with act(app, "alpha"):
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await app.execute("INSERT INTO comments VALUES ('alpha', 'only beta', 5, 'x')")


async def test_R14_a_cascade_does_not_cross_companies(world: World, app: asyncpg.Connection) -> None:
    """Deleting a ticket takes its own company's comments along and leaves the other's of the same key."""
    async with app.transaction():
        await app.execute("SELECT set_config('app.current_company_id', 'alpha', true)")
        await app.execute("DELETE FROM tickets")
    assert await world.owner.fetch("SELECT company_id FROM comments") == [("beta",)]


@pytest.mark.parametrize("table", PRODUCTION)
async def test_R15_truncate_is_refused(world: World, app: asyncpg.Connection, act: Act, table: str) -> None:
    """TRUNCATE would not ask the policies, so nobody but the owner may; not even for an own company."""
    for role in ("", "localstore_promoter", "localstore_stager", "localstore_reader"):
        connection = world.owner if role else app
        async with act(connection, "alpha", role):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"TRUNCATE {table} CASCADE")


async def test_R16_views_and_functions_of_a_login_are_bound_like_it(
    world: World, app: asyncpg.Connection, act: Act
) -> None:
    """A view or a definer's function made by the login itself opens nothing."""
    async with act(app, "alpha"):
        await app.execute("CREATE TEMP VIEW mine AS SELECT * FROM tickets")
        await app.execute(
            "CREATE FUNCTION pg_temp.mine() RETURNS SETOF tickets LANGUAGE sql SECURITY DEFINER "
            "AS 'SELECT * FROM tickets'"
        )
        assert await app.fetch("SELECT company_id FROM mine") == [("alpha",)]
        assert await app.fetch("SELECT company_id FROM pg_temp.mine()") == [("alpha",)]


async def test_a_function_in_a_query_is_not_shown_others_rows(world: World, app: asyncpg.Connection, act: Act) -> None:
    """A cheap function that tells what it is given is run after the policy, never before."""
    told: list[str] = []
    app.add_log_listener(lambda _, message: told.append(message.message))
    async with act(app, "alpha"):
        await app.execute(
            "CREATE FUNCTION pg_temp.tell(value text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 "
            "AS 'BEGIN RAISE NOTICE ''%'', value; RETURN true; END'"
        )
        assert await app.fetchval("SELECT count(*) FROM tickets WHERE pg_temp.tell(title)") == 1
    assert told == ["of alpha"]


async def test_statistics_do_not_show_others_values(world: World, app: asyncpg.Connection) -> None:
    """What ANALYZE collected over all companies is not shown to a login that the policies bind."""
    assert await world.owner.fetchval("SELECT count(*) FROM pg_stats WHERE schemaname = 'public'") > 0
    assert await app.fetchval("SELECT count(*) FROM pg_stats WHERE schemaname IN ('public', 'localstore')") == 0


async def test_copy_out_is_filtered_and_copy_in_refused(world: World, app: asyncpg.Connection, act: Act) -> None:
    """COPY TO gives own rows; COPY FROM is not possible on a table with policies."""
    copied = bytearray()

    async def collect(part: bytes) -> None:
        copied.extend(part)

    async with act(app, "alpha"):
        await app.copy_from_table("notes", output=collect)
        assert bytes(copied) == b"alpha\t1\t{}\n"
        with pytest.raises(asyncpg.FeatureNotSupportedError):
            await app.copy_records_to_table("notes", records=[("alpha", 7, "{}")])


async def test_nothing_of_ours_is_open_to_an_application(world: World, app: asyncpg.Connection) -> None:
    """In schemas localstore and localstore_staging an application reads, writes and truncates nothing at all."""
    relations = await world.owner.fetch(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname LIKE 'localstore%'"
    )
    assert len(relations) >= 9 + len(PRODUCTION)
    for (relation,) in relations:
        for statement in (
            f"SELECT FROM {relation}",
            f"INSERT INTO {relation} DEFAULT VALUES",
            f"DELETE FROM {relation}",
            f"TRUNCATE {relation}",
            f"COPY {relation} TO STDOUT",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await app.execute(statement)


async def test_R21_staging_and_records_inherit_no_right(world: World) -> None:
    """Neither app_user nor PUBLIC holds any right on a table of our schemas; of one it may call functions by name."""
    held = await world.owner.fetch(
        """
        SELECT c.oid::regclass::text, priv
        FROM pg_class c, unnest(ARRAY['SELECT','INSERT','UPDATE','DELETE','TRUNCATE']) priv
        WHERE c.relnamespace IN ('localstore'::regnamespace, 'localstore_staging'::regnamespace)
            AND c.relkind IN ('r', 'p', 'v') AND (has_table_privilege('app_user', c.oid, priv)
            OR priv IN ('SELECT', 'INSERT', 'UPDATE') AND has_any_column_privilege('app_user', c.oid, priv))
        UNION ALL
        SELECT nspname::text, priv FROM pg_namespace, unnest(ARRAY['USAGE', 'CREATE']) priv
        WHERE nspname LIKE 'localstore%' AND has_schema_privilege('app_user', oid, priv)
        """
    )
    assert [tuple(right) for right in held] == [("localstore", "USAGE")]


async def test_our_functions_cannot_be_called_or_attached_by_an_application(
    world: World, app: asyncpg.Connection
) -> None:
    """Only what is made for it can be called, and the feed's function cannot be attached to a table of one's own."""
    functions = await world.owner.fetch(
        "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = 'localstore'::regnamespace "
        "AND p.proname <> ALL ($1::text[])",
        APPLICATIONS,
    )
    assert len(functions) >= 5
    for (function,) in functions:
        name, _, arguments = function.partition("(")
        nulls = ", ".join("NULL" for part in arguments.rstrip(")").split(",") if part)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await app.execute(f"SELECT {name}({nulls})")
    callable_ones = await world.owner.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'localstore'::regnamespace "
        "AND has_function_privilege('app_user', oid, 'EXECUTE') ORDER BY proname"
    )
    assert [name for (name,) in callable_ones] == APPLICATIONS
    await app.execute("CREATE TEMP TABLE mine (company_id text)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute(
            "CREATE TRIGGER mine AFTER DELETE ON mine REFERENCING OLD TABLE AS old_rows "
            "EXECUTE FUNCTION localstore.record_changes('public', 'tickets', 'company_id')"
        )


async def test_a_running_promotion_opens_nothing(world: World, app: asyncpg.Connection, act: Act) -> None:
    """While the promoter's transaction has written for one company, others see nothing of it, nor does that one."""
    async with act(world.owner, "beta", "localstore_promoter"):
        assert await world.owner.execute("UPDATE tickets SET title = 'promoted'") == "UPDATE 1"
        for setting in (None, "", "gamma", "alpha"):
            async with act(app, setting):
                assert await app.fetchval("SELECT count(*) FROM tickets WHERE company_id = 'beta'") == 0
                assert await app.execute("DELETE FROM tickets WHERE company_id = 'beta'") == "DELETE 0"
        async with act(app, "beta"):
            assert await app.fetchval("SELECT title FROM tickets") == "of beta"


async def test_the_promoter_is_bound_to_the_company_it_promotes(world: World, act: Act) -> None:
    """Promotion runs as a role that the policies bind: it cannot write another tenant's rows even by mistake."""
    async with act(world.owner, "alpha", "localstore_promoter"):
        assert await world.owner.fetch("SELECT DISTINCT company_id FROM tickets") == [("alpha",)]
        assert await world.owner.execute("UPDATE notes SET raw = '[]' WHERE company_id = 'beta'") == "UPDATE 0"
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await world.owner.execute(OTHERS_ROW["notes"])
