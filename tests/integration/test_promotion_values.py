"""What SQLite has made of a value before anybody sees it, and what production's settings make of a promotion."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from sync.bundle import now
from sync.steps import promote
from tests.integration.promotion import COMPANY, Sides, counts, sides


@pytest.fixture
async def both(tmp_path: Path, production: str) -> AsyncIterator[Sides]:
    """Return an empty file and an empty production."""
    async with sides(tmp_path, production) as opened:
        yield opened


async def test_V6_V13_what_sqlite_made_of_a_value_is_what_production_holds(both: Sides) -> None:
    """Digits that an integer column took as a number, and a NaN that became NULL, are the same on both sides."""
    await both.track("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, r REAL)")
    await both.local(
        "INSERT INTO t VALUES (?, ?, ?)", [(1, "007", float("nan")), (2, " 5 ", 5e-324), (3, "1e3", "1e-400")]
    )
    assert counts(await both.push()) == {"inserted": 3}
    assert await both.production("SELECT n, r FROM t ORDER BY id") == [(7, None), (5, 5e-324), (1000, 0.0)]
    await both.assert_equal()


async def test_V46_strict_tables_are_captured_and_promoted(both: Sides) -> None:
    """A STRICT table travels like any other; what it still lets through is held."""
    await both.track("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, a TEXT) STRICT")
    await both.local("INSERT INTO t VALUES (1, 2, 'x'), (2, 3, char(0))")
    assert counts(await both.push(3)) == {"inserted": 1, "quarantined": 1}
    await both.local("UPDATE t SET a = 'y', n = 4")
    assert counts(await both.push()) == {"inserted": 1, "updated": 1}
    await both.assert_equal()


async def test_N16_case_that_only_production_folds_holds_the_second_row(both: Sides) -> None:
    """NOCASE folds ASCII alone; a unique index of production that folds more holds what it takes for a twin."""
    await both.track("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE UNIQUE)")
    await both.local("INSERT INTO t VALUES (1, 'straße'), (2, 'É')")
    await both.push()
    await both.theirs("CREATE UNIQUE INDEX t_folded ON t (company_id, translate(lower(name), 'É', 'é'))")
    await both.local("INSERT INTO t VALUES (3, 'é'), (4, 'e')")
    assert counts(await both.push(3)) == {"inserted": 1, "quarantined": 1}
    assert await both.reasons() == {"t/3": "constraint"}


async def test_F19_a_clock_set_back_changes_no_order(both: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches go by their place in the chain: a later one whose clock reads earlier is promoted last all the same."""
    await both.track("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
    for days in range(3):
        monkeypatch.setattr("sync.steps.seal.now", lambda days=days: now() - timedelta(days=days))
        await both.local("INSERT INTO t VALUES (1, ?) ON CONFLICT DO UPDATE SET a = excluded.a", [(f"{days} days",)])
        await both.engine.push([COMPANY])
    assert (await both.engine.promote()).exit_code == 0
    assert await both.production("SELECT a FROM t") == [("2 days",)]
    await both.assert_equal()


async def test_P10_a_promotion_bounds_its_waits(both: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a lock that an application keeps, a promotion gives up with an error, and the next one goes through."""
    await both.track("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
    await both.local("INSERT INTO t VALUES (1, 'x')")
    await both.push()
    await both.local("UPDATE t SET a = 'y'")
    monkeypatch.setattr(promote, "LOCK_TIMEOUT_MILLISECONDS", 50)
    async with both.app.transaction():
        await both.theirs("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        result = await both.engine.push([COMPANY], promote=True)
        failure = result.tenants[0].failure
        assert failure is not None
        assert (result.exit_code, failure.code, "in the way" in failure.message) == (1, "postgres", True), failure
    assert counts(await both.push()) == {"updated": 1}
