"""Claims about `localstore backup` and `restore` as processes: exit codes, asking first, what stays listed."""

from __future__ import annotations

from pathlib import Path

from localstore import LocalStore
from localstore.helpdesk.models import Ticket
from tests.integration.command import command, sync


async def put(root: Path, *numbers: int) -> None:
    """Put tickets into the tenant acme."""
    async with LocalStore(root) as store:
        await store.tenant("acme").put_many(
            [Ticket(platform="jira", ticket_id=str(number), title=f"ticket {number}") for number in numbers]
        )


async def tickets(root: Path) -> list[str]:
    """Return the ids of acme's tickets."""
    async with LocalStore(root) as store:
        return sorted(ticket.ticket_id for ticket in await store.tenant("acme").find(Ticket))


async def test_a_backup_and_back(tmp_path: Path) -> None:
    """Restore refuses to act unasked where nobody can answer (exit 2); with --yes the tenant is as it was."""
    root = tmp_path / "data"
    await put(root, 1)
    made = command("backup", "--data", root, "--json")
    assert (made.code, made.json["tenants"][0]["tenant"]) == (0, "acme")
    await put(root, 2)
    unasked = command("restore", "acme", "--data", root)
    assert (unasked.code, "--yes" in unasked.err) == (2, True)
    assert await tickets(root) == ["1", "2"]
    done = command("restore", "acme", "--yes", "--data", root, "--json")
    assert (done.code, done.json["epoch"]) == (0, 2), done.all
    assert await tickets(root) == ["1"]
    assert command("restore", "acme", "--yes", "--data", root).code == 0
    assert await tickets(root) == ["1"], "a restore took the copy that the one before it had made"
    again = command("restore", "acme", "--yes", "--from", done.json["before"], "--data", root)
    assert again.code == 0, again.all
    assert await tickets(root) == ["1", "2"]


async def test_one_tenant_that_cannot_be_backed_up_is_named(tmp_path: Path) -> None:
    """The others are backed up all the same, into the folder that was named; exit 1."""
    root, out = tmp_path / "data", tmp_path / "out"
    await put(root, 1)
    (root / "ruined").mkdir(parents=True)
    (root / "ruined" / "store.db").write_bytes(b"")
    made = command("backup", "--data", root, "--out", out)
    assert (made.code, "error: ruined: " in made.err, "Try: " in made.err) == (1, True, True)
    assert len(list((out / "acme").glob("*.db"))) == 1
    missing = command("restore", "acme", "--yes", "--data", root)
    assert (missing.code, "--from FILE" in missing.err) == (1, True)


async def test_F17_a_restored_file_loses_nothing_that_is_written_after(tmp_path: Path, production: str) -> None:
    """Production knows more than the backup: refused with the command that takes that in, then both sides have all."""
    root = tmp_path / "data"
    to = ("--to", production, "--data", root)
    await put(root, 1)
    assert sync("push", "--promote", *to).code == 0
    assert command("backup", "--data", root).code == 0
    await put(root, 2)
    assert sync("push", "--promote", *to).code == 0
    restored = command("restore", "acme", "--yes", "--data", root)
    assert (restored.code, "localstore sync pull --tenant acme" in restored.out) == (0, True), restored.all
    await put(root, 3)
    for contact in (("push", "--promote"), ("pull",)):
        refused = sync(*contact, *to)
        assert (refused.code, "localstore sync rebase --tenant acme" in refused.err) == (6, True), refused.all
    assert sync("rebase", *to).code == 0
    pushed = sync("push", "--promote", *to, "--json")
    assert pushed.code == 0, pushed.all
    assert pushed.json["tenants"][0]["tables"]["tickets"]["inserted"] == 1
    assert pushed.json["tenants"][0]["tables"]["tickets"]["deleted"] == 0
    assert await tickets(root) == ["1", "2", "3"]
    assert sync("verify", *to).code == 0
