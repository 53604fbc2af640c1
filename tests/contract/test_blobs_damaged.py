"""Bytes that changed where they are kept, and kept their size: noticed by whoever reads, healed by whoever has them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from localstore import BlobDamaged, Blobs, LocalStore
from localstore.blobs.local_objects import DiskObjects, MemoryObjects
from localstore.blobs.objects import CHUNK_BYTES, Objects, object_path
from localstore.blobs.s3_objects import S3Objects

pytest_plugins = ["tests.contract.blob_backends"]

WHOLE = b"written on a train"


async def damage(objects: Objects, digest: str, data: bytes) -> None:
    """Change an object's bytes, as a bad disk or a bad hand does."""
    path = object_path(digest)
    if isinstance(objects, DiskObjects):
        (objects.folder / path).write_bytes(data)
    elif isinstance(objects, MemoryObjects):
        objects._files.pipe_file(path, data)
    else:
        assert isinstance(objects, S3Objects)
        await objects._bucket.call("put_object", Key=objects._key(digest), Body=data)


def flipped(data: bytes, at: int = 0) -> bytes:
    """Return the data with one bit turned."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("again", ["same key", "another key", "deleted first"])
async def test_a_put_replaces_bytes_that_were_damaged_without_a_change_of_size(blobs: Blobs, again: str) -> None:
    """Once a put has returned its bytes can be read, also where an object of that name and size was there, damaged."""
    info = await blobs.put("first", WHOLE)
    await damage(blobs.objects, info.hash, flipped(WHOLE))
    with pytest.raises(BlobDamaged, match="first"):
        await blobs.get("first")
    if again == "deleted first":
        await blobs.delete("first")
    key = "other" if again == "another key" else "first"
    assert (await blobs.put(key, WHOLE)).hash == info.hash
    assert await blobs.get(key) == WHOLE


async def test_an_object_that_is_whole_is_not_written_again(blobs: Blobs) -> None:
    """Equal contents are kept once: a second put of them finds the object that is there."""
    await blobs.put("first", WHOLE)
    async with blobs.open("second", "wb") as writer:
        await writer.write(WHOLE)
        await writer._incoming.flush()
        assert not await writer._incoming.keep()


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[Blobs, Objects]]:
    """Give a tenant's blobs on a disk, and the place that has their bytes as well."""
    from tests.contract.blob_backends import file_index, limits

    far = MemoryObjects()
    async with LocalStore(tmp_path / "data", models=()) as store:
        here = DiskObjects(tmp_path / "data" / "wedosoft" / "blobs")
        yield Blobs(file_index(store.tenant("wedosoft")), here, limits(), lambda: far), far


async def keep(objects: Objects, digest: str, data: bytes) -> None:
    """Keep the bytes there, too."""
    file = await objects.collect()
    file.write(data)
    await objects.add(digest, len(data), file)


async def test_a_read_that_finds_damage_gives_the_bytes_of_the_far_place_and_keeps_them(
    two: tuple[Blobs, Objects],
) -> None:
    """A whole read of a damaged object is answered with what another place has, and that replaces it here."""
    blobs, far = two
    info = await blobs.put("note", WHOLE)
    await keep(far, info.hash, WHOLE)
    for wrong in (flipped(WHOLE), WHOLE[:-1]):
        await damage(blobs.objects, info.hash, wrong)
        assert await blobs.get("note") == WHOLE
        assert isinstance(blobs.objects, DiskObjects)
        assert (blobs.objects.folder / object_path(info.hash)).read_bytes() == WHOLE


async def test_damage_that_is_found_behind_pieces_already_given_is_an_error_and_healed(
    two: tuple[Blobs, Objects],
) -> None:
    """A stream cannot take back what it gave: it ends with BlobDamaged, and the next one gives the right bytes."""
    blobs, far = two
    data = random.Random(1).randbytes(CHUNK_BYTES + 1000)
    info = await blobs.put("video", data)
    await keep(far, info.hash, data)
    await damage(blobs.objects, info.hash, flipped(data))
    with pytest.raises(BlobDamaged, match="has been replaced"):
        async with blobs.open("video") as blob:
            _ = [piece async for piece in blob]
    async with blobs.open("video") as blob:
        assert b"".join([piece async for piece in blob]) == data


async def test_damage_in_both_places_is_told_and_nothing_is_replaced(two: tuple[Blobs, Objects]) -> None:
    """Where the far place has no better bytes, the read says what is wrong here and leaves the object as it is."""
    blobs, far = two
    info = await blobs.put("note", WHOLE)
    await keep(far, info.hash, WHOLE)
    await damage(far, info.hash, flipped(WHOLE, 3))
    await damage(blobs.objects, info.hash, flipped(WHOLE))
    with pytest.raises(BlobDamaged, match="not what was put"):
        await blobs.get("note")
    assert isinstance(blobs.objects, DiskObjects)
    assert (blobs.objects.folder / object_path(info.hash)).read_bytes() == flipped(WHOLE)
