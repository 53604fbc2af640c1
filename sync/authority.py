"""The authority on where a tenant's truth is: `localstore.tenants` in production, which each file only mirrors."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import Final

import asyncpg

from localstore.errors import WrongMode
from localstore.postgres.companies import MODE_LOCK
from localstore.postgres.policies import STAGER
from localstore.postgres.quoting import quote_identifier
from localstore.sqlite import mode as modes
from localstore.sqlite.database import Database
from localstore.sqlite.mode import ADVANCING, CLOSED, HYBRID, POSTGRESQL, read_mode
from sync.status import read_status

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


def begins_in(connection: sqlite3.Connection) -> str:
    """Return the mode in which a company that production does not list yet begins there: its file's, if that is open.

    One whose file is closed belonged to another production, and nobody writes to this one directly yet.
    """
    mode = read_mode(connection)
    return HYBRID if mode in CLOSED else mode


def follow(connection: sqlite3.Connection, mode: str | None) -> None:
    """Let a file that has just taken in all of production follow the tenant's mode there, in the same transaction.

    While the mode is being changed it is left to whoever does that. A file with changes of its own that still have to
    reach production is not made a copy of it: `advance` carries them first.
    """
    here = read_mode(connection)
    if mode is None or mode == here or (here == ADVANCING and mode != POSTGRESQL):
        return
    if mode != POSTGRESQL or not waits(connection):
        modes.set_mode(connection, mode)


def waits(connection: sqlite3.Connection) -> bool:
    """Return whether the file has anything that production has not: changes, held rows, or decisions about those."""
    status = read_status(connection)
    return bool(status.pending or status.conflicts or status.quarantined) or _decided(connection)


async def may_send(connection: asyncpg.Connection, database: Database) -> bool:
    """Return whether the file's changes are to be sent: not where production is the truth and has them all.

    Raises WrongMode where production is the truth and changes of another time, or another box, still wait here.
    """
    company = database.company_id
    if await mode_of(connection, company) != POSTGRESQL:
        return True
    if await database.read(lambda file: bool(read_status(file).pending) or _decided(file)):
        raise WrongMode(
            f"tenant {company} is in mode {POSTGRESQL}, and its file here still has changes that production has not",
            hint=f"`localstore mode advance {company}` carries them and makes the file a copy of production, "
            f"`localstore mode back {company}` makes the file the truth again",
            tenant=company,
        )
    return False


def _decided(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM localstore_releases WHERE batch IS NULL").fetchone() is not None
