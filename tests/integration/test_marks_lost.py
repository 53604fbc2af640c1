"""Another tool empties the table of marks: nothing that was written before or after may stay behind unseen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.promotion import COMPANY, Sides, counts, sides


@pytest.fixture
async def both(tmp_path: Path, production: str) -> AsyncIterator[Sides]:
    """Return a file with one table that is in production."""
    async with sides(tmp_path, production) as opened:
        await opened.track("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT)")
        await opened.local("INSERT INTO t VALUES (?, 'x', 'x')", [(number,) for number in range(1, 6)])
        await opened.push()
        yield opened


async def test_what_lost_its_marks_travels_whole(both: Sides) -> None:
    """Writes before the loss and after it arrive, an application's edit becomes a conflict, and capture goes on."""
    await both.theirs("UPDATE t SET b = 'theirs' WHERE id = 3")
    await both.local("UPDATE t SET a = 'before' WHERE id = 1")
    await both.unchecked("DELETE FROM localstore_marks")
    await both.local("UPDATE t SET a = 'after' WHERE id = 2")
    await both.local("INSERT INTO t VALUES (9, 'after', 'x')")
    assert counts(await both.push(3)) == {"inserted": 1, "updated": 2, "unchanged": 2, "conflicts": 1}
    assert await both.production("SELECT id, a, b FROM t WHERE id IN (1, 2, 3, 9) ORDER BY id") == [
        (1, "before", "x"),
        (2, "after", "x"),
        (3, "x", "theirs"),
        (9, "after", "x"),
    ]
    await both.engine.conflicts.resolve("t/3", "production", [COMPANY])
    await both.local("UPDATE t SET a = 'later' WHERE id = 2")
    assert counts(await both.push())["updated"] == 1
    await both.assert_equal()


async def test_a_batch_on_its_way_is_not_sent_twice(both: Sides) -> None:
    """What was sealed before the loss keeps its place in the chain."""
    await both.local("UPDATE t SET a = 'sealed' WHERE id = 1")
    await both.engine.push([COMPANY])
    await both.unchecked("DELETE FROM localstore_marks")
    await both.local("UPDATE t SET a = 'after' WHERE id = 2")
    await both.push()
    assert await both.production("SELECT id, a FROM t WHERE id < 3 ORDER BY id") == [(1, "sealed"), (2, "after")]
    await both.assert_equal()
