"""The index in production's table, for tenants whose truth is there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeVar

import asyncpg

from localstore.blobs.index import BlobIndex, Page, check_admission
from localstore.blobs.keys import after_prefix, fold
from localstore.blobs.model import BlobInfo, NewBlob
from localstore.blobs.table import TABLE
from localstore.columns import dump_json, parse_json
from localstore.errors import ConfigurationError, LocalStoreError, PostgresError, WrongMode
from localstore.identifiers import check_tenant_id
from localstore.models import utc_now
from localstore.postgres.companies import MODE, REGISTER
from localstore.postgres.failures import sqlstate
from localstore.postgres.pool import Pool
from localstore.postgres.quoting import quote_identifier

T = TypeVar("T")

MODE_SERVED: Final = "postgresql"
_NOT_THERE: Final = frozenset({"42P01", "42883", "3F000", "42703"})

# Puts of one company wait for one another, so that a quota holds and keys that collide see each other.
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('localstore:blobs:' || $1, 0))"
_COLUMNS: Final = "key, size, hash, content_type, metadata, created_at, updated_at"
_FIND: Final = f"SELECT {_COLUMNS} FROM {{0}} WHERE company_id = $1 AND key = $2"
_LIST: Final = f"""
SELECT {_COLUMNS} FROM {{0}}
WHERE company_id = $1 AND key COLLATE "C" >= $2
    AND ($3::text IS NULL OR key COLLATE "C" < $3) AND ($4::text IS NULL OR key COLLATE "C" > $4)
ORDER BY key COLLATE "C" LIMIT $5
"""
_TAKEN: Final = "SELECT key FROM {0} WHERE company_id = $1 AND folded = $2 AND key <> $3 LIMIT 1"
_USED: Final = "SELECT coalesce(sum(size), 0)::bigint FROM {0} WHERE company_id = $1 AND key <> $2"
_USAGE: Final = "SELECT count(*), coalesce(sum(size), 0)::bigint FROM {0} WHERE company_id = $1"
_DELETE: Final = "DELETE FROM {0} WHERE company_id = $1 AND key = $2"
_DELETE_PREFIX: Final = """
DELETE FROM {0} WHERE company_id = $1 AND key COLLATE "C" >= $2 AND ($3::text IS NULL OR key COLLATE "C" < $3)
"""
# A put of what is there already changes nothing, as in a file.
_SAVE: Final = """
INSERT INTO {0} AS b (company_id, key, size, hash, content_type, metadata, folded, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7, $8, $8)
ON CONFLICT (company_id, key) DO UPDATE
SET size = excluded.size, hash = excluded.hash, content_type = excluded.content_type, metadata = excluded.metadata,
    folded = excluded.folded, updated_at = excluded.updated_at
WHERE (b.size, b.hash, b.content_type, b.metadata)
    IS DISTINCT FROM (excluded.size, excluded.hash, excluded.content_type, excluded.metadata)
"""


class PostgresIndex(BlobIndex):
    """The rows of one company's blobs in production, as `app_user` sees them: each call is one transaction."""

    def __init__(self, company_id: str, pool: Pool, *, schema: str = "public") -> None:
        self.company_id = check_tenant_id(company_id)
        self._pool = pool
        self._schema = schema
        self._relation = f"{quote_identifier(schema)}.{quote_identifier(TABLE)}"

    async def admit(self, key: str, size: int, quota: int | None) -> None:
        """Raise what `save` would raise now."""
        await self._read(lambda connection: self._admit(connection, key, size, quota))

    async def save(self, blob: NewBlob, quota: int | None) -> BlobInfo:
        """Insert or replace a blob's row; the company is registered with its first one."""

        async def work(connection: asyncpg.Connection) -> BlobInfo:
            await connection.execute(_LOCK, self.company_id)
            await self._admit(connection, blob.key, blob.size, quota)
            await connection.execute(
                self._made(_SAVE),
                self.company_id,
                blob.key,
                blob.size,
                blob.hash,
                blob.content_type,
                dump_json(dict(blob.metadata)) if blob.metadata else None,
                fold(blob.key),
                utc_now(),
            )
            return _info(await connection.fetchrow(self._made(_FIND), self.company_id, blob.key))

        return await self._write(work, create=True)

    async def find(self, key: str) -> BlobInfo | None:
        """Return a blob, or None."""
        found = await self._read(
            lambda connection: connection.fetchrow(self._made(_FIND), self.company_id, key),
        )
        return None if found is None else _info(found)

    async def list(self, prefix: str, after: str | None, limit: int | None) -> Page:
        """Return blobs in the order of their keys."""
        values = (self.company_id, prefix, after_prefix(prefix), after, limit)
        return [_info(row) for row in await self._read(lambda connection: connection.fetch(self._made(_LIST), *values))]

    async def delete(self, key: str) -> bool:
        """Delete a blob's row."""
        return await self._delete(_DELETE, key) > 0

    async def delete_prefix(self, prefix: str) -> int:
        """Delete the rows whose keys begin with `prefix`."""
        return await self._delete(_DELETE_PREFIX, prefix, after_prefix(prefix))

    async def usage(self) -> tuple[int, int]:
        """Return how many blobs there are, and their bytes."""
        count, size = await self._read(lambda connection: connection.fetchrow(self._made(_USAGE), self.company_id))
        return count, size

    def sweeping(self, hashes: Collection[str]) -> AbstractAsyncContextManager[frozenset[str]]:
        """Refuse: an application does not see what staged batches and undo still name."""
        del hashes
        raise ConfigurationError(
            "production's objects are not swept by an application: batches that wait and rollbacks may still need them",
            hint="`localstore sync sweep` removes what nothing names, with what a push needs: DATABASE_URL and S3_*",
        )

    async def _delete(self, statement: str, *values: Any) -> int:
        async def work(connection: asyncpg.Connection) -> int:
            tag = await connection.execute(self._made(statement), self.company_id, *values)
            return int(tag.rpartition(" ")[2])

        return await self._write(work, create=False)

    async def _admit(self, connection: asyncpg.Connection, key: str, size: int, quota: int | None) -> None:
        taken = await connection.fetchval(self._made(_TAKEN), self.company_id, fold(key), key)
        used = None if quota is None else await connection.fetchval(self._made(_USED), self.company_id, key)
        check_admission(key, taken, size, used, quota)

    async def _read(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        async def checked(connection: asyncpg.Connection) -> T:
            self._check_mode(await connection.fetchval(MODE))
            return await work(connection)

        async with self._explained():
            return await self._pool.read(self.company_id, checked)

    async def _write(self, work: Callable[[asyncpg.Connection], Awaitable[T]], *, create: bool) -> T:
        async with self._explained(), self._pool.transaction(self.company_id) as connection:
            self._check_mode(await connection.fetchval(REGISTER, self._schema if create else None))
            return await work(connection)

    def _check_mode(self, mode: str | None) -> None:
        if mode not in {None, MODE_SERVED}:
            raise WrongMode(
                f"the blobs of tenant {self.company_id} are in its file: its mode is {mode}",
                hint=f"set STORAGE_TYPE=file (or hybrid), or `localstore mode advance {self.company_id}`",
                tenant=self.company_id,
            )

    def _made(self, statement: str) -> str:
        return statement.format(self._relation)

    @asynccontextmanager
    async def _explained(self) -> AsyncIterator[None]:
        """Say of a table or a function that is missing how it is made."""
        try:
            yield
        except LocalStoreError as error:
            if sqlstate(error.__cause__ or error) not in _NOT_THERE:
                raise
            raise PostgresError(
                f"{self._pool.server.redacted} has no table {self._relation} as it is now",
                hint="push a tenant that has blobs; in a production without tenants `localstore sync init` makes it",
            ) from error


def _info(row: Any) -> BlobInfo:
    metadata = None if row["metadata"] is None else parse_json(row["metadata"])
    return BlobInfo(
        key=row["key"],
        size=row["size"] or 0,
        hash=row["hash"] or "",
        content_type=row["content_type"] or "",
        metadata=metadata if isinstance(metadata, dict) else {},
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
