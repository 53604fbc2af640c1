"""What a promotion learns of production's tables before it writes."""

from __future__ import annotations

import asyncpg
import pytest

from sync.errors import UnknownSchema
from sync.production import Check, ForeignKeyLink, Trigger, Unique, describe, describe_all

SCRIPT = """
CREATE SCHEMA shop;
SET search_path = shop;
CREATE SEQUENCE "odd seq";
CREATE TABLE "par""ent" (a int, b text, PRIMARY KEY (a, b));
CREATE TABLE item (
    company_id text NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    serial serial,
    odd bigint DEFAULT nextval('"odd seq"'),
    code varchar(8) NOT NULL,
    price numeric(10, 2) NOT NULL DEFAULT 0,
    doubled numeric GENERATED ALWAYS AS (price * 2) STORED,
    during int4range,
    gone text,
    other_a int,
    other_b text,
    PRIMARY KEY (company_id, id),
    CONSTRAINT late UNIQUE (company_id, code) DEFERRABLE,
    CONSTRAINT cheap CHECK (price < 1000 AND code <> ''),
    CONSTRAINT apart EXCLUDE USING gist (during WITH &&),
    CONSTRAINT upward FOREIGN KEY (other_b, other_a) REFERENCES "par""ent" (b, a) MATCH FULL ON DELETE SET NULL
);
ALTER TABLE item DROP COLUMN gone;
ALTER TABLE item ADD CONSTRAINT rough CHECK (price >= 0) NOT VALID;
CREATE UNIQUE INDEX partly ON item (code) WHERE price > 5;
CREATE UNIQUE INDEX folded ON item (company_id, lower(code)) INCLUDE (price);
CREATE UNIQUE INDEX nulls ON item (other_a) NULLS NOT DISTINCT;
CREATE INDEX plain ON item (price);
CREATE TABLE child (company_id text, item bigint,
    CONSTRAINT downward FOREIGN KEY (company_id, item) REFERENCES item ON DELETE CASCADE DEFERRABLE);
CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END';
CREATE TRIGGER watch BEFORE INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION guard();
CREATE TRIGGER asleep AFTER DELETE ON item EXECUTE FUNCTION guard();
ALTER TABLE item DISABLE TRIGGER asleep;
RESET search_path;
"""


@pytest.fixture
async def shop(superuser: asyncpg.Connection) -> asyncpg.Connection:
    """Give a database with a table of every feature that a promotion must know."""
    await superuser.execute(SCRIPT)
    return superuser


async def test_columns_with_types_defaults_sequences_and_generation(shop: asyncpg.Connection) -> None:
    """Columns are described in order, dropped ones left out, each with what fills it."""
    item = await describe(shop, "shop", "item")
    assert list(item.columns) == [
        "company_id", "id", "serial", "odd", "code", "price", "doubled", "during", "other_a", "other_b",
    ]  # fmt: skip
    assert (item.columns["code"].type, item.columns["price"].type) == ("character varying(8)", "numeric(10,2)")
    assert [column.name for column in item.columns.values() if column.generated] == ["doubled"]
    assert {column.name: column.sequence for column in item.columns.values() if column.sequence} == {
        "id": '"shop"."item_id_seq"',
        "serial": '"shop"."item_serial_seq"',
        "odd": '"shop"."odd seq"',
    }
    assert item.columns["id"].identity == "a"
    assert item.columns["price"].default == "0"
    assert item.required == ("company_id", "code")


async def test_checks_can_be_put_into_a_query(shop: asyncpg.Connection) -> None:
    """Expressions are over the table's own column names, also those that old rows were not held to."""
    item = await describe(shop, "shop", "item")
    cheap, rough = item.checks
    assert rough == Check("rough", "(price >= (0)::numeric)", validated=False, columns=("price",))
    assert (cheap.name, cheap.validated, set(cheap.columns)) == ("cheap", True, {"price", "code"})
    query = f"SELECT {cheap.expression} FROM (VALUES (5::numeric, 'x'::varchar), (1000, 'y'), (5, '')) t (price, code)"
    assert [row[0] for row in await shop.fetch(query)] == [True, False, False]


async def test_unique_keys_say_what_a_plain_anti_join_would_miss(shop: asyncpg.Connection) -> None:
    """Partial, expression, deferrable and NULLS NOT DISTINCT keys are told from plain ones; plain indexes are none."""
    item = await describe(shop, "shop", "item")
    by_name = {unique.name: unique for unique in item.uniques}
    assert set(by_name) == {"item_pkey", "late", "partly", "folded", "nulls"}
    plain = Unique("item_pkey", ("company_id", "id"), True, False, None, False, True)
    assert item.primary_key == by_name["item_pkey"] == plain
    assert by_name["late"].deferrable
    assert by_name["late"].plain
    assert by_name["partly"].predicate == "(price > (5)::numeric)"
    assert (by_name["folded"].expressions, by_name["folded"].columns) == (True, ("company_id",))
    assert not by_name["nulls"].nulls_distinct
    assert [name for name, unique in by_name.items() if not unique.plain] == ["folded", "partly"]


async def test_foreign_keys_are_known_in_both_directions(shop: asyncpg.Connection) -> None:
    """Links out of a table and into it carry quoted relations and columns in pairs."""
    tables = await describe_all(shop, "shop", ("item", 'par"ent', "child"))
    item = '"shop"."item"'
    out = ForeignKeyLink(
        name="upward",
        child=item,
        child_columns=("other_b", "other_a"),
        parent='"shop"."par""ent"',
        parent_columns=("b", "a"),
        on_delete="SET NULL",
        match_full=True,
        deferrable=False,
        validated=True,
    )
    assert tables["item"].foreign_keys == tables['par"ent'].referenced_by == (out,)
    (into,) = tables["item"].referenced_by
    assert tables["child"].foreign_keys == (into,)
    assert (into.child, into.parent, into.on_delete, into.deferrable) == ('"shop"."child"', item, "CASCADE", True)
    assert (into.child_columns, into.parent_columns) == (("company_id", "item"), ("company_id", "id"))
    assert tables["item"].relation == item


async def test_what_no_set_query_can_foresee_is_named(shop: asyncpg.Connection) -> None:
    """Exclusion constraints and others' triggers that fire are listed, those that are disabled are not."""
    item = await describe(shop, "shop", "item")
    assert item.exclusions == ("apart",)
    (watch,) = item.triggers
    assert watch == Trigger("watch", "shop.guard()", True, True, False, ("insert", "update"))


async def test_a_missing_table_is_an_unknown_schema(shop: asyncpg.Connection) -> None:
    """Describing what is not there is refused with the command that makes it."""
    assert await describe_all(shop, "shop", ("nothing",)) == {}
    with pytest.raises(UnknownSchema, match="no table 'nothing'") as caught:
        await describe(shop, "shop", "nothing")
    assert "localstore sync schema apply" in caught.value.hint


async def test_checks_that_are_not_enforced_are_left_out(shop: asyncpg.Connection) -> None:
    """Since PostgreSQL 18 a constraint can be there for the planner alone."""
    supported = await shop.fetchval("SELECT current_setting('server_version_num')::integer >= 180000")
    suffix = "NOT ENFORCED" if supported else "NOT VALID"
    await shop.execute(f"ALTER TABLE shop.child ADD CONSTRAINT loose CHECK (item > 0) {suffix}")
    assert [check.name for check in (await describe(shop, "shop", "child")).checks] == ([] if supported else ["loose"])
