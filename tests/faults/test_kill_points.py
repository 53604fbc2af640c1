"""The crash table made true: the real command dies at each of its lines, and the next run finishes."""

from __future__ import annotations

import signal
from pathlib import Path
from uuid import UUID

import pytest

from tests.faults.killing import POINTS, ROLLBACK_POINTS, Command
from tests.faults.world import World, writes

CHUNK_ROWS = 5

# What production's ledger must say about the batch right after the kill: proof that the point was the one meant.
FOUND = {
    "the bundle's temp file is half written": None,
    "the bundle's temp file is written": None,
    "the bundle has its name but no record": None,
    "the batch is recorded": None,
    "the ledger's row is there, no chunk": "staging",
    "three chunks are staged": "staging",
    "a chunk is under way": "staging",
    "all chunks are there, not yet said": "staging",
    "the batch is staged": "staged",
    "all is merged, nothing committed": "staged",
    "COMMIT is sent, its answer not read": "promoted",
    "promoted, not yet confirmed": "promoted",
    "promoted, staging not yet swept": "promoted",
    "promoted, not yet acknowledged": "promoted",
    "marks trimmed, bundle still in outbox": "promoted",
}
UNRECORDED = 3


@pytest.mark.parametrize("point", POINTS)
async def test_F1_killed_at_each_line_of_the_crash_table(busy_world: World, tmp_path: Path, point: str) -> None:
    """Killed at any point, with the shell writing before the rerun, one more push leaves both sides equal."""
    world = busy_world
    before = await world.ledger()
    pushing = Command(
        *("sync", "push", "--promote", "--data", world.data),
        url=world.url,
        output=tmp_path / "out",
        point=point,
        chunk_rows=CHUNK_ROWS,
    )
    assert pushing.wait() == -signal.SIGKILL, pushing.printed
    await _check_reached(world, point, before)
    world.shell(writes("after", 20))
    again = Command("sync", "push", "--promote", "--data", world.data, url=world.url, output=tmp_path / "again")
    assert again.wait() == 0, again.printed
    await world.check_settled()
    assert await world.value("SELECT status FROM tickets WHERE ticket_id = '21'") == "after"


@pytest.mark.parametrize("point", ROLLBACK_POINTS)
async def test_F1_killed_while_a_batch_is_taken_back(busy_world: World, tmp_path: Path, point: str) -> None:
    """A rollback that dies took effect whole or not at all; run again and requeued, everything is there once more."""
    world = busy_world
    before = await world.fetch("SELECT t::text FROM tickets t ORDER BY 1")
    (tenant,) = (await world.push()).tenants
    after = await world.fetch("SELECT t::text FROM tickets t ORDER BY 1")
    arguments = ("sync", "rollback", str(tenant.batch), "--data", world.data)
    rolling = Command(*arguments, url=world.url, output=tmp_path / "out", point=point)
    assert rolling.wait() == -signal.SIGKILL, rolling.printed
    is_done = point.startswith("taken back")
    assert await world.fetch("SELECT t::text FROM tickets t ORDER BY 1") == (before if is_done else after)
    again = Command(*arguments, url=world.url, output=tmp_path / "again")
    assert again.wait() == 0, again.printed
    assert await world.fetch("SELECT t::text FROM tickets t ORDER BY 1") == before
    for number, command in enumerate((("requeue", str(tenant.batch)), ("push", "--promote"))):
        last = Command("sync", *command, "--data", world.data, url=world.url, output=tmp_path / f"last{number}")
        assert last.wait() == 0, last.printed
    assert await world.fetch("SELECT t::text FROM tickets t ORDER BY 1") == after
    await world.check_rows()
    await world.check_nothing_left()


async def _check_reached(world: World, point: str, before: dict[UUID, str]) -> None:
    """Claim that the process died where it was meant to."""
    expected = FOUND[point]
    if expected == "promoted":
        # The server may still be at the COMMIT of a client that is gone; a row lock waits for its end.
        await world.execute("SELECT FROM localstore.ledger FOR UPDATE")
    new = {state for batch, state in (await world.ledger()).items() if batch not in before}
    assert new == ({expected} if expected else set())
    open_bundles = [path.name for path in world.outbox.iterdir() if path.suffix in (".bundle", ".partial")]
    assert len(open_bundles) == 1
    assert open_bundles[0].endswith("partial") == point.startswith("the bundle's temp file")
    ((recorded,),) = world.local("SELECT count(*) FROM localstore_batches")
    assert recorded == (1 if point in list(POINTS)[:UNRECORDED] else 2)
