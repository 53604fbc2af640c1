"""CacheManager: values by company, platform and key, as `{company_id}:{platform}:{key}`."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from pydantic import SecretStr

from localstore.cache.backends import Caches, caches_at
from localstore.cache.interface import TTL_SECONDS, Cache
from localstore.config import Settings
from localstore.identifiers import check_platform


class CacheManager:
    """Values of many companies and platforms: in Redis where a URL is given or REDIS_URL is set, else on disk.

    Without a server each company's values are in the folder of its tenant below DATA_PATH. Nothing is opened, and the
    environment is not read, before the first call.
    """

    default_ttl = int(TTL_SECONDS)

    def __init__(self, redis_url: str | None = None, *, settings: Settings | None = None) -> None:
        self._url = None if redis_url is None else SecretStr(redis_url)
        self._settings = settings
        self._caches: Caches | None = None

    def __repr__(self) -> str:
        return "<CacheManager>"

    async def get(self, company_id: str, platform: str, key: str) -> Any | None:
        """Return a value, or None where there is none."""
        return await self._cache(company_id, platform).get(key)

    async def set(self, company_id: str, platform: str, key: str, value: object, ttl: float | None = None) -> bool:
        """Keep a value for `ttl` seconds (None or 0: five minutes); return whether it is kept."""
        return await self._cache(company_id, platform).set(key, value, ttl or None)

    async def delete(self, company_id: str, platform: str, key: str) -> bool:
        """Delete a value; return whether it is gone now, which it is not for certain when the cache is down."""
        return await self._cache(company_id, platform).forget(key)

    async def delete_pattern(self, company_id: str, platform: str, pattern: str) -> int:
        """Delete every key of the platform that matches, and return how many there were."""
        return await self._cache(company_id, platform).delete_pattern(pattern)

    async def close(self) -> None:
        """Close what was opened; a later call opens it again, by the environment as it is then."""
        caches, self._caches = self._caches, None
        if caches is not None:
            await caches.close()

    async def __aenter__(self) -> Self:
        """Return the manager; it opens by itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the manager."""
        await self.close()

    def _cache(self, company_id: str, platform: str) -> Cache:
        if self._caches is None:
            settings = self._settings or Settings.from_environment()
            if self._url is not None:
                settings = settings.model_copy(update={"redis_url": self._url})
            self._caches = caches_at(settings.data_path, settings)
        return self._caches.of(company_id, check_platform(platform))


cache_manager = CacheManager()
"""The process's manager, by the environment."""
