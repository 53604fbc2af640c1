"""A repair that dies at any moment: run again it ends as if it had never been cut off."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.faults.killing import REPAIR_POINTS, Command
from tests.faults.world import World

DRIFT = """
    SET session_replication_role = replica;
    UPDATE tickets SET status = 'lost', updated_at = now() WHERE ticket_id IN ('30', '31');
    DELETE FROM conversations WHERE ticket_id IN ('32', '33');
    INSERT INTO tickets (company_id, platform, ticket_id) VALUES ('acme', 'jira', 'stray');
"""


@pytest.mark.parametrize("point", REPAIR_POINTS)
async def test_F1_a_repair_that_dies_is_finished_by_the_next(busy_world: World, tmp_path: Path, point: str) -> None:
    """Killed anywhere, with the shell writing before the rerun, repair and promotion leave both sides equal."""
    world = busy_world
    await world.execute(DRIFT)
    arguments = ("sync", "verify", "--repair", "--json", "--data", world.data)
    before = await world.fetch("SELECT t::text FROM tickets t ORDER BY 1")
    dying = Command(*arguments, url=world.url, output=tmp_path / "out", point=point)
    assert dying.wait() == -signal.SIGKILL, dying.printed
    world.shell("UPDATE tickets SET status = 'after' WHERE ticket_id = '40'")
    again = Command(*arguments, url=world.url, output=tmp_path / "again")
    assert again.wait() == 3, again.printed
    (tenant,) = json.loads(again.printed)["tenants"]
    assert tenant["left_alone"] == []
    assert tenant["repaired"] == (5 if point in ("compared, nothing marked", "marked, not committed") else 0)
    assert tenant["batch"] is not None
    assert await world.fetch("SELECT t::text FROM tickets t ORDER BY 1") == before
    for command in (("sync", "promote", tenant["batch"]), ("sync", "push", "--promote"), ("sync", "verify")):
        last = Command(*command, "--data", world.data, url=world.url, output=tmp_path / command[1])
        assert last.wait() == 0, last.printed
    await world.check_settled()
    assert await world.value("SELECT count(*) FROM tickets WHERE ticket_id = 'stray' OR status = 'lost'") == 0
    assert await world.value("SELECT status FROM tickets WHERE ticket_id = '40'") == "after"
