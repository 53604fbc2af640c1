"""Promotion of tables of every shape: references in circles, swapped values, odd keys and names, many rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sync import SyncEngine
from sync.config import SyncSettings
from tests.integration.promotion import COMPANY, Sides, counts, sides


@pytest.fixture
async def both(tmp_path: Path, production: str) -> AsyncIterator[Sides]:
    """Return an empty file and an empty production."""
    async with sides(tmp_path, production) as opened:
        yield opened


async def test_C6_a_row_that_came_and_went_leaves_nothing_to_send(both: Sides) -> None:
    """An insert and a delete between two seals are nothing at all, also for an application's row of that key."""
    await both.track("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
    await both.local("INSERT INTO t VALUES (1, 'x')")
    await both.push()
    await both.local("INSERT INTO t VALUES (2, 'y')")
    await both.local("DELETE FROM t WHERE id = 2")
    assert (await both.push()).state == "unchanged"
    await both.theirs("INSERT INTO t VALUES ('acme', 2, 'y')")
    assert (await both.push()).state == "unchanged"
    await both.local("UPDATE t SET a = 'z'")
    assert counts(await both.push()) == {"updated": 1}
    assert await both.production("SELECT id, a FROM t ORDER BY id") == [(1, "z"), (2, "y")]


async def test_P1_a_key_that_is_written_many_times_is_one_change(both: Sides) -> None:
    """Insert, update, delete, insert, REPLACE of one key between two seals arrive as one row."""
    await both.track("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT)")
    await both.local("INSERT INTO t VALUES (1, 'x', 'x'), (2, 'x', 'x'), (3, 'x', 'x')")
    await both.push()
    for statement in (
        "DELETE FROM t WHERE id = 1", "INSERT INTO t VALUES (1, 'y', NULL)", "UPDATE t SET a = 'z' WHERE id = 1",
        "INSERT INTO t VALUES (4, 'x', 'x')", "DELETE FROM t WHERE id = 4", "INSERT INTO t VALUES (4, 'w', 'w')",
        "INSERT OR REPLACE INTO t VALUES (2, 'r', 'r')", "DELETE FROM t WHERE id = 2",
        "DELETE FROM t WHERE id = 3", "INSERT INTO t VALUES (3, 'x', 'x')",
    ):  # fmt: skip
        await both.local(statement)
    assert counts(await both.push()) == {"inserted": 1, "updated": 1, "deleted": 1}
    assert await both.production("SELECT id, a, b FROM t ORDER BY id") == [(1, "z", None), (3, "x", "x"), (4, "w", "w")]
    await both.assert_equal()


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("UUID", "'12345678-9abc-def0-1234-56789abcdef0'", "'{12345678-9ABC-DEF0-1234-56789ABCDEF0}'"),
        ("DATETIME", "'2024-01-01T00:00:00Z'", "'2024-01-01 01:00:00+01:00'"),
    ],
)
async def test_P1_V43_two_spellings_of_one_key_are_never_two_changes(
    both: Sides, kind: str, one: str, other: str
) -> None:
    """A key respelt is the same row in production; two rows with one such key are both held."""
    await both.track(f"CREATE TABLE t (k {kind} NOT NULL PRIMARY KEY, v TEXT)")
    await both.local(f"INSERT INTO t VALUES ({one}, 'first')")
    await both.push()
    await both.local(f"UPDATE t SET k = {other}")
    await both.push()
    assert await both.production("SELECT v FROM t") == [("first",)]
    await both.assert_equal()
    await both.local(f"UPDATE t SET k = {one}, v = 'second'")
    assert counts(await both.push()) == {"updated": 1, "unchanged": 1}
    assert await both.production("SELECT v FROM t") == [("second",)]
    await both.local("DELETE FROM t")
    await both.push()
    await both.local(f"INSERT INTO t VALUES ({one}, 'one'), ({other}, 'other')")
    assert counts(await both.push(3)) == {"quarantined": 2}
    assert await both.production("SELECT count(*) FROM t") == [(0,)]
    assert set((await both.reasons()).values()) == {"value"}


async def test_P2_unique_values_change_places(both: Sides) -> None:
    """Swaps, rings and chains of unique values arrive in one promotion, and so does a value freed by a delete."""
    await both.track("CREATE TABLE t (id INTEGER PRIMARY KEY, u TEXT UNIQUE, v INTEGER, w INTEGER, UNIQUE (v, w))")
    await both.local("INSERT INTO t VALUES (?, ?, ?, 0)", [(n, f"u{n}", n) for n in range(8)])
    await both.push()
    await both.local("DELETE FROM t WHERE id = 7")
    await both.local("UPDATE t SET u = '-', v = -1 WHERE id = 0")
    for to in range(1, 5):
        await both.local(f"UPDATE t SET u = 'u{to - 1}', v = {to - 1} WHERE id = {to}")
    await both.local("UPDATE t SET u = 'u4', v = 4 WHERE id = 0")
    await both.local("INSERT INTO t VALUES (100, 'u7', 7, 0)")
    assert counts(await both.push()) == {"inserted": 1, "updated": 5, "deleted": 1}
    await both.assert_equal()


async def test_P2_a_value_that_an_application_took_holds_the_row_and_those_behind_it(both: Sides) -> None:
    """In a chain of unique values the row whose value is taken is held, and with it the one that wanted its place."""
    await both.track("CREATE TABLE t (id INTEGER PRIMARY KEY, u TEXT UNIQUE)")
    await both.local("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    await both.push()
    await both.theirs("INSERT INTO t VALUES ('acme', 9, 'taken')")
    await both.local("UPDATE t SET u = 'taken' WHERE id = 1")
    await both.local("UPDATE t SET u = 'a' WHERE id = 2")
    await both.local("UPDATE t SET u = 'free' WHERE id = 3")
    assert counts(await both.push(3)) == {"updated": 1, "quarantined": 2}
    await both.local("UPDATE t SET u = 'other' WHERE id = 1")
    await both.engine.quarantine.retry("t/2")
    await both.push()
    assert await both.production("SELECT u FROM t ORDER BY id") == [("other",), ("a",), ("free",), ("taken",)]


@pytest.mark.parametrize("action", ["", "ON DELETE CASCADE", "ON DELETE SET NULL"])
async def test_P4_references_in_circles_come_change_and_go(both: Sides, action: str) -> None:
    """Rows that refer to themselves, to each other in one table and across two are inserted, turned and deleted."""
    await both.track(
        f"CREATE TABLE a (id INTEGER PRIMARY KEY, b INTEGER REFERENCES b (id) {action}, v TEXT)",
        f"CREATE TABLE b (id INTEGER PRIMARY KEY, a INTEGER REFERENCES a (id) {action}, v TEXT)",
        f"CREATE TABLE s (id INTEGER PRIMARY KEY, up INTEGER REFERENCES s (id) {action}, v TEXT)",
    )
    await both.unchecked(
        "INSERT INTO a VALUES (1, 1, ''), (2, 2, ''), (3, NULL, '')",
        "INSERT INTO b VALUES (1, 2, ''), (2, 1, ''), (3, 3, '')",
        "INSERT INTO s VALUES (1, 1, ''), (2, 3, ''), (3, 2, ''), (4, 5, ''), (5, NULL, ''), (6, 4, '')",
    )
    await both.push()
    await both.assert_equal()
    await both.unchecked(
        "UPDATE a SET b = 3 WHERE id = 1", "UPDATE b SET a = 3 WHERE id = 2", "UPDATE s SET up = 6 WHERE id = 5"
    )
    await both.push()
    await both.assert_equal()
    await both.unchecked("DELETE FROM a", "DELETE FROM b", "DELETE FROM s")
    batch = (await both.push()).batch
    assert await both.production("SELECT (SELECT count(*) FROM a) + (SELECT count(*) FROM b)") == [(0,)]
    assert await both.production("SELECT count(*) FROM s") == [(0,)]
    await both.assert_equal()
    assert batch is not None
    await both.engine.rollback(batch)
    assert await both.production("SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b)") == [(3, 3)]
    assert await both.production("SELECT id, up FROM s ORDER BY id") == [(1, 1), (2, 3), (3, 2), (4, 5), (5, 6), (6, 4)]


async def test_P4_a_bad_row_in_a_circle_holds_the_circle_and_no_other(both: Sides) -> None:
    """Rows that need each other wait for each other's mended value, and all go at once."""
    await both.track(
        "CREATE TABLE a (id INTEGER PRIMARY KEY, b INTEGER REFERENCES b (id), v TEXT)",
        "CREATE TABLE b (id INTEGER PRIMARY KEY, a INTEGER REFERENCES a (id), v TEXT)",
    )
    await both.unchecked(
        "INSERT INTO a VALUES (1, 1, 'bad' || char(0)), (2, 2, '')", "INSERT INTO b VALUES (1, 1, ''), (2, 2, '')"
    )
    await both.push(3)
    assert await both.reasons() == {"a/1": "value", "b/1": "waits"}
    await both.local("UPDATE a SET v = 'good'")
    await both.push()
    await both.assert_equal()


async def test_P3_C5_a_key_that_changes_takes_its_children_along(both: Sides) -> None:
    """A parent's new key is a new row and a delete; children move in between, and production's cascade takes none."""
    await both.track(
        "CREATE TABLE p (k TEXT PRIMARY KEY, v TEXT)",
        "CREATE TABLE c (id INTEGER PRIMARY KEY, p TEXT REFERENCES p (k) ON UPDATE CASCADE ON DELETE CASCADE, v TEXT)",
    )
    await both.local("INSERT INTO p VALUES ('a', '1'), ('b', '2')")
    await both.local("INSERT INTO c VALUES (1, 'a', 'x'), (2, 'b', 'x')")
    await both.push()
    await both.local("UPDATE p SET k = 'z' WHERE k = 'a'")
    result = await both.push()
    assert counts(result, "p") == {"inserted": 1, "deleted": 1}
    assert counts(result, "c") == {"updated": 1}
    await both.local("UPDATE p SET k = 'c' WHERE k = 'b'")
    await both.local("UPDATE p SET k = 'b' WHERE k = 'z'")
    await both.push()
    await both.assert_equal()


async def test_C1_C2_replace_takes_away_what_it_took_away_here(both: Sides) -> None:
    """REPLACE by key and by another unique value, with triggers recursive or not, leaves both sides equal."""
    await both.track("CREATE TABLE t (id INTEGER PRIMARY KEY, u TEXT UNIQUE, v TEXT)")
    await both.local("INSERT INTO t VALUES (1, 'a', 'x'), (2, 'b', 'x'), (3, 'c', 'x'), (4, 'd', 'x')")
    await both.push()
    await both.unchecked(
        "INSERT OR REPLACE INTO t VALUES (1, 'a', 'new')",
        "INSERT OR REPLACE INTO t VALUES (9, 'b', 'new')",
        "UPDATE OR REPLACE t SET u = 'c' WHERE id = 4",
    )
    await both.push()
    assert await both.production("SELECT id, u, v FROM t ORDER BY id") == [
        (1, "a", "new"), (4, "c", "x"), (9, "b", "new"),
    ]  # fmt: skip
    await both.assert_equal()


KEYS = {
    "INTEGER": ("-9223372036854775808", "0", "9223372036854775807"),
    "TEXT": ("''", "'a/b'", "'é'", "'e' || char(769)", "'A'", "'a'", "'😀'", "'NULL'", "'\\N'", "'it''s \"'"),
    "UUID": ("'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-4fff-bfff-ffffffffffff'"),
    "DATETIME": ("'0001-01-01T00:00:00Z'", "'2024-02-29T23:59:59.999999+00:00'", "'9999-12-31 23:59:59'"),
    "DATE": ("'0001-01-01'", "'2024-02-29'"),
    "BLOB": ("x''", "x'00'", "x'00ff'", "x'5c4e'"),
    "NUMERIC": ("1", "1.5", "-0.001", "1e30"),
    "REAL": ("1.5", "1e300", "-0.1"),
    "BOOLEAN": ("0", "1"),
}


@pytest.mark.parametrize("kind", KEYS)
async def test_N12_rows_are_known_by_keys_of_every_kind(both: Sides, kind: str) -> None:
    """Insert, hold, mend, update, roll back, requeue and delete work by keys of every kind."""
    await both.track(f"CREATE TABLE t (k {kind} NOT NULL, n INTEGER NOT NULL, v TEXT, PRIMARY KEY (k, n))")
    for key in KEYS[kind]:
        await both.local(f"INSERT INTO t VALUES ({key}, 1, 'x'), ({key}, 2, 'bad' || char(0))")
    count = len(KEYS[kind])
    assert counts(await both.push(3)) == {"inserted": count, "quarantined": count}
    for address in list(await both.held()):
        await both.engine.quarantine.fix(address, "v", "mended")
    assert counts(await both.push()) == {"inserted": count}
    await both.assert_equal()
    await both.local("UPDATE t SET v = v || '!'")
    batch = (await both.push()).batch
    assert batch is not None
    taken = await both.engine.rollback(batch)
    assert taken.tenants[0].left_alone == ()
    await both.local("UPDATE t SET v = v || '?' WHERE n = 1")
    await both.push(3)
    await both.engine.requeue(batch)
    await both.push()
    await both.assert_equal()
    await both.local("DELETE FROM t WHERE n = 1")
    assert counts(await both.push()) == {"deleted": count}
    await both.assert_equal()


async def test_V_a_row_of_another_company_or_without_a_key_touches_no_other_row(both: Sides) -> None:
    """What is held of a row that has no place in production is never taken for the row whose place it seems to have."""
    await both.track("CREATE TABLE t (company_id TEXT, k TEXT, v TEXT, PRIMARY KEY (company_id, k))")
    await both.local("INSERT INTO t VALUES ('other', '1', 'x'), ('acme', 'NULL', 'a word'), ('acme', NULL, 'none')")
    await both.push(3)
    held = await both.held()
    assert len(held) == 2
    assert set((await both.reasons()).values()) == {"value"}
    await both.local("INSERT INTO t VALUES ('acme', '1', 'ours')")
    await both.local("UPDATE t SET v = 'still a word' WHERE k = 'NULL'")
    await both.push(3)
    assert await both.production("SELECT company_id, k, v FROM t ORDER BY k") == [
        ("acme", "1", "ours"), ("acme", "NULL", "still a word"),
    ]  # fmt: skip
    assert await both.held() == held
    await both.local("DELETE FROM t WHERE company_id = 'other' OR k IS NULL")
    await both.push()
    await both.assert_equal()


async def test_N3_N6_names_are_only_names(both: Sides) -> None:
    """Tables and columns with quotes, spaces, reserved words, dollars, percent signs and 63 bytes and more travel."""
    long = "é" * 31 + "x"
    table = 'the "table" of $1; --'
    columns = ["order", 'a "b"', "x y", "$1", "%s", "{0}", "'it'", "user", long, long + "and more", "É", "n0", "batch"]
    listed = ", ".join('"' + name.replace('"', '""') + '" TEXT' for name in columns)
    quoted = '"' + table.replace('"', '""') + '"'
    await both.track(
        f'CREATE TABLE {quoted} ("select" TEXT PRIMARY KEY, {listed}, UNIQUE ("order", "x y"))',
        f'CREATE TABLE "group" (id INTEGER PRIMARY KEY, "from" TEXT REFERENCES {quoted} ("select"))',
    )
    holes = ", ".join("?" for _ in columns)
    await both.local(
        f"INSERT INTO {quoted} VALUES (?, {holes})", [(str(n), *(f"{n}{c}" for c in columns)) for n in range(3)]
    )
    await both.local("INSERT INTO \"group\" VALUES (1, '1'), (2, '2')")
    await both.local(f"UPDATE {quoted} SET \"user\" = 'bad' || char(0) WHERE \"select\" = '2'")
    await both.push(3)
    assert await both.reasons() == {f"{table}/2": "value", "group/2": "waits"}
    await both.local(f'UPDATE {quoted} SET "user" = "%s", "{long}" = NULL, "$1" = NULL')
    await both.push()
    await both.assert_equal()
    await both.local('DELETE FROM "group"')
    await both.local(f"DELETE FROM {quoted} WHERE \"select\" = '0'")
    batch = (await both.push()).batch
    await both.assert_equal()
    assert batch is not None
    assert (await both.engine.rollback(batch)).tenants[0].left_alone == ()
    assert await both.production('SELECT count(*) FROM "group"') == [(2,)]


async def test_N5_a_hundred_columns_each_change_by_themselves(both: Sides) -> None:
    """Each row of a wide table changes another column, production changes the next: all merge."""
    names = [f"c{number}" for number in range(100)]
    await both.track(f"CREATE TABLE t (id INTEGER PRIMARY KEY, {', '.join(f'{name} TEXT' for name in names)})")
    holes = ", ".join("?" for _ in names)
    await both.local(f"INSERT INTO t VALUES (?, {holes})", [(n, *("x" for _ in names)) for n in range(100)])
    await both.push()
    for number, name in enumerate(names):
        await both.local(f"UPDATE t SET {name} = 'ours' WHERE id = {number}")
        await both.theirs(f"UPDATE t SET {name} = 'theirs' WHERE id = {(number + 1) % 100}")
    assert counts(await both.push()) == {"updated": 100}
    assert await both.production("SELECT id, c4, c5, c6 FROM t WHERE id BETWEEN 4 AND 6 ORDER BY id") == [
        (4, "ours", "x", "x"), (5, "theirs", "ours", "x"), (6, "x", "theirs", "ours"),
    ]  # fmt: skip


async def test_P9_a_change_is_never_written_over_an_application_that_wrote_the_same_row_back(both: Sides) -> None:
    """A table without company_id and with json, real and boolean columns compares as production compares."""
    await both.track("CREATE TABLE t (id INTEGER PRIMARY KEY, j JSON, r REAL, b BOOLEAN, n NUMERIC)")
    await both.local("""INSERT INTO t VALUES (1, '{"a": 1, "b": [1.0]}', 0.1, 1, '1.10')""")
    await both.push()
    await both.theirs("""UPDATE t SET j = '{"b": [1.00], "a": 1}', n = 1.1000""")
    await both.local("UPDATE t SET j = '[]', n = '2'")
    await both.push()
    await both.assert_equal()
    assert await both.production("SELECT j::text, n FROM t WHERE j = '[]' AND n = 2") != []


async def test_C16_a_gap_in_capture_is_closed_by_a_snapshot(both: Sides, production: str) -> None:
    """A table rebuilt without triggers is sent whole: quiet rows follow the file, others' edits become conflicts."""
    await both.track("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", "CREATE TABLE o (id INTEGER PRIMARY KEY)")
    await both.local("INSERT INTO t VALUES (?, 'x')", [(n,) for n in range(6)])
    await both.push()
    await both.theirs("UPDATE t SET v = 'theirs' WHERE id IN (1, 2)", "INSERT INTO t VALUES ('acme', 50, 'theirs')")
    await both.unchecked(
        "BEGIN",
        "CREATE TABLE fresh (id INTEGER PRIMARY KEY, v TEXT)",
        "INSERT INTO fresh SELECT * FROM t",
        "DROP TABLE t",
        "ALTER TABLE fresh RENAME TO t",
        "UPDATE t SET v = 'ours' WHERE id IN (0, 1)",
        "DELETE FROM t WHERE id = 5",
        "INSERT INTO t VALUES (7, 'new')",
        "COMMIT",
    )
    async with SyncEngine(both.store, to=production, settings=SyncSettings(allow_deletes=1)) as engine:
        result = await engine.push([COMPANY], promote=True)
    assert result.exit_code == 3, result.to_json()
    assert counts(result)["conflicts"] == 2
    assert await both.reasons() == {"t/1": "conflict", "t/2": "conflict"}
    assert await both.production("SELECT id, v FROM t ORDER BY id") == [
        (0, "ours"), (1, "theirs"), (2, "theirs"), (3, "x"), (4, "x"), (7, "new"), (50, "theirs"),
    ]  # fmt: skip
    await both.engine.conflicts.resolve("t/1", "local")
    await both.engine.conflicts.resolve("t/2", "production")
    await both.push()
    assert await both.production("SELECT v FROM t WHERE id IN (1, 2) ORDER BY id") == [("ours",), ("theirs",)]


async def test_C16_a_snapshot_deletes_nothing_that_it_never_brought(both: Sides, production: str) -> None:
    """A first push of a file that was there before, with deletes allowed, leaves production's own rows alone."""
    await both.track("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    await both.engine.init()
    await both.theirs("SET session_replication_role = replica")
    await both.theirs("INSERT INTO t VALUES ('acme', 1, 'old'), ('acme', 2, 'old')")
    await both.theirs("SET session_replication_role = origin")
    await both.unchecked(
        "CREATE TABLE fresh (id INTEGER PRIMARY KEY, v TEXT)", "DROP TABLE t", "ALTER TABLE fresh RENAME TO t",
        "INSERT INTO t VALUES (1, 'ours'), (3, 'ours')",
    )  # fmt: skip
    async with SyncEngine(both.store, to=production, settings=SyncSettings(allow_deletes=1000)) as engine:
        result = await engine.push([COMPANY], promote=True)
    assert counts(result) == {"inserted": 1, "conflicts": 1}
    assert await both.production("SELECT id, v FROM t ORDER BY id") == [(1, "old"), (2, "old"), (3, "ours")]


async def test_C16_a_snapshot_leaves_held_deletes_held(both: Sides, production: str) -> None:
    """A delete that was taken back stays taken back, though the next snapshot lacks the row."""
    await both.track("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    await both.local("INSERT INTO t VALUES (1, 'x'), (2, 'x')")
    await both.push()
    await both.local("DELETE FROM t WHERE id = 1")
    batch = (await both.push()).batch
    assert batch is not None
    await both.engine.rollback(batch)
    await both.unchecked(
        "CREATE TABLE fresh (id INTEGER PRIMARY KEY, v TEXT)", "INSERT INTO fresh SELECT * FROM t", "DROP TABLE t",
        "ALTER TABLE fresh RENAME TO t", "UPDATE t SET v = 'y'",
    )  # fmt: skip
    async with SyncEngine(both.store, to=production, settings=SyncSettings(allow_deletes=1000)) as engine:
        assert (await engine.push([COMPANY], promote=True)).exit_code == 3
    assert await both.reasons() == {"t/1": "rolled_back"}
    assert await both.production("SELECT id, v FROM t ORDER BY id") == [(1, "x"), (2, "y")]


async def test_a_thousand_bad_rows_among_forty_thousand_are_found_by_sets(both: Sides) -> None:
    """1,000 bad parents and their children are held, 38,000 other rows go; mended, all go."""
    await both.track(
        "CREATE TABLE p (id INTEGER PRIMARY KEY, u TEXT UNIQUE, v TEXT)",
        "CREATE TABLE c (id INTEGER PRIMARY KEY, p INTEGER REFERENCES p (id), v TEXT)",
    )
    bad = "bad" + chr(0)
    await both.local(
        "INSERT INTO p VALUES (?, ?, ?)", [(n, f"u{n}", bad if n % 20 == 0 else "ok") for n in range(20_000)]
    )
    await both.local("INSERT INTO c VALUES (?, ?, 'x')", [(n, n) for n in range(20_000)])
    result = await both.push(3)
    assert counts(result, "p") == {"inserted": 19_000, "quarantined": 1_000}
    assert counts(result, "c") == {"inserted": 19_000, "quarantined": 1_000}
    await both.local("UPDATE p SET v = 'mended' WHERE v <> 'ok'")
    await both.push()
    await both.assert_equal()
