"""Held rows: who waits for whom, what releases them, and how each kind of conflict ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from localstore.schema.tables import Policy
from sync import SyncEngine
from sync.config import SyncSettings
from tests.integration.promotion import COMPANY, Sides, counts, sides

FAMILY = (
    "CREATE TABLE p (id INTEGER PRIMARY KEY, code TEXT UNIQUE, v TEXT)",
    "CREATE TABLE c (id INTEGER PRIMARY KEY, p INTEGER REFERENCES p (id) ON DELETE CASCADE, v TEXT)",
    "CREATE TABLE g (id INTEGER PRIMARY KEY, c INTEGER NOT NULL REFERENCES c (id), v TEXT)",
)
BAD = "bad\0"


@pytest.fixture
async def both(tmp_path: Path, production: str) -> AsyncIterator[Sides]:
    """Return a file with three generations of tables, and a production that has them, too."""
    async with sides(tmp_path, production) as opened:
        await opened.track(*FAMILY)
        await opened.engine.init()
        yield opened


async def test_F27_grandchildren_wait_for_children_and_children_for_parents(both: Sides) -> None:
    """One bad value holds its row and all that stand on it; mended, all of them go without another word."""
    await both.local("INSERT INTO p VALUES (1, 'a', ?), (2, 'b', 'ok')", [(BAD,)])
    await both.local("INSERT INTO c VALUES (1, 1, ''), (2, 2, ''), (3, NULL, '')")
    await both.local("INSERT INTO g VALUES (1, 1, ''), (2, 2, ''), (3, 1, '')")
    await both.push(3)
    assert await both.reasons() == {"p/1": "value", "c/1": "waits", "g/1": "waits", "g/3": "waits"}
    await both.local("INSERT INTO g VALUES (4, 1, '')")
    await both.local("UPDATE c SET p = 1 WHERE id = 3")
    await both.push(3)
    assert await both.reasons() == {
        "p/1": "value", "c/1": "waits", "c/3": "waits", "g/1": "waits", "g/3": "waits", "g/4": "waits",
    }  # fmt: skip
    await both.local("UPDATE p SET v = 'good' WHERE id = 1")
    await both.push()
    await both.assert_equal()


async def test_a_parent_that_comes_from_elsewhere_releases_its_children(both: Sides) -> None:
    """Whoever brings the parent into production, the next promotion takes the children along."""
    await both.local("INSERT INTO p VALUES (1, 'a', ?)", [(BAD,)])
    await both.local("INSERT INTO c VALUES (1, 1, '')")
    await both.push(3)
    await both.theirs("INSERT INTO p VALUES ('acme', 1, 'a', 'theirs')")
    await both.local("INSERT INTO p VALUES (2, 'b', '')")
    await both.push(3)
    assert await both.reasons() == {"p/1": "value"}
    assert await both.production("SELECT count(*) FROM c") == [(1,)]


async def test_P3_a_delete_of_a_referenced_row_waits_until_the_reference_is_gone(both: Sides) -> None:
    """An application's child keeps its parent, whatever ON DELETE says; when it is gone, the next promotion deletes."""
    await both.local("INSERT INTO p VALUES (1, 'a', ''), (2, 'b', '')")
    await both.local("INSERT INTO c VALUES (1, 1, '')")
    await both.push()
    await both.theirs("INSERT INTO c VALUES ('acme', 100, 1, 'theirs')")
    await both.local("DELETE FROM p WHERE id = 1")
    await both.push(3)
    assert await both.reasons() == {"p/1": "waits"}
    assert await both.production("SELECT id FROM c") == [(100,)]
    await both.theirs("DELETE FROM c WHERE id = 100")
    await both.local("UPDATE p SET v = 'x' WHERE id = 2")
    await both.push()
    await both.assert_equal()


async def test_a_held_delete_of_a_child_keeps_its_parent(both: Sides) -> None:
    """Grandchildren of an application keep the child, and so the parent; all go together in the end."""
    await both.local("INSERT INTO p VALUES (1, 'a', '')")
    await both.local("INSERT INTO c VALUES (1, 1, '')")
    await both.push()
    await both.theirs("INSERT INTO g VALUES ('acme', 7, 1, 'theirs')")
    await both.local("DELETE FROM p")
    await both.push(3)
    assert await both.reasons() == {"p/1": "waits", "c/1": "waits"}
    await both.theirs("DELETE FROM g")
    await both.local("INSERT INTO p VALUES (9, 'i', '')")
    await both.push()
    await both.assert_equal()


async def test_P9_a_deleted_row_that_production_changed_can_be_had_back_or_deleted(both: Sides) -> None:
    """Delete here, change there: a conflict; for production the row returns as it is there, for local it goes."""
    await both.local("INSERT INTO p VALUES (1, 'a', 'x'), (2, 'b', 'x')")
    await both.push()
    await both.theirs("UPDATE p SET v = 'theirs'")
    await both.local("DELETE FROM p")
    result = await both.push(3)
    assert counts(result, "p") == {"conflicts": 2}
    await both.engine.conflicts.resolve("p/1", "production")
    await both.engine.conflicts.resolve("p/2", "local")
    await both.push()
    assert await both.rows("SELECT * FROM p") == [(1, "a", "theirs")]
    await both.assert_equal()


async def test_P9_a_changed_row_that_production_deleted_can_be_had_back_or_deleted(both: Sides) -> None:
    """Change here, delete there: a conflict; for local the whole row returns, for production it goes here, too."""
    await both.local("INSERT INTO p VALUES (1, 'a', 'x'), (2, 'b', 'x'), (3, 'c', 'x'), (4, 'd', 'x')")
    await both.push()
    await both.theirs("DELETE FROM p")
    await both.local("UPDATE p SET v = 'ours'")
    await both.push(3)
    assert set((await both.reasons()).values()) == {"conflict"}
    await both.engine.conflicts.resolve("p/1", "production")
    await both.engine.conflicts.resolve("p/2", "local")
    await both.engine.conflicts.resolve("p/3", "local")
    await both.local("UPDATE p SET code = 'cc' WHERE id = 3")
    await both.engine.conflicts.resolve("p/4", "local")
    await both.local("DELETE FROM p WHERE id = 4")
    await both.push()
    assert await both.production("SELECT id, code, v FROM p ORDER BY id") == [(2, "b", "ours"), (3, "cc", "ours")]
    await both.assert_equal()


async def test_P9_a_new_row_that_production_has_otherwise_is_a_conflict_until_decided(both: Sides) -> None:
    """Two inserts of one key: equal columns agree, others conflict; decided, edited or deleted, the conflict ends."""
    await both.theirs(
        "INSERT INTO p SELECT 'acme', n, 'c' || n, CASE WHEN n = 1 THEN 'same' ELSE 'theirs' END FROM "
        "generate_series(1, 5) n"
    )
    await both.local(
        "INSERT INTO p VALUES (?, 'c' || ?, ?)", [(n, n, "same" if n == 1 else "ours") for n in range(1, 6)]
    )
    result = await both.push(3)
    assert counts(result, "p") == {"conflicts": 4, "unchanged": 1}
    await both.engine.conflicts.resolve("p/2", "production")
    await both.engine.conflicts.resolve("p/3", "local")
    await both.local("UPDATE p SET v = 'theirs' WHERE id = 4")
    await both.local("DELETE FROM p WHERE id = 5")
    await both.push(3)
    assert await both.reasons() == {"p/5": "conflict"}
    await both.engine.conflicts.resolve("p/5", "local")
    await both.push()
    await both.assert_equal()
    assert await both.production("SELECT id, v FROM p ORDER BY id") == [
        (1, "same"), (2, "theirs"), (3, "ours"), (4, "theirs"),
    ]  # fmt: skip


async def test_a_conflict_that_moves_on_while_it_is_decided_is_a_conflict_again(both: Sides) -> None:
    """A decision covers the values that were shown, not those that came later."""
    await both.local("INSERT INTO p VALUES (1, 'a', 'x')")
    await both.push()
    await both.theirs("UPDATE p SET v = 'one'")
    await both.local("UPDATE p SET v = 'ours'")
    await both.push(3)
    await both.engine.conflicts.resolve("p/1", "local")
    await both.theirs("UPDATE p SET v = 'two'")
    await both.push(3)
    assert await both.production("SELECT v FROM p") == [("two",)]
    await both.engine.conflicts.resolve("p/1", "local")
    await both.push()
    assert await both.production("SELECT v FROM p") == [("ours",)]


async def test_every_held_row_can_be_discarded(both: Sides) -> None:
    """Discarding a new row deletes it here, a change takes the base back, a delete brings the row back."""
    await both.local("INSERT INTO p VALUES (1, 'a', 'x'), (2, 'b', 'x')")
    await both.push()
    await both.theirs("INSERT INTO c VALUES ('acme', 100, 2, 'theirs')")
    await both.local("UPDATE p SET v = ?, code = 'aa' WHERE id = 1", [(BAD,)])
    await both.local("DELETE FROM p WHERE id = 2")
    await both.local("INSERT INTO p VALUES (3, 'c', ?)", [(BAD,)])
    await both.local("INSERT INTO c VALUES (3, 3, '')")
    await both.push(3)
    assert set(await both.reasons()) == {"p/1", "p/2", "p/3", "c/3"}
    for address in ("p/1", "p/2", "c/3", "p/3"):
        await both.engine.quarantine.discard(address)
    await both.push()
    assert await both.rows("SELECT * FROM p ORDER BY id") == [(1, "a", "x"), (2, "b", "x")]
    assert await both.production("SELECT id, code, v FROM p ORDER BY id") == [(1, "a", "x"), (2, "b", "x")]


async def test_resolved_for_production_the_whole_row_takes_its_values(both: Sides) -> None:
    """Of a row in conflict in one column our other changes do not travel either, and production is left alone."""
    await both.local("INSERT INTO p VALUES (1, 'a', 'x')")
    await both.push()
    await both.local("UPDATE p SET code = 'ours', v = 'ours'")
    await both.theirs("UPDATE p SET v = 'theirs'")
    await both.push(3)
    before = await both.production("SELECT xmin::text, code, v FROM p")
    await both.engine.conflicts.resolve("p/1", "production")
    assert await both.rows("SELECT code, v FROM p") == [("a", "theirs")]
    assert "updated" not in counts(await both.push(), "p")
    assert await both.production("SELECT xmin::text, code, v FROM p") == before
    await both.assert_equal()


async def test_discarding_what_was_rolled_back_writes_nothing_in_production(both: Sides) -> None:
    """What is back where it began is no change: an earlier batch can still be rolled back."""
    await both.local("INSERT INTO p VALUES (1, 'a', 'x')")
    await both.push()
    await both.local("UPDATE p SET v = 'y'")
    batch = (await both.push()).batch
    assert batch is not None
    await both.engine.rollback(batch)
    before = await both.production("SELECT xmin::text, v FROM p")
    await both.engine.quarantine.discard("p/1")
    assert counts(await both.push(), "p") == {"unchanged": 1}
    assert await both.production("SELECT xmin::text, v FROM p") == before
    assert await both.held() == {}
    await both.assert_equal()


async def test_what_was_rolled_back_stays_held_with_later_edits_until_it_is_decided(both: Sides) -> None:
    """Edits behind a rollback join the held change; requeue brings all, discard gives all up."""
    await both.local("INSERT INTO p VALUES (1, 'a', 'x'), (2, 'b', 'x'), (3, 'c', 'x')")
    await both.push()
    await both.local("UPDATE p SET v = 'y'")
    await both.local("INSERT INTO p VALUES (4, 'd', 'y')")
    await both.local("DELETE FROM p WHERE id = 3")
    batch = (await both.push()).batch
    assert batch is not None
    await both.engine.rollback(batch)
    assert set(await both.reasons()) == {"p/1", "p/2", "p/3", "p/4"}
    await both.local("UPDATE p SET code = code || '!' WHERE id IN (1, 2, 4)")
    await both.local("INSERT INTO p VALUES (3, 'c', 'z')")
    await both.push(3)
    assert set((await both.reasons()).values()) == {"rolled_back"}
    assert await both.production("SELECT id, code, v FROM p ORDER BY id") == [
        (1, "a", "x"), (2, "b", "x"), (3, "c", "x"),
    ]  # fmt: skip
    await both.engine.quarantine.discard("p/2")
    await both.push(3)
    assert set(await both.reasons()) == {"p/1", "p/3", "p/4"}
    await both.engine.requeue(batch)
    await both.push()
    assert await both.production("SELECT id, code, v FROM p ORDER BY id") == [
        (1, "a!", "y"), (2, "b", "x"), (3, "c", "z"), (4, "d!", "y"),
    ]  # fmt: skip
    await both.assert_equal()


async def test_a_bad_value_stays_bad_through_a_rollback(both: Sides) -> None:
    """What was held for its value and then rolled back beneath is not sent without it, but held until it is mended."""
    await both.local("INSERT INTO p VALUES (1, 'a', 'x'), (2, 'b', 'x')")
    first = (await both.push()).batch
    await both.local("UPDATE p SET code = code || '!', v = 'y'")
    second = (await both.push()).batch
    assert first is not None
    assert second is not None
    await both.local("UPDATE p SET v = ?", [(BAD,)])
    await both.push(3)
    await both.engine.rollback(second)
    await both.engine.requeue(second)
    await both.push(3)
    assert await both.reasons() == {"p/1": "value", "p/2": "value"}
    await both.engine.rollback(first)
    await both.engine.requeue(first)
    await both.push(3)
    assert await both.reasons() == {"p/1": "value", "p/2": "value"}
    await both.local("UPDATE p SET v = 'good'")
    await both.push()
    await both.assert_equal()
    assert await both.production("SELECT code, v FROM p ORDER BY id") == [("a!", "good"), ("b!", "good")]


async def test_C16_a_large_rollback_is_requeued_whole(both: Sides) -> None:
    """5,000 rows that were taken back are in production again after one requeue and one push."""
    await both.local("INSERT INTO p VALUES (?, ?, 'x')", [(n, f"code{n}") for n in range(2500)])
    await both.local("INSERT INTO c VALUES (?, ?, 'x')", [(n, n) for n in range(2500)])
    batch = (await both.push()).batch
    assert batch is not None
    taken = await both.engine.rollback(batch)
    assert taken.tenants[0].left_alone == ()
    assert await both.production("SELECT (SELECT count(*) FROM p), (SELECT count(*) FROM c)") == [(0, 0)]
    assert len(await both.held()) == 5000
    assert (await both.engine.requeue(batch)).tenants[0].held == 5000
    await both.push()
    await both.assert_equal()


async def test_on_error_abort_gives_the_batch_up_and_loses_nothing(tmp_path: Path, production: str) -> None:
    """Under `abort` one bad row stops its batch, which is withdrawn by itself; mended, everything goes in the next."""
    async with sides(tmp_path, production, SyncSettings(on_error="abort")) as both:
        await both.track(*FAMILY)
        await both.local("INSERT INTO p VALUES (1, 'a', ?), (2, 'b', 'ok')", [(BAD,)])
        refused = await both.push(6)
        assert refused.failure is not None
        assert refused.failure.code == "held_rows"
        assert await both.production("SELECT count(*) FROM p") == [(0,)]
        assert await both.production("SELECT state FROM localstore.ledger") == [("withdrawn",)]
        assert await both.production("SELECT count(*) FROM localstore.held") == [(0,)]
        await both.local("UPDATE p SET v = 'mended' WHERE id = 1")
        result = await both.push()
        assert counts(result, "p") == {"inserted": 2}
        await both.assert_equal()


async def test_on_error_abort_does_not_stumble_over_what_was_held_before(both: Sides, production: str) -> None:
    """Rows that an earlier push held are no error of a later one."""
    await both.local("INSERT INTO p VALUES (1, 'a', ?)", [(BAD,)])
    await both.local("INSERT INTO c VALUES (1, 1, '')")
    await both.push(3)
    await both.local("INSERT INTO p VALUES (2, 'b', '')")
    async with SyncEngine(both.store, to=production, settings=SyncSettings(on_error="abort")) as strict:
        result = await strict.push([COMPANY], promote=True)
        assert result.exit_code == 3, result.to_json()
        assert counts(result, "p") == {"inserted": 1}
    assert await both.reasons() == {"p/1": "value", "c/1": "waits"}


async def test_a_guard_against_deletes_changes_nothing_and_can_be_lifted(both: Sides, production: str) -> None:
    """More deletes than allowed are refused with exit 6; allowed by number, the very same batch goes."""
    await both.local("INSERT INTO p VALUES (?, ?, 'x')", [(n, f"code{n}") for n in range(1500)])
    await both.push()
    await both.local("DELETE FROM p WHERE id < 1200")
    refused = await both.push(6)
    assert refused.failure is not None
    assert "1200" in refused.failure.hint
    assert await both.production("SELECT count(*) FROM p") == [(1500,)]
    for allowed, code in ((1199, 6), (1200, 0)):
        settings = SyncSettings(allow_deletes=allowed)
        async with SyncEngine(both.store, to=production, settings=settings) as engine:
            assert (await engine.push([COMPANY], promote=True)).exit_code == code
    assert await both.production("SELECT count(*) FROM p") == [(300,)]
    await both.assert_equal()


async def test_policies_settle_what_both_sides_changed(tmp_path: Path, production: str) -> None:
    """max, min, local and production each decide alone, in updates, inserts and deletes; nothing is held."""
    policies = {"top": Policy.MAX, "low": Policy.MIN, "ours": Policy.LOCAL, "theirs": Policy.PRODUCTION}
    async with sides(tmp_path, production) as both:
        await both.track(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, top INTEGER, low INTEGER, ours TEXT, theirs TEXT)",
            policies=policies,
        )
        await both.local("INSERT INTO t VALUES (1, 5, 5, 'x', 'x'), (2, 5, 5, 'x', 'x'), (3, 5, 5, 'x', 'x')")
        await both.push()
        await both.theirs(
            "UPDATE t SET top = 7, low = 7, ours = 'p', theirs = 'p' WHERE id IN (1, 3)",
            "UPDATE t SET top = 3, low = 3 WHERE id = 2",
            "INSERT INTO t VALUES ('acme', 4, 1, 1, 'p', 'p')",
        )
        await both.local("UPDATE t SET top = 6, low = 6, ours = 'l', theirs = 'l' WHERE id IN (1, 2)")
        await both.local("INSERT INTO t VALUES (4, 2, 2, 'l', 'l')")
        await both.local("DELETE FROM t WHERE id = 3")
        await both.push()
        assert await both.production("SELECT id, top, low, ours, theirs FROM t ORDER BY id") == [
            (1, 7, 6, "l", "p"), (2, 6, 3, "l", "l"), (4, 2, 1, "l", "p"),
        ]  # fmt: skip


async def test_two_replicas_of_a_tenant_merge_by_column(tmp_path: Path, production: str) -> None:
    """Two boxes that push one tenant: different rows and columns merge, the same column is one conflict."""
    async with sides(tmp_path / "one", production) as one, sides(tmp_path / "two", production) as two:
        for side in (one, two):
            await side.track(*FAMILY)
        rows = [(1, "a", "x"), (2, "b", "x"), (3, "c", "x")]
        for side in (one, two):
            await side.local("INSERT INTO p VALUES (?, ?, ?)", rows)
            await side.push()
        assert two.database.identity.replica != one.database.identity.replica
        await one.local("UPDATE p SET v = 'one' WHERE id IN (1, 3)")
        await two.local("UPDATE p SET v = 'two' WHERE id = 3")
        await two.local("UPDATE p SET code = 'aa' WHERE id = 1")
        await two.local("UPDATE p SET v = 'two' WHERE id = 2")
        await one.push()
        result = await two.push(3)
        assert counts(result, "p") == {"updated": 2, "conflicts": 1}
        assert await one.production("SELECT id, code, v FROM p ORDER BY id") == [
            (1, "aa", "one"), (2, "b", "two"), (3, "c", "one"),
        ]  # fmt: skip
        assert await two.reasons() == {"p/3": "conflict"}
        replicas = await one.production("SELECT DISTINCT replica FROM localstore.held")
        assert replicas == [(UUID(two.database.identity.replica),)]
