"""A tenant's file put back by `localstore restore`, and what every contact with production must then do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.faults.world import COMPANY, World, writes
from tests.integration.command import Outcome, command, sync

HELD, REFUSED = 3, 6
REBASE = f"localstore sync rebase --tenant {COMPANY}"
CONTACTS = (("push", "--promote"), ("plan",), ("pull",), ("verify",), ("verify", "--repair"))


def run(world: World, *arguments: str, code: int = 0) -> Outcome:
    """Run a command of sync, which must end with this exit code."""
    outcome = sync(*arguments, "--data", world.data, "--json", DATABASE_URL=world.url)
    assert outcome.code == code, (arguments, outcome.all)
    return outcome


def back_up(world: World) -> Path:
    """Back the tenant up as it is now."""
    made = command("backup", "--data", world.data, "--json")
    assert made.code == 0, made.all
    return Path(made.json["tenants"][0]["path"])


def put_back(world: World, backup: Path) -> None:
    """Restore a backup."""
    done = command("restore", COMPANY, "--yes", "--from", backup, "--data", world.data, "--json")
    assert done.code == 0, done.all


async def all_of(world: World) -> dict[str, list[tuple[Any, ...]]]:
    """Return production's rows, and those of its ledger."""
    tables = ("tickets", "conversations", "localstore.ledger", "localstore.held")
    return {name: await world.fetch(f"SELECT t::text FROM {name} t ORDER BY 1") for name in tables}


async def check_refused(world: World) -> None:
    """Claim that every contact is refused as an older file's, names the way on, and changes nothing."""
    before, local = await all_of(world), world.local("SELECT * FROM tickets ORDER BY ticket_id")
    for contact in CONTACTS:
        refused = run(world, *contact, code=REFUSED)
        shown = refused.json
        error = shown["error"] if "error" in shown else shown["tenants"][0]["error"]
        assert (error["code"], error["hint"]) == ("stale_file", REBASE), (contact, refused.all)
        assert "production was restored" not in refused.all
    assert await all_of(world) == before
    assert world.local("SELECT * FROM tickets ORDER BY ticket_id") == local


async def check_goes_on(world: World) -> None:
    """Claim that no contact finds fault, that edits arrive, and that all is then as if nothing had been restored."""
    for contact in CONTACTS:
        run(world, *contact)
    world.shell(writes("on", 10))
    run(world, "push", "--promote")
    run(world, "verify")
    await world.check_rows()
    known = world.local("SELECT batch FROM localstore_batches WHERE state = 'acknowledged'")
    assert {str(batch): state for batch, state in (await world.ledger()).items()} == {b: "promoted" for (b,) in known}


async def check_rebased(world: World, *gone: str) -> None:
    """Claim that a rebase takes over all that production has and deletes none of it, and that pushes go on.

    `gone` are tickets that were deleted after the restore.
    """
    theirs = {row[1] for row in await world.fetch("SELECT platform, ticket_id FROM tickets")}
    run(world, "rebase")
    assert sync("verify", "--data", world.data, DATABASE_URL=world.url).code in (0, HELD)
    run(world, "push", "--promote")
    run(world, "verify")
    await world.check_rows()
    kept = {row[1] for row in await world.fetch("SELECT platform, ticket_id FROM tickets")}
    assert theirs - set(gone) <= kept
    assert not kept & set(gone)
    for contact in CONTACTS:
        run(world, *contact)
