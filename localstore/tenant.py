"""A tenant: one company's rows in its own file, and its blobs beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from localstore.config import Settings
from localstore.errors import ConfigurationError, StoreError
from localstore.sqlite.database import Database

if TYPE_CHECKING:
    from sqlmodel.ext.asyncio.session import AsyncSession

    from localstore.blobs.objects import Objects
    from localstore.blobs.s3 import Bucket
    from localstore.blobs.store import Blobs
    from localstore.cache.backends import Caches
    from localstore.cache.interface import Cache
    from localstore.sqlite.rows import Rows
    from localstore.sqlite.session import Sessions
    from localstore.vectors.file import Vectors

M = TypeVar("M")

BLOBS = "blobs"
"""The folder of a tenant's objects, in the tenant's own."""

FIND_LIMIT = 100
"""A forgotten condition must not read a whole table into memory."""


class Tenant:
    """One company of a store. Usable in `async with`, after `await tenant.open()`, or just so: it opens when needed."""

    def __init__(
        self,
        company_id: str,
        folder: Path,
        opener: Callable[[], Awaitable[Database]],
        settings: Settings,
        caches: Callable[[], Caches],
        bucket: Callable[[], Bucket | None],
    ) -> None:
        self.company_id = company_id
        self.folder = folder
        self.settings = settings
        self._opener = opener
        self._caches = caches
        self._bucket = bucket
        self._database: Database | None = None

    def __repr__(self) -> str:
        return f"<Tenant {self.company_id}>"

    @property
    def id(self) -> str:
        """Return the tenant's id, which is its company's."""
        return self.company_id

    @property
    def database(self) -> Database:
        """Return the tenant's file; raises StoreError before the tenant is open."""
        if self._database is None:
            raise StoreError(
                f"tenant {self.company_id} is not open", hint="await tenant.open() first", tenant=self.company_id
            )
        return self._database

    @cached_property
    def blobs(self) -> Blobs:
        """Return the tenant's blobs: rows in its file, bytes in its folder; those that are not here come from S3."""
        from localstore.blobs.file_index import FileIndex
        from localstore.blobs.local_objects import DiskObjects
        from localstore.blobs.store import Blobs, Limits

        index = FileIndex(self.company_id, self._opened)
        return Blobs(index, DiskObjects(self.folder / BLOBS), Limits.from_settings(self.settings), self._far)

    def _far(self) -> Objects | None:
        bucket = self._bucket()
        if bucket is None:
            return None
        from localstore.blobs.s3_objects import S3Objects

        return S3Objects(bucket, self.company_id)

    @cached_property
    def cache(self) -> Cache:
        """Return the tenant's cache: in Redis where REDIS_URL is set, else in its folder."""
        from localstore.cache.changes import FileChanges

        return self._caches().of(self.company_id, changes=FileChanges(self._opened))

    @cached_property
    def vectors(self) -> Vectors:
        """Return the tenant's vectors: rows in its file, searched in memory. Needs numpy, which an extra brings."""
        try:
            from localstore.vectors.file import Vectors
        except ModuleNotFoundError as error:
            raise ConfigurationError("vectors need numpy", hint="pip install 'localstore[vectors]'") from error
        return Vectors(self.company_id, self._opened)

    async def open(self) -> Tenant:
        """Open the file, or create it where the store was asked to; a second call does nothing."""
        await self._opened()
        return self

    async def __aenter__(self) -> Self:
        """Open the tenant."""
        await self._opened()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the file to the store, which closes it with all others or when descriptors run short."""

    async def put(self, row: M) -> M:
        """Insert the row, or update the one with its key, and return it once that is on the disk.

        A row that is stored already as it is given is not touched. `created_at` and `updated_at` follow by themselves
        unless they were set by hand. Raises WrongTenant for another tenant's row and InvalidRow for one that SQLite or
        a constraint refuses.
        """
        await self.put_many((row,))
        return row

    async def put_many(self, rows: Iterable[Any]) -> int:
        """Put all rows in one transaction, all or none of them, and return how many they were."""
        listed = list(rows)
        if not listed:
            return 0
        database = await self._opened()
        await database.write(partial(_put_all, listed, self.company_id))
        return len(listed)

    async def get(self, model: type[M], key: object) -> M | None:
        """Return the row with this key (a value, or a tuple of the key's parts without the company), or None."""
        database = await self._opened()
        return await database.read(lambda connection: _rows(model).get(connection, key, self.company_id))

    async def delete(self, model: type[Any], key: object) -> bool:
        """Delete the row with this key; return whether there was one."""
        database = await self._opened()
        return await database.write(lambda connection: _rows(model).delete(connection, key, self.company_id))

    async def find(self, model: type[M], *where: Any, order_by: Any = None, limit: int | None = FIND_LIMIT) -> list[M]:
        """Return up to `limit` rows (None: all) that meet every condition, in the order of `order_by` or the key."""
        database = await self._opened()
        return await database.read(lambda connection: _rows(model).find(connection, where, order_by, limit))

    def session(self, *, readonly: bool = False) -> AsyncSession:
        """Return an ordinary SQLModel session.

        From its first statement to its commit, rollback or close it has the writer's turn, and other writes wait; a
        read-only session reads beside the writer.
        """
        return self._sessions.open(readonly=readonly)

    @cached_property
    def _sessions(self) -> Sessions:
        from localstore.sqlite.session import Sessions

        return Sessions(self.company_id, self._opened)

    def forget(self) -> Database | None:
        """Let go of the file and return it, for whoever closes it."""
        database, self._database = self._database, None
        return database

    async def _opened(self) -> Database:
        if self._database is None:
            self._database = await self._opener()
        return self._database


def _rows(model: type[M]) -> Rows[M]:
    """Return how the model's rows are read and written. Commands, which know no models, do not wait for SQLAlchemy."""
    from localstore.sqlite.rows import rows_of

    return rows_of(model)


def _put_all(rows: list[Any], company_id: str, connection: Any) -> None:
    """Write the rows in their order, those of one model that follow one another together."""
    start = 0
    for place in range(1, len(rows) + 1):
        if place == len(rows) or type(rows[place]) is not type(rows[start]):
            _rows(type(rows[start])).put(connection, rows[start:place], company_id)
            start = place
