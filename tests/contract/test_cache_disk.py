"""The cache in a folder: what was planted is never run, followed or served, and damage costs entries, not answers."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import diskcache
import pytest

from localstore import Cache, LocalStore, Settings
from localstore.cache import database
from localstore.cache.backends import Caches, caches_at
from localstore.cache.database import DAMAGED, template
from localstore.cache.disk import Disk
from localstore.cache.failures import RefusedEntry
from localstore.cache.folder import Folder
from localstore.sqlite.registry import registry


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Caches]:
    """Give the caches of an empty folder."""
    caches = caches_at(tmp_path / "data", Settings(redis_url=None))
    yield caches
    await caches.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of tenant alpha's cache."""
    return tmp_path / "data" / "alpha" / "cache"


class Bomb:
    """Makes a folder when it is unpickled, wherever that happens."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@contextmanager
def planting(folder: Path) -> Iterator[sqlite3.Connection]:
    """Give a connection to the database to somebody who can write to the folder."""
    with closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as connection:
        yield connection


async def test_S3_pickled_values_are_refused(disk: Caches, folder: Path, tmp_path: Path) -> None:
    """A pickle in the place of a value, in the row or in a file, is a miss and never loaded."""
    cache, bomb = disk.of("alpha"), pickle.dumps(Bomb(tmp_path / "ran"))
    (tmp_path / "bomb.val").write_bytes(bomb)
    (folder.parent).mkdir(parents=True)
    for mode, filename, value in (
        *((4, None, bomb), (1, None, bomb), (4, "bomb.val", None), (4, "../../../bomb.val", None)),
        (4, str(tmp_path / "bomb.val"), None),
    ):
        await cache.set("key", 1)
        (folder / "bomb.val").write_bytes(bomb)
        for call, answer in (
            (partial(cache.get, "key", "absent"), "absent"),
            (partial(cache.incr, "key"), 1),
            (partial(cache.add, "key", "added"), True),
            (partial(cache.remember, "key", partial(asyncio.sleep, 0, "made anew")), "made anew"),
        ):
            await cache.set("key", 1)
            with planting(folder) as connection:
                connection.execute("UPDATE Cache SET mode = ?, filename = ?, value = ?", (mode, filename, value))
            assert await call() == answer
        assert await cache.get("key") == "made anew"
    assert not (tmp_path / "ran").exists()
    assert (tmp_path / "bomb.val").exists()
    assert (await cache.stats()).failures == 20


async def test_S3_pickled_keys_are_refused(disk: Caches, folder: Path, tmp_path: Path) -> None:
    """A pickle in the place of a key is never loaded, whichever call goes over the keys, and goes with the rest."""
    cache, bomb = disk.of("alpha"), pickle.dumps(Bomb(tmp_path / "ran"))
    await cache.set("key", 1)
    with planting(folder) as connection:
        columns = "raw, store_time, expire_time, access_time, size, mode, filename, value"
        for raw, key in ((0, bomb), (1, b"alpha::\xff"), (1, "alpha::text"), (1, 7), (0, b"alpha::" + bomb)):
            connection.execute(
                f"INSERT INTO Cache (key, {columns}) SELECT ?, ?, 0, 1e12, 0, 0, 0, NULL, value FROM Cache LIMIT 1",
                (key, raw),
            )
    assert await cache.get("text") is None
    assert await cache.delete_pattern("k*") == 1
    assert await cache.delete_pattern("*") == 0
    await cache.clear()
    assert not (tmp_path / "ran").exists()


async def test_S3_the_settings_table_is_not_believed(disk: Caches, folder: Path, tmp_path: Path) -> None:
    """Diskcache takes attributes, pragmas and its own folder from a table; ours takes nothing from it but counts."""
    cache, elsewhere = disk.of("alpha"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    await cache.set("key", 1)
    planted: dict[str, Any] = {
        "disk__directory": str(elsewhere),
        "_directory": str(elsewhere),
        "disk_min_file_size": 0,
        "size_limit": 0,
        "sqlite_writable_schema": 1,
        "sqlite_query_only": 1,
        "eviction_policy": "none",
        "cull_limit": 9,
        "set": "x",
        "disk_pickle_protocol": pickle.dumps(Bomb(tmp_path / "ran")),
        "hits": "many",
        "evictions": b"x",
    }
    with planting(folder) as connection:
        connection.executemany("INSERT OR REPLACE INTO Settings (key, value) VALUES (?, ?)", planted.items())
    await disk.close()
    cache = disk.of("alpha")
    assert await cache.get("key") == 1
    assert await cache.set("other", "x" * 100_000)
    assert await cache.get("other") == "x" * 100_000
    stats = await cache.stats()
    assert (stats.entries, stats.evictions) == (2, 0)
    assert list(elsewhere.iterdir()) == []
    assert not (tmp_path / "ran").exists()


async def test_S3_the_json_variant_of_diskcache_is_no_way_around(disk: Caches, folder: Path, tmp_path: Path) -> None:
    """JSONDisk packs its keys and values, but still unpickles what is marked so; here both are refused."""
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))
    packed = zlib.compress(json.dumps({"a": 1}).encode())
    ours = Disk(str(tmp_path))
    assert issubclass(Disk, diskcache.Disk)
    assert not issubclass(Disk, diskcache.JSONDisk)
    for columns in ((bomb, 0), (bomb, None), (packed, 0), (7, 1)):
        with pytest.raises(RefusedEntry):
            ours.get(*columns)
    for key in (b"x", 1, 1.5, None, ("a", 1), Bomb(tmp_path / "ran")):
        with pytest.raises(RefusedEntry):
            ours.put(key)
    for refused in ("x", 1, None, {"a": 1}, Bomb(tmp_path / "ran")):
        with pytest.raises(RefusedEntry):
            ours.store(refused, False, key="k")
    with pytest.raises(RefusedEntry):
        ours.store(b"x", True, key="k")
    for mode, filename, value in ((4, None, bomb), (4, "a", None), (2, "a", None), (3, "a", None), (1, None, "x")):
        with pytest.raises(RefusedEntry):
            ours.fetch(mode, filename, value, False)
    await disk.of("alpha").set("key", 1)
    with planting(folder) as connection:
        connection.execute("UPDATE Cache SET value = ?", (packed,))
    assert await disk.of("alpha").get("key", "absent") == "absent"
    assert not (tmp_path / "ran").exists()


async def test_S3_stored_file_names_are_refused_and_never_removed(disk: Caches, folder: Path, tmp_path: Path) -> None:
    """A stored file name leads nowhere: nothing is read there, and no call removes what is there."""
    cache = disk.of("alpha")
    victim = tmp_path / "victim" / "secret.json"
    victim.parent.mkdir()
    victim.write_bytes(b'"a secret"')
    for filename in ("../../../victim/secret.json", str(victim), "link", "a/b", "..\\x", "\x00"):
        for mode in (1, 2, 3):
            for call in (cache.set("key", 2), cache.delete("key"), cache.add("key", 3), cache.incr("key")):
                await cache.set("key", 1)
                (folder / "link").unlink(missing_ok=True)
                (folder / "link").symlink_to(victim)
                with planting(folder) as connection:
                    connection.execute("UPDATE Cache SET mode = ?, filename = ?, value = NULL", (mode, filename))
                assert await cache.get("key", "absent") == "absent"
                await asyncio.gather(call, return_exceptions=True)
                assert victim.read_bytes() == b'"a secret"'


async def test_links_in_place_of_our_files_are_not_followed(disk: Caches, folder: Path, tmp_path: Path) -> None:
    """A database that is a link is set aside, a folder that is one is not used; what they lead to is not touched."""
    await disk.of("beta").set("key", "beta's")
    await disk.close()
    theirs = tmp_path / "data" / "beta" / "cache"
    before = (theirs / "cache.db").read_bytes()
    folder.mkdir(parents=True, mode=0o700)
    (folder / "cache.db").symlink_to(theirs / "cache.db")
    cache = disk.of("alpha")
    assert await cache.get("key", "absent") == "absent"
    assert await cache.set("key", "alpha's")
    assert await cache.get("key") == "alpha's"
    await disk.close()
    gamma = tmp_path / "data" / "gamma"
    gamma.mkdir()
    (gamma / "cache").symlink_to(theirs)
    assert not await disk.of("gamma").set("key", "gamma's")
    assert await disk.of("gamma").get("key", "absent") == "absent"
    assert (theirs / "cache.db").read_bytes() == before
    assert await disk.of("beta").get("key") == "beta's"


async def test_another_tenants_folder_in_this_place_serves_nothing(disk: Caches, folder: Path, tmp_path: Path) -> None:
    """Entries carry their company, so a folder that was copied or moved from another tenant reads as empty."""
    await disk.of("beta").set("key", "beta's")
    await disk.close()
    folder.parent.mkdir(parents=True)
    (tmp_path / "data" / "beta" / "cache").rename(folder)
    assert await disk.of("alpha").get("key", "absent") == "absent"
    assert (await disk.of("alpha").stats()).entries == 0
    assert await disk.of("alpha").delete_pattern("*") == 0


async def test_an_entry_that_is_not_what_was_written_is_a_miss(disk: Caches, folder: Path) -> None:
    """A flipped bit and a value that belongs to another key are noticed by the checksum."""
    cache = disk.of("alpha")
    await cache.set_many({"a": "mine", "b": "other"})
    with planting(folder) as connection:
        (value,) = connection.execute("SELECT value FROM Cache WHERE key = ?", (b"alpha::a",)).fetchone()
        connection.execute("UPDATE Cache SET value = ? WHERE key = ?", (value, b"alpha::b"))
        flipped = value[:-2] + bytes([value[-2] ^ 1]) + value[-1:]
        connection.execute("UPDATE Cache SET value = ? WHERE key = ?", (flipped, b"alpha::a"))
    assert await cache.get_many(["a", "b"]) == {}


@pytest.mark.parametrize("damage", ["noise", "empty", "cut", "foreign", "trigger", "folder", "bits"])
async def test_a_damaged_database_is_set_aside(
    disk: Caches, folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever happened to the file, reading it is a miss and writing works again, on a new one; it is said once."""
    cache = disk.of("alpha")
    await cache.set_many({str(number): "x" * 500 for number in range(200)})
    await disk.close()
    path = folder / "cache.db"
    if damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage in ("foreign", "trigger"):
        with planting(folder) as connection:
            connection.execute(
                "CREATE TABLE more (a)"
                if damage == "foreign"
                else "CREATE TRIGGER t AFTER INSERT ON Cache BEGIN UPDATE Cache SET value = NULL; END"
            )
    elif damage == "bits":
        content = bytearray(path.read_bytes())
        content[4096 : len(content) : 512] = b"\xaa" * len(content[4096 : len(content) : 512])
        path.write_bytes(content)
    else:
        content = bytearray(path.read_bytes())
        path.write_bytes({"noise": os.urandom(len(content)), "empty": b"", "cut": bytes(content[:5000])}[damage])
    cache = disk.of("alpha")
    with caplog.at_level(logging.WARNING, "localstore.cache"):
        assert await cache.get("0", "absent") == "absent"
        assert await cache.set("0", "new")
        assert await cache.get("0") == "new"
        await cache.clear()
        assert await cache.set("0", "new")
        assert (await cache.stats()).entries == 1
    assert len([record for record in caplog.records if record.name == "localstore.cache"]) == 1
    assert (folder / DAMAGED).exists()


async def test_a_database_that_went_away_is_made_anew(disk: Caches, folder: Path) -> None:
    """Files that are removed under an open cache are noticed: nothing is written to where nobody finds it."""
    cache = disk.of("alpha")
    await cache.set("key", 1)
    for path in folder.iterdir():
        path.unlink()
    assert await cache.get("key", "absent") == "absent"
    assert await cache.set("key", 2)
    await disk.close()
    assert await disk.of("alpha").get("key") == 2


async def test_a_tenant_that_was_removed_is_let_go_of(disk: Caches, folder: Path) -> None:
    """Closing a cache whose folder is gone does not fail, and neither does using it again."""
    await disk.of("alpha").set("key", 1)
    shutil.rmtree(folder.parent)
    await disk.close()
    assert await disk.of("alpha").get("key") is None
    assert await disk.of("alpha").set("key", 2)
    shutil.rmtree(folder.parent)
    assert await disk.of("alpha").get("key") is None
    assert await disk.of("alpha").set("key", 3)
    assert await disk.of("alpha").get("key") == 3


async def test_reading_makes_nothing(disk: Caches, tmp_path: Path) -> None:
    """A company without a cache reads as empty, and neither its folder nor a file is made."""
    cache = disk.of("alpha")
    assert await cache.get("key") is None
    assert await cache.delete_pattern("*") == 0
    assert await cache.clear() == 0
    assert not await cache.delete("key")
    assert (await cache.stats()).entries == 0
    await disk.close()
    assert not (tmp_path / "data").exists()


async def test_folders_and_files_are_private(disk: Caches, folder: Path) -> None:
    """Folder 0700 and files 0600, whatever the umask says; loosened modes are tightened."""
    old = os.umask(0)
    try:
        await disk.of("alpha").set("key", 1)
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
        assert modes == {"cache.db": 0o600, "cache.db-wal": 0o600, "cache.db-shm": 0o600, "store.lock": 0o600}
        parents = (folder, folder.parent, folder.parent.parent)
        assert [path.stat().st_mode & 0o777 for path in parents] == [0o700] * 3
        await disk.close()
        folder.chmod(0o755)
        (folder / "cache.db").chmod(0o644)
        assert await disk.of("alpha").get("key") == 1
        assert (folder.stat().st_mode & 0o777, (folder / "cache.db").stat().st_mode & 0o777) == (0o700, 0o600)
    finally:
        os.umask(old)


async def test_room_is_made_for_new_entries_and_counted(tmp_path: Path) -> None:
    """Beyond its limit the cache gives up what was stored longest ago, and says how much that was."""
    caches = caches_at(tmp_path / "data", Settings(redis_url=None, localstore_cache_bytes_max=1024 * 1024))
    cache = caches.of("alpha")
    for number in range(40):
        assert await cache.set_many({f"{number}:{place}": "x" * 10_000 for place in range(10)})
    stats = await cache.stats()
    assert 50 < stats.entries < 110
    assert stats.entries + stats.evictions == 400
    assert stats.bytes <= 1024 * 1024
    assert await cache.get("39:9") == "x" * 10_000
    assert await cache.get("0:0") is None
    await caches.close()
    path = tmp_path / "data" / "alpha" / "cache" / "cache.db"
    assert path.stat().st_size < 2 * 1024 * 1024
    await caches.of("alpha").clear()
    await caches.close()
    assert path.stat().st_size < 200_000


async def test_a_value_that_would_take_much_of_the_room_is_not_kept(tmp_path: Path) -> None:
    """A value takes at most an eighth of the room; a larger one pushes out nothing, and nobody is told it was kept."""
    caches = caches_at(tmp_path / "data", Settings(redis_url=None, localstore_cache_bytes_max=1024 * 1024))
    cache = caches.of("alpha")
    for number in range(4):
        assert await cache.set(str(number), "x" * (1024 * 128 - 2))
    assert await cache.set("small", "here")
    for size in (1024 * 128 - 1, 5 * 1024 * 1024):
        assert not await cache.set("large", "x" * size)
        assert not await cache.add("large", "x" * size)
        assert not await cache.set_many({"large": "x" * size, "small": "here"})
        assert await cache.remember("large", lambda size=size: asyncio.sleep(0, "x" * size)) == "x" * size  # type: ignore[misc]
        assert await cache.get_many(["0", "1", "large", "small"]) == {
            "0": "x" * (1024 * 128 - 2),
            "1": "x" * (1024 * 128 - 2),
            "small": "here",
        }
    assert (await cache.stats()).evictions == 0
    await caches.close()


async def test_more_than_there_is_room_for_at_once_is_said(tmp_path: Path) -> None:
    """Where the entries of one call push out the first of them, not all are kept, and the caller hears so."""
    caches = caches_at(tmp_path / "data", Settings(redis_url=None, localstore_cache_bytes_max=1024 * 1024))
    cache = caches.of("alpha")
    assert await cache.set_many({str(number): "x" * 100_000 for number in range(5)})
    assert not await cache.set_many({str(number): "x" * 100_000 for number in range(20)})
    assert await cache.get("19") == "x" * 100_000
    assert await cache.get("0") is None
    await caches.close()


async def test_the_event_loop_goes_on_while_the_disk_is_busy(disk: Caches, folder: Path) -> None:
    """While another process holds the database, callers wait, and the loop does other things."""
    cache = disk.of("alpha")
    await cache.set("key", 1)
    with planting(folder) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(cache.set("key", 2))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not waiting.done()
        other.execute("ROLLBACK")
    assert await waiting
    assert await cache.get("key") == 2


async def test_a_database_that_stays_locked_is_a_miss(
    disk: Caches, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When another process does not let go, nothing is kept, nothing raises, and reading still works."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    cache = disk.of("alpha")
    await cache.set("key", 1)
    with planting(folder) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not await cache.set("key", 2)
        assert await cache.get("key") == 1
        assert await cache.remember("other", lambda: asyncio.sleep(0, "made")) == "made"
    assert (await cache.stats()).failures >= 2


async def test_open_caches_share_the_descriptors_of_the_tenants(tmp_path: Path) -> None:
    """However many tenants are used, the caches keep within the limit, and all of them still answer."""
    limit = registry().descriptors.limit
    settings = Settings(redis_url=None, localstore_descriptors_max=40)
    try:
        async with LocalStore(tmp_path / "data", models=[], settings=settings) as store:
            for number in range(30):
                await store.tenant(f"tenant-{number}").cache.set("key", number)
                assert registry().descriptors.total <= 40
            for number in range(30):
                assert await store.tenant(f"tenant-{number}").cache.get("key") == number
    finally:
        registry().descriptors.limit = limit


WRITER = """
import asyncio, sys
from pathlib import Path
from localstore import Settings
from localstore.cache.backends import caches_at

async def main():
    cache = caches_at(Path(sys.argv[1]), Settings(redis_url=None)).of("alpha")
    number = 0
    while True:
        number += 1
        await asyncio.gather(
            *(cache.set(f"key {number % 50} {place}", [number, str(number) * 500]) for place in range(8)),
            cache.incr("counter", ttl=3600), cache.delete(f"key {(number + 25) % 50} 1"),
        )
        if number == 3:
            print("going", flush=True)

asyncio.run(main())
"""


async def test_killed_in_the_middle_of_writes(disk: Caches, folder: Path, tmp_path: Path) -> None:
    """After SIGKILL every entry is whole or not there, nothing is left locked, and the file is sound."""
    counted = 0
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "data"], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"going\n"
            process.send_signal(signal.SIGKILL)
            process.wait()
        cache: Cache = disk.of("alpha")
        found = await cache.get_many([f"key {number} {place}" for number in range(50) for place in range(8)])
        assert found
        assert all(text == str(number) * 500 for number, text in found.values())
        now: Any = await cache.get("counter")
        assert now > counted
        counted = now
        assert await cache.set("after", 1)
        assert (await cache.stats()).failures == 0
        await disk.close()
        with planting(folder) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert {path.name for path in folder.iterdir()} <= {"cache.db", "cache.db-wal", "cache.db-shm", "store.lock"}


async def test_two_processes_make_a_value_once(disk: Caches, tmp_path: Path) -> None:
    """What one process is making another one waits for, instead of making it, too."""
    maker = f"""
import asyncio, sys
from pathlib import Path
from localstore import Settings
from localstore.cache.backends import caches_at

async def make():
    print("making", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    return "by the other"

async def main():
    caches = caches_at(Path({str(tmp_path / "data")!r}), Settings(redis_url=None))
    await caches.of("alpha").remember("key", make)
    await caches.close()

asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", maker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "making\n"

        async def make() -> str:
            return "here"

        waiting = asyncio.create_task(disk.of("alpha").remember("key", make))
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert not waiting.done()
        process.communicate("\n")
        assert await waiting == "by the other"


async def test_a_folder_is_opened_once_a_process(tmp_path: Path) -> None:
    """Stores, managers and tasks on one folder share its one connection, and the last one to leave closes it."""
    before = registry().descriptors.total
    first, second = (caches_at(tmp_path / "data", Settings(redis_url=None)) for _ in range(2))
    one, other = first.of("alpha"), second.of("alpha", "jira")
    assert isinstance(one.backend, Folder)
    assert one.backend is other.backend
    await asyncio.gather(*(cache.set(str(number), number) for number in range(20) for cache in (one, other)))
    await first.close()
    assert await other.get("7") == 7
    assert registry().descriptors.total > before
    await second.close()
    assert registry().descriptors.total == before


def test_a_new_file_is_what_diskcache_makes() -> None:
    """The file that caches begin as has diskcache's own tables and nothing of a user's."""
    names = {str(row[1]) for row in template().schema[1:]}
    assert {"Cache", "Settings", "Cache_key_raw", "Cache_expire_time", "Cache_store_time"} <= names
