"""A store: a directory of tenants, of which a bounded number is open at once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from shlex import quote
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from localstore.config import Settings
from localstore.errors import NotAStore, StoreError, TenantExists, TenantNotFound
from localstore.identifiers import check_tenant_id, is_identifier
from localstore.sqlite.connection import Options
from localstore.sqlite.database import Database
from localstore.sqlite.permissions import FILE_MODE, FOLDER_MODE, make_folder, tighten, tighten_tenant
from localstore.sqlite.prepare import Models, is_prepared, prepare
from localstore.sqlite.registry import registry
from localstore.sqlite.template import FILE_NAME, create_tenant
from localstore.sqlite.threads import acquire, in_thread
from localstore.tenant import Tenant

if TYPE_CHECKING:
    from localstore.blobs.s3 import Bucket
    from localstore.cache.backends import Caches

MARKER = ".localstore"
"""Tells an empty store from a folder that is none, and whether the folder is ours to close to others."""


def tenant_models() -> Iterable[type[Any]]:
    """Return every imported model; a store that is given its models, as by a command, does not wait for SQLAlchemy."""
    from localstore.models import tenant_models

    return tenant_models()


class LocalStore:
    """A directory of tenants, each in a SQLite file of its own. Usable with and without `async with`.

    `models` are the tables that every tenant has; by default every imported `TenantModel`. Several stores on one
    directory share each file's one writing connection. What is committed stays, also when nobody closes the store.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        models: Iterable[type[Any]] | None = None,
        *,
        settings: Settings | None = None,
    ) -> None:
        self.root = Path(root).absolute()
        self.settings = settings or Settings.from_environment()
        self._models = Models(tuple(tenant_models() if models is None else models))
        self._options = Options(self.settings.localstore_busy_timeout, self.settings.localstore_synchronous)
        self._tenants: dict[str, Tenant] = {}
        self._databases: list[Database] = []
        self._lock = Lock()
        self._closed = False
        self._marked = False
        if self.settings.localstore_descriptors_max is not None:
            registry().descriptors.limit = self.settings.localstore_descriptors_max

    def __repr__(self) -> str:
        return f"<LocalStore {str(self.root)!r}>"

    async def __aenter__(self) -> Self:
        """Return the store; tenants open when they are used."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every tenant."""
        await self.close()

    def tenant(self, company_id: str, create: bool = True) -> Tenant:
        """Return a tenant, made at its first use where it is missing; with `create=False` that is a TenantNotFound."""
        check_tenant_id(company_id)
        if not create and not self._exists(company_id):
            raise self._not_found(company_id)
        with self._lock:
            known = self._tenants.get(company_id)
            if known is None:
                opener = partial(self._open, company_id)
                known = self._tenants[company_id] = Tenant(
                    company_id,
                    self.root / company_id,
                    opener,
                    self.settings,
                    lambda: self._caches,
                    lambda: self._bucket,
                )
            return known

    async def create_tenant(self, company_id: str, *, mode: str = "file") -> Tenant:
        """Make a new tenant and open it; raises TenantExists when it is there."""
        check_tenant_id(company_id)
        await in_thread(partial(self._create, company_id, mode))
        return await self.tenant(company_id).open()

    async def tenants(self) -> list[str]:
        """Return the ids of all tenants, sorted: the folders that hold a tenant's file."""
        return await in_thread(self._list)

    async def create(self) -> bool:
        """Make the store's folder and mark it as a store; return whether it was none before."""
        return await in_thread(self._mark)

    async def check(self) -> None:
        """Raise NotAStore unless the folder is a store."""
        if not await in_thread(self._is_store):
            what = "is no store: it holds no tenant" if self.root.exists() else "does not exist"
            raise NotAStore(
                f"{self.root} {what}",
                hint=f"`localstore init --data {quote(str(self.root))}`, or name another folder with --data",
            )

    async def close(self) -> None:
        """Close every tenant that this store opened; files that another store of the process uses stay open."""
        self._closed = True
        with self._lock:
            databases, self._databases = self._databases, []
            for tenant in self._tenants.values():
                tenant.forget()
            self._tenants.clear()
        errors: list[Exception] = []
        if "_caches" in self.__dict__:
            await self._caches.close()
        if (bucket := self.__dict__.get("_bucket")) is not None:
            await bucket.close()
        for database in databases:
            try:
                if registry().release(database):
                    await database.close()
            except StoreError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    @cached_property
    def _caches(self) -> Caches:
        from localstore.cache.backends import caches_at

        return caches_at(self.root, self.settings)

    @cached_property
    def _bucket(self) -> Bucket | None:
        """The bucket from which bytes come that are not here, where the settings name one."""
        if not self.settings.s3_bucket_name:
            return None
        from localstore.blobs.s3 import Bucket

        return Bucket.from_settings(self.settings)

    async def _open(self, company_id: str) -> Database:
        if self._closed:
            raise StoreError(f"the store {self.root} is closed", hint="open it again with LocalStore(…)")
        database = await acquire(partial(self._acquire, company_id), registry().release)
        try:
            if not await database.read(lambda connection: is_prepared(connection, self._models)):
                await database.write(lambda connection: prepare(connection, self._models))
                await database.refresh()
        except BaseException:
            if registry().release(database):
                await database.close()
            raise
        return self._keep(database)

    def _keep(self, database: Database) -> Database:
        """Remember what this store opened; of two tasks that opened a tenant at once, both use the first's."""
        with self._lock:
            if any(database is known for known in self._databases):
                registry().release(database)
            else:
                self._databases.append(database)
        return database

    # What follows runs in threads.

    def _acquire(self, company_id: str) -> Database:
        folder = self.root / company_id
        if not self._exists(company_id):
            # Another process may make it in this very moment.
            with suppress(TenantExists):
                self._create(company_id, "file")
        elif not self._marked:
            self._marked = True
            self._mark()
        tighten_tenant(folder)
        return registry().acquire(folder / FILE_NAME, company_id, self._options)

    def _create(self, company_id: str, mode: str) -> None:
        self._marked = True
        self._mark()
        create_tenant(self.root / company_id, company_id, self._models, mode)

    def _mark(self) -> bool:
        """Make the folder, private when it is ours, and mark it."""
        marker = self.root / MARKER
        try:
            ours = bool(json.loads(marker.read_bytes())["ours"])
        except FileNotFoundError:
            ours = make_folder(self.root)
            descriptor = os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
            with os.fdopen(descriptor, "w") as file:
                json.dump({"format": 1, "ours": ours}, file)
            return True
        except (ValueError, KeyError, TypeError):
            ours = False
        if ours:
            tighten(self.root, FOLDER_MODE)
        return False

    def _exists(self, company_id: str) -> bool:
        return os.path.lexists(self.root / company_id / FILE_NAME)

    def _is_store(self) -> bool:
        return (self.root / MARKER).exists() or bool(self._list())

    def _list(self) -> list[str]:
        try:
            with os.scandir(self.root) as entries:
                names = [entry.name for entry in entries if is_identifier(entry.name) and not entry.is_symlink()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if self._exists(name))

    def _not_found(self, company_id: str) -> TenantNotFound:
        return TenantNotFound(
            f"there is no tenant {company_id} in {self.root}",
            hint=f"`localstore tenants list --data {quote(str(self.root))}` shows the tenants",
            tenant=company_id,
        )
