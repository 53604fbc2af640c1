"""Repair of every kind of column and key: what production has is read whole, and what one side cannot hold is named."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from localstore.schema.tables import Policy
from sync.verify.differences import Why
from tests.integration.drifting import causes, promoted, repaired, silently, six_rows, unmarked
from tests.integration.promotion import Sides


@pytest.fixture
async def one(tmp_path: Path, production: str) -> AsyncIterator[Sides]:
    """Return a tenant and its production, which hold the same six rows."""
    async with six_rows(tmp_path, production) as opened:
        yield opened


ODD_KEYS: dict[str, tuple[str, list[tuple[object, ...]]]] = {
    "composite": (
        "CREATE TABLE k (company_id TEXT, x TEXT, y INTEGER, v TEXT, PRIMARY KEY (company_id, x, y))",
        [("acme", "a/b'{,}\"", -1, "v"), ("acme", "", 0, "v"), ("acme", "é\n\\", 2**62, "v"), ("acme", "NULL", 3, "v")],
    ),
    "uuid in two spellings": (
        "CREATE TABLE k (id UUID PRIMARY KEY, v TEXT)",
        [("9F3B2C1D000040008000000000000001", "v"), ("9f3b2c1d-0000-4000-8000-000000000002", "v")],
    ),
    "decimal": ("CREATE TABLE k (id DECIMAL(20, 6) PRIMARY KEY, v TEXT)", [("1.50", "v"), (-3, "v"), (0.25, "v")]),
    "blob": ("CREATE TABLE k (id BLOB PRIMARY KEY, v TEXT)", [(b"\x00\xff", "v"), (b"", "v")]),
    "moment": (
        "CREATE TABLE k (id DATETIME PRIMARY KEY, v TEXT)",
        [("2024-02-29 23:59:59.5", "v"), ("2024-03-01", "v")],
    ),
    "document": ("CREATE TABLE k (id JSON PRIMARY KEY, v TEXT)", [('{"b":1, "a":[1.50]}', "v"), ("[]", "v")]),
}


@pytest.mark.parametrize("kind", ODD_KEYS)
async def test_rows_are_found_by_any_key(one: Sides, kind: str) -> None:
    """Rows with composite and odd keys are repaired whatever way they drifted."""
    statement, rows = ODD_KEYS[kind]
    await one.track(statement)
    holes = ", ".join("?" for _ in rows[0])
    await one.local(f"INSERT INTO k VALUES ({holes})", rows)
    await one.push()
    local = await one.rows("SELECT * FROM k ORDER BY rowid")
    await silently(one, "UPDATE k SET v = 'lost'")
    _, done = await repaired(one)
    assert (dict(done.rows), done.left_alone) == ({"k": len(rows)}, ())
    await promoted(one, done.batch)
    await one.assert_equal()
    await silently(one, "DELETE FROM k")
    _, done = await repaired(one)
    assert dict(done.rows) == {"k": len(rows)}
    await promoted(one, done.batch)
    await one.assert_equal()
    await unmarked(one, "DELETE FROM k")
    _, done = await repaired(one)
    assert dict(done.rows) == {"k": len(rows)}
    await promoted(one, done.batch)
    await one.assert_equal()
    assert await one.production("SELECT count(*) FROM k") == [(0,)]
    assert len(local) == len(rows)


KINDS = (
    "CREATE TABLE v (id INTEGER PRIMARY KEY, doc JSON, data BLOB, num DECIMAL(30, 10), at DATETIME, day DATE, "
    "t TIME, r REAL, yes BOOLEAN, big TEXT)"
)
THEIRS = """UPDATE v SET doc = '{"z": [1.10, null, "\\u00e9"], "a": 12345678901234567890.5}', data = '\\x00ff10',
    num = 12345678901234567890.0123456789, at = '2024-02-29 23:59:59.123456+02', day = '0001-01-01',
    t = '23:59:59.999999', r = 0.1, yes = false, big = repeat('long', 50000) || 'é'"""


async def test_production_s_value_is_the_base_to_the_last_digit(one: Sides) -> None:
    """Values of every kind, however long, are read whole from production, so that their change is no conflict."""
    await one.track(KINDS)
    await one.local(
        "INSERT INTO v VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (1, '{"b": 1}', b"\x01", "1.5", "2024-01-01T00:00:00Z", "2024-01-01", "01:02:03", 2.5, 1, "x" * 100_000),
            (2, None, None, None, None, None, None, None, None, None),
        ],
    )
    await one.push()
    await silently(one, THEIRS)
    found, done = await repaired(one)
    assert causes(found, "v") == {Why.DRIFT: 18}
    assert dict(done.rows) == {"v": 2}
    await promoted(one, done.batch)
    await one.assert_equal()
    await unmarked(one, "DELETE FROM v")
    await silently(one, THEIRS)
    _, done = await repaired(one)
    await promoted(one, done.batch)
    assert await one.production("SELECT count(*) FROM v") == [(0,)]
    await one.assert_equal()


@pytest.mark.parametrize("policy", list(Policy))
async def test_every_policy_lets_a_repair_through(one: Sides, policy: Policy) -> None:
    """Only the file changes what a repair sends, so no policy has to choose: larger and smaller values go through."""
    await one.track("CREATE TABLE v (id INTEGER PRIMARY KEY, n INTEGER)", policies={"n": policy})
    await one.local("INSERT INTO v VALUES (?, 5)", [(1,), (2,), (3,)])
    await one.push()
    await silently(
        one, "UPDATE v SET n = 9 WHERE id = 1", "UPDATE v SET n = 1 WHERE id = 2", "UPDATE v SET n = NULL WHERE id = 3"
    )
    _, done = await repaired(one)
    await promoted(one, done.batch)
    assert await one.production("SELECT n FROM v") == [(5,), (5,), (5,)]
    await one.assert_equal()


async def test_what_the_file_cannot_hold_is_left_alone_by_name(one: Sides) -> None:
    """A value of production that no file can hold cannot be a base: the row is named, the others are repaired."""
    await one.track("CREATE TABLE v (id DECIMAL(20, 6) PRIMARY KEY, r REAL)")
    await one.local("INSERT INTO v VALUES (?, 1.5)", [(1,), (2,)])
    await one.push()
    await silently(
        one,
        "UPDATE v SET r = 'NaN' WHERE id = 1",
        "UPDATE v SET r = 2 WHERE id = 2",
        "INSERT INTO v (company_id, id) VALUES ('acme', 'NaN')",
    )
    found, done = await repaired(one)
    assert dict(done.rows) == {"v": 1}
    left = dict(done.left_alone)
    assert set(left) == {"v/1", "v/NaN"}
    assert "cannot hold" in left["v/1"]
    assert "r: " in left["v/1"]
    assert not found.explained
    await promoted(one, done.batch)
    assert await one.production("SELECT r FROM v WHERE id = 2") == [(1.5,)]


async def test_a_value_that_production_cannot_hold_becomes_held(one: Sides) -> None:
    """A bad value whose marks were lost is sent, and so named among the held rows; its row's good columns travel."""
    await unmarked(one, "UPDATE t SET a = 'x' || char(0) WHERE id = 1", "UPDATE t SET b = 'good' WHERE id = 2")
    found, done = await repaired(one)
    assert found.explained
    await one.engine.promote(done.batch)
    assert await one.reasons() == {"t/1": "value"}
    assert await one.production("SELECT b FROM t WHERE id = 2") == [("good",)]


async def test_a_key_that_production_cannot_hold_is_left_alone_by_name(one: Sides) -> None:
    """A row whose very key is bad, and whose mark was lost, is named."""
    await one.track("CREATE TABLE k (id TEXT PRIMARY KEY, v TEXT)")
    await one.local("INSERT INTO k VALUES ('good', 'v')")
    await one.push()
    await unmarked(one, "INSERT INTO k VALUES (CAST(x'ff61' AS TEXT), 'v')")
    found, done = await repaired(one)
    assert dict(done.rows) == {}
    assert len(done.left_alone) == 1
    assert "key" in done.left_alone[0][1]
    assert not found.explained
