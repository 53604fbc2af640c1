"""What must hold before production becomes a tenant's truth: each gate passes, or raises NotReady with what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from localstore.sqlite.database import Database
from sync.authority import waits
from sync.errors import NotReady
from sync.link import Link
from sync.status import TenantStatus, read_status
from sync.verifying import verified


@dataclass(frozen=True, slots=True)
class Site:
    """One tenant's file and its production."""

    database: Database
    link: Link

    @property
    def tenant(self) -> str:
        """Return the tenant's id."""
        return self.database.company_id


Gate: TypeAlias = Callable[[Site], Awaitable[None]]


async def nothing_held(site: Site) -> None:
    """Pass when production took every change: one that it holds would be out of reach of the truth."""
    status: TenantStatus = await site.database.read(read_status)
    held, conflicts = status.conflicts + status.quarantined, status.conflicts
    if held:
        raise NotReady(
            f"production holds {held:,} changes of {site.tenant} that it could not take",
            hint=f"localstore sync {'conflicts' if conflicts else 'quarantine'} list --tenant {site.tenant}",
            tenant=site.tenant,
        )


async def nothing_waits(site: Site) -> None:
    """Pass when production has every change of the file."""

    def look(file: sqlite3.Connection) -> tuple[bool, int]:
        return waits(file), read_status(file).pending

    waiting, pending = await site.database.read(look)
    if waiting:
        raise NotReady(
            f"{site.tenant} has {pending:,} changed rows that production has not",
            hint=f"localstore sync push --promote --tenant {site.tenant}",
            tenant=site.tenant,
        )


async def rows_equal(site: Site) -> None:
    """Pass when production has the file's rows, each of them, and no others."""
    found = await verified(site.link, site.database)
    if not found.equal:
        different = sum(table.different for table in found.tables.values())
        raise NotReady(
            f"the file of {site.tenant} and production differ in {different:,} places",
            hint=f"localstore sync verify --tenant {site.tenant}",
            tenant=site.tenant,
        )


CARRIED: Final[tuple[Gate, ...]] = (nothing_held, nothing_waits)
"""What must hold before a file becomes a copy, whoever writes to production meanwhile."""

EQUAL: Final[tuple[Gate, ...]] = (*CARRIED, rows_equal)
"""What must hold before production becomes the truth, while nobody writes to either side."""
