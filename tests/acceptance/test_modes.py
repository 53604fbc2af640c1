"""Real tickets from files to production and back, with an application writing on and each command killed half way."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import asyncpg

from tests.faults.following import Follower
from tests.faults.killing import Command
from tests.faults.mode_points import point_name
from tests.integration.command import command, sync

COMPANY = "aloy"

ROUND = (
    ("advance", "file", "hybrid", "declared in production, not in the file"),
    ("advance", "hybrid", "postgresql", "closed, the rest promoted"),
    ("back", "postgresql", "hybrid", "the last taken in, nothing committed"),
    ("back", "hybrid", "file", "declared in production, not in the file"),
)
"""Every change there is, and where its command dies first."""


async def test_real_tickets_go_to_production_and_back(helpdesk_data: Path, tmp_path: Path, production: str) -> None:
    """Each change is killed and run again while others write; at each mode both sides are equal and whole."""
    data, both = tmp_path / "data", ("--data", tmp_path / "data", "--to", production)
    imported = command("import", "json", helpdesk_data, "--tenant", COMPANY, "--data", data, "--json")
    tickets = imported.json["tenants"][0]["tables"]["tickets"]["new"]
    assert tickets > 500
    assert sync("push", "--promote", *both).code == 0
    confirmed: dict[str, str] = {}
    for number, (verb, start, end, point) in enumerate(ROUND):
        follower = Follower(data, production, COMPANY, f"round{number}", hybrid=True)
        killed = Command(
            *("mode", verb, COMPANY, "--data", data),
            url=production,
            output=tmp_path / f"killed{number}",
            point=point_name(start, end, point),
        )
        assert killed.wait() == -signal.SIGKILL, killed.printed
        again = command("mode", verb, COMPANY, *both, "--until", end, "--json")
        assert (again.code, again.json["mode"]) == (0, end), again.all
        wrote = follower.stop()
        assert wrote
        confirmed |= wrote
        settled = sync("pull", *both) if end == "postgresql" else sync("push", "--promote", *both)
        assert settled.code == 0, settled.all
        verified = sync("verify", *both, "--json")
        assert verified.json["tenants"][0]["equal"], verified.all
        rows = await _titles(production)
        assert len(rows) == tickets + len(confirmed)
        assert {ticket: title for ticket, title in rows.items() if ticket.startswith("round")} == confirmed


async def _titles(production: str) -> dict[str, Any]:
    connection = await asyncpg.connect(production)
    try:
        rows = await connection.fetch("SELECT ticket_id, title FROM tickets WHERE company_id = $1", COMPANY)
        titles = {row["ticket_id"]: row["title"] for row in rows}
        assert len(titles) == len(rows)
        return titles
    finally:
        await connection.close()
