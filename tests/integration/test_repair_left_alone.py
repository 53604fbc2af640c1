"""Repair where it must not go: rows that wait, are held or may be others' are left alone; some files are refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from localstore import LocalStore
from localstore.errors import LocalStoreError, WrongMode
from sync import SyncEngine
from sync.errors import SyncRefused
from sync.verify.differences import Why
from tests.integration.drifting import causes, promoted, repaired, silently, six_rows, unmarked
from tests.integration.promotion import COMPANY, Sides


@pytest.fixture
async def one(tmp_path: Path, production: str) -> AsyncIterator[Sides]:
    """Return a tenant and its production, which hold the same six rows."""
    async with six_rows(tmp_path, production) as opened:
        yield opened


async def test_a_held_row_that_drifts_elsewhere_waits_for_the_decision(one: Sides) -> None:
    """A drifted column of a held row is left alone by name, and repaired once the row is decided."""
    await one.local("UPDATE t SET a = 'ours' WHERE id = 1")
    await one.theirs("UPDATE t SET a = 'theirs' WHERE id = 1")
    await one.push(exit_code=3)
    await unmarked(one, "UPDATE t SET b = 'drift' WHERE id = 1")
    # Nothing but the held change tells of the row, or all of it would be an application's edit.
    await silently(one, "DELETE FROM localstore.feed WHERE key = ARRAY['1']")
    found, done = await repaired(one)
    assert causes(found) == {Why.HELD: 1, Why.DRIFT: 1}
    assert not found.explained
    ((row, why),) = done.left_alone
    assert row == "t/1"
    assert "held" in why
    await one.engine.conflicts.resolve("t/1", use="local")
    await one.push()
    found, done = await repaired(one)
    assert causes(found) == {Why.DRIFT: 1}
    await promoted(one, done.batch)
    assert await one.production("SELECT a, b FROM t WHERE id = 1") == [("ours", "drift")]
    await one.assert_equal()


async def test_a_spurious_mark_does_not_hide_the_base(one: Sides) -> None:
    """The mark of a column changed and changed back says too little: the row waits, and the next repair takes it."""
    await silently(one, "UPDATE t SET a = 'lost' WHERE id = 1")
    await one.local("UPDATE t SET a = 'x' WHERE id = 1")
    await one.local("UPDATE t SET a = 'a' WHERE id = 1")
    found, done = await repaired(one)
    assert causes(found) == {Why.DRIFT: 1}
    assert [row for row, _ in done.left_alone] == ["t/1"]
    assert not found.explained
    found, done = await repaired(one)
    assert found.explained
    await promoted(one, done.batch)
    await one.assert_equal()


async def test_deletes_are_guarded_as_any_are(one: Sides) -> None:
    """Rows that only production has are not deleted beyond --allow-deletes."""
    await one.local("INSERT INTO t (id) VALUES (?)", [(number,) for number in range(100, 3_000)])
    await one.push()
    await unmarked(one, "DELETE FROM t WHERE id >= 100")
    _, done = await repaired(one)
    assert dict(done.rows) == {"t": 2_900}
    result = await one.engine.promote(done.batch)
    assert result.exit_code == 6
    assert await one.production("SELECT count(*) FROM t") == [(2_906,)]


async def test_triggers_that_go_while_the_store_is_open(one: Sides) -> None:
    """The gap is noticed when the drift is marked: nothing is marked of a table that travels whole."""
    triggers = await one.rows("SELECT name FROM sqlite_schema WHERE type = 'trigger'")
    await one.unchecked(*(f'DROP TRIGGER "{name}"' for (name,) in triggers), "UPDATE t SET a = 'unseen' WHERE id = 1")
    found, done = await repaired(one)
    assert causes(found) == {Why.DRIFT: 1}
    assert (done.whole, dict(done.rows)) == (("t",), {})
    assert found.explained
    await promoted(one, done.batch)
    await one.assert_equal()


async def test_a_table_that_marks_cannot_tell_all_of(one: Sides) -> None:
    """A table with a partial unique index travels whole: not while others' writes would become conflicts by that."""
    await one.track("CREATE TABLE w (id INTEGER PRIMARY KEY, v TEXT)", "CREATE UNIQUE INDEX u ON w (v) WHERE id > 10")
    await one.local("INSERT INTO w VALUES (?, ?)", [(number, f"v{number}") for number in range(1, 4)])
    await one.push()
    await unmarked(one, "UPDATE w SET v = 'ours' WHERE id = 1")
    await one.theirs("UPDATE w SET v = 'theirs' WHERE id = 2")
    found, done = await repaired(one)
    assert (dict(done.rows), done.whole, [row for row, _ in done.left_alone]) == ({}, (), ["w/1"])
    assert "pull" in done.left_alone[0][1]
    await one.engine.pull([COMPANY])
    await unmarked(one, "UPDATE w SET v = 'ours' WHERE id = 1")
    found, done = await repaired(one)
    assert (dict(done.rows), done.whole) == ({}, ("w",))
    assert found.explained
    await promoted(one, done.batch)
    await one.assert_equal()


async def test_rows_that_nobody_watches_are_left_alone(one: Sides) -> None:
    """Without the feed's triggers in production a difference may be anybody's write, so nothing is repaired."""
    await one.theirs("ALTER TABLE t DISABLE TRIGGER localstore_feed_update", "UPDATE t SET a = 'theirs' WHERE id = 1")
    found, done = await repaired(one)
    assert not found.explained
    assert done.batch is None
    assert [row for row, _ in done.left_alone] == ["t/1"]


async def test_what_production_has_forgotten_is_left_alone(one: Sides, tmp_path: Path, production: str) -> None:
    """Another replica's promotion whose undo has expired explains nothing any more, but may be behind a difference."""
    async with LocalStore(tmp_path / "other", models=[]) as other, SyncEngine(other, to=production) as second:
        await second.pull([COMPANY])
        tenant = other.tenant(COMPANY)
        await tenant.open()
        await tenant.database.write(lambda file: file.execute("UPDATE t SET a = 'theirs' WHERE id = 1"))
        await second.push([COMPANY], promote=True)
    await silently(
        one,
        "UPDATE localstore.ledger SET promoted_at = now() - interval '31 days'",
        "DELETE FROM localstore.undo",
    )
    found, done = await repaired(one)
    assert causes(found) == {Why.DRIFT: 1}
    assert [row for row, _ in done.left_alone] == ["t/1"]
    assert "pull" in done.left_alone[0][1]
    # Once the file has taken in what others did, what differs from then on is drift again.
    await one.engine.pull([COMPANY])
    await silently(one, "UPDATE t SET a = 'lost' WHERE id = 2")
    found, done = await repaired(one)
    assert dict(done.rows) == {"t": 1}
    await promoted(one, done.batch)
    await one.assert_equal()


async def test_what_a_pull_could_not_take_over_is_left_alone(one: Sides, tmp_path: Path, production: str) -> None:
    """A row of others that the file refuses stays theirs, even when nothing in production tells any more."""
    await one.track("CREATE TABLE c (id INTEGER PRIMARY KEY, v TEXT CHECK (v <> 'refused'))")
    await one.local("INSERT INTO c VALUES (?, 'v')", [(1,), (2,)])
    await one.push()
    async with LocalStore(tmp_path / "other", models=[]) as other, SyncEngine(other, to=production) as second:
        await second.pull([COMPANY])
        tenant = other.tenant(COMPANY)
        await tenant.open()
        await tenant.database.write(lambda file: file.execute("UPDATE c SET v = 'refused' WHERE id = 1"))
        await second.push([COMPANY], promote=True)
    pulled = await one.engine.pull([COMPANY])
    assert [row for row, _ in pulled.tenants[0].left_alone] == ["c/1"]
    await silently(
        one,
        "UPDATE localstore.ledger SET promoted_at = now() - interval '31 days'",
        "DELETE FROM localstore.undo",
        "UPDATE c SET v = 'lost' WHERE id = 2",
    )
    found, done = await repaired(one)
    assert causes(found, "c") == {Why.DRIFT: 2}
    assert dict(done.rows) == {"c": 1}
    assert [row for row, _ in done.left_alone] == ["c/1"]
    await promoted(one, done.batch)
    assert await one.production("SELECT v FROM c ORDER BY id") == [("refused",), ("v",)]


async def test_a_restored_production_is_not_repaired(one: Sides) -> None:
    """Batches that production lost are sent again by a push; a repair refuses rather than take them for drift."""
    await one.local("UPDATE t SET a = 'second' WHERE id = 1")
    batch = (await one.push()).batch
    await silently(
        one,
        f"DELETE FROM localstore.undo WHERE batch = '{batch}'",
        f"DELETE FROM localstore.feed WHERE batch = '{batch}'",
        f"DELETE FROM localstore.ledger WHERE batch = '{batch}'",
        "UPDATE t SET a = 'a' WHERE id = 1",
    )
    with pytest.raises(SyncRefused, match="restored") as refused:
        await one.engine.verify([COMPANY], repair=True)
    assert "push --promote" in refused.value.hint


async def test_a_copy_of_production_is_not_repaired_from(one: Sides) -> None:
    """In mode postgresql production is the truth: the refusal names the command that helps."""
    for _ in range(2):
        await one.engine.modes.advance(COMPANY)
    await silently(one, "UPDATE t SET a = 'lost' WHERE id = 1")
    with pytest.raises(WrongMode) as refused:
        await one.engine.verify([COMPANY], repair=True)
    assert isinstance(refused.value, LocalStoreError)
    assert f"localstore sync pull --tenant {COMPANY}" in refused.value.hint
    assert await one.production("SELECT a FROM t WHERE id = 1") == [("lost",)]
