"""Claims about tenants of an older shape, after production's column became wider: all that they can hold is theirs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sync.errors import UnknownSchema
from sync.verify.differences import Why
from tests.integration.drifting import silently
from tests.integration.promotion import COMPANY, Sides, counts, sides

WIDER = "ALTER TABLE t ALTER COLUMN n TYPE numeric"
LARGE = "123456789012345678901234567890"


@pytest.fixture
async def one(tmp_path: Path, production: str) -> AsyncIterator[Sides]:
    """Give a tenant with a table of whole numbers, which are decimals in production by now."""
    async with sides(tmp_path, production) as opened:
        await opened.track("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, a TEXT)")
        await opened.local("INSERT INTO t VALUES (?, ?, 'a')", [(1, 5), (2, -(2**63)), (3, None), (4, 2**63 - 1)])
        await opened.push()
        assert (await opened.engine.pull()).exit_code == 0
        await opened.theirs(WIDER)
        yield opened


async def test_whole_numbers_are_equal_and_go_both_ways(one: Sides) -> None:
    """A decimal that is a whole number is that number, with zeros behind the point or without."""
    await one.theirs("UPDATE t SET n = 7.00 WHERE id = 3")
    assert counts(await one.engine.pull()) == {"updated": 1}
    assert await one.rows("SELECT id, n FROM t") == [(1, 5), (2, -(2**63)), (3, 7), (4, 2**63 - 1)]
    await one.assert_equal()
    await one.local("UPDATE t SET n = 8 WHERE id = 1")
    await one.push()
    await one.assert_equal()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("6.5", "no fractions"),
        (str(2**63), "more than 64 bits"),
        (LARGE, "more than 64 bits"),
        ("1e5000", "more than 64 bits"),
        ("'NaN'", "finite"),
        ("'Infinity'", "finite"),
    ],
)
async def test_what_the_older_shape_cannot_hold_is_named(one: Sides, value: str, reason: str) -> None:
    """Verify tells the value and why, in its column; a pull leaves the row alone, and takes it over once it fits."""
    await one.theirs(f"UPDATE t SET n = {value}, a = 'theirs' WHERE id = 3", "UPDATE t SET n = 9 WHERE id = 1")
    found = (await one.verified()).tables["t"]
    assert found.causes == {Why.FOREIGN_EDIT: 3}
    (told,) = [each for each in found.differences if each.key == ("3",) and each.column == "n"]
    assert (told.local, told.production is None, reason in told.detail) == (None, False, True), told
    result = await one.engine.pull()
    assert counts(result) == {"updated": 1}
    (left,) = result.tenants[0].left_alone
    assert (result.exit_code, left[0], reason in left[1]) == (3, "t/3", True)
    assert await one.rows("SELECT n, a FROM t WHERE id IN (1, 3)") == [(9, "a"), (None, "a")]
    await one.theirs("UPDATE t SET n = 6 WHERE id = 3")
    assert counts(await one.engine.pull()) == {"updated": 1}
    await one.assert_equal()


async def test_a_whole_table_is_read_and_no_row_of_it_lost(one: Sides) -> None:
    """A rebase compares every row: those that cannot be held are left alone, not taken for deleted."""
    await one.theirs("UPDATE t SET n = 6.5 WHERE id = 3", f"INSERT INTO t VALUES ('acme', 5, {LARGE}, 'new')")
    result = await one.engine.rebase()
    assert sorted(address for address, _ in result.tenants[0].left_alone) == ["t/3", "t/5"]
    assert await one.rows("SELECT id FROM t") == [(1,), (2,), (3,), (4,)]
    assert (await one.verified()).tables["t"].different == 2


async def test_a_wider_key_is_found_however_it_is_written(one: Sides) -> None:
    """Rows are one by their number; one with a key that the shape cannot have is named, and left alone."""
    await one.theirs("ALTER TABLE t ALTER COLUMN id TYPE numeric")
    await one.theirs("UPDATE t SET a = 'theirs' WHERE id = 1", "UPDATE t SET id = 2.0, a = 'theirs' WHERE id = 2")
    await one.theirs("DELETE FROM t WHERE id = 3.00", "INSERT INTO t (company_id, id) VALUES ('acme', 1.5)")
    result = await one.engine.pull()
    assert [address for address, _ in result.tenants[0].left_alone] == ["t/1.5"]
    assert await one.rows("SELECT id, a FROM t") == [(1, "theirs"), (2, "theirs"), (4, "a")]
    found = (await one.verified()).tables["t"]
    assert [(each.key, each.column, "no fractions" in each.detail) for each in found.differences] == [
        (("1.5",), None, True)
    ]
    assert (await one.engine.pull()).exit_code == 3


async def test_a_repair_leaves_them_alone(one: Sides) -> None:
    """The older shape cannot say what production has, so a repair could not know what it overwrites."""
    await silently(one, "UPDATE t SET n = 6.5 WHERE id = 1", "UPDATE t SET n = 1 WHERE id = 3")
    (found,) = await one.engine.verify([COMPANY], repair=True)
    assert found.repaired is not None
    assert dict(found.repaired.rows) == {"t": 1}
    assert [address for address, _ in found.repaired.left_alone] == ["t/1"]


async def test_rows_out_of_order_are_compared_too(tmp_path: Path, production: str) -> None:
    """Where production orders keys otherwise, its rows are sorted here, those that do not fit among them."""
    async with sides(tmp_path, production) as one:
        await one.track("CREATE TABLE t (id JSON PRIMARY KEY, n INTEGER)")
        await one.local(
            "INSERT INTO t VALUES (?, ?)", [('{"b":1}', 1), ("[2]", 2), ("3", 3), ('"x"', 4), ('{"a":1}', 5)]
        )
        await one.push()
        await one.theirs(WIDER)
        await one.assert_equal()
        await one.theirs("UPDATE t SET n = n + 0.5 WHERE n IN (1, 4)")
        found = (await one.verified()).tables["t"]
        assert {(each.column, each.production) for each in found.differences} == {("n", "1.5"), ("n", "4.5")}


async def test_a_type_that_no_widening_leads_to_is_refused_by_name(one: Sides) -> None:
    """Whatever else became of a column is said in words, instead of being read as what it is not."""
    await one.theirs("ALTER TABLE t ALTER COLUMN n TYPE text", "UPDATE t SET n = 'x' WHERE id = 1")
    with pytest.raises(UnknownSchema, match='column "n" is text, not bigint'):
        await one.engine.verify([COMPANY])
    failure = (await one.engine.pull()).tenants[0].failure
    assert failure is not None
    assert 'column "n" is text, not bigint' in failure.message
