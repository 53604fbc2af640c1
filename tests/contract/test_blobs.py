"""What blobs promise, wherever their bytes are kept."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from localstore import (
    BlobDamaged,
    BlobKeyTaken,
    BlobNotFound,
    BlobRefused,
    Blobs,
    ConfigurationError,
    InvalidIdentifier,
)
from localstore.blobs.model import NewBlob
from localstore.blobs.objects import CHUNK_BYTES, object_path
from localstore.blobs.types import Types

if TYPE_CHECKING:
    from tests.contract.blob_backends import World

pytest_plugins = ["tests.contract.blob_backends"]

PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489")
MIB = 1024 * 1024


def content(size: int, seed: int = 0) -> bytes:
    """Return so many bytes, the same ones for a seed."""
    return random.Random(seed).randbytes(size)


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    """Give the data in pieces of this size."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


class Trickle:
    """A stream whose `read` is awaited and gives less than it is asked for."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    async def read(self, size: int) -> bytes:
        """Return a few bytes."""
        return self._file.read(min(size, 70_001))


async def test_what_was_put_is_got_back_with_what_is_known_of_it(blobs: Blobs) -> None:
    """A put returns, and stat repeats, the size, the BLAKE3 of the bytes, the type, the metadata and the times."""
    before = datetime.now(UTC)
    info = await blobs.put("지원/Übersicht 1.png", PNG, metadata={"ticket": "MOD-42", "번호": 7})
    assert (info.size, info.hash, info.content_type) == (len(PNG), blake3(PNG).hexdigest(), "image/png")
    assert info.metadata == {"ticket": "MOD-42", "번호": 7}
    assert info.created_at is not None
    assert info.created_at >= before
    assert await blobs.stat(info.key) == info
    assert await blobs.get(info.key) == PNG
    assert await blobs.exists(info.key)
    assert await blobs.usage() == (1, len(PNG))


async def test_what_is_not_there_is_none_or_an_error_that_says_so(blobs: Blobs) -> None:
    """Get and stat give None, delete False, open and copy BlobNotFound, all before and after the first put."""
    for _ in range(2):
        assert await blobs.get("nothing") is None
        assert await blobs.stat("nothing") is None
        assert not await blobs.exists("nothing")
        assert not await blobs.delete("nothing")
        assert await blobs.list("nothing") == []
        with pytest.raises(BlobNotFound, match="nothing"):
            await blobs.copy("nothing", "elsewhere")
        with pytest.raises(BlobNotFound, match="nothing"):
            async with blobs.open("nothing"):
                pass
        await blobs.put("something", b"")
    assert await blobs.get("something") == b""


@pytest.mark.parametrize("size", [0, CHUNK_BYTES, CHUNK_BYTES + 12_345])
async def test_content_from_anywhere_is_the_same_blob(blobs: Blobs, tmp_path: Path, size: int) -> None:
    """Bytes, a path, an open file, an async stream, an async iterator and a writer all give one hash and one object."""
    data = content(size)
    path = tmp_path / "content"
    path.write_bytes(data)
    found = [
        await blobs.put("bytes", data),
        await blobs.put("view", memoryview(bytearray(data))),
        await blobs.put("path", path),
        await blobs.put("file", io.BytesIO(data)),
        await blobs.put("stream", Trickle(data)),
        await blobs.put("iterator", pieces(data, 1_000_003)),
    ]
    async with blobs.open("writer", "wb") as writer:
        async for piece in pieces(data, 99_991):
            await writer.write(piece)
    found.append(writer.info)
    assert {(info.hash, info.size) for info in found} == {(blake3(data).hexdigest(), size)}
    assert [kept.hash async for page in blobs.objects.pages() for kept in page] == [found[0].hash]
    for info in found:
        async with blobs.open(info.key) as reader:
            assert b"".join([piece async for piece in reader]) == data


async def test_a_range_is_what_slicing_gives(blobs: Blobs) -> None:
    """get(start, end) and an opened range give the bytes that a slice of the whole would give."""
    data = content(CHUNK_BYTES + 1000)
    await blobs.put("range", data)
    for start, end in [(0, 0), (0, 10), (5, 5), (CHUNK_BYTES - 3, CHUNK_BYTES + 3), (len(data) - 1, None)]:
        assert await blobs.get("range", start, end) == data[start:end]
    assert await blobs.get("range", 10, 10**9) == data[10:]
    assert await blobs.get("range", 10**9) == b""
    async with blobs.open("range", start=7, end=CHUNK_BYTES + 7) as reader:
        assert await reader.read(3) == data[7:10]
        assert await reader.read() == data[10 : CHUNK_BYTES + 7]
        assert await reader.read() == b""
    for start, end in [(-1, None), (5, 4)]:
        with pytest.raises(ConfigurationError, match="range"):
            await blobs.get("range", start, end)


async def test_a_block_that_fails_keeps_nothing(blobs: Blobs) -> None:
    """A writer whose block raises leaves neither a row nor an object nor an unfinished file."""
    with pytest.raises(ZeroDivisionError):
        async with blobs.open("broken", "wb") as writer:
            await writer.write(content(2 * CHUNK_BYTES))
            _ = 1 // 0
    assert await blobs.stat("broken") is None
    assert [found async for page in blobs.objects.pages() for found in page] == []
    assert await blobs.objects.remove_unfinished(datetime.now(UTC) + timedelta(days=1)) == 0


async def test_a_put_that_is_cancelled_keeps_nothing(blobs: Blobs) -> None:
    """A put that is given up while its content comes leaves nothing, and the key can be put at once."""
    reached = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield content(CHUNK_BYTES + 1)
        reached.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(blobs.put("stalled", stalling()))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await blobs.stat("stalled") is None
    assert [found async for page in blobs.objects.pages() for found in page] == []
    assert await blobs.objects.remove_unfinished(datetime.now(UTC) + timedelta(days=1)) == 0
    assert (await blobs.put("stalled", b"now")).size == 3


async def test_overwriting_and_deleting_leave_the_old_bytes_for_a_rollback(blobs: Blobs) -> None:
    """After a second put and after a delete the first object is there until a sweep takes it."""
    first = await blobs.put("report", b"first")
    second = await blobs.put("report", b"second!", metadata={"edition": 2})
    assert (second.created_at, second.metadata) == (first.created_at, {"edition": 2})
    assert second.updated_at is not None
    assert first.updated_at is not None
    assert second.updated_at > first.updated_at
    assert await blobs.get("report") == b"second!"
    assert await blobs.objects.stat(first.hash) is not None
    assert await blobs.delete("report")
    assert await blobs.get("report") is None
    assert await blobs.objects.stat(second.hash) is not None


async def test_a_sweep_takes_what_no_row_names_after_the_grace(local: Blobs) -> None:
    """Young objects stay, old ones stay while any key names them, and the rest goes; a second sweep finds nothing."""
    shared = await local.put("kept", b"shared")
    await local.put("gone", b"shared")
    lost = await local.put("lost", b"lost")
    await local.delete("gone")
    await local.delete("lost")
    young = await local.sweep()
    assert (young.seen, young.removed) == (2, 0)
    swept = await local.sweep(timedelta(seconds=-5))
    assert (swept.seen, swept.removed, swept.bytes) == (2, 1, 4)
    assert await local.objects.stat(lost.hash) is None
    assert await local.objects.stat(shared.hash) is not None
    assert (await local.sweep(timedelta(seconds=-5))).removed == 0
    assert await local.get("kept") == b"shared"


async def test_puts_and_sweeps_at_once_lose_nothing(local: Blobs) -> None:
    """While sweeps without any grace run, every blob that a put returned can be read, new or brought back."""
    names = [f"blob-{number}" for number in range(6)]

    async def put_again_and_again(name: str) -> None:
        for round_ in range(5):
            # Few contents, so that most puts find an object which a sweep is about to take.
            data = b"content %d" % (round_ % 3)
            await local.put(name, data)
            assert await local.get(name) == data
            await local.delete(name)

    async def sweep_until(done: asyncio.Event) -> None:
        while not done.is_set():
            await local.sweep(timedelta(0))

    done = asyncio.Event()
    sweeping = asyncio.create_task(sweep_until(done))
    try:
        await asyncio.gather(*map(put_again_and_again, names))
    finally:
        done.set()
        await sweeping


async def test_lists_are_ordered_paged_and_complete(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys come by code points, a page at a time behind `after`, only those with the prefix, however many there are."""
    monkeypatch.setattr("localstore.blobs.store.LIST_LIMIT", 50)
    keys = [f"파일/{number:04}" for number in range(130)]
    info = await blobs.put("other", b"x")
    rows = (NewBlob(key, info.size, info.hash, info.content_type, {}) for key in keys)
    await asyncio.gather(*(blobs._index.save(row, None) for row in rows))
    odd = ["A", "Z", "a b", "a.b", "a/b", "ab", "\U0001f600", "\uffee"]
    for key in odd:
        await blobs.put(key, b"x")
    assert [blob.key async for blob in blobs.walk("파일/")] == keys
    assert [blob.key for blob in await blobs.list("파일/", limit=3, after=keys[10])] == keys[11:14]
    assert len(await blobs.list("파일/", limit=None)) == 130
    everything = [blob.key async for blob in blobs.walk()]
    assert everything == sorted([*keys, *odd, "other"])
    assert {blob.key for blob in await blobs.list("a")} == {"a b", "a.b", "a/b", "ab"}
    assert await blobs.list("파일/%") == []
    assert await blobs.delete_prefix("파일/005") == 10
    assert await blobs.delete_prefix("a") == 4
    assert len([blob async for blob in blobs.walk()]) == 120 + len(odd) - 4 + 1
    assert (await blobs.objects.stat(info.hash)) is not None
    with pytest.raises(ConfigurationError, match="prefix"):
        await blobs.delete_prefix("")


async def test_a_copy_is_a_blob_of_its_own(blobs: Blobs) -> None:
    """A copy has the content, type and metadata, and outlives the deletion and the overwriting of its source."""
    source = await blobs.put("from.bin", b"copied", content_type="text/x-note; charset=utf-8", metadata={"a": [1]})
    copied = await blobs.copy("from.bin", "to")
    assert (copied.key, copied.hash, copied.content_type, copied.metadata) == (
        "to",
        source.hash,
        source.content_type,
        source.metadata,
    )
    await blobs.put("from.bin", b"other")
    await blobs.delete("from.bin")
    assert await blobs.get("to") == b"copied"


async def test_bytes_that_changed_or_went_are_noticed(blobs: Blobs) -> None:
    """A whole read raises BlobDamaged when the object is not what was put, shorter, or gone."""
    data = content(CHUNK_BYTES + 10)
    info = await blobs.put("precious", data)
    other = await blobs.put("other", data[:-1] + b"!")
    for wrong in (data[:-1], b"", data[:-1] + b"?"):
        await _overwrite(blobs, info.hash, wrong)
        with pytest.raises(BlobDamaged, match="precious"):
            await blobs.get("precious")
    assert await blobs.get("other") == data[:-1] + b"!"
    assert await blobs.objects.remove(info.hash, datetime.now(UTC) + timedelta(days=1))
    with pytest.raises(BlobDamaged, match="not here"):
        await blobs.get("precious")
    await blobs.put("precious", data)
    assert await blobs.get("precious") == data
    assert await blobs.objects.stat(other.hash) is not None


async def _overwrite(blobs: Blobs, digest: str, data: bytes) -> None:
    """Do what a bad disk or a bad hand does to an object."""
    assert await blobs.objects.remove(digest, datetime.now(UTC) + timedelta(days=1))
    await blobs.objects.add(digest, len(data), io.BytesIO(data))


async def test_a_size_limit_ends_a_stream_without_reading_all_of_it(world: World) -> None:
    """More bytes than allowed are refused as soon as they are seen, and nothing is kept."""
    blobs = world.blobs(size_max=MIB)
    given = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            given += 256 * 1024
            yield bytes(256 * 1024)

    assert (await blobs.put("fits", bytes(MIB))).size == MIB
    with pytest.raises(BlobRefused, match=str(MIB)):
        await blobs.put("endless", endless())
    assert given <= 2 * CHUNK_BYTES
    assert [blob.key for blob in await blobs.list()] == ["fits"]


async def test_a_quota_counts_every_key_and_holds_among_puts_at_once(world: World) -> None:
    """However many puts race, what the rows name stays within the quota; replacing counts the difference."""
    blobs = world.blobs(quota=1000)
    outcomes = await asyncio.gather(
        *(blobs.put(f"{number}", content(300, number)) for number in range(8)), return_exceptions=True
    )
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 3
    assert all(isinstance(outcome, BlobRefused) for outcome in outcomes if isinstance(outcome, BaseException))
    assert await blobs.usage() == (3, 900)
    kept = (await blobs.list())[0].key
    await blobs.put(kept, content(400, 99))
    with pytest.raises(BlobRefused, match="1000"):
        await blobs.copy(kept, "copied")
    with pytest.raises(BlobRefused, match="1000"):
        await blobs.put(kept, content(401, 98))
    assert await blobs.usage() == (3, 1000)
    await world.blobs("other", quota=1000).put("own", content(1000))


async def test_only_allowed_types_are_taken_by_name_and_by_content(world: World) -> None:
    """With an allow-list neither a name, nor a claim, nor the bytes may be something else; without one all is taken."""
    blobs = world.blobs(types=Types.parse("image/*, text/plain"))
    program = b"MZ\x90\x00\x03\x00\x00\x00" + bytes(120)
    assert (await blobs.put("shot", PNG)).content_type == "image/png"
    assert (await blobs.put("note.txt", b"BMW, blue")).content_type == "text/plain"
    refused: list[tuple[str, bytes, str | None]] = [
        ("shot.png", program, None),
        ("shot.png", b"just text", None),
        ("shot.png", b"", None),
        ("setup.exe", PNG, "image/png"),
        ("shot.png", PNG, "application/x-msdownload"),
        ("note.txt", program, None),
        ("note.txt", b"a\0b", "text/plain"),
        ("unknown", b"\x01\x02\x03", None),
        ("page", b"<html><script>", "text/plain"),
    ]
    for key, data, claimed in refused:
        with pytest.raises(BlobRefused):
            await blobs.put(key, data, content_type=claimed)
    assert [blob.key for blob in await blobs.list()] == ["note.txt", "shot"]
    anything = world.blobs("other")
    assert (await anything.put("setup.exe", program)).content_type.startswith("application/")
    with pytest.raises(BlobRefused, match="content type"):
        await anything.put("x", b"", content_type="text/html\r\nSet-Cookie: a=b")


async def test_S1_keys_that_differ_in_case_or_form_collide(blobs: Blobs) -> None:
    """A key that equals another but for case or normal form is refused, whichever came first."""
    for taken, same in [("Straße.TXT", "STRASSE.txt"), ("é/x", "É/x"), ("Σίσυφος", "ΣΊΣΥΦΟΣ")]:
        await blobs.put(taken, b"first")
        await blobs.put(taken, b"again")
        with pytest.raises(BlobKeyTaken):
            await blobs.put(same, b"second")
        with pytest.raises(BlobKeyTaken):
            await blobs.copy(taken, same)
        assert await blobs.get(taken) == b"again"
        await blobs.delete(taken)
        await blobs.put(same, b"second")
    with pytest.raises(InvalidIdentifier, match="normal form C"):
        await blobs.put("e\u0301/x", b"")


async def test_metadata_is_json_of_a_bounded_size(blobs: Blobs) -> None:
    """What JSON cannot hold, and what is too large for a row, is refused before any byte is stored."""
    for metadata in (
        {"a": float("nan")},
        {"a": object()},
        {"a": "x" * 70_000},
        {"a": ["\\", "\0"]},
        {"\ud800": 1},
    ):
        with pytest.raises(ConfigurationError, match="metadata"):
            await blobs.put("key", b"", metadata=metadata)
    assert await blobs.list() == []
    kept = {"a": "\\u0000 \\ud800 😀", "b": None, "c": [1.5, True, {"d": 2**60}]}
    await blobs.put("key", b"", metadata=kept)
    found = await blobs.stat("key")
    assert found is not None
    assert found.metadata == kept
    with pytest.raises(ConfigurationError, match="str"):
        await blobs.put("key", "text")  # type: ignore[arg-type]


async def test_a_hash_that_is_none_names_no_object(blobs: Blobs) -> None:
    """A row that some tool wrote cannot make a path out of its hash."""
    for wrong in ("../../other/objects/ab/cd", "", "A" * 64, hashlib.sha1(b"").hexdigest(), "a" * 64 + "\n"):
        with pytest.raises(BlobDamaged, match="no content hash"):
            object_path(wrong)
        with pytest.raises(BlobDamaged):
            await blobs.objects.open(wrong)
