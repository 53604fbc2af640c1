"""A SIGKILL of the command while objects go up: the next push goes on with what has arrived, and ends well."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
from collections.abc import Callable, Mapping
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from localstore.blobs.fetch import is_intact
from localstore.blobs.s3_source import PART_BYTES
from tests.faults.killing import after, before
from tests.forked import be_command, processes
from tests.integration.command import environment
from tests.s3_proxy import Fate, Request

if TYPE_CHECKING:
    from tests.blob_world import World

pytest_plugins = ["tests.blob_world"]

MEBIBYTES = int(os.environ.get("LOCALSTORE_TEST_UPLOAD_MB", "48"))
"""The size of the object whose upload is killed in the middle."""

WAIT_SECONDS = 240.0
"""How long a process may take: far more than it needs, so that only one that hangs fails its test."""

POINTS: dict[str, Callable[[], None]] = {
    "the upload is begun and noted, no part is sent": after("localstore.blobs.uploads:Uploads", "begun"),
    "a part has arrived and is not noted": before("localstore.blobs.uploads:Uploads", "arrived", nth=2),
    "the object is whole, its upload still noted": before("localstore.blobs.uploads:Uploads", "ended"),
    "the object is there, production does not know": before("sync.blobs.record", "confirm"),
    "production knows, the row is not staged": after("sync.blobs.record", "confirm"),
    "the row waits, what it waits for has come": before("sync.steps.upload", "release"),
}
"""Where a push can die on the way of its objects: the name says what was done last."""


@pytest.fixture
def world(blob_world: World) -> World:
    """Give a company that has nothing yet, with its production and object store."""
    return blob_world


def _push(arguments: list[str], env: Mapping[str, str], out: Path, point: str | None) -> None:
    """Be the command, and die at the point."""
    if point is not None:
        POINTS[point]()
    be_command(arguments, env, None, out, out)


class Push:
    """A push with promotion in a process of its own."""

    def __init__(self, world: World, point: str | None = None, **more: str) -> None:
        self._out = world.folder / "printed"
        arguments = ["sync", "push", "--promote", "--json", "--data", str(world.folder / "one")]
        env = environment(DATABASE_URL=world.url, **(world.proxy.server.environment | more))
        self._process = processes.Process(target=_push, args=(arguments, env, self._out, point))
        self._process.start()

    async def end(self, *, kill: bool = False) -> int:
        """Return the exit code, the signal's number negated where a signal ended it."""
        if kill:
            self._process.kill()
        await asyncio.to_thread(self._process.join, WAIT_SECONDS)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            raise AssertionError(f"the command hangs; it printed: {self._out.read_text()}")
        assert "Traceback" not in self._out.read_text(), self._out.read_text()
        return code


async def arrived(world: World) -> int:
    """Return how many parts of the company's only upload the object store has."""
    uploads = (await world.bucket.call("list_multipart_uploads", Prefix=f"{world.company}/")).get("Uploads", [])
    if not uploads:
        return 0
    (upload,) = uploads
    answer = await world.bucket.call("list_parts", Key=upload["Key"], UploadId=upload["UploadId"])
    return len(answer.get("Parts", []))


async def test_F25_a_killed_upload_goes_on_and_sends_no_finished_part_again(world: World) -> None:
    """SIGKILL in the middle of a large upload: the next push sends the parts that are missing and promotes the row."""
    size = MEBIBYTES * 1024 * 1024
    parts = ceil(size / PART_BYTES)
    half = parts // 2
    path = world.folder / "video.bin"
    with path.open("wb") as file:
        for number in range(MEBIBYTES):
            file.write(random.Random(number).randbytes(1024 * 1024))
    box = await world.box()
    info = await box.blobs.put("video.bin", path)
    await box.close()

    stalled = asyncio.Event()

    def stall_in_the_middle(request: Request) -> Fate:
        if request.kind == "UploadPart" and request.number >= half:
            stalled.set()
            return Fate.STALL
        return Fate.PASS

    world.proxy.rule = stall_in_the_middle
    push = Push(world)
    async with asyncio.timeout(WAIT_SECONDS):
        await stalled.wait()
        while await arrived(world) < half:
            await asyncio.sleep(0.05)
    assert await push.end(kill=True) == -signal.SIGKILL
    assert await world.far().stat(info.hash) is None
    assert await world.keys() == []

    world.proxy.rule = lambda _: Fate.PASS
    sent = world.proxy.count("UploadPart")
    assert await Push(world).end() == 0
    again = world.proxy.count("UploadPart") - sent
    sys.stderr.write(f"{parts} parts, {half} had arrived, {again} were sent by the second push\n")
    assert again == parts - half
    assert world.proxy.count("CreateMultipartUpload") == 1
    assert await is_intact(world.far(), info.hash, size)
    assert await world.keys() == ["video.bin"]


@pytest.mark.parametrize("point", POINTS)
async def test_F25_a_push_killed_on_the_way_of_its_objects_is_finished_by_the_next(world: World, point: str) -> None:
    """Wherever it dies, no row is in production without its object, and the next push ends with both, nothing held."""
    in_parts = "upload" in point or "part" in point
    without: dict[str, Any] = {"s3_bucket_name": None} if "waits" in point else {}
    box = await world.box(**without)
    infos = [
        await box.blobs.put("big.bin", world.large() if in_parts else b"not that big"),
        await box.blobs.put("small.txt", b"small"),
    ]
    if "waits" in point:
        await box.push(exit_code=3)
    await box.close()
    assert await Push(world, point).end() == -signal.SIGKILL
    assert await world.keys() == []
    assert await Push(world).end() == 0
    for info in infos:
        assert await is_intact(world.far(), info.hash, info.size)
    assert await world.keys() == ["big.bin", "small.txt"]
    again = await world.box()
    assert await again.held() == {}
    assert (await again.engine.verify([world.company]))[0].equal
    assert not in_parts or await again.store.tenant(world.company).database.read(_noted) == []
    assert (await again.push()).state == "unchanged"


def _noted(file: sqlite3.Connection) -> list[tuple[Any, ...]]:
    return file.execute("SELECT * FROM localstore_uploads").fetchall()
