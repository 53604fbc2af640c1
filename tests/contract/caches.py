"""The caches under test, on a folder and on a real Redis: what one answers the other must answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from localstore.cache.backends import Caches, caches_at
from localstore.config import Settings
from tests.contract.redis_server import RedisServer

BACKENDS = ("disk", "redis")
PATIENCE_SECONDS = 60


def settings_of(backend: str, server: RedisServer) -> Settings:
    """Return the settings under which that backend is used."""
    return Settings(redis_url=SecretStr(server.url) if backend == "redis" else None)


@asynccontextmanager
async def caches_of(backend: str, root: Path, server: RedisServer) -> AsyncIterator[Caches]:
    """Give the caches of one backend, empty, and empty again afterwards."""
    caches = caches_at(root / "data", settings_of(backend, server))
    try:
        yield caches
    finally:
        await caches.close()
        if backend == "redis":
            with server.client() as client:
                client.flushall()


@pytest.fixture(params=BACKENDS)
def cache_backend(request: pytest.FixtureRequest) -> str:
    """Name one backend after the other."""
    return str(request.param)


@pytest.fixture
async def caches(cache_backend: str, tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[Caches]:
    """Give the caches of one backend after the other."""
    async with caches_of(cache_backend, tmp_path, redis_server) as found:
        yield found


async def eventually_absent(caches: Caches, company: str, key: str) -> None:
    """Wait until a key is gone."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await caches.of(company).get(key, "absent") != "absent":
            await asyncio.sleep(0.01)
