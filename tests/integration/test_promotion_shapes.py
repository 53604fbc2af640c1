"""Promotion of tables of every shape: references in circles, swapped values, odd keys and names, many rows and columns."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from localstore import LocalStore
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
