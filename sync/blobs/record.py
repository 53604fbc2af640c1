"""Production's record of the objects that its object store has, whole and of the right content.

Whoever is about to name objects takes the company's lock of objects shared, whoever removes some takes it alone: what
was wanted is left alone for the grace time, and what was found is looked at again once that is written down.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

import asyncpg

from localstore.blobs.table import TABLE, hash_place
from localstore.postgres.policies import COMPANY_SETTING, PROMOTER, STAGER
from localstore.postgres.quoting import quote_identifier
from localstore.schema.postgres import relation
from sync.production import registered
from sync.staging import Staging

_LOCK: Final = "hashtextextended('localstore/objects/' || $1, 0)"

_WANT: Final = """
UPDATE localstore.objects SET wanted_at = now() WHERE company_id = $1 AND hash = ANY ($2::text[]) RETURNING hash
"""
_CONFIRM: Final = """
INSERT INTO localstore.objects (company_id, hash, size)
SELECT $1, o.hash, o.size FROM unnest($2::text[], $3::bigint[]) AS o (hash, size)
ON CONFLICT (company_id, hash) DO UPDATE SET size = excluded.size, verified_at = now(), wanted_at = now()
"""
_FORGET: Final = "DELETE FROM localstore.objects WHERE company_id = $1 AND hash = ANY ($2::text[])"
_UNNAMED: Final = """
SELECT c.hash FROM unnest($2::text[]) AS c (hash)
WHERE NOT EXISTS (
        SELECT FROM localstore.objects o WHERE o.company_id = $1 AND o.hash = c.hash AND o.wanted_at >= $3
    )
    AND c.hash NOT IN (
        SELECT b.value FROM localstore.undo u, unnest(u.before) AS b (value)
        WHERE u.company_id = $1 AND u.tbl = $4 AND b.value IS NOT NULL
    )
    AND c.hash NOT IN (
        SELECT j.hash FROM localstore.held h, LATERAL (
            VALUES (h.value ->> 'hash'), (h.base ->> 'hash'), (h.production ->> 'hash')
        ) AS j (hash)
        WHERE h.company_id = $1 AND h.tbl = $4 AND j.hash IS NOT NULL
    )
"""


async def want(connection: asyncpg.Connection, company: str, hashes: Collection[str]) -> frozenset[str]:
    """Keep these objects from being swept for the grace time, and return those that production has."""
    async with _as_stager(connection, company):
        rows = await connection.fetch(_WANT, company, sorted(hashes))
        return frozenset(row["hash"] for row in rows)


async def confirm(connection: asyncpg.Connection, company: str, sizes: Mapping[str, int]) -> None:
    """Record objects that were verified at the far end, by their hashes; doing it again changes nothing."""
    async with _as_stager(connection, company):
        await connection.execute(_CONFIRM, company, list(sizes), list(sizes.values()))


@asynccontextmanager
async def sweeping(connection: asyncpg.Connection, company: str) -> AsyncIterator[None]:
    """Open a transaction, bound to the company, in which nobody else begins to name an object."""
    async with connection.transaction():
        await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})", company)
        await connection.execute(f"SET LOCAL ROLE {quote_identifier(PROMOTER)}")
        await connection.execute("SELECT set_config($1, $2, true)", COMPANY_SETTING, company)
        yield


async def unnamed(
    connection: asyncpg.Connection, company: str, hashes: Collection[str], before: datetime
) -> frozenset[str]:
    """Return those of the objects that nothing in production names, and that nobody wanted since `before`.

    Rows name them, and undo, held changes, and batches that are staged or being staged.
    """
    rows = await connection.fetch(_UNNAMED, company, list(hashes), before, TABLE)
    left = [row["hash"] for row in rows]
    for statement, arguments in await _naming(connection):
        if left:
            named = await connection.fetch(statement, left, *([company] if arguments else []))
            left = sorted({*left} - {row["hash"] for row in named})
    return frozenset(left)


async def forget(connection: asyncpg.Connection, company: str, hashes: Collection[str]) -> None:
    """Say that production no longer has these objects."""
    await connection.execute(_FORGET, company, sorted(hashes))


async def _naming(connection: asyncpg.Connection) -> list[tuple[str, bool]]:
    """Return the queries for the hashes that production's rows and staged ones name, in every schema and shape."""
    statements: dict[str, bool] = {}
    targets = await connection.fetch("SELECT DISTINCT target FROM localstore.tables WHERE name = $1", TABLE)
    for (target,) in targets:
        table = relation(target, TABLE)
        if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", table):
            statements[f"SELECT t.hash FROM {table} t WHERE t.company_id = $2 AND t.hash = ANY ($1::text[])"] = True
        for (name, _), known in (await registered(connection, target)).items():
            place = hash_place(known.table) if name == TABLE else None
            if place is not None and await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", known.staging):
                staging = Staging(known.table, known.staging)
                statements[
                    f"SELECT v.hash FROM {staging.relation} s, LATERAL (VALUES (s.n{place}), (s.b{place})) AS v (hash) "
                    "WHERE v.hash = ANY ($1::text[])"
                ] = False
    return list(statements.items())


@asynccontextmanager
async def _as_stager(connection: asyncpg.Connection, company: str) -> AsyncIterator[None]:
    async with connection.transaction():
        await connection.execute(f"SELECT pg_advisory_xact_lock_shared({_LOCK})", company)
        await connection.execute(f"SET LOCAL ROLE {quote_identifier(STAGER)}")
        yield
