"""`localstore cache`, and `CacheManager` and `cache_manager` as the environment sets them up."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from localstore import CacheManager, InvalidIdentifier, LocalStore, cache_manager
from localstore.cli import main
from tests.contract.redis_server import RedisServer

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def environment(
    cache_backend: str, tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Set the environment that chooses the backend, and give the store's folder; all is empty afterwards."""
    monkeypatch.setenv("DATA_PATH", str(tmp_path / "data"))
    monkeypatch.delenv("REDIS_URL", raising=False)
    if cache_backend == "redis":
        monkeypatch.setenv("REDIS_URL", redis_server.url)
    yield tmp_path / "data"
    if cache_backend == "redis":
        with redis_server.client() as client:
            client.flushall()


@pytest.fixture
async def manager(environment: Path) -> AsyncIterator[CacheManager]:
    """Give a manager by the environment."""
    async with CacheManager() as manager:
        yield manager


async def test_the_manager_keeps_by_company_platform_and_key(
    manager: CacheManager, cache_backend: str, redis_server: RedisServer
) -> None:
    """get, set, delete and delete_pattern do what their names say, for one platform of one company."""
    assert await manager.get("acme", "jira", "key") is None
    assert await manager.set("acme", "jira", "key", {"a": [1, None]})
    assert await manager.set("acme", "freshdesk", "key", "other platform", ttl=60)
    assert await manager.set("beta", "jira", "key", "other company", 0)
    assert await manager.get("acme", "jira", "key") == {"a": [1, None]}
    if cache_backend == "redis":
        with redis_server.client() as client:
            assert client.get("acme:jira:key") == b'{"a":[1,null]}'
            assert 0 < client.pttl("acme:jira:key") <= 300_000
            assert 0 < client.pttl("acme:freshdesk:key") <= 60_000
            assert 60_000 < client.pttl("beta:jira:key") <= 300_000
    assert manager.default_ttl == 300
    assert await manager.delete("acme", "jira", "key")
    assert await manager.delete("acme", "jira", "key")
    assert await manager.get("acme", "jira", "key") is None
    for number in range(3):
        await manager.set("acme", "jira", f"list:{number}", number)
    assert await manager.delete_pattern("acme", "jira", "list:*") == 3
    assert await manager.delete_pattern("acme", "jira", "*") == 0
    assert await manager.get("acme", "freshdesk", "key") == "other platform"
    assert await manager.get("beta", "jira", "key") == "other company"
    for company, platform in (("acme", ""), ("acme", "*"), ("*", "jira"), ("../acme", "jira"), ("acme:jira", "x")):
        with pytest.raises(InvalidIdentifier):
            await manager.delete_pattern(company, platform, "*")


async def test_the_manager_and_the_tenant_share_a_backend_and_no_key(manager: CacheManager, environment: Path) -> None:
    """What a tenant keeps is no platform's, and what a platform keeps is not the tenant's, by whatever key."""
    async with LocalStore(environment, models=[]) as store, store.tenant("acme") as tenant:
        await tenant.cache.set("jira:key", "the tenant's")
        await manager.set("acme", "jira", "key", "the platform's")
        assert await tenant.cache.get("jira:key") == "the tenant's"
        assert await manager.get("acme", "jira", "key") == "the platform's"
        assert await tenant.cache.delete_pattern("*") == 1
        assert await manager.get("acme", "jira", "key") == "the platform's"
        assert (await tenant.cache.stats()).entries == 1
        assert await tenant.cache.clear() == 1
        assert await manager.get("acme", "jira", "key") is None


def test_a_manager_given_a_url_uses_it(tmp_path: Path, redis_server: RedisServer) -> None:
    """The argument wins over the environment, which names no server here."""

    async def run() -> None:
        async with CacheManager(redis_server.url) as manager:
            await manager.set("acme", "jira", "key", 1)
            with redis_server.client() as client:
                assert client.get("acme:jira:key") == b"1"
                client.flushall()

    asyncio.run(run())


def test_the_process_s_manager_follows_the_environment(environment: Path) -> None:
    """`cache_manager` serves one loop after another, and reads the environment at its first use."""
    assert asyncio.run(cache_manager.set("acme", "jira", "key", 1))
    assert asyncio.run(cache_manager.get("acme", "jira", "key")) == 1
    assert asyncio.run(cache_manager.delete_pattern("acme", "jira", "*")) == 1
    asyncio.run(cache_manager.close())


def test_importing_the_manager_opens_nothing() -> None:
    """The names can be imported with settings that cannot be used, and without the packages of a backend."""
    script = (
        "import os, sys; os.environ.update(REDIS_URL='nonsense', DATA_PATH='/nowhere'); "
        "from localstore import CacheManager, cache_manager, cached; CacheManager('nonsense'); "
        "assert not {'diskcache', 'redis'} & set(sys.modules), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def call(capture: Capture, *arguments: str) -> tuple[int, str, str]:
    """Run the command and return its exit code and what it printed."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    captured = capture.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, captured.out, captured.err


def test_the_command_shows_and_empties(environment: Path, cache_backend: str, capsys: Capture) -> None:
    """`cache stats` tells what is there, `cache clear` deletes it, of all tenants or those that are named."""

    async def fill() -> None:
        async with LocalStore(environment, models=[]) as store:
            for company in ("acme", "beta"):
                tenant = await store.tenant(company).open()
                await tenant.cache.set_many({"a": 1, "b": 22})
                await tenant.cache.get("a")
                await tenant.cache.get("c")

    def told(*arguments: str) -> list[dict[str, Any]]:
        code, out, err = call(capsys, "cache", *arguments, "--json")
        assert (code, err) == (0, "")
        found = json.loads(out)
        assert (found["version"], found["exit"]) == (1, 0)
        entries: list[dict[str, Any]] = found["tenants"]
        return entries

    asyncio.run(fill())
    wanted = {
        "backend": cache_backend,
        "available": True,
        "entries": 2,
        "bytes": 3,
        "hits": 1,
        "misses": 1,
        "failures": 0,
    }
    assert [{key: entry[key] for key in ("tenant", *wanted)} for entry in told("stats")] == [
        {"tenant": company, **wanted} for company in ("acme", "beta")
    ]
    code, out, _ = call(capsys, "cache", "stats", "--tenant", "acme")
    assert code == 0
    assert f"acme ({cache_backend}): 2 entries, 3 bytes" in out
    assert told("clear", "--tenant", "acme") == [{"tenant": "acme", "deleted": 2}]
    assert call(capsys, "cache", "clear") == (0, "acme: deleted 0 entries\nbeta: deleted 2 entries\n", "")
    assert call(capsys, "cache", "clear", "--quiet") == (0, "", "")
    assert told("clear", "--tenant", "nobody") == [{"tenant": "nobody", "deleted": 0}]
    assert not (environment / "nobody").exists()


def test_the_command_says_when_the_cache_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Neither command pretends that a server which does not answer is empty, or was emptied."""
    monkeypatch.setenv("REDIS_URL", f"unix://:a-secret@{tmp_path}/nobody.sock")
    for what in ("stats", "clear"):
        code, out, err = call(capsys, "cache", what, "--tenant", "acme", "--data", str(tmp_path))
        assert (code, out) == (1, "")
        assert "acme" in err
        assert "Try: " in err
        assert "a-secret" not in err
    code, _, err = call(capsys, "cache", "stats", "--data", str(tmp_path / "nothing"))
    assert code == 1
    assert "does not exist" in err
