"""Objects that were damaged on this disk without a change of size, and that production's object store has whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.blob_world import World

pytest_plugins = ["tests.blob_world"]

WHOLE, WRONG = b"written on a train", b"WRITTEN on a train"


async def test_a_pull_of_blobs_replaces_damaged_bytes(blob_world: World) -> None:
    """`pull --blobs` rereads what is here, fetches what is not as its name says, and fetches nothing else."""
    box = await blob_world.box()
    bad, good = await box.blobs.put("bad", WHOLE), await box.blobs.put("good", b"good")
    await box.push()
    box.object(bad.hash).write_bytes(WRONG)
    pulled = box.only(await box.engine.pull([box.company], blobs=True))
    assert (pulled.blobs["downloaded"], pulled.blobs["missing"]) == (1, 0)
    assert box.object(bad.hash).read_bytes() == WHOLE
    assert box.object(good.hash).read_bytes() == b"good"
    assert box.only(await box.engine.pull([box.company], blobs=True)).blobs["downloaded"] == 0


async def test_a_pull_names_damaged_bytes_that_nobody_has_whole(blob_world: World) -> None:
    """Where the object store lacks the object, too, its row is listed with both facts, and the file is left alone."""
    box = await blob_world.box()
    bad = await box.blobs.put("bad", WHOLE)
    await box.push()
    key = f"{box.company}/objects/{bad.hash[:2]}/{bad.hash}"
    await blob_world.bucket.call("delete_object", Key=key)
    box.object(bad.hash).write_bytes(WRONG)
    pulled = box.only(await box.engine.pull([box.company], blobs=True), exit_code=3)
    ((row, reason),) = pulled.left_alone
    assert (row, "damaged here" in reason) == ("blobs/bad", True)
    assert box.object(bad.hash).read_bytes() == WRONG


async def test_a_read_heals_from_the_object_store(blob_world: World) -> None:
    """`get` of a damaged blob gives the bytes that the object store has, and they are here from then on."""
    box = await blob_world.box()
    bad = await box.blobs.put("bad", WHOLE)
    await box.push()
    box.object(bad.hash).write_bytes(WRONG)
    assert await box.blobs.get("bad") == WHOLE
    assert box.object(bad.hash).read_bytes() == WHOLE
