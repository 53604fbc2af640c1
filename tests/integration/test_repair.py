"""Repair: drift is put in line by a batch of its own rows; what anything explains, or anybody wrote, is not touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sync import SyncEngine
from sync.verify.differences import DIFFERENCES_MAX, Why
from tests.integration.drifting import ALL, TABLE, causes, promoted, repaired, silently, six_rows, unmarked
from tests.integration.promotion import COMPANY, Sides


@pytest.fixture
async def one(tmp_path: Path, production: str) -> AsyncIterator[Sides]:
    """Return a tenant and its production, which hold the same six rows."""
    async with six_rows(tmp_path, production) as opened:
        yield opened


async def test_equal_sides_need_no_repair(one: Sides) -> None:
    """Where nothing drifted nothing is sealed, not even what is pending."""
    await one.local("UPDATE t SET a = 'pending' WHERE id = 1")
    found, done = await repaired(one)
    assert found.explained
    assert (dict(done.rows), done.batch, done.left_alone) == ({}, None, ())
    assert await one.rows("SELECT count(*) FROM localstore_batches") == [(1,)]


@pytest.mark.parametrize("lost_here", [True, False], ids=["marks were lost", "production was damaged"])
async def test_drift_of_every_kind_is_put_in_line(one: Sides, lost_here: bool) -> None:
    """A changed value, a missing row and one too many become what the file has, whichever side went astray."""
    if lost_here:
        await unmarked(
            one,
            "UPDATE t SET a = 'x', n = 0 WHERE id = 1",
            "UPDATE t SET b = NULL WHERE id = 2",
            "DELETE FROM t WHERE id = 3",
            "INSERT INTO t VALUES (7, 'new', NULL, 9)",
        )
    else:
        await silently(
            one,
            "UPDATE t SET a = 'x', n = 5 WHERE id = 1",
            "UPDATE t SET b = NULL WHERE id = 2",
            "DELETE FROM t WHERE id = 3",
            "INSERT INTO t (company_id, id, a) VALUES ('acme', 7, 'new')",
        )
    local = await one.rows(ALL)
    before = await one.production(ALL)
    found, done = await repaired(one)
    assert causes(found) == {Why.DRIFT: 5}
    assert dict(done.rows) == {"t": 4}
    assert (done.differences, done.left_alone, done.whole) == (5, (), ())
    assert found.explained
    assert await one.production(ALL) == before
    await promoted(one, done.batch)
    assert await one.production(ALL) == local
    assert await one.rows(ALL) == local
    await one.assert_equal()


async def test_marks_that_were_lost_altogether(one: Sides) -> None:
    """Where all marks went, and their numbers with them, what they told is repaired, and what follows is sent."""
    await one.local("UPDATE t SET a = 'lost' WHERE id IN (1, 2)")
    await one.unchecked("DELETE FROM localstore_marks")
    await one.local("UPDATE t SET a = 'not seen' WHERE id = 3")
    found, done = await repaired(one)
    assert causes(found) == {Why.DRIFT: 3}
    assert dict(done.rows) == {"t": 3}
    await promoted(one, done.batch)
    await one.local("UPDATE t SET a = 'seen' WHERE id = 4")
    await one.push()
    assert await one.production("SELECT a FROM t ORDER BY id") == [
        (a,) for a in ("lost", "lost", "not seen", "seen", "a", "a")
    ]
    await one.assert_equal()


async def test_a_repair_can_be_taken_back(one: Sides) -> None:
    """The batch is one like any other: a rollback gives production its former values."""
    await silently(one, "UPDATE t SET a = 'x' WHERE id = 1", "DELETE FROM t WHERE id = 2")
    before = await one.production(ALL)
    _, done = await repaired(one)
    await promoted(one, done.batch)
    assert done.batch is not None
    await one.engine.rollback(done.batch)
    assert await one.production(ALL) == before


async def test_what_others_wrote_is_not_touched(one: Sides) -> None:
    """Rows that an application changed, deleted or added stay, and so does another column of a drifted row."""
    await unmarked(one, "UPDATE t SET a = 'ours' WHERE id IN (1, 2)")
    await one.theirs(
        "UPDATE t SET b = 'theirs' WHERE id IN (2, 3)",
        "DELETE FROM t WHERE id = 4",
        "INSERT INTO t (company_id, id, a) VALUES ('acme', 9, 'theirs')",
    )
    found, done = await repaired(one)
    assert causes(found) == {Why.DRIFT: 1, Why.FOREIGN_EDIT: 5}
    assert not found.explained
    assert dict(done.rows) == {"t": 1}
    await promoted(one, done.batch)
    assert await one.held() == {}
    assert await one.production(ALL) == [
        (1, "ours", "b", 1),
        (2, "a", "theirs", 1),
        (3, "a", "theirs", 1),
        (5, "a", "b", 1),
        (6, "a", "b", 1),
        (9, "theirs", None, None),
    ]


async def test_a_column_drifts_beside_one_that_others_wrote(one: Sides) -> None:
    """This replica wrote a column after an application wrote the row: only that column is drift, only it travels."""
    await one.theirs("UPDATE t SET a = 'theirs', b = 'theirs' WHERE id = 1")
    await one.local("UPDATE t SET a = 'theirs' WHERE id = 1")
    await one.push()
    await one.local("UPDATE t SET a = 'ours' WHERE id = 1")
    await one.push()
    await silently(one, "UPDATE t SET a = 'lost' WHERE id = 1")
    found, done = await repaired(one)
    assert causes(found) == {Why.DRIFT: 1, Why.FOREIGN_EDIT: 1}
    await promoted(one, done.batch)
    assert await one.production("SELECT a, b FROM t WHERE id = 1") == [("ours", "theirs")]
    assert await one.held() == {}


async def test_pending_held_and_drifted_rows_of_one_table(one: Sides) -> None:
    """Pending rows travel as ever, held ones stay as they are held, and drift is put in line between them."""
    await one.local("UPDATE t SET a = 'ours' WHERE id = 1")
    await one.theirs("UPDATE t SET a = 'theirs' WHERE id = 1")
    await one.push(exit_code=3)
    held = await one.held()
    assert list(held) == ["t/1"]
    await one.local("UPDATE t SET a = 'pending' WHERE id = 2")
    await one.local("DELETE FROM t WHERE id = 3")
    await unmarked(one, "UPDATE t SET b = 'drift' WHERE id IN (2, 4)")
    found, done = await repaired(one)
    assert causes(found) == {Why.DRIFT: 2, Why.HELD: 1, Why.PENDING: 2}
    assert found.explained
    assert dict(done.rows) == {"t": 2}
    await one.engine.promote(done.batch)
    assert await one.held() == held
    assert await one.production(ALL) == [
        (1, "theirs", "b", 1),
        (2, "pending", "drift", 1),
        (4, "a", "drift", 1),
        (5, "a", "b", 1),
        (6, "a", "b", 1),
    ]


async def test_a_row_written_after_the_comparison_is_pending(one: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the file's application changes between comparison and marks is left alone, and travels as its own change."""
    import sync.repairing

    compare = sync.repairing._compare

    async def later(*arguments: object) -> object:
        found = await compare(*arguments)  # type: ignore[arg-type]
        await one.local("UPDATE t SET a = 'later' WHERE id = 1")
        await one.local("DELETE FROM t WHERE id = 2")
        await one.local("UPDATE t SET b = 'later' WHERE id = 3")
        return found

    await silently(one, "UPDATE t SET a = 'lost'")
    monkeypatch.setattr("sync.repairing._compare", later)
    found, done = await repaired(one)
    assert dict(done.rows) == {"t": 4}
    assert [row for row, _ in done.left_alone] == ["t/1", "t/2"]
    assert all("promote" in why for _, why in done.left_alone)
    assert not found.explained
    monkeypatch.undo()
    await one.engine.promote(done.batch)
    assert await one.reasons() == {"t/1": "conflict", "t/2": "conflict"}
    assert await one.production("SELECT a, b FROM t WHERE id > 2 ORDER BY id") == [
        ("a", "later"),
        ("a", "b"),
        ("a", "b"),
        ("a", "b"),
    ]


async def test_production_that_moves_before_the_promotion_is_not_overwritten(one: Sides) -> None:
    """What an application writes over drift after the repair becomes a conflict that is listed; its value stays."""
    await silently(
        one,
        "UPDATE t SET a = 'lost' WHERE id IN (1, 2)",
        "DELETE FROM t WHERE id = 3",
        "INSERT INTO t (company_id, id, a) VALUES ('acme', 7, 'x'), ('acme', 8, 'x')",
    )
    _, done = await repaired(one)
    await one.theirs(
        "UPDATE t SET a = 'theirs' WHERE id = 1",
        "UPDATE t SET b = 'theirs' WHERE id = 2",
        "INSERT INTO t (company_id, id, a) VALUES ('acme', 3, 'theirs')",
        "UPDATE t SET a = 'theirs' WHERE id = 7",
    )
    assert done.batch is not None
    result = await one.engine.promote(done.batch)
    assert result.exit_code == 3
    assert await one.reasons() == {"t/1": "conflict", "t/3": "conflict", "t/7": "conflict"}
    assert await one.production("SELECT id, a, b FROM t ORDER BY id") == [
        (1, "theirs", "b"),
        (2, "a", "theirs"),
        (3, "theirs", None),
        (4, "a", "b"),
        (5, "a", "b"),
        (6, "a", "b"),
        (7, "theirs", None),
    ]


async def test_all_drift_is_repaired_not_only_what_is_listed(one: Sides) -> None:
    """More drifted rows than a verification keeps are all put in line."""
    rows = DIFFERENCES_MAX + 500
    await one.local("INSERT INTO t VALUES (?, 'a', 'b', 1)", [(number,) for number in range(100, 100 + rows)])
    await one.push()
    await silently(one, "UPDATE t SET a = 'lost', b = NULL WHERE id >= 100")
    found, done = await repaired(one)
    assert len(found.tables["t"].differences) == DIFFERENCES_MAX
    assert causes(found) == {Why.DRIFT: 2 * rows}
    assert dict(done.rows) == {"t": rows}
    await promoted(one, done.batch)
    await one.assert_equal()


async def test_parents_and_children_are_put_in_line_together(one: Sides) -> None:
    """Missing parents come before their children, and superfluous children go before their parents."""
    await one.track(
        "CREATE TABLE p (id INTEGER PRIMARY KEY)",
        "CREATE TABLE c (id INTEGER PRIMARY KEY, p INTEGER REFERENCES p (id) ON DELETE CASCADE)",
    )
    await one.local("INSERT INTO p VALUES (?)", [(1,), (2,)])
    await one.local("INSERT INTO c VALUES (?, ?)", [(1, 1), (2, 2)])
    await one.push()
    await silently(one, "DELETE FROM c WHERE id = 1", "DELETE FROM p WHERE id = 1")
    await unmarked(one, "DELETE FROM p WHERE id = 2")
    found, done = await repaired(one)
    assert dict(done.rows) == {"c": 2, "p": 2}
    await promoted(one, done.batch)
    await one.assert_equal()
    assert found.explained


async def test_two_repairs_at_once_mark_a_row_once(one: Sides, production: str) -> None:
    """They take turns: whichever comes second finds the row waiting, and nothing is sent twice."""
    await silently(one, "UPDATE t SET a = 'lost' WHERE id IN (1, 2)", "DELETE FROM t WHERE id = 3")
    async with SyncEngine(one.store, to=production) as second:
        results = await asyncio.gather(one.engine.verify([COMPANY], repair=True), second.verify([COMPANY], repair=True))
    rows = [sum(found.repaired.rows.values()) for (found,) in results if found.repaired is not None]
    assert sorted(rows) == [0, 3]
    assert (await one.engine.promote()).exit_code == 0
    assert await one.held() == {}
    await one.assert_equal()


async def test_a_hybrid_tenant_is_repaired(one: Sides) -> None:
    """Where the file is the truth and production follows, a repair is what it is in mode file."""
    await one.engine.modes.advance(COMPANY)
    await silently(one, "UPDATE t SET a = 'lost' WHERE id = 1")
    _, done = await repaired(one)
    await promoted(one, done.batch)
    await one.assert_equal()


async def test_other_companies_are_not_repaired(one: Sides) -> None:
    """R16: another company's rows with the same keys neither differ nor travel."""
    async with one.store.tenant("zeta") as zeta:
        await zeta.database.write(lambda file: file.execute(TABLE))
    await silently(
        one,
        "INSERT INTO t (company_id, id, a) VALUES ('zeta', 1, 'x'), ('zeta', 7, 'x')",
        "UPDATE t SET a = 'lost' WHERE company_id = 'acme' AND id = 1",
    )
    _, done = await repaired(one)
    assert dict(done.rows) == {"t": 1}
    await promoted(one, done.batch)
    assert await one.production("SELECT id, a FROM t WHERE company_id = 'zeta' ORDER BY id") == [(1, "x"), (7, "x")]
    await one.assert_equal()


async def test_a_second_repair_finds_nothing_more(one: Sides) -> None:
    """What a repair staged is pending: another one adds nothing to it."""
    await silently(one, "UPDATE t SET a = 'lost' WHERE id = 1")
    _, first = await repaired(one)
    found, second = await repaired(one)
    assert causes(found) == {Why.PENDING: 1}
    assert (dict(second.rows), second.batch) == ({}, None)
    await promoted(one, first.batch)
    await one.assert_equal()


async def test_a_withdrawn_repair_travels_with_the_next_push(one: Sides) -> None:
    """Giving the batch up loses nothing: its marks are there."""
    await silently(one, "UPDATE t SET a = 'lost' WHERE id = 1", "DELETE FROM t WHERE id = 2")
    _, done = await repaired(one)
    assert done.batch is not None
    await one.engine.withdraw(done.batch)
    await one.push()
    await one.assert_equal()
