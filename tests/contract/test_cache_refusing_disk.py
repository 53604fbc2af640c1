"""A disk that refuses is a miss: a folder nobody may write to or look into, and a disk without room."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localstore import Settings
from localstore.cache.backends import caches_at
from localstore.cache.folder import Folder

ACCOUNT = 65534

PROGRAM = """
import asyncio, json, logging, os, resource, sys
from pathlib import Path
from localstore import CacheUnavailable, Settings
from localstore.cache.backends import caches_at
from localstore.cache.folders import folders

logging.basicConfig(stream=sys.stderr)
root, kind, account = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if os.geteuid() == 0:
    # Nothing is refused to root.
    os.setgid(account)
    os.setuid(account)

def permit(folder_mode, file_mode):
    folders = [root, root / "alpha", root / "alpha" / "cache"]
    for folder in folders:
        if folder.exists():
            folder.chmod(0o700)
            for path in folder.iterdir():
                if path.is_file():
                    path.chmod(file_mode)
    for folder in reversed(folders):
        if folder.exists():
            folder.chmod(folder_mode)

async def everything(cache):
    answers = {
        "get": await cache.get("key", "absent"),
        "many": await cache.get_many(["key", "other"]),
        "set": await cache.set("key", 1),
        "set_many": await cache.set_many({"key": 1, "other": "x" * 500_000}),
        "add": await cache.add("new", 1),
        "incr": await cache.incr("count"),
        "delete": await cache.delete("key"),
        "forget": await cache.forget("key"),
        "pattern": await cache.delete_pattern("*"),
        "made": await cache.remember("made", lambda: asyncio.sleep(0, "made")),
    }
    stats = await cache.stats()
    answers["failures"] = stats.failures
    try:
        answers["cleared"] = await cache.clear()
    except CacheUnavailable:
        answers["cleared"] = "refused"
    return answers

async def main():
    caches = caches_at(root, Settings(redis_url=None))
    if kind == "read-only and empty":
        root.mkdir()
    else:
        await caches.of("alpha").set("key", 0)
        if kind != "full":
            await caches.close()
    if kind == "full":
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    else:
        permit(0 if kind == "closed" else 0o500, 0o400)
    answers = await everything(caches.of("alpha"))
    await caches.close()
    if kind == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    else:
        permit(0o700, 0o600)
    answers["again"] = [await caches.of("alpha").set("key", 2), await caches.of("alpha").get("key")]
    await caches.close()
    print(json.dumps(answers))

asyncio.run(main())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder that an unprivileged account can reach, which pytest's own are not."""
    found = Path(tempfile.mkdtemp(prefix="localstore-cache-"))
    if os.geteuid() == 0:
        os.chown(found, ACCOUNT, ACCOUNT)
    yield found
    shutil.rmtree(found)


@pytest.mark.parametrize("kind", ["read-only and empty", "read-only", "closed", "full"])
def test_what_the_disk_refuses_is_a_miss(folder: Path, kind: str) -> None:
    """Every call answers as on an empty cache that keeps nothing; it is counted, and said once, until it is over."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder / "data", kind, str(ACCOUNT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    answers: dict[str, Any] = json.loads(ran.stdout)
    assert answers["made"] == "made"
    assert answers["again"] == [True, 2]
    assert answers["failures"] >= 1
    assert ran.stderr.count("did not answer and counts as empty") == 1
    if kind == "full":
        assert answers["set_many"] is False
        return
    assert answers["get"] == "absent"
    assert (answers["many"], answers["pattern"]) == ({}, 0)
    assert [answers[name] for name in ("set", "set_many", "add", "incr", "delete")] == [
        False,
        False,
        False,
        None,
        False,
    ]
    empty = kind == "read-only and empty"
    assert (answers["forget"], answers["cleared"]) == ((True, 0) if empty else (False, "refused"))
    assert answers["failures"] >= (4 if empty else 9)


async def test_a_full_disk_keeps_what_it_has(tmp_path: Path) -> None:
    """When SQLite finds no room in the middle of a transaction, what was there stays, and less fits again."""
    caches = caches_at(tmp_path / "data", Settings(redis_url=None))
    cache = caches.of("alpha")
    assert await cache.set("key", "x" * 100_000)
    assert isinstance(cache.backend, Folder)
    assert cache.backend._entries is not None
    connection = cache.backend._entries.connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 5}")
    for _ in range(3):
        assert not await cache.set_many({"first": 1, "large": "x" * 100_000})
        assert await cache.get_many(["key", "first", "large"]) == {"key": "x" * 100_000}
        assert await cache.set("small", 1)
    assert await cache.clear() == 2
    assert await cache.set("large", "x" * 100_000)
    assert (await cache.stats()).failures == 3
    await caches.close()
