"""Drift made on either side, and its repair, for tests that look at it from all sides."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

from localstore.schema.tables import Policy
from sync.verify.differences import Repaired, Verified, Why
from tests.integration.promotion import COMPANY, Sides, sides

TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT, n INTEGER)"
ALL = "SELECT id, a, b, n FROM t ORDER BY id"


@asynccontextmanager
async def six_rows(folder: Path, production: str) -> AsyncIterator[Sides]:
    """Open a tenant and its production, which hold the same six rows."""
    async with sides(folder, production) as opened:
        await opened.track(TABLE, policies={"n": Policy.MAX})
        await opened.local("INSERT INTO t VALUES (?, 'a', 'b', 1)", [(number,) for number in range(1, 7)])
        await opened.push()
        yield opened


async def silently(one: Sides, *statements: str) -> None:
    """Write to production as nobody that the feed knows of: what remains is drift."""
    async with one.app.transaction():
        await one.app.execute("SET LOCAL session_replication_role = replica")
        for statement in statements:
            await one.app.execute(statement)


async def unmarked(one: Sides, *statements: str) -> None:
    """Write to the file and lose the marks: drift whose cause is ours."""

    def write(file: sqlite3.Connection) -> None:
        for statement in statements:
            newest = file.execute("SELECT coalesce(max(seq), 0) FROM localstore_marks").fetchone()[0]
            file.execute(statement)
            file.execute("DELETE FROM localstore_marks WHERE seq > ?", (newest,))

    await one.database.write(write)


async def repaired(one: Sides) -> tuple[Verified, Repaired]:
    """Repair the only tenant."""
    (found,) = await one.engine.verify([COMPANY], repair=True)
    assert found.repaired is not None
    return found, found.repaired


async def promoted(one: Sides, batch: UUID | None) -> None:
    """Promote the repair's batch."""
    assert batch is not None
    result = await one.engine.promote(batch)
    assert result.exit_code == 0, (result.to_json(), await one.held())


def causes(found: Verified, table: str = "t") -> dict[Why, int]:
    """Return a table's differences by cause."""
    return found.tables[table].causes
