"""What `sync verify --repair` did for a tenant, and the command that lets it take effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sync.cli.session import Session
from sync.cli.tables import LISTED_MAX, plural, say, short

if TYPE_CHECKING:
    from sync.verify.differences import Repaired, Verified


def print_repaired(session: Session, tenant: Verified, done: Repaired) -> None:
    """Say what is staged, what was left alone and why, and what to do next."""
    rows = sum(done.rows.values())
    if rows:
        listed = ", ".join(f"{number:,} of {name}" for name, number in done.rows.items())
        say(f"{tenant.tenant}: {plural(rows, 'drifted row')} in line for production ({listed})")
    for name in done.whole:
        say(f"{tenant.tenant}: {name} travels whole, because writes to it may have gone unnoticed")
    for row, why in done.left_alone[:LISTED_MAX]:
        say(f"  {row} left alone: {why}")
    if done.left_rows > LISTED_MAX:
        say(f"… and {plural(done.left_rows - LISTED_MAX, 'more row')} left alone; --json lists up to 1,000")
    if done.batch is not None:
        say(f"Staged as batch {short(done.batch)}. Look at it, then let it take effect:")
        say(f"  {session.command('plan', tenant=tenant.tenant)}")
        say(f"  {session.command(f'promote {short(done.batch)}')}")
    elif not (rows or done.whole or done.left_rows):
        say(f"{tenant.tenant}: no drift, nothing to repair")
