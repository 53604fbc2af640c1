"""Several batches are taken back one after the other, the newest first: production goes back step by step."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from tests.integration.promotion import Sides, sides

Rows = list[tuple[object, ...]]


@pytest.fixture
async def both(tmp_path: Path, production: str) -> AsyncIterator[Sides]:
    """Return a file with one table that is in production."""
    async with sides(tmp_path, production) as opened:
        await opened.track("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT)")
        await opened.local("INSERT INTO t VALUES (?, 'x', 'x')", [(number,) for number in range(1, 6)])
        await opened.push()
        yield opened


async def change(both: Sides, *statements: str) -> tuple[UUID, Rows]:
    """Write, push, and return the batch with the state that production had before it."""
    before = await state(both)
    for statement in statements:
        await both.local(statement)
    batch = (await both.push()).batch
    assert batch is not None
    return batch, before


async def state(both: Sides) -> Rows:
    """Return production's rows."""
    return await both.production("SELECT id, a, b FROM t ORDER BY id")


async def take_back(both: Sides, batch: UUID) -> list[str]:
    """Roll back, and return the rows that were left alone."""
    (tenant,) = (await both.engine.rollback(batch)).tenants
    assert tenant.failure is None, tenant.failure
    return sorted(row for row, _ in tenant.left_alone)


async def test_F23_each_step_restores_the_state_before_its_batch(both: Sides) -> None:
    """Updates, deletes and inserts of the same rows by three batches; requeued together they are all there again."""
    steps = [
        await change(both, "UPDATE t SET a = 'one' WHERE id < 4", "DELETE FROM t WHERE id = 4"),
        await change(
            both, "UPDATE t SET a = 'two', b = 'two' WHERE id IN (1, 5)", "INSERT INTO t VALUES (4, 'again', '')"
        ),
        await change(both, "UPDATE t SET b = 'three' WHERE id IN (1, 2, 4)", "DELETE FROM t WHERE id = 3"),
    ]
    last = await state(both)
    for batch, before in reversed(steps):
        assert await take_back(both, batch) == []
        assert await state(both) == before
    for batch, _ in steps:
        await both.engine.requeue(batch)
    await both.push()
    assert await state(both) == last
    await both.assert_equal()


async def test_F23_what_an_application_wrote_between_two_batches_is_spared(both: Sides) -> None:
    """Also where it came back to the very value that it had found, and where it wrote another column."""
    first, _ = await change(both, "UPDATE t SET a = 'one'")
    await both.theirs("UPDATE t SET a = 'between' WHERE id = 1", "UPDATE t SET a = 'one' WHERE id = 1")
    await both.theirs("UPDATE t SET b = 'theirs' WHERE id = 2")
    second, before = await change(both, "UPDATE t SET a = 'two'")
    await both.theirs("UPDATE t SET b = 'later' WHERE id = 3")
    assert await take_back(both, second) == ["t/3"]
    kept = [row for row in before if row[0] != 3]
    assert [row for row in await state(both) if row[0] != 3] == kept
    assert await take_back(both, first) == ["t/1", "t/2", "t/3"]
    assert [row for row in await state(both) if row[0] in (4, 5)] == [(4, "x", "x"), (5, "x", "x")]
    assert [row for row in await state(both) if row[0] == 2] == [(2, "one", "theirs")]


async def test_F23_a_batch_between_that_stands_keeps_its_rows(both: Sides) -> None:
    """Only what was taken back counts as if it had never been; the rows of a batch that stands are left alone."""
    first, before = await change(both, "UPDATE t SET a = 'one'")
    await change(both, "UPDATE t SET b = 'stands' WHERE id = 1")
    third, _ = await change(both, "UPDATE t SET a = 'three'")
    assert await take_back(both, third) == []
    assert await take_back(both, first) == ["t/1"]
    assert await state(both) == [(1, "one", "stands"), *before[1:]]


async def test_F23_what_was_requeued_stands_again(both: Sides) -> None:
    """A batch that was taken back and promoted anew is a later write like any other."""
    first, _ = await change(both, "UPDATE t SET a = 'one'")
    second, _ = await change(both, "UPDATE t SET a = 'two' WHERE id = 1")
    assert await take_back(both, second) == []
    await both.engine.requeue(second)
    await both.push()
    assert await take_back(both, first) == ["t/1"]
    assert (await state(both))[:2] == [(1, "two", "x"), (2, "x", "x")]
