"""Production's and staging's tables, made from shapes of every kind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import pytest

from localstore.schema.postgres import (
    COPIED_COLUMNS,
    STAGED_COLUMNS_MAX,
    production_name,
    relation,
    staging_name,
    staging_relation,
)
from localstore.schema.tables import Column, ForeignKey, Index, Kind, Table
from localstore.schema.types import travelling_type
from sync.errors import UnknownSchema, UnsupportedTable
from sync.production import describe, describe_all, differences, prepare, register, registered

if TYPE_CHECKING:
    from tests.integration.production.conftest import Connect, World

Act = Callable[..., AbstractAsyncContextManager[None]]

ID = Column("id", Kind.INTEGER, nullable=False)


def table(name: str, *columns: Column, **more: object) -> Table:
    """Return a table keyed by `id` that has no company column of its own."""
    shape = Table(name=name, columns=(ID, *columns), key=("id",), has_company=False)
    return replace(shape, **more)  # type: ignore[arg-type]


@pytest.fixture
async def ready(superuser: asyncpg.Connection) -> asyncpg.Connection:
    """Give a superuser's connection to a prepared database without tables."""
    await prepare(superuser)
    return superuser


async def test_every_kind_has_its_type_in_production_and_twice_in_staging(
    ready: asyncpg.Connection, pgvector: None
) -> None:
    """A column of each kind gets the type that the codec encodes for, NOT NULL where the file says so."""
    shape = table("all", *(Column(kind.value, kind, nullable=kind is not Kind.TEXT) for kind in Kind))
    await register(ready, "public", (shape,))
    production = await describe(ready, "public", "all")
    assert {name: column.type for name, column in production.columns.items()} == {
        "company_id": "text",
        "id": "bigint",
        "text": "text",
        "integer": "bigint",
        "real": "double precision",
        "numeric": "numeric",
        "boolean": "boolean",
        "timestamp": "timestamp with time zone",
        "date": "date",
        "time": "time without time zone",
        "uuid": "uuid",
        "json": "jsonb",
        "blob": "bytea",
        "vector": "vector",
    }
    assert production.required == ("company_id", "id", "text")
    staged = await ready.fetch(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = $1::text::regclass "
        "AND attnum > 0 ORDER BY attnum",
        staging_relation("public", shape),
    )
    names = [row[0] for row in staged]
    assert names[:9] == ["batch", "chunk", "ordinal", "op", "changed", "defect", "key_text", "reason", "detail"]
    assert names[9:] == [name for place in range(len(shape.sent)) for name in (f"n{place}", f"b{place}")]
    kinds = [row[1] for row in staged[9:]]
    assert kinds[::2] == kinds[1::2] == [travelling_type(column.kind) for column in shape.sent]


async def test_registered_gives_back_what_was_registered(world: World) -> None:
    """Shapes, staging tables and production tables are found by name and fingerprint."""
    known = await registered(world.owner, "public")
    assert known.keys() == {(shape.name, shape.fingerprint) for shape in world.tables}
    for shape in world.tables:
        entry = known[shape.name, shape.fingerprint]
        assert entry.table.to_json() == shape.to_json()
        assert entry.staging == staging_relation("public", shape)
        assert entry.relation == relation("public", shape.name)
    assert await registered(world.owner, "elsewhere") == {}


async def test_staging_says_which_table_it_is(world: World) -> None:
    """The comment on a staging table names the table and fingerprint that its hashed name hides."""
    shape = world.tables[0]
    comment = await world.owner.fetchval(
        "SELECT obj_description($1::text::regclass)", staging_relation("public", shape)
    )
    assert comment == f'staging of "public"."tickets", fingerprint {shape.fingerprint}'


async def test_the_stager_copies_in_and_reads_nothing_back(world: World, act: Act) -> None:
    """Who stages writes rows and sees which chunks are there; the rows of batches in transit stay closed to it."""
    shape = world.tables[2]
    batch = uuid4()
    staging = staging_relation("public", shape)
    async with act(world.owner, None, "localstore_stager"):
        await world.owner.copy_records_to_table(
            staging_name("public", shape),
            schema_name="localstore_staging",
            columns=[*COPIED_COLUMNS, "n0"],
            records=[(batch, 0, 0, b"i", None, None, ["1"], 1)],
        )
        assert await world.owner.fetchval(f"SELECT count(*) FROM {staging} WHERE batch = $1", batch) == 1
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await world.owner.fetch(f"SELECT n0 FROM {staging}")


async def test_the_promoter_rewrites_and_removes_staged_rows(world: World, act: Act) -> None:
    """Promotion composes staged rows with held ones, so it reads, writes and removes them."""
    staging = staging_relation("public", world.tables[2])
    async with act(world.owner, "alpha", "localstore_promoter"):
        insert = f"INSERT INTO {staging} (batch, chunk, ordinal, op) VALUES (gen_random_uuid(), 0, 0, 'i')"
        assert await world.owner.execute(insert) == "INSERT 0 1"
        assert await world.owner.execute(f"UPDATE {staging} SET op = 'u', n0 = 1, reason = 'x'") == "UPDATE 1"
        assert await world.owner.execute(f"DELETE FROM {staging}") == "DELETE 1"


async def test_two_registrations_at_once_make_each_table_once(
    production: str, ready: asyncpg.Connection, connected: Connect, tables: tuple[Table, ...]
) -> None:
    """Boxes with overlapping tables register side by side, parents and children in any order."""
    connections = [await connected(production) for _ in range(3)]
    shares = (tables, tuple(reversed(tables)), tables[1:])
    await register(ready, "public", tables[:1])
    await asyncio.gather(*(register(*both) for both in zip(connections, ["public"] * 3, shares, strict=True)))
    assert len(await registered(ready, "public")) == len(tables)


async def test_P2_secondary_unique_keys_are_checked_at_the_end_and_the_primary_at_once(world: World) -> None:
    """Two rows can swap a unique value within a transaction; the primary key serves as a conflict target."""
    production = await describe(world.owner, "public", "tickets")
    assert {unique.columns: unique.deferrable for unique in production.uniques} == {
        ("company_id", "ticket_id"): False,
        ("company_id", "email"): True,
    }
    await world.owner.execute("INSERT INTO tickets VALUES ('alpha', '2', 'two@example.com')")
    async with world.owner.transaction():
        await world.owner.execute("SET CONSTRAINTS ALL DEFERRED")
        await world.owner.execute("UPDATE tickets SET email = 'two@example.com' WHERE email = 'alpha@example.com'")
        await world.owner.execute("UPDATE tickets SET email = 'alpha@example.com' WHERE ticket_id = '2'")


async def test_a_unique_key_that_is_referred_to_is_checked_at_once(ready: asyncpg.Connection) -> None:
    """A foreign key can refer to it only so, and it is led by the company on both sides."""
    parent = table("parent", Column("code", Kind.TEXT), uniques=(("code",),))
    child = table(
        "child", Column("code", Kind.TEXT), foreign_keys=(ForeignKey(("code",), "parent", ("code",), "SET NULL"),)
    )
    await register(ready, "public", (child, parent))
    shapes = await describe_all(ready, "public", ("parent", "child"))
    assert [unique.deferrable for unique in shapes["parent"].uniques] == [False, False]
    (link,) = shapes["child"].foreign_keys
    assert (link.child_columns, link.parent_columns) == (("company_id", "code"), ("company_id", "code"))
    assert shapes["parent"].referenced_by == (link,)
    await ready.execute("INSERT INTO parent VALUES ('a', 1, 'x'); INSERT INTO child VALUES ('a', 1, 'x')")
    await ready.execute("DELETE FROM parent")
    assert await ready.fetch("SELECT company_id, code FROM child") == [("a", None)]


async def test_P4_references_in_a_circle_and_to_itself_are_made(ready: asyncpg.Connection) -> None:
    """Tables that refer to each other, and one that refers to itself, take their rows in one transaction."""
    key = Column("other", Kind.INTEGER)
    left = table("left", key, foreign_keys=(ForeignKey(("other",), "right", ("id",)),))
    right = table(
        "right",
        key,
        foreign_keys=(ForeignKey(("other",), "left", ("id",)), ForeignKey(("id",), "right", ())),
    )
    await register(ready, "public", (left, right))
    async with ready.transaction():
        await ready.execute("SET CONSTRAINTS ALL DEFERRED")
        await ready.execute("INSERT INTO \"left\" VALUES ('a', 1, 1); INSERT INTO \"right\" VALUES ('a', 1, 1)")
    assert await ready.fetchval("SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND condeferrable") == 3


async def test_a_reference_to_a_table_registered_before_is_made(ready: asyncpg.Connection) -> None:
    """A child that comes later finds its parent in production."""
    await register(ready, "public", (table("parent"),))
    child = table("child", Column("parent", Kind.INTEGER), foreign_keys=(ForeignKey(("parent",), "parent", ("id",)),))
    await register(ready, "public", (child,))
    assert len((await describe(ready, "public", "parent")).referenced_by) == 1


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(ForeignKey(("text",), "missing", ("id",)), id="to a missing table"),
        pytest.param(ForeignKey(("number",), "parent", ("other",)), id="to what is no key"),
        pytest.param(ForeignKey(("text",), "parent", ("id",)), id="between kinds"),
        pytest.param(ForeignKey(("number", "text"), "parent", ("id",)), id="of another length"),
        pytest.param(ForeignKey(("number",), "parent", ("nowhere",)), id="to a missing column"),
    ],
)
async def test_references_that_only_sqlite_allows_are_left_out(ready: asyncpg.Connection, key: ForeignKey) -> None:
    """Such a reference does not stop its table; the rest of it is made."""
    parent = table("parent", Column("other", Kind.INTEGER))
    child = table("child", Column("text", Kind.TEXT), Column("number", Kind.INTEGER), foreign_keys=(key,))
    await register(ready, "public", (parent, child))
    assert (await describe(ready, "public", "child")).foreign_keys == ()


async def test_indexes_are_led_by_the_company_and_references_have_one(world: World) -> None:
    """The file's plain indexes are made, and one for the child side of a foreign key."""
    rows = await world.owner.fetch(
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND indexdef NOT LIKE '%UNIQUE%' ORDER BY 1"
    )
    assert [row[0].partition(" USING ")[2] for row in rows] == [
        "btree (company_id, ticket_id)",
        "btree (company_id, title)",
    ]


async def test_N1_names_that_the_server_would_cut_stay_apart(ready: asyncpg.Connection) -> None:
    """Names over 63 bytes that begin alike are cut to different ones, for tables, columns and constraints."""
    stem = "é" * 40
    shapes = tuple(
        table(
            stem + suffix,
            Column(stem + "x", Kind.TEXT),
            Column(stem + "y", Kind.TEXT),
            uniques=((stem + "x",), (stem + "y",)),
            indexes=(Index("i", (stem + "x", stem + "y")),),
        )
        for suffix in ("1", "2")
    )
    await register(ready, "public", shapes)
    names = [production_name(shape.name) for shape in shapes]
    assert len(set(names)) == 2
    assert all(len(name.encode()) <= 63 for name in names)
    for shape in shapes:
        production = await describe(ready, "public", shape.name)
        assert set(production.columns) == {"company_id", "id", *(production_name(column.name) for column in shape.sent)}
        assert differences(shape, production) == ()
    await register(ready, "public", shapes)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("Name", "é", "É"), id="N2"),
        pytest.param(("user", "order", "table"), id="N3"),
        pytest.param(('say "hi"', "; DROP TABLE notes; --", "a.b c'd\\e"), id="N6"),
    ],
)
async def test_N2_N3_N6_any_name_that_sqlite_allows_is_kept(
    ready: asyncpg.Connection, act: Act, names: tuple[str, ...]
) -> None:
    """Reserved words, quotes, dots, spaces and letter case survive in tables, columns, keys and the feed."""
    columns = tuple(Column(name, Kind.TEXT) for name in names)
    shapes = tuple(
        Table(name, (ID, *columns), key=("id", names[0]), uniques=((names[1],),), has_company=False) for name in names
    )
    await register(ready, "public", shapes)
    for shape in shapes:
        production = await describe(ready, "public", shape.name)
        assert differences(shape, production) == ()
        await ready.execute(f"INSERT INTO {relation('public', shape.name)} VALUES ('a', 1, 'k', 'v')")
    assert {row[0] for row in await ready.fetch("SELECT tbl FROM localstore.feed")} == set(names)


async def test_names_of_keys_and_tables_do_not_collide(ready: asyncpg.Connection) -> None:
    """A table that is called as another's unique key or index would be is made all the same."""
    column = Column("code", Kind.TEXT)
    shapes = (
        table("a", column, uniques=(("code",),), indexes=(Index("i", ("code", "id")),)),
        table("a_company_id_code_key"),
        table("a_company_id_code_id_idx"),
    )
    await register(ready, "public", shapes)
    assert len(await describe_all(ready, "public", [shape.name for shape in shapes])) == 3


async def test_N15_computed_columns_are_left_out(ready: asyncpg.Connection) -> None:
    """What the file computes is neither in production nor in staging, nor are keys and indexes over it."""
    computed = Column("total", Kind.INTEGER, computed=True)
    shape = table("sums", computed, uniques=(("total",),), indexes=(Index("i", ("total",)),))
    await register(ready, "public", (shape,))
    production = await describe(ready, "public", "sums")
    assert list(production.columns) == ["company_id", "id"]
    assert len(production.uniques) == 1


async def test_N11_a_key_is_not_null_whatever_the_file_allows(ready: asyncpg.Connection) -> None:
    """SQLite lets a primary key be NULL; production's columns of the key do not."""
    shape = Table("odd", (Column("k", Kind.TEXT, nullable=True),), key=("k",), has_company=False)
    await register(ready, "public", (shape,))
    assert (await describe(ready, "public", "odd")).required == ("company_id", "k")


async def test_N5_the_widest_table_is_taken_and_a_wider_one_refused(ready: asyncpg.Connection) -> None:
    """790 columns can be staged with their bases; 791 are refused by name before anything is made."""
    columns = tuple(Column(f"c{place}", Kind.TEXT) for place in range(STAGED_COLUMNS_MAX))
    await register(ready, "public", (table("wide", *columns[:-1]),))
    with pytest.raises(UnsupportedTable, match="'wider': it has 791 columns") as caught:
        await register(ready, "public", (table("good"), table("wider", *columns)))
    assert caught.value.exit_code == 6
    assert await describe_all(ready, "public", ("good", "wider")) == {}


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        pytest.param(table("t", Column("xmin", Kind.TEXT)), "system column", id="N3"),
        pytest.param(table("t", Column("", Kind.TEXT)), "name is empty", id="N4"),
        pytest.param(table(""), "name is empty", id="N4-table"),
        pytest.param(replace(table("t"), key=()), "no primary key", id="N13"),
        pytest.param(table("t", Column("company_id", Kind.TEXT)), "stands where the company's would", id="taken"),
        pytest.param(replace(table("t"), has_company=True), "no column", id="no-company"),
        pytest.param(
            Table("t", (ID, Column("company_id", Kind.INTEGER)), key=("company_id", "id")), "not plain text", id="typed"
        ),
        pytest.param(
            table("t", *(c := tuple(Column(f"c{n}", Kind.TEXT) for n in range(32))), key=tuple(x.name for x in c)),
            "more than 32",
            id="long-key",
        ),
    ],
)
async def test_shapes_that_no_production_table_can_have_are_refused(
    ready: asyncpg.Connection, shape: Table, reason: str
) -> None:
    """What PostgreSQL could not hold, or not keep apart by company, is refused with its reason."""
    with pytest.raises(UnsupportedTable, match=reason):
        await register(ready, "public", (shape,))
    assert await registered(ready, "public") == {}


async def test_a_table_of_another_shape_is_refused_with_every_difference(ready: asyncpg.Connection) -> None:
    """Each missing, differing or demanding column and the key are named, and nothing is made."""
    await register(ready, "public", (table("notes", Column("a", Kind.TEXT), Column("b", Kind.TEXT)),))
    await ready.execute("ALTER TABLE notes ADD COLUMN must integer NOT NULL, ADD COLUMN may integer NOT NULL DEFAULT 0")
    other = Table(
        "notes",
        (ID, Column("a", Kind.INTEGER), Column("c", Kind.TEXT)),
        key=("id", "c"),
        has_company=False,
    )
    with pytest.raises(UnknownSchema) as caught:
        await register(ready, "public", (table("fresh"), other))
    for part in (
        'table "public"."notes"',
        'column "a" is text, not bigint',
        'column "c" is missing',
        'column "must" is NOT NULL without a default',
        'its primary key is ("company_id", "id"), not ("company_id", "id", "c")',
    ):
        assert part in caught.value.message
    assert '"may"' not in caught.value.message
    assert '"b"' not in caught.value.message
    assert "localstore sync schema apply" in caught.value.hint
    assert caught.value.exit_code == 6
    assert await describe_all(ready, "public", ("fresh",)) == {}


async def test_a_box_with_fewer_columns_is_registered_beside_one_with_more(ready: asyncpg.Connection) -> None:
    """Boxes of two versions push side by side, each through staging of its own."""
    newer = table("notes", Column("a", Kind.TEXT), Column("b", Kind.TEXT))
    older = table("notes", Column("a", Kind.TEXT))
    await register(ready, "public", (newer,))
    await register(ready, "public", (older,))
    known = await registered(ready, "public")
    assert len({entry.staging for entry in known.values()}) == len(known) == 2


async def test_a_table_of_others_that_keeps_no_tenants_apart_is_refused(ready: asyncpg.Connection) -> None:
    """An existing table of the right shape is not taken over: what it lacks is named."""
    await ready.execute("CREATE TABLE notes (company_id text NOT NULL, id bigint, PRIMARY KEY (company_id, id))")
    with pytest.raises(UnknownSchema) as caught:
        await register(ready, "public", (table("notes"),))
    for part in ("row-level security is not forced", "policy localstore_company is missing", "feed's triggers"):
        assert part in caught.value.message
    assert not await ready.fetchval("SELECT relrowsecurity FROM pg_class WHERE oid = 'notes'::regclass")


async def test_a_view_in_the_table_s_place_is_refused(ready: asyncpg.Connection) -> None:
    """A view of the same name is not a table that rows could be promoted into."""
    await ready.execute("CREATE VIEW notes AS SELECT 'a'::text AS company_id, 1::bigint AS id")
    with pytest.raises(UnknownSchema, match="it is not a table"):
        await register(ready, "public", (table("notes"),))


async def test_R11_a_second_permissive_policy_is_refused(ready: asyncpg.Connection) -> None:
    """A policy that somebody added beside ours opens the table, so the next new shape of it is refused."""
    await register(ready, "public", (table("notes", Column("a", Kind.TEXT)),))
    await ready.execute("CREATE POLICY all_of_it ON notes USING (true)")
    with pytest.raises(UnknownSchema, match='another permissive policy "all_of_it"'):
        await register(ready, "public", (table("notes"),))


async def test_protection_that_was_taken_off_a_table_of_ours_is_put_back(ready: asyncpg.Connection) -> None:
    """A registration that touches the table again restores forced security, policy, rights and feed."""
    await register(ready, "public", (table("notes", Column("a", Kind.TEXT)),))
    await ready.execute(
        "ALTER TABLE notes NO FORCE ROW LEVEL SECURITY; DROP POLICY localstore_company ON notes; "
        "DROP TRIGGER localstore_feed_update ON notes; REVOKE ALL ON notes FROM app_user"
    )
    await register(ready, "public", (table("notes"),))
    production = await describe(ready, "public", "notes")
    assert production.forced
    assert production.policies == {"localstore_company": True}
    assert len(production.feed_triggers) == 4
    assert await ready.fetchval("SELECT has_table_privilege('app_user', 'notes', 'SELECT, INSERT')")


async def test_a_dropped_table_is_made_again(ready: asyncpg.Connection) -> None:
    """Being registered is not taken for being there."""
    await register(ready, "public", (table("notes"),))
    await ready.execute("DROP TABLE notes")
    await register(ready, "public", (table("notes"),))
    assert "notes" in await describe_all(ready, "public", ("notes",))


async def test_register_leaves_the_caller_s_role_and_settings_alone(ready: asyncpg.Connection) -> None:
    """Inside a caller's transaction the role is the caller's again afterwards."""
    async with ready.transaction():
        await register(ready, "public", (table("notes"),))
        assert await ready.fetchval("SELECT current_user = session_user")
        assert await ready.fetchval("SELECT current_setting('lock_timeout')") == "0"
