"""Blobs on a disk: fsspec's own tests of the file system, and what a SIGKILL in the middle of a put leaves behind."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import signal
from collections.abc import Iterator
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from fsspec.tests import abstract

from localstore import BlobError, LocalStore
from localstore.blobs.disk import UNFINISHED, DiskFileSystem
from tests.faults.killing import _wrap

NOW = timedelta(seconds=-5)
"""A grace that makes everything old enough for a sweep."""

ROOM_BYTES = 1 << 20

FIRST, SECOND = b"first" * 1000, b"second" * 100_000

POINTS = {
    # name: (what dies, how it is found, after or before that call, whether the second content is there afterwards)
    "while the bytes are written": ("localstore.blobs.incoming:Incoming", "_write", True, False),
    "before the object has its name": ("localstore.blobs.disk:DiskFileSystem", "place", False, False),
    "when the object has its name": ("localstore.blobs.disk:DiskFileSystem", "place", True, False),
    "before the row": ("localstore.blobs.file_index:FileIndex", "save", False, False),
    "after the row": ("localstore.blobs.file_index:FileIndex", "save", True, True),
}


class Fixtures(abstract.AbstractFixtures):  # type: ignore[misc]
    """What fsspec's tests need: the file system on a folder of its own."""

    @pytest.fixture
    def fs(self, tmp_path: Path) -> DiskFileSystem:
        """Give a new file system."""
        return DiskFileSystem(tmp_path / "root")

    @pytest.fixture
    def fs_path(self) -> str:
        """Give the path below which the tests work; it is relative to the root."""
        return "top"

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        """Say that folders may be empty."""
        return True


class TestOpen(abstract.AbstractOpenTests, Fixtures):  # type: ignore[misc]
    """Files are opened as fsspec says."""


class TestPipe(abstract.AbstractPipeTests, Fixtures):  # type: ignore[misc]
    """Contents are set as fsspec says."""


class TestPut(abstract.AbstractPutTests, Fixtures):  # type: ignore[misc]
    """Local files are put as fsspec says."""


class TestGet(abstract.AbstractGetTests, Fixtures):  # type: ignore[misc]
    """Files are got as fsspec says."""


class TestCopy(abstract.AbstractCopyTests, Fixtures):  # type: ignore[misc]
    """Files are copied as fsspec says."""


@pytest.fixture
def files(tmp_path: Path) -> DiskFileSystem:
    """Give a file system on a folder of its own."""
    return DiskFileSystem(tmp_path / "root")


def test_S1_no_path_leads_out_of_the_root(files: DiskFileSystem, tmp_path: Path) -> None:
    """A path with `..` is refused, an absolute one is below the root, and a link is not followed at any depth."""
    (tmp_path / "secret").write_bytes(b"secret")
    files.pipe_file("a/b", b"data")
    for path in ("../secret", "a/../../secret", "a/./b", "..", "a\0b"):
        for call in (files.cat_file, files.info, files.rm_file, files.ls, files.makedirs):
            with pytest.raises(ValueError, match="no path below"):
                call(path)
    with pytest.raises(FileNotFoundError):
        files.cat_file(str(tmp_path / "secret"))
    (tmp_path / "root" / "a" / "link").symlink_to(tmp_path)
    assert files.info("a/link")["type"] == "link"
    for call in (files.cat_file, files.info, files.rm_file, files.ls):
        with pytest.raises(OSError, match=r"link|Not a directory"):
            call("a/link/secret")
    with pytest.raises(OSError, match=r"link|Not a directory"):
        files.pipe_file("a/link/new", b"data")
    assert (tmp_path / "secret").read_bytes() == b"secret"
    assert not (tmp_path / "new").exists()


def test_a_file_appears_whole_or_not_at_all(files: DiskFileSystem, tmp_path: Path) -> None:
    """Until it is closed a file is unseen, an error removes it, and so does forgetting it; nothing unfinished stays."""
    files.pipe_file("kept", b"before")
    with files.open("kept", "wb") as file:
        file.write(b"after")
        assert files.cat_file("kept") == b"before"
    assert files.cat_file("kept") == b"after"
    with pytest.raises(ZeroDivisionError), files.open("kept", "wb") as file:
        file.write(b"broken")
        _ = 1 // 0
    forgotten = files.unfinished()
    forgotten.write(b"forgotten")
    forgotten.discard()
    assert files.cat_file("kept") == b"after"
    assert [entry["name"] for entry in files.ls("")] == ["kept"]
    assert list((tmp_path / "root" / UNFINISHED).iterdir()) == []


@pytest.mark.parametrize("point", POINTS)
async def test_F25_a_put_that_is_killed_is_done_or_was_never_begun(tmp_path: Path, point: str) -> None:
    """SIGKILL anywhere in a put leaves the old blob or the new one, garbage that a sweep removes, and no lock."""
    owner, name, after, done = POINTS[point]
    process = multiprocessing.get_context("forkserver").Process(
        target=_put_and_die, args=(tmp_path / "data", owner, name, after)
    )
    process.start()
    await asyncio.to_thread(process.join, 120)
    assert process.exitcode == -signal.SIGKILL
    process.close()
    async with LocalStore(tmp_path / "data", models=()) as store:
        blobs = store.tenant("wedosoft", create=False).blobs
        assert await blobs.get("report") == (SECOND if done else FIRST)
        swept = await blobs.sweep(NOW)
        assert swept.seen + swept.unfinished == 2
        assert swept.removed + swept.unfinished == 1
        assert await blobs.get("report") == (SECOND if done else FIRST)
        await blobs.put("report", SECOND)
        assert await blobs.get("report") == SECOND


async def test_F25_what_a_put_returned_for_survives_a_kill(tmp_path: Path) -> None:
    """A process that puts all the time is killed: every blob that it said was put is there, whole."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("forkserver").Process(
        target=_put_all_the_time, args=(tmp_path / "data", there)
    )
    process.start()
    there.close()
    done = [await asyncio.to_thread(here.recv) for _ in range(30)]
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    done += await asyncio.to_thread(lambda: list(_rest(here)))
    await asyncio.to_thread(process.join, 120)
    process.close()
    async with LocalStore(tmp_path / "data", models=()) as store:
        blobs = store.tenant("wedosoft", create=False).blobs
        for number in done:
            assert await blobs.get(f"blob-{number}") == _content(number)
        await blobs.sweep(NOW)
        for blob in await blobs.list(limit=None):
            assert await blobs.get(blob.key) == _content(int(blob.key.removeprefix("blob-")))


async def test_F6_a_blob_for_which_there_is_no_room_is_given_up_cleanly(tmp_path: Path) -> None:
    """A file cannot grow as far as the blob must: one error that says so, nothing of it is kept, the rest goes on."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("forkserver").Process(
        target=_put_without_room, args=(tmp_path / "data", there)
    )
    process.start()
    there.close()
    message, hint = await asyncio.to_thread(here.recv)
    await asyncio.to_thread(process.join, 120)
    here.close()
    process.close()
    assert "could not be written: File too large" in message
    assert "nothing of it was kept" in hint
    async with LocalStore(tmp_path / "data", models=()) as store:
        blobs = store.tenant("wedosoft", create=False).blobs
        assert [blob.key for blob in await blobs.list()] == ["after", "before"]
        swept = await blobs.sweep(NOW)
        assert (swept.seen, swept.removed, swept.unfinished) == (2, 0, 0)


def _content(number: int) -> bytes:
    return b"%d " % number * 20_000


def _rest(pipe: Connection) -> Iterator[int]:
    while True:
        try:
            yield pipe.recv()
        except (EOFError, OSError):
            pipe.close()
            return


# What follows runs in processes of their own.


def _put_and_die(root: Path, owner: str, name: str, after: bool) -> None:
    async def work() -> None:
        async with LocalStore(root, models=()) as store:
            blobs = store.tenant("wedosoft").blobs
            await blobs.put("report", FIRST)
            _wrap(owner, name, after=after)
            await blobs.put("report", SECOND)

    asyncio.run(work())


def _put_all_the_time(root: Path, pipe: Connection) -> None:
    async def work() -> None:
        async with LocalStore(root, models=()) as store:
            blobs = store.tenant("wedosoft").blobs

            async def put(start: int) -> None:
                for number in range(start, 10**9, 4):
                    await blobs.put(f"blob-{number}", _content(number))
                    pipe.send(number)

            await asyncio.gather(*map(put, range(4)))

    asyncio.run(work())


def _put_without_room(root: Path, pipe: Connection) -> None:
    async def work() -> None:
        async with LocalStore(root, models=()) as store:
            blobs = store.tenant("wedosoft").blobs
            await blobs.put("before", b"before")
            resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            try:
                await blobs.put("large", bytes(ROOM_BYTES + 1))
            except BlobError as error:
                pipe.send((error.message, error.hint))
            await blobs.put("after", b"after")

    asyncio.run(work())
