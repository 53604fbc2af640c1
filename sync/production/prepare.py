"""Make a database ready for sync: roles, schemas, and the tables that record what happened."""

from __future__ import annotations

from typing import Final

import asyncpg
import stamina

from localstore.errors import ConfigurationError, MissingRights
from localstore.postgres.changes import changes_sql
from localstore.postgres.companies import companies_sql
from localstore.postgres.policies import APP, OWNER, ROLES, roles_sql
from localstore.postgres.quoting import quote_identifier
from localstore.schema.postgres import STAGING_SCHEMA, production_name
from sync.production.rights import as_owner, owner_needed
from sync.sql import sql

FORMAT: Final = "localstore format 5"
"""The comment on schema localstore: what it holds, for `is_prepared` to compare."""

LOCK_TIMEOUT: Final = "30s"
"""How long one preparation waits for another."""

_ATTEMPTS: Final = 6

_CONCURRENT: Final = "tuple concurrently"
"""Two databases of one cluster changing the same role: the server has no code of its own for it."""


async def is_prepared(connection: asyncpg.Connection) -> bool:
    """Return whether the database was prepared by this version; one cheap query that needs no rights.

    A database restored into another cluster has the schema but not the roles, so both are asked for.
    """
    return bool(
        await connection.fetchval(
            """
            SELECT coalesce(obj_description(to_regnamespace('localstore'), 'pg_namespace') = $1, false)
                AND (SELECT count(*) FROM pg_roles WHERE rolname = ANY ($2::text[])) = cardinality($2::text[])
            """,
            FORMAT,
            list(ROLES),
        )
    )


async def prepare(connection: asyncpg.Connection, target: str = "public") -> None:
    """Make what sync needs in the database, and the schema `target` usable; does only what is missing.

    Two at once wait for each other on an advisory lock. Roles belong to the whole cluster, where no lock of one
    database reaches: what collides there with another database's preparation is tried again. Raises `MissingRights`
    where the login may not, with what an owner runs.
    """
    _check_target(target)
    async for attempt in stamina.retry_context(on=_collided, attempts=_ATTEMPTS, timeout=30, wait_initial=0.05):
        with attempt:
            async with connection.transaction():
                login = await connection.fetchval("SELECT current_user")
                async with owner_needed(login, "prepare the database"):
                    await _prepare(connection, target)


async def _prepare(connection: asyncpg.Connection, target: str) -> None:
    await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('localstore:prepare', 0))")
    if not await is_prepared(connection):
        await connection.execute(roles_sql())
        await _refuse_unbound(connection)
        for schema in ("localstore", STAGING_SCHEMA):
            await _own_schema(connection, schema)
        async with as_owner(connection):
            for name in ("schema", "statistics", "logins", "feed"):
                await connection.execute(sql(name))
            await connection.execute(companies_sql())
            await connection.execute(changes_sql())
            await connection.execute("COMMENT ON SCHEMA localstore IS '" + FORMAT + "'")
    await _open_target(connection, target)


async def _own_schema(connection: asyncpg.Connection, schema: str) -> None:
    if await connection.fetchval("SELECT to_regnamespace($1) IS NULL", quote_identifier(schema)):
        await connection.execute(f"CREATE SCHEMA {quote_identifier(schema)} AUTHORIZATION {OWNER}")


async def _open_target(connection: asyncpg.Connection, target: str) -> None:
    """Let the owner make tables in production's schema and applications reach them.

    Asked for again after granting, since a GRANT that may not be given can pass with no more than a warning.
    """
    await _own_schema(connection, target)
    schema = quote_identifier(target)
    wanted = {
        OWNER: f"GRANT CREATE, USAGE ON SCHEMA {schema} TO {OWNER}",
        APP: f"GRANT USAGE ON SCHEMA {schema} TO {APP}",
    }
    missing = await _without_schema(connection, target)
    if not missing:
        return
    grants = "; ".join(wanted[role] for role in missing)
    if (
        await connection.fetchval("SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = $1", target)
        == OWNER
    ):
        async with as_owner(connection):
            await connection.execute(grants)
    else:
        await connection.execute(grants)
    if await _without_schema(connection, target):
        raise MissingRights(
            f"the schema {target!r} belongs to another role, which lets none of ours in",
            hint=f"let its owner run: {'; '.join(wanted[role] for role in missing)};",
        )


async def _without_schema(connection: asyncpg.Connection, target: str) -> list[str]:
    """Return which of owner and application cannot do in the schema what they must."""
    rows = await connection.fetch(
        """
        SELECT role FROM pg_namespace n, (VALUES ($2, 'CREATE'), ($2, 'USAGE'), ($3, 'USAGE')) needed (role, privilege)
        WHERE n.nspname = $1 AND NOT has_schema_privilege(role, n.oid, privilege)
        """,
        target,
        OWNER,
        APP,
    )
    return sorted({row["role"] for row in rows})


async def _refuse_unbound(connection: asyncpg.Connection) -> None:
    """Raise unless row-level security binds each role: one that was there before may be of another make."""
    unbound = await connection.fetch(
        "SELECT rolname FROM pg_roles WHERE rolname = ANY ($1::text[]) AND (rolsuper OR rolbypassrls)", list(ROLES)
    )
    if unbound:
        names = [row["rolname"] for row in unbound]
        raise MissingRights(
            f"row-level security does not bind {', '.join(names)}, so tenants would not be kept apart",
            hint="let a superuser run: " + " ".join(f"ALTER ROLE {name} NOSUPERUSER NOBYPASSRLS;" for name in names),
        )


def _check_target(target: str) -> None:
    reserved = target in ("localstore", STAGING_SCHEMA, "information_schema") or target.startswith("pg_")
    if not target or reserved or production_name(target) != target:
        raise ConfigurationError(
            f"{target!r} cannot be production's schema", hint="choose another one with --schema, such as public"
        )


def _collided(error: Exception) -> bool:
    if isinstance(error, asyncpg.UniqueViolationError | asyncpg.DuplicateObjectError | asyncpg.DuplicateSchemaError):
        return True
    return isinstance(error, asyncpg.InternalServerError) and _CONCURRENT in str(error)
