"""A restored file and what production holds of it, or took back: held changes are told apart from those it lost."""

from __future__ import annotations

from tests.faults.restoring import HELD, back_up, check_refused, put_back, run
from tests.faults.world import COMPANY, World, ticket


async def test_a_rollback_since_the_backup(pushed: World) -> None:
    """The file learns that its changes were taken back, as it would have without the restore."""
    pushed.shell("UPDATE tickets SET status = 'taken back' WHERE ticket_id = '1'")
    batch = run(pushed, "push", "--promote").json["tenants"][0]["batch"]
    backup = back_up(pushed)
    run(pushed, "rollback", batch)
    put_back(pushed, backup)
    run(pushed, "pull", code=0)
    (verified,) = run(pushed, "verify", code=HELD).json["tenants"]
    found = [one["why"] for table in verified["tables"].values() for one in table["differences"]]
    assert set(found) == {"held"}
    run(pushed, "requeue", batch)
    run(pushed, "push", "--promote")
    await pushed.check_rows()
    run(pushed, "verify")


async def test_rows_held_since_the_backup(pushed: World) -> None:
    """What production holds of the lost batches stays listed; the rebased file is production's and goes on."""
    backup = back_up(pushed)
    await _clash(pushed)
    put_back(pushed, backup)
    pushed.shell("UPDATE tickets SET priority = 'mine' WHERE ticket_id = '2'")
    await check_refused(pushed)
    run(pushed, "rebase")
    run(pushed, "push", "--promote", code=HELD)
    run(pushed, "verify")
    rows = await pushed.fetch(
        "SELECT ticket_id, status, priority FROM tickets WHERE ticket_id IN ('1', '2') ORDER BY 1"
    )
    assert rows == [("1", "theirs", "low"), ("2", "ours", "mine")]
    await pushed.check_rows()


async def test_whole_rows_held_since_the_backup(pushed: World) -> None:
    """Of rows made on both sides, deleted here and written there, or never taken, production's stand."""
    backup = back_up(pushed)
    await pushed.put(ticket("both", status="ours"))
    pushed.shell("DELETE FROM conversations WHERE ticket_id IN ('1', '2'); DELETE FROM tickets WHERE ticket_id = '1'")
    pushed.shell("DELETE FROM tickets WHERE ticket_id = '2'")
    bad = f"VALUES ('{COMPANY}', 'jira', 'bad', 'no JSON')"
    pushed.shell(f"INSERT INTO tickets (company_id, platform, ticket_id, raw_data) {bad}")
    await pushed.execute(
        f"SET app.current_company_id = '{COMPANY}'; "
        "UPDATE tickets SET status = 'theirs' WHERE ticket_id IN ('1', '2'); "
        "INSERT INTO tickets (id, company_id, platform, ticket_id, status, created_at, updated_at) "
        "SELECT gen_random_uuid(), company_id, platform, 'both', 'theirs', now(), now() FROM tickets LIMIT 1"
    )
    run(pushed, "push", "--promote", code=HELD)
    held = await pushed.fetch("SELECT op::text FROM localstore.held ORDER BY 1")
    assert {op for (op,) in held} == {"d", "i", "u"}
    await pushed.execute(f"SET app.current_company_id = '{COMPANY}'; DELETE FROM tickets WHERE ticket_id = '2'")
    put_back(pushed, backup)
    await check_refused(pushed)
    run(pushed, "rebase")
    run(pushed, "verify")
    run(pushed, "push", "--promote", code=HELD)
    await pushed.check_rows()
    assert await pushed.value("SELECT status FROM tickets WHERE ticket_id = 'both'") == "theirs"
    assert await pushed.value("SELECT count(*) FROM tickets WHERE ticket_id = '2'") == 0


async def test_rows_held_at_the_time_of_the_backup(pushed: World) -> None:
    """They are held still, and deciding them ends it."""
    await _clash(pushed)
    put_back(pushed, back_up(pushed))
    run(pushed, "pull")
    run(pushed, "verify", code=HELD)
    run(pushed, "conflicts", "resolve", "tickets/jira/1", "--use", "local")
    run(pushed, "push", "--promote")
    await pushed.check_rows()
    run(pushed, "verify")


async def _clash(world: World) -> None:
    """Promote a change of two tickets, one of which production holds because an application wrote it, too."""
    world.shell("UPDATE tickets SET status = 'ours' WHERE ticket_id IN ('1', '2')")
    await world.execute(
        f"SET app.current_company_id = '{COMPANY}'; UPDATE tickets SET status = 'theirs' WHERE ticket_id = '1'"
    )
    run(world, "push", "--promote", code=HELD)
