"""Pull: what others changed in production comes into the file, and nothing that waits there is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from localstore import LocalStore
from localstore.schema.tables import Policy
from sync import SyncEngine
from tests.integration.promotion import COMPANY, Sides, counts, sides

NOTES = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT, doc JSON)"


async def pulled(one: Sides, exit_code: int = 0) -> dict[str, int]:
    """Pull, and return the counts of table t."""
    result = await one.engine.pull([COMPANY])
    assert result.exit_code == exit_code, result.to_json()
    return counts(result)


async def marks(one: Sides) -> int:
    """Return how many marks of rows there are beyond those that are acknowledged."""
    return (await one.engine.status([COMPANY])).tenants[0].pending


@asynccontextmanager
async def second_box(folder: Path, production: str) -> AsyncIterator[Sides]:
    """Open another box, with an empty store, into which the tenant is pulled."""
    async with (
        LocalStore(folder / "second", models=[]) as store,
        SyncEngine(store, to=production) as engine,
    ):
        result = await engine.pull([COMPANY])
        assert result.exit_code == 0, result.to_json()
        async with store.tenant(COMPANY, create=False) as tenant:
            app = await asyncpg.connect(production)
            try:
                yield Sides(engine, store, tenant.database, app)
            finally:
                await app.close(timeout=5)


async def test_a_pull_brings_what_an_application_wrote(tmp_path: Path, production: str) -> None:
    """Inserts, updates and deletes of an application arrive, and leave nothing to be sent."""
    async with sides(tmp_path, production) as one:
        await one.track(NOTES)
        await one.local("INSERT INTO t VALUES (?, 'a', 'b', '{\"x\": 1}')", [(1,), (2,), (3,)])
        await one.push()
        assert (await pulled(one))["unchanged"] == 3
        await one.theirs(
            "INSERT INTO t (company_id, id, a) VALUES ('acme', 4, 'new')",
            "UPDATE t SET a = 'theirs' WHERE id = 2",
            "DELETE FROM t WHERE id = 3",
            "UPDATE t SET b = b",
        )
        assert await pulled(one) == {"inserted": 1, "updated": 1, "deleted": 1}
        assert await one.rows("SELECT id, a, b, doc FROM t ORDER BY id") == [
            (1, "a", "b", '{"x": 1}'),
            (2, "theirs", "b", '{"x": 1}'),
            (4, "new", None, None),
        ]
        assert await marks(one) == 0
        assert await pulled(one) == {}
        await one.assert_equal()


async def test_a_document_as_key_is_one_row_however_it_is_written(tmp_path: Path, production: str) -> None:
    """Production orders a document's members and spaces it its own way: the file's row is found all the same."""
    async with sides(tmp_path, production) as one:
        await one.track("CREATE TABLE t (id JSON PRIMARY KEY, a TEXT)")
        await one.local("INSERT INTO t VALUES (?, 'a')", [('{"bb":1, "a":[1.50]}',), ("[1,2]",)])
        await one.push()
        await pulled(one)
        await one.theirs("UPDATE t SET a = 'theirs'")
        assert await pulled(one) == {"updated": 2}
        assert await one.rows("SELECT id, a FROM t ORDER BY id") == [
            ("[1,2]", "theirs"),
            ('{"bb":1, "a":[1.50]}', "theirs"),
        ]
        await one.assert_equal()


async def test_different_columns_of_one_row_merge(tmp_path: Path, production: str) -> None:
    """What production changed in another column comes, what is pending here stays and is promoted."""
    async with sides(tmp_path, production) as one:
        await one.track(NOTES)
        await one.local("INSERT INTO t VALUES (1, 'a', 'b', NULL)")
        await one.push()
        await pulled(one)
        await one.local("UPDATE t SET a = 'ours'")
        await one.theirs("UPDATE t SET b = 'theirs'")
        assert await pulled(one) == {"updated": 1}
        assert await one.rows("SELECT a, b FROM t") == [("ours", "theirs")]
        assert counts(await one.push()) == {"updated": 1}
        assert await one.production("SELECT a, b FROM t") == [("ours", "theirs")]
        await one.assert_equal()


async def test_one_column_changed_on_both_sides_is_one_conflict(tmp_path: Path, production: str) -> None:
    """The local value stays, promotion holds the conflict, and it stays listed over pulls until it is resolved."""
    async with sides(tmp_path, production) as one:
        await one.track(NOTES)
        await one.local("INSERT INTO t VALUES (1, 'a', 'b', NULL)")
        await one.push()
        await pulled(one)
        await one.local("UPDATE t SET a = 'ours'")
        await one.theirs("UPDATE t SET a = 'theirs', b = 'more'")
        assert await pulled(one) == {"updated": 1, "conflicts": 1}
        assert await one.rows("SELECT a, b FROM t") == [("ours", "more")]
        await one.push(exit_code=3)
        assert await one.reasons() == {"t/1": "conflict"}
        await one.theirs("UPDATE t SET b = 'again'")
        assert await pulled(one) == {"updated": 1, "conflicts": 1}
        assert await one.reasons() == {"t/1": "conflict"}
        assert await one.rows("SELECT a, b FROM t") == [("ours", "again")]
        await one.engine.conflicts.resolve("t/1", "local")
        await one.push()
        assert await one.production("SELECT a, b FROM t") == [("ours", "again")]
        await one.assert_equal()


async def test_policies_settle_what_both_sides_changed(tmp_path: Path, production: str) -> None:
    """max, min, local and production are applied by the pull; what stays pending begins from production's value."""
    policies = {"top": Policy.MAX, "low": Policy.MIN, "ours": Policy.LOCAL, "theirs": Policy.PRODUCTION}
    async with sides(tmp_path, production) as one:
        await one.track(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, top INTEGER, low INTEGER, ours TEXT, theirs TEXT)",
            policies=policies,
        )
        await one.local("INSERT INTO t VALUES (?, 5, 5, 'x', 'x')", [(1,), (2,)])
        await one.push()
        await pulled(one)
        await one.local("UPDATE t SET top = 7, low = 3, ours = 'here', theirs = 'here'")
        await one.theirs("UPDATE t SET top = 6, low = 4, ours = 'there', theirs = 'there' WHERE id = 1")
        await one.theirs("UPDATE t SET top = 9, low = 1, ours = 'there', theirs = 'there' WHERE id = 2")
        await pulled(one)
        expected = [(1, 7, 3, "here", "there"), (2, 9, 1, "here", "there")]
        assert await one.rows("SELECT * FROM t ORDER BY id") == expected
        await one.push()
        assert await one.production("SELECT id, top, low, ours, theirs FROM t ORDER BY id") == expected
        await one.assert_equal()


async def test_a_waiting_batch_that_shares_a_row_is_withdrawn(tmp_path: Path, production: str) -> None:
    """A staged batch whose row has to be rebased is given up, and its changes travel in the next one."""
    async with sides(tmp_path, production) as one:
        await one.track("CREATE TABLE t (id INTEGER PRIMARY KEY, top INTEGER, b TEXT)", policies={"top": Policy.MAX})
        await one.local("INSERT INTO t VALUES (1, 5, 'b')")
        await one.push()
        await pulled(one)
        await one.local("UPDATE t SET top = 7, b = 'ours'")
        staged = (await one.engine.push([COMPANY])).tenants[0]
        await one.theirs("UPDATE t SET top = 9")
        await pulled(one)
        assert await one.rows("SELECT top, b FROM t") == [(9, "ours")]
        assert (await one.engine.find(str(staged.batch))).state == "withdrawn"
        await one.push()
        assert await one.production("SELECT top, b FROM t") == [(9, "ours")]
        await one.assert_equal()


async def test_a_second_box_and_an_application_agree(tmp_path: Path, production: str) -> None:
    """Two boxes and an application edit different rows and columns of one row; after pulls and pushes all agree."""
    async with sides(tmp_path, production) as one:
        await one.track(
            NOTES, "CREATE TABLE c (k TEXT PRIMARY KEY, t INTEGER NOT NULL REFERENCES t (id) ON DELETE CASCADE, v TEXT)"
        )
        await one.local("INSERT INTO t VALUES (?, 'a', 'b', '[1, 2]')", [(1,), (2,), (3,)])
        await one.local("INSERT INTO c VALUES (?, 1, 'v')", [("x",), ("y",)])
        await one.push()
        async with second_box(tmp_path, production) as two:
            assert await two.rows("SELECT * FROM c ORDER BY k") == [("x", 1, "v"), ("y", 1, "v")]
            assert await marks(two) == 0
            await one.local("UPDATE t SET a = 'one' WHERE id = 1")
            await two.local("UPDATE t SET b = 'two' WHERE id = 1")
            await two.local("INSERT INTO t VALUES (4, 'two', NULL, NULL)")
            await one.local("DELETE FROM t WHERE id = 2")
            await one.theirs("UPDATE t SET doc = '{}' WHERE id = 1", "DELETE FROM c WHERE k = 'y'")
            for box in (one, two, one, two):
                await pulled(box)
                assert (await box.engine.push([COMPANY], promote=True)).exit_code == 0
            await pulled(one)
            expected = [(1, "one", "two", "{}"), (3, "a", "b", "[1, 2]"), (4, "two", None, None)]
            for box in (one, two):
                assert [
                    (*row[:3], row[3] and row[3].replace(",2", ", 2"))
                    for row in await box.rows("SELECT * FROM t ORDER BY id")
                ] == expected
                assert await box.rows("SELECT k FROM c") == [("x",)]
                assert (await box.verified()).equal
                assert await marks(box) == 0


async def test_a_deleted_parent_with_pending_children_is_kept(tmp_path: Path, production: str) -> None:
    """Deleting it would take children along that nobody has seen: both are listed after the next push."""
    async with sides(tmp_path, production) as one:
        await one.track(
            NOTES, "CREATE TABLE c (k TEXT PRIMARY KEY, t INTEGER NOT NULL REFERENCES t (id) ON DELETE CASCADE, v TEXT)"
        )
        await one.local("INSERT INTO t VALUES (?, 'a', 'b', NULL)", [(1,), (2,)])
        await one.push()
        await pulled(one)
        await one.local("INSERT INTO c VALUES ('x', 1, 'unseen')")
        await one.theirs("DELETE FROM t")
        assert await pulled(one) == {"deleted": 1, "conflicts": 1}
        assert await one.rows("SELECT id FROM t") == [(1,)]
        await one.push(exit_code=3)
        assert await one.reasons() == {"t/1": "conflict", "c/x": "waits"}
        await pulled(one)
        assert await one.rows("SELECT v FROM c") == [("unseen",)]


async def test_what_the_file_cannot_hold_is_left_alone_and_tried_again(tmp_path: Path, production: str) -> None:
    """An infinite moment stops no other row, is listed with its reason, and comes once it was mended."""
    async with sides(tmp_path, production) as one:
        await one.track("CREATE TABLE t (id INTEGER PRIMARY KEY, at TIMESTAMP)")
        await one.local("INSERT INTO t VALUES (1, '2024-01-01 00:00:00')")
        await one.push()
        await pulled(one)
        await one.theirs("INSERT INTO t (company_id, id, at) VALUES ('acme', 2, 'infinity'), ('acme', 3, NULL)")
        for inserted in ({"inserted": 1}, {}):
            result = await one.engine.pull([COMPANY])
            assert result.exit_code == 3
            assert [row for row, _ in result.tenants[0].left_alone] == ["t/2"]
            assert counts(result) == inserted
        await one.theirs("UPDATE t SET at = '2025-01-01 00:00:00+00' WHERE id = 2")
        assert await pulled(one) == {"inserted": 1}
        await one.assert_equal()


async def test_swapped_unique_values_and_circles_come_over(tmp_path: Path, production: str) -> None:
    """P2 and P4: rows that need one another arrive together, whatever the order in which they are written."""
    async with sides(tmp_path, production) as one:
        await one.track(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, code TEXT NOT NULL UNIQUE, up INTEGER REFERENCES t (id))"
        )
        await one.local("INSERT INTO t VALUES (?, ?, NULL)", [(1, "a"), (2, "b")])
        await one.push()
        await pulled(one)
        await one.theirs(
            """WITH put AS (INSERT INTO t (company_id, id, code, up) VALUES ('acme', 3, 'c', 4), ('acme', 4, 'd', 3))
               UPDATE t SET code = CASE code WHEN 'a' THEN 'b' ELSE 'a' END"""
        )
        assert await pulled(one) == {"inserted": 2, "updated": 2}
        assert await one.rows("SELECT id, code, up FROM t ORDER BY id") == [
            (1, "b", None),
            (2, "a", None),
            (3, "c", 4),
            (4, "d", 3),
        ]
        await one.assert_equal()


async def test_a_truncated_table_is_compared_whole(tmp_path: Path, production: str) -> None:
    """TRUNCATE names no rows, so every row of the table is looked at; what is pending stays."""
    async with sides(tmp_path, production) as one:
        await one.track(NOTES)
        await one.local("INSERT INTO t VALUES (?, 'a', 'b', NULL)", [(1,), (2,), (3,)])
        await one.push()
        await pulled(one)
        await one.local("INSERT INTO t VALUES (9, 'pending', NULL, NULL)")
        await one.theirs("TRUNCATE t", "INSERT INTO t (company_id, id, a) VALUES ('acme', 2, 'a')")
        assert await pulled(one) == {"updated": 1, "deleted": 2}
        assert await one.rows("SELECT id, b FROM t ORDER BY id") == [(2, None), (9, None)]
        await one.push()
        await one.assert_equal()


async def test_what_a_rollback_took_back_is_not_lost(tmp_path: Path, production: str) -> None:
    """The box that sent it keeps its value, held; another box gets the row as it was before."""
    async with sides(tmp_path, production) as one:
        await one.track(NOTES)
        await one.local("INSERT INTO t VALUES (1, 'a', 'b', NULL)")
        await one.push()
        await pulled(one)
        async with second_box(tmp_path, production) as two:
            await one.local("UPDATE t SET a = 'taken back'")
            batch = (await one.push()).batch
            await pulled(two)
            assert await two.rows("SELECT a FROM t") == [("taken back",)]
            assert batch is not None
            assert (await two.engine.rollback(batch)).exit_code == 0
            await pulled(two)
            assert await two.rows("SELECT a FROM t") == [("a",)]
            await pulled(one)
            assert await one.rows("SELECT a FROM t") == [("taken back",)]
            assert await one.reasons() == {"t/1": "rolled_back"}
            await one.engine.requeue(batch)
            await one.push()
            await pulled(two)
            assert await two.rows("SELECT a FROM t") == [("taken back",)]
            await one.assert_equal()


async def test_P11_eight_writers_lose_nothing(tmp_path: Path, production: str) -> None:
    """P11: short and long transactions of eight writers commit in any order while pulls run; every row arrives."""
    async with sides(tmp_path, production) as one:
        await one.track("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
        await one.local("INSERT INTO t VALUES (0, 'first')")
        await one.push()
        await pulled(one)

        async def writer(number: int) -> None:
            connection = await asyncpg.connect(production)
            try:
                for turn in range(15):
                    async with connection.transaction():
                        first = 1000 * (number + 1) + 10 * turn
                        await connection.execute("INSERT INTO t VALUES ('acme', $1, 'x')", first)
                        if number % 2:
                            # A long transaction is one during which others begin and end.
                            await connection.execute("SELECT pg_sleep(0.02)")
                        await connection.execute("INSERT INTO t VALUES ('acme', $1, 'x')", first + 1)
            finally:
                await connection.close()

        writing = asyncio.gather(*(writer(number) for number in range(8)))
        while not writing.done():
            await pulled(one)
            await asyncio.sleep(0)
        await writing
        await pulled(one)
        assert await one.rows("SELECT count(*) FROM t") == [(8 * 15 * 2 + 1,)]
        await one.assert_equal()


async def test_a_row_merged_otherwise_than_sent_is_marked_for_its_sender(tmp_path: Path, production: str) -> None:
    """What promotion made of a row by its policies comes to the box that sent it, though it skips its own rows."""
    async with sides(tmp_path, production) as one:
        await one.track("CREATE TABLE t (id INTEGER PRIMARY KEY, top INTEGER, a TEXT)", policies={"top": Policy.MAX})
        await one.local("INSERT INTO t VALUES (?, 1, 'a')", [(1,), (2,)])
        await one.push()
        await pulled(one)
        await one.local("UPDATE t SET top = 5, a = 'ours'")
        await one.theirs("UPDATE t SET top = 9 WHERE id = 1")
        await one.push()
        assert await one.production("SELECT key FROM localstore.undo WHERE merged") == [(["1"],)]
        assert await pulled(one) == {"updated": 1}
        assert await one.rows("SELECT * FROM t ORDER BY id") == [(1, 9, "ours"), (2, 5, "ours")]
        await one.assert_equal()
