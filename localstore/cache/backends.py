"""Which backend a cache has: the server that REDIS_URL names, else the company's own folder."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from localstore.cache.backend import Backend
from localstore.cache.changes import Changes
from localstore.cache.interface import Cache
from localstore.cache.keys import Namespace
from localstore.config import Settings

if TYPE_CHECKING:
    from localstore.cache.folder import Folder
    from localstore.cache.server import Server

FOLDER_NAME = "cache"


@dataclass(slots=True)
class Caches:
    """The caches of one store's companies; all of them share the server's connections where there is a server."""

    root: Path
    settings: Settings
    _caches: dict[Namespace, Cache] = field(default_factory=dict)
    _folders: list[Folder] = field(default_factory=list)
    _server: Server | None = None
    _lock: Lock = field(default_factory=Lock)

    def of(self, company_id: str, platform: str = "", changes: Changes | None = None) -> Cache:
        """Return the cache of a company or of one of its platforms; the same one every time, and nothing is opened."""
        namespace = Namespace(company_id, platform)
        with self._lock:
            cache = self._caches.get(namespace)
            if cache is None:
                cache = self._caches[namespace] = Cache(self._backend(company_id), namespace, changes)
            return cache

    async def close(self) -> None:
        """Save what was counted and close what these caches opened; a later use opens it again."""
        with self._lock:
            caches, self._caches = list(self._caches.values()), {}
            opened, self._folders = self._folders, []
            server, self._server = self._server, None
        for cache in caches:
            await cache.settle()
        for folder in opened:
            from localstore.cache.folders import folders

            await folders().release(folder)
        if server is not None:
            await server.close()

    def _backend(self, company_id: str) -> Backend:
        if self.settings.redis_url is not None:
            if self._server is None:
                from localstore.cache.server import Server

                self._server = Server(self.settings.redis_url.get_secret_value())
            return self._server
        path = self.root / company_id / FOLDER_NAME
        known = next((folder for folder in self._folders if folder.path == path), None)
        if known is None:
            from localstore.cache.folders import folders

            known = folders().acquire(path, self.settings.localstore_cache_bytes_max)
            self._folders.append(known)
        return known


def caches_at(root: str | os.PathLike[str], settings: Settings) -> Caches:
    """Return the caches of the companies below `root`."""
    return Caches(Path(root).absolute(), settings)
