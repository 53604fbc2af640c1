"""A file put back by `localstore restore` goes on where nothing is newer; else it is refused until it is rebased."""

from __future__ import annotations

import shutil
from pathlib import Path

import asyncpg
import pytest

from sync.bundle import Sealed
from sync.steps.stage import stage
from tests.faults.dumps import dump_of
from tests.faults.dumps import restore as restore_production
from tests.faults.restoring import REFUSED, back_up, check_goes_on, check_rebased, check_refused, put_back, run
from tests.faults.world import World, ticket, writes


async def test_the_newest_backup_loses_nothing_and_goes_on(pushed: World) -> None:
    """Nothing was sent since the backup: the file is what production knows, and only its epoch is another one."""
    backup = back_up(pushed)
    pushed.shell("UPDATE tickets SET status = 'never sent' WHERE ticket_id = '3'")
    put_back(pushed, backup)
    await check_goes_on(pushed)
    put_back(pushed, back_up(pushed))
    pushed.shell(writes("again", 15))
    run(pushed, "push", "--promote")
    await pushed.check_settled()


async def test_an_older_backup_is_refused_until_it_is_rebased(pushed: World) -> None:
    """Production was not restored, and nobody says so; after the rebase the file has what it had promoted since."""
    backup = back_up(pushed)
    pushed.shell(writes("newer", 0))
    run(pushed, "push", "--promote")
    put_back(pushed, backup)
    await check_refused(pushed)
    await check_rebased(pushed)
    assert pushed.local("SELECT status FROM tickets WHERE ticket_id = '1'") == [("newer",)]
    assert pushed.local("SELECT count(*) FROM tickets WHERE ticket_id = '2'") == [(0,)]


async def test_edits_made_after_the_restore_are_kept(pushed: World) -> None:
    """They are refused with the file, not promoted beside what it lacks, and wait through the rebase."""
    backup = back_up(pushed)
    pushed.shell(writes("newer", 0))
    run(pushed, "push", "--promote")
    put_back(pushed, backup)
    pushed.shell("UPDATE tickets SET priority = 'mine' WHERE ticket_id IN ('4', '5')")
    pushed.shell("DELETE FROM tickets WHERE ticket_id = '6'; DELETE FROM conversations WHERE ticket_id = '6'")
    await pushed.put(ticket("mine"))
    await check_refused(pushed)
    await check_rebased(pushed, "6")
    rows = await pushed.fetch(
        "SELECT ticket_id, priority FROM tickets WHERE ticket_id IN ('4', '5', 'mine') ORDER BY 1"
    )
    assert rows == [("4", "mine"), ("5", "mine"), ("mine", "low")]


async def test_a_batch_that_was_staged_at_the_time_of_the_backup(pushed: World) -> None:
    """It is the file's own, whether it still waits or was promoted since."""
    pushed.shell(writes("staged", 0))
    run(pushed, "push")
    backup = back_up(pushed)
    put_back(pushed, backup)
    for contact in (("plan",), ("pull",)):
        run(pushed, *contact)
    pushed.shell("UPDATE tickets SET status = 'after' WHERE ticket_id = '9'")
    run(pushed, "push", "--promote")
    await pushed.check_settled()


async def test_a_batch_that_was_promoted_since_the_backup(pushed: World) -> None:
    """What the backup had staged is what production has: nothing is newer."""
    pushed.shell(writes("staged", 0))
    run(pushed, "push")
    backup = back_up(pushed)
    run(pushed, "promote")
    put_back(pushed, backup)
    await check_goes_on(pushed)


async def test_a_batch_that_was_withdrawn_since_the_backup(pushed: World) -> None:
    """Its changes are pending again in the restored file; with another batch in its place the file is too old."""
    pushed.shell(writes("staged", 0))
    batch = run(pushed, "push").json["tenants"][0]["batch"]
    backup = back_up(pushed)
    run(pushed, "withdraw", batch)
    put_back(pushed, backup)
    run(pushed, "push", "--promote")
    await pushed.check_settled()
    put_back(pushed, backup)
    await check_refused(pushed)
    await check_rebased(pushed)


async def test_a_withdrawal_takes_the_batches_of_later_epochs_along(pushed: World) -> None:
    """A batch sealed after the restore names one from before it as its parent: neither is promoted without it."""
    pushed.shell("UPDATE tickets SET status = 'before' WHERE ticket_id = '1'")
    first = run(pushed, "push").json["tenants"][0]["batch"]
    put_back(pushed, back_up(pushed))
    pushed.shell("UPDATE tickets SET status = 'after' WHERE ticket_id = '1'")
    run(pushed, "push")
    run(pushed, "withdraw", first)
    assert list((await pushed.ledger()).values()).count("withdrawn") == 2
    run(pushed, "push", "--promote")
    await pushed.check_settled()


async def test_a_batch_that_was_staged_since_the_backup(pushed: World) -> None:
    """It waits in production and the file does not know it: refused, and after the rebase it arrives all the same."""
    backup = back_up(pushed)
    pushed.shell("UPDATE tickets SET status = 'staged' WHERE ticket_id = '1'")
    run(pushed, "push")
    put_back(pushed, backup)
    await check_refused(pushed)
    run(pushed, "rebase")
    pushed.shell("UPDATE tickets SET priority = 'mine' WHERE ticket_id = '1'")
    run(pushed, "push", "--promote")
    run(pushed, "pull")
    run(pushed, "verify")
    assert pushed.local("SELECT status, priority FROM tickets WHERE ticket_id = '1'") == [("staged", "mine")]


async def test_restored_twice(pushed: World) -> None:
    """What was sent between two restores of one backup is newer than it, in whichever epoch it was."""
    backup = back_up(pushed)
    put_back(pushed, backup)
    put_back(pushed, backup)
    await check_goes_on(pushed)
    put_back(pushed, backup)
    await check_refused(pushed)
    await check_rebased(pushed)
    put_back(pushed, backup)
    await check_refused(pushed)


async def test_a_copy_of_an_earlier_epoch_is_refused(pushed: World, tmp_path: Path) -> None:
    """A copy from before the restore is another copy: whoever pushes first goes on."""
    copy = World(tmp_path / "copy", pushed.url)
    shutil.copytree(pushed.data, copy.data)
    put_back(pushed, back_up(pushed))
    pushed.shell(writes("restored", 0))
    run(pushed, "push", "--promote")
    copy.shell(writes("copied", 5))
    await check_refused(copy)
    await pushed.check_settled()


async def test_a_copy_of_an_earlier_epoch_is_faster(
    pushed: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its batch arrives after the chains were compared: the ledger has one place for both, whatever their epochs."""
    copy = World(tmp_path / "copy", pushed.url)
    shutil.copytree(pushed.data, copy.data)
    put_back(pushed, back_up(pushed))
    pushed.shell(writes("restored", 0))
    copy.shell(writes("copied", 5))

    async def outrun(connection: asyncpg.Connection, sealed: Sealed, target: str, mode: str) -> str:
        monkeypatch.undo()
        assert (await copy.push()).exit_code == 0
        return await stage(connection, sealed, target, mode)

    monkeypatch.setattr("sync.pipeline.stage", outrun)
    refused = await pushed.push()
    assert refused.exit_code == REFUSED, refused.to_json()
    await copy.check_settled()
    await check_rebased(pushed, "2", "3")


@pytest.mark.parametrize("dumped", [0, 1, 2])
async def test_production_and_the_file_are_both_restored(pushed: World, dumped: int) -> None:
    """The file knows of one round more than at first; production is put back to before it, to it, and to after it."""
    for number in range(3):
        if number == 1:
            backup = back_up(pushed)
        if number == dumped:
            break
        pushed.shell(writes(f"round{number}", 4 * number))
        run(pushed, "push", "--promote")
    async with dump_of(pushed) as dump:
        for number in range(dumped, 3):
            if number == 1:
                backup = back_up(pushed)
            pushed.shell(writes(f"round{number}", 4 * number))
            run(pushed, "push", "--promote")
        restore_production(pushed, dump)
    put_back(pushed, backup)
    if dumped == 0:
        refused = run(pushed, "pull", code=REFUSED)
        assert "production was restored" in refused.all
        run(pushed, "push", "--promote")
        run(pushed, "pull")
    if dumped == 2:
        await check_refused(pushed)
        await check_rebased(pushed)
    else:
        await check_goes_on(pushed)
