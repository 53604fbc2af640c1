"""What the login may do in production, and what an owner runs where it may not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from localstore.errors import MissingRights
from localstore.postgres.policies import OWNER, PROMOTER, READER, STAGER, grant_to


@asynccontextmanager
async def as_owner(connection: asyncpg.Connection, lock_timeout: str = "30s") -> AsyncIterator[None]:
    """Run statements as localstore_owner inside the caller's transaction, with a limit on waiting for locks.

    Role and limit are the caller's again afterwards; after an error that is left to the transaction's rollback.
    """
    role, limit = await connection.fetchrow("SELECT current_setting('role'), current_setting('lock_timeout')")
    await connection.execute(f"SET LOCAL ROLE {OWNER}; SET LOCAL lock_timeout = '{lock_timeout}'")
    yield
    await connection.execute("SELECT set_config('role', $1, true), set_config('lock_timeout', $2, true)", role, limit)


@asynccontextmanager
async def owner_needed(login: str, what: str) -> AsyncIterator[None]:
    """Turn a refusal of the server into `MissingRights`, which says what an owner runs."""
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as error:
        raise MissingRights(
            f'the login "{login}" may not {what}: {error.message}',
            hint="let an owner of the database run `localstore sync init --to URL` with the same models and schema, "
            f"and then: {grant_to(login)}",
        ) from error


async def require_rights(connection: asyncpg.Connection) -> None:
    """Raise `MissingRights` unless the login may stage, promote and read; one query."""
    row = await connection.fetchrow(
        """
        SELECT current_user AS login, array_agg(role) AS missing
        FROM unnest($1::text[]) AS role
        WHERE NOT pg_has_role(
            role,
            CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END
        )
        """,
        [STAGER, PROMOTER, READER],
    )
    if row["missing"]:
        raise MissingRights(
            f'the login "{row["login"]}" is not a member of {", ".join(row["missing"])}',
            hint=f"let an owner of the database run: {grant_to(row['login'])}",
        )
