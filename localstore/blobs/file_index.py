"""The index in the tenant's file: a tracked table, made when the tenant's first blob is put."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from localstore.blobs.index import BlobIndex, Page, check_admission
from localstore.blobs.keys import after_prefix, fold
from localstore.blobs.model import Blob, BlobInfo, NewBlob
from localstore.blobs.table import TABLE
from localstore.blobs.unswept import sweep_lock
from localstore.postgres.locks import FileLock
from localstore.sqlite.database import Database
from localstore.sqlite.failures import translate
from localstore.sqlite.prepare import Models, is_prepared, prepare
from localstore.sqlite.rows import rows_of
from localstore.sqlite.threads import in_thread
from localstore.sqlite.writer import Turn

_MODELS: Final = Models((Blob,))
_TAKEN: Final = "SELECT key FROM blobs WHERE company_id = ? AND folded = ? AND key <> ? LIMIT 1"
_USED: Final = "SELECT coalesce(sum(size), 0) FROM blobs WHERE company_id = ?"
_OWN: Final = "SELECT coalesce(size, 0) FROM blobs WHERE company_id = ? AND key = ?"
_WAITING: Final = "SELECT 1 FROM localstore_batches WHERE state = 'sealed' LIMIT 1"
_HELD: Final = """
SELECT json_extract(value, '$.hash') FROM localstore_held WHERE tbl = ?1 AND json_valid(value)
UNION SELECT json_extract(base, '$.hash') FROM localstore_held WHERE tbl = ?1 AND json_valid(base)
"""


class FileIndex(BlobIndex):
    """The rows of a tenant's blobs in its file; `opened` gives the file, when it is needed."""

    def __init__(self, company_id: str, opened: Callable[[], Awaitable[Database]]) -> None:
        self.company_id = company_id
        self._opened = opened

    async def admit(self, key: str, size: int, quota: int | None) -> None:
        """Raise what `save` would raise now."""
        database = await self._opened()
        await database.read(partial(self._admit, key, size, quota))

    async def save(self, blob: NewBlob, quota: int | None) -> BlobInfo:
        """Insert or replace a blob's row."""
        database = await self._opened()
        info = await database.write(partial(self._save, blob, quota))
        if TABLE not in database.table_ids:
            await database.refresh()
        return info

    async def find(self, key: str) -> BlobInfo | None:
        """Return a blob, or None."""
        database = await self._opened()
        return await database.read(partial(self._find, key))

    async def list(self, prefix: str, after: str | None, limit: int | None) -> Page:
        """Return blobs in the order of their keys."""
        database = await self._opened()
        return await database.read(partial(self._list, prefix, after, limit))

    async def delete(self, key: str) -> bool:
        """Delete a blob's row."""
        database = await self._opened()
        return await database.write(lambda file: _is_there(file) and rows_of(Blob).delete(file, key, self.company_id))

    async def delete_prefix(self, prefix: str) -> int:
        """Delete the rows whose keys begin with `prefix`."""
        database = await self._opened()
        return await database.write(partial(self._delete_prefix, prefix))

    async def usage(self) -> tuple[int, int]:
        """Return how many blobs there are, and their bytes."""
        database = await self._opened()
        return await database.read(self._usage)

    @asynccontextmanager
    async def sweeping(self, hashes: Collection[str]) -> AsyncIterator[frozenset[str]]:
        """Give those hashes that are still named, and hold the writer's turn meanwhile."""
        database = await self._opened()
        turn, alone = await database.turn(), sweep_lock(database.path.parent)
        try:
            yield await in_thread(partial(self._named, turn.connection, frozenset(hashes), alone))
        finally:
            await in_thread(partial(_end, turn, alone))

    # What follows runs in threads.

    def _admit(self, key: str, size: int, quota: int | None, file: sqlite3.Connection) -> None:
        if not _is_there(file):
            check_admission(key, None, size, 0, quota)
            return
        taken = file.execute(_TAKEN, (self.company_id, fold(key), key)).fetchone()
        used = None
        if quota is not None:
            own = file.execute(_OWN, (self.company_id, key)).fetchone()
            used = file.execute(_USED, (self.company_id,)).fetchone()[0] - (own[0] if own else 0)
        check_admission(key, taken[0] if taken else None, size, used, quota)

    def _save(self, blob: NewBlob, quota: int | None, file: sqlite3.Connection) -> BlobInfo:
        if not is_prepared(file, _MODELS):
            prepare(file, _MODELS)
        self._admit(blob.key, blob.size, quota, file)
        row = Blob(
            company_id=self.company_id,
            key=blob.key,
            size=blob.size,
            hash=blob.hash,
            content_type=blob.content_type,
            details=dict(blob.metadata) or None,
            folded=fold(blob.key),
        )
        rows_of(Blob).put(file, [row], self.company_id)
        saved = self._find(blob.key, file)
        assert saved is not None
        return saved

    def _find(self, key: str, file: sqlite3.Connection) -> BlobInfo | None:
        row = rows_of(Blob).get(file, key, self.company_id) if _is_there(file) else None
        return None if row is None else _info(row)

    def _list(self, prefix: str, after: str | None, limit: int | None, file: sqlite3.Connection) -> Page:
        if not _is_there(file):
            return []
        columns: Any = Blob
        where = [columns.company_id == self.company_id]
        if prefix:
            where.append(columns.key >= prefix)
        if (behind := after_prefix(prefix)) is not None:
            where.append(columns.key < behind)
        if after is not None:
            where.append(columns.key > after)
        return [_info(row) for row in rows_of(Blob).find(file, where, columns.key, limit)]

    def _delete_prefix(self, prefix: str, file: sqlite3.Connection) -> int:
        if not _is_there(file):
            return 0
        behind = after_prefix(prefix)
        statement = "DELETE FROM blobs WHERE company_id = ? AND key >= ?"
        values: tuple[str, ...] = (self.company_id, prefix)
        if behind is not None:
            statement, values = f"{statement} AND key < ?", (*values, behind)
        return file.execute(statement, values).rowcount

    def _usage(self, file: sqlite3.Connection) -> tuple[int, int]:
        if not _is_there(file):
            return 0, 0
        count, size = file.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM blobs WHERE company_id = ?", (self.company_id,)
        ).fetchone()
        return count, size

    def _named(self, file: sqlite3.Connection, hashes: frozenset[str], alone: FileLock) -> frozenset[str]:
        try:
            file.execute("BEGIN IMMEDIATE")
            if not alone.try_acquire(shared=False):
                # A backup that is under way may name what has been deleted since.
                return hashes
            if file.execute(_WAITING).fetchone():
                # A sealed batch may name what its tenant has overwritten since, and production still has to fetch it.
                return hashes
            held = {found for (found,) in file.execute(_HELD, (TABLE,))} & hashes
            if not _is_there(file):
                return frozenset(held)
            statement = "SELECT 1 FROM blobs WHERE company_id = ? AND hash = ? LIMIT 1"
            named = {
                digest for digest in hashes if file.execute(statement, (self.company_id, digest)).fetchone() is not None
            }
            return frozenset(held | named)
        except sqlite3.Error as error:
            raise translate(error, self.company_id) from error


def _end(turn: Turn, alone: FileLock) -> None:
    alone.release()
    turn.release()


def _is_there(file: sqlite3.Connection) -> bool:
    found = file.execute("SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?", (TABLE,)).fetchone()
    return found is not None


def _info(row: Blob) -> BlobInfo:
    return BlobInfo(
        key=row.key,
        size=row.size or 0,
        hash=row.hash or "",
        content_type=row.content_type or "",
        metadata=row.details if isinstance(row.details, dict) else {},
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
