"""The authority on where a tenant's truth is: `localstore.tenants` in production, which each file only mirrors."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import asyncpg

from localstore.postgres.companies import MODE_LOCK
from localstore.postgres.policies import STAGER
from localstore.postgres.quoting import quote_identifier

LOCK_TIMEOUT: Final = "30s"
"""How long a change of mode waits for writes that began under the old one."""


async def mode_of(connection: asyncpg.Connection, company: str) -> str | None:
    """Return the company's mode, None where production does not list it."""
    found = await connection.fetchval("SELECT mode FROM localstore.tenants WHERE company_id = $1", company)
    return None if found is None else str(found)


async def set_mode(connection: asyncpg.Connection, company: str, mode: str, *, among: Collection[str]) -> str | None:
    """Make `mode` the company's if it is one of `among` now, and return what it is after that.

    No write that saw the old mode is under way when the new one takes effect: whoever writes to production directly
    holds a lock, shared with others, until its transaction ends. The answer is asked for after the commit, so that it
    is true even where a commit was lost. Running it again changes nothing.
    """
    async with connection.transaction():
        await connection.execute(f"SET LOCAL ROLE {quote_identifier(STAGER)}")
        await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        await connection.execute(MODE_LOCK, company)
        await connection.execute(
            "UPDATE localstore.tenants SET mode = $2 WHERE company_id = $1 AND mode = ANY ($3::text[])",
            company,
            mode,
            list(among),
        )
    return await mode_of(connection, company)
