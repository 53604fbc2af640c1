"""Constraints that only production has: one row that it refuses is held with its reason, and all others go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sync.results import TenantResult
from tests.integration.promotion import Sides, counts, sides

TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b TEXT, c TEXT)"

RAISES = """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF coalesce(NEW.b, '') = 'bad' THEN RAISE EXCEPTION 'no bad rows here'; END IF; RETURN NEW; END $$"""
AT_ONCE = "CREATE TRIGGER r BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION refuse()"
AT_THE_END = """CREATE CONSTRAINT TRIGGER r AFTER INSERT OR UPDATE ON t DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION refuse()"""
DROPS = """CREATE FUNCTION ignore() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.b = 'bad' THEN RETURN NULL; END IF; RETURN NEW; END $$;
    CREATE TRIGGER r BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION ignore()"""
SHOUTS = """CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    NEW.b := upper(NEW.b); RETURN NEW; END $$;
    CREATE TRIGGER s BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION shout()"""


@pytest.fixture
async def both(tmp_path: Path, production: str) -> AsyncIterator[Sides]:
    """Return a file and a production that have one table, still empty."""
    async with sides(tmp_path, production) as opened:
        await opened.track(TABLE)
        await opened.engine.init()
        yield opened


async def push_with_bad(both: Sides, *bad: tuple[object, ...], rows: int = 1000) -> TenantResult:
    """Push good rows and, among them, rows that production refuses."""
    good = [(number, number, f"b{number}", f"c{number}") for number in range(rows)]
    half = len(good) // 2
    await both.local("INSERT INTO t VALUES (?, ?, ?, ?)", [*good[:half], *bad, *good[half:]])
    result = await both.push(3)
    assert counts(result) == {"inserted": rows, "quarantined": len(bad)}
    assert await both.production("SELECT count(*) FROM t") == [(rows,)]
    return result


BAD = (5000, 5, "bad", "bad")

REFUSALS = {
    "check": ("ALTER TABLE t ADD CONSTRAINT bar CHECK (b <> 'bad')", "bar"),
    "check that raises": (
        "ALTER TABLE t ADD CONSTRAINT bar CHECK (1 / (CASE b WHEN 'bad' THEN 0 ELSE 1 END) > 0)",
        "division by zero",
    ),
    "partial unique index": ("CREATE UNIQUE INDEX bar ON t (company_id, a) WHERE c IN ('bad', 'c5')", "bar"),
    "unique index on an expression": (
        "CREATE UNIQUE INDEX bar ON t (company_id, (CASE WHEN c = 'bad' THEN 'c5' ELSE c END))",
        "bar",
    ),
    "unique without distinct nulls": (
        """CREATE UNIQUE INDEX bar ON t (company_id, (CASE WHEN b IN ('bad', 'b7') THEN NULL ELSE b END))
           NULLS NOT DISTINCT""",
        "bar",
    ),
    "exclude": ("ALTER TABLE t ADD CONSTRAINT bar EXCLUDE USING btree (company_id WITH =, a WITH =)", "bar"),
    "deferred exclude": (
        """ALTER TABLE t ADD CONSTRAINT bar EXCLUDE USING btree (company_id WITH =, a WITH =)
           DEFERRABLE INITIALLY DEFERRED""",
        "bar",
    ),
    "trigger that raises": (f"{RAISES};{AT_ONCE}", "no bad rows here"),
    "trigger that raises at the end": (f"{RAISES};{AT_THE_END}", "no bad rows here"),
    "trigger that drops the row": (DROPS, "trigger"),
}

MEND = """DO $$ BEGIN
    ALTER TABLE t DROP CONSTRAINT IF EXISTS bar; DROP INDEX IF EXISTS bar; DROP TRIGGER IF EXISTS r ON t; END $$"""


@pytest.mark.parametrize("name", REFUSALS)
async def test_P8_F27_one_bad_row_among_a_thousand_is_held_and_the_rest_goes(both: Sides, name: str) -> None:
    """Whatever production refuses a row for, that row alone is held with its reason; once mended, a retry brings it."""
    made, said = REFUSALS[name]
    await both.theirs(made)
    await push_with_bad(both, BAD)
    ((address, (reason, detail)),) = (await both.held()).items()
    assert (address, reason) in {("t/5000", "constraint"), ("t/5", "constraint"), ("t/7", "constraint")}
    assert said in (detail or "")
    await both.push(3)
    await both.theirs(MEND)
    await both.engine.quarantine.retry(address)
    assert counts(await both.push()) == {"inserted": 1}
    await both.assert_equal()


async def test_P8_F27_many_refused_rows_do_not_end_the_promotion(both: Sides) -> None:
    """A trigger that raises for 100 rows of 1,000, here and there, holds those 100 and lets all others go."""
    await both.theirs(RAISES, AT_ONCE)
    await push_with_bad(both, *[(5000 + number, 0, "bad", None) for number in range(60)], rows=900)
    await both.local("INSERT INTO t VALUES (?, 1, ?, NULL)", [(7000 + n, "bad" if n % 3 else "ok") for n in range(90)])
    assert counts(await both.push(3)) == {"inserted": 30, "quarantined": 60}
    assert set((await both.reasons()).values()) == {"constraint"}
    assert len(await both.held()) == 120


async def test_F27_many_rows_refused_late_do_not_end_the_promotion(both: Sides) -> None:
    """A deferred trigger speaks only at the end; 40 rows that it refuses are found all the same."""
    await both.theirs(RAISES, AT_THE_END)
    await push_with_bad(both, *[(5000 + number, 0, "bad", None) for number in range(40)], rows=400)


async def test_F27_a_refused_row_among_dependents_takes_only_its_own(both: Sides) -> None:
    """Looking for the refused row blames none that only depends on, or makes room for, another row of the batch."""
    await both.track(
        "CREATE TABLE p (id INTEGER PRIMARY KEY, code TEXT UNIQUE)",
        "CREATE TABLE q (id INTEGER PRIMARY KEY, p INTEGER REFERENCES p (id), other INTEGER REFERENCES q (id))",
    )
    await both.local("INSERT INTO p VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    await both.push()
    await both.theirs(RAISES, AT_ONCE)
    await both.local("INSERT INTO t VALUES (1, 1, 'bad', '')")
    await both.local("INSERT INTO t VALUES (2, 1, 'good', '')")
    await both.local("DELETE FROM p WHERE id = 3")
    await both.local("INSERT INTO p VALUES (0, 'c')")
    await both.local("UPDATE p SET code = '-' WHERE id = 1")
    await both.local("UPDATE p SET code = 'a' WHERE id = 2")
    await both.local("UPDATE p SET code = 'b' WHERE id = 1")
    await both.local("INSERT INTO q VALUES (9, 0, NULL), (1, 2, 9)")
    await both.push(3)
    assert await both.reasons() == {"t/1": "constraint"}
    assert await both.production("SELECT id, code FROM p ORDER BY id") == [(0, "c"), (1, "b"), (2, "a")]
    assert await both.production("SELECT count(*) FROM q") == [(2,)]


async def test_P8_an_update_that_production_refuses_is_held_and_others_go(both: Sides) -> None:
    """What was inserted well can be changed badly: CHECK, NOT NULL and triggers hold just that change."""
    await push_nothing_bad(both)
    await both.theirs(
        "ALTER TABLE t ALTER c SET NOT NULL",
        "ALTER TABLE t ADD CONSTRAINT small CHECK (a < 100)",
        RAISES,
        AT_ONCE,
    )
    await both.local("UPDATE t SET c = NULL WHERE id = 1")
    await both.local("UPDATE t SET a = 100 WHERE id = 2")
    await both.local("UPDATE t SET b = 'bad' WHERE id = 3")
    await both.local("UPDATE t SET b = 'fine', a = 99 WHERE id = 4")
    result = await both.push(3)
    assert counts(result) == {"updated": 1, "quarantined": 3}
    assert await both.reasons() == {f"t/{number}": "constraint" for number in (1, 2, 3)}
    await both.engine.quarantine.fix("t/1", "c", "back")
    await both.engine.quarantine.fix("t/2", "a", "50")
    await both.engine.quarantine.discard("t/3")
    await both.push()
    await both.assert_equal()
    assert await both.production("SELECT a, b, c FROM t WHERE id BETWEEN 1 AND 4 ORDER BY id") == [
        (1, "b1", "back"), (50, "b2", "c2"), (3, "b3", "c3"), (99, "fine", "c4"),
    ]  # fmt: skip


async def push_nothing_bad(both: Sides, rows: int = 10) -> None:
    """Push some good rows."""
    await both.local("INSERT INTO t VALUES (?, ?, ?, ?)", [(n, n, f"b{n}", f"c{n}") for n in range(rows)])
    await both.push()


async def test_a_column_that_production_added_without_a_default_refuses_new_rows_one_by_one(both: Sides) -> None:
    """A NOT NULL column that an owner added later holds new rows; updates of old rows go on."""
    await push_nothing_bad(both)
    await both.theirs(
        "ALTER TABLE t ADD extra text", "UPDATE t SET extra = ''", "ALTER TABLE t ALTER extra SET NOT NULL"
    )
    await both.local("INSERT INTO t VALUES (100, 1, '', '')")
    await both.local("UPDATE t SET b = 'new' WHERE id = 1")
    result = await both.push(3)
    assert counts(result) == {"updated": 1, "quarantined": 1}
    ((address, (_, detail)),) = (await both.held()).items()
    assert address == "t/100"
    assert "extra" in (detail or "")
    await both.theirs("ALTER TABLE t ALTER extra SET DEFAULT 'x'")
    await both.engine.quarantine.retry("t/100")
    await both.push()
    await both.assert_equal()


async def test_production_may_compute_columns_of_its_own(both: Sides) -> None:
    """A generated column, an identity and a default of production's own are left to it."""
    await both.theirs(
        "ALTER TABLE t ADD twice bigint GENERATED ALWAYS AS (a * 2) STORED",
        "ALTER TABLE t ADD number bigint GENERATED ALWAYS AS IDENTITY",
        "ALTER TABLE t ADD at timestamptz NOT NULL DEFAULT now()",
    )
    await push_nothing_bad(both)
    await both.local("UPDATE t SET a = 21 WHERE id = 1")
    batch = (await both.push()).batch
    assert await both.production("SELECT twice, number IS NOT NULL, at IS NOT NULL FROM t WHERE id = 1") == [
        (42, True, True)
    ]
    await both.assert_equal()
    assert batch is not None
    await both.engine.rollback(batch)
    assert await both.production("SELECT twice FROM t WHERE id = 1") == [(2,)]


async def test_a_trigger_that_changes_rows_is_a_foreign_writer_of_these_columns(both: Sides) -> None:
    """What a trigger made of a value is production's: later changes of other columns go on, of that one conflict."""
    await both.theirs(SHOUTS)
    await push_nothing_bad(both)
    await both.local("UPDATE t SET c = 'changed' WHERE id = 1")
    assert counts(await both.push()) == {"updated": 1}
    await both.local("UPDATE t SET b = 'again' WHERE id = 1")
    assert counts(await both.push(3)) == {"conflicts": 1}
    await both.engine.conflicts.resolve("t/1", "local")
    await both.push()
    assert await both.production("SELECT b, c FROM t WHERE id = 1") == [("AGAIN", "changed")]


async def test_a_narrower_type_holds_the_values_that_it_does_not_take(both: Sides) -> None:
    """An owner who narrows columns later gets the values that fit; the others are held by themselves."""
    await push_nothing_bad(both)
    await both.theirs("ALTER TABLE t ALTER b TYPE varchar(5)", "ALTER TABLE t ALTER a TYPE integer")
    await both.local("INSERT INTO t VALUES (100, 2147483648, 'x', ''), (101, 1, 'too long', ''), (102, 1, 'fits', '')")
    result = await both.push(3)
    assert counts(result) == {"inserted": 1, "quarantined": 2}
    assert await both.reasons() == {"t/100": "constraint", "t/101": "constraint"}


async def test_a_production_that_lost_a_column_or_a_table_is_refused_whole(both: Sides) -> None:
    """Where no row can go, nothing is held: the refusal names the difference, and nothing is lost."""
    await push_nothing_bad(both)
    await both.theirs("ALTER TABLE t RENAME c TO d")
    await both.local("UPDATE t SET b = 'new', c = 'new' WHERE id = 1")
    refused = await both.push(6)
    assert refused.failure is not None
    assert '"c" is missing' in refused.failure.message
    await both.theirs("ALTER TABLE t RENAME d TO c")
    await both.push()
    await both.assert_equal()
    await both.local("UPDATE t SET c = 'newer' WHERE id = 1")
    await both.engine.push()
    await both.theirs("ALTER TABLE t RENAME TO gone")
    assert (await both.engine.promote()).exit_code == 6
    await both.theirs("ALTER TABLE gone RENAME TO t")
    await both.push()
    await both.assert_equal()


PRESENT = {
    "varchar": ("b varchar(5)", "character varying(5)"),
    "integer": ("a integer", "integer"),
    "missing": ("x text", "missing"),
    "demanding": ("b text, d text NOT NULL", "unknown here"),
}


@pytest.mark.parametrize("name", PRESENT)
async def test_a_production_table_of_another_shape_is_refused_by_name(
    tmp_path: Path, production: str, name: str
) -> None:
    """A table that was there before sync and cannot take the rows is refused with each difference, changing nothing."""
    columns, said = PRESENT[name]
    async with sides(tmp_path, production) as both:
        await both.theirs(f"CREATE TABLE t (company_id text, id bigint, {columns}, PRIMARY KEY (company_id, id))")
        await both.track("CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b TEXT)")
        await both.local("INSERT INTO t VALUES (1, 1, 'b')")
        refused = await both.push(6)
        assert refused.failure is not None
        assert said in refused.failure.message
        assert await both.production("SELECT count(*) FROM t") == [(0,)]
