"""Blobs on their way to production: objects before rows, verified, deduplicated, waited for, swept, brought back."""

from __future__ import annotations

import asyncio
import io
import sqlite3
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import asyncpg
import pytest
import stamina
from blake3 import blake3

from localstore import BlobDamaged, LocalStore, Settings
from localstore.blobs.fetch import is_intact
from localstore.postgres.embedded import EmbeddedServer
from localstore.schema.sqlite import table_from_sqlite
from localstore.sqlite.capture import install
from sync import SyncEngine
from sync.blobs import record
from sync.blobs.place import OBJECTS_TOGETHER
from sync.config import SyncSettings
from sync.steps.stage import stage
from tests.integration.command import sync
from tests.s3_proxy import Fate, Request

if TYPE_CHECKING:
    from tests.blob_world import World

pytest_plugins = ["tests.blob_world"]

LATER = timedelta(seconds=-5)
"""A grace that makes everything old enough for a sweep."""


@pytest.fixture
def world(blob_world: World) -> World:
    """Give a company that has nothing yet, with its production and object store."""
    return blob_world


async def test_objects_are_there_before_the_rows_that_name_them(world: World) -> None:
    """A push uploads and says how much, a plan shows that nothing waits, and promotion brings the rows."""
    box = await world.box()
    small, big = b"written on a train", world.large()
    first = await box.blobs.put("note.txt", small)
    second = await box.blobs.put("train/video.bin", big)
    pushed = box.only(await box.engine.push([box.company]))
    assert pushed.to_json()["blobs"] == {"uploaded": 2, "downloaded": 0, "bytes": len(small) + len(big), "missing": 0}
    assert await world.keys() == []
    for info, content in ((first, small), (second, big)):
        reader = await world.far().open(info.hash)
        assert reader is not None
        assert await reader.read(0, info.size) == content
    planned = await box.engine.plan([box.company])
    assert planned.exit_code == 0
    assert planned.tenants[0].blobs["uploaded"] == 0
    assert box.only(await box.engine.promote(tenants=[box.company])).tables["blobs"]["inserted"] == 2
    assert await world.keys() == ["note.txt", "train/video.bin"]
    assert (await box.push()).state == "unchanged"


async def test_F25_a_row_waits_for_its_object_and_goes_by_itself_when_it_has_come(world: World) -> None:
    """Without an object store blobs' rows wait, with the reason, and nothing else does; a later push brings both."""
    box = await world.box(s3_bucket_name=None)
    await box.blobs.put("note.txt", b"written on a train")
    await box.store.tenant(box.company).database.write(_make_links)
    pushed = await box.push(exit_code=3)
    assert pushed.blobs == {"uploaded": 0, "downloaded": 0, "bytes": 0, "missing": 1}
    assert await box.held() == {"blobs/note.txt": "waits", "links/1": "waits"}
    (item,) = [item for item in await box.engine.held([box.company]) if item.table == "blobs"]
    assert "S3_" in (item.detail or "")
    assert await world.rows("SELECT id FROM links WHERE company_id = $1", box.company) == [(2,)]
    # Nothing new is sealed for it, however often it is tried.
    assert box.only(await box.engine.push([box.company], promote=True), 3).state == "unchanged"
    await box.close()

    again = await world.box()
    assert (await again.push()).blobs["uploaded"] == 1
    assert await again.held() == {}
    assert await world.keys() == ["note.txt"]
    assert len(await world.rows("SELECT id FROM links WHERE company_id = $1", box.company)) == 2
    assert (await again.push()).state == "unchanged"


async def test_damage_here_does_not_spread(world: World) -> None:
    """An object whose bytes changed on this disk is not sent: its row waits, the others go; put again, it goes, too."""
    box = await world.box()
    bad = await box.blobs.put("bad.txt", b"this will be damaged")
    lost = await box.blobs.put("lost.txt", b"this will be lost")
    await box.blobs.put("good.txt", b"this stays")
    box.object(bad.hash).write_bytes(b"this was damaged....")
    box.object(lost.hash).unlink()
    assert (await box.push(exit_code=3)).blobs["missing"] == 2
    assert await world.keys() == ["good.txt"]
    assert await world.far().stat(bad.hash) is None
    box.object(bad.hash).unlink()
    for info, content in ((bad, b"this will be damaged"), (lost, b"this will be lost")):
        await box.blobs.put(info.key, content)
    await box.push()
    assert await world.keys() == ["bad.txt", "good.txt", "lost.txt"]


async def test_what_is_there_whole_is_not_sent_again(world: World) -> None:
    """The same content under two keys and from two boxes goes up once; for what is confirmed there is no request."""
    box = await world.box()
    content = world.large()
    await box.blobs.put("one.bin", content)
    await box.blobs.put("two.bin", content)
    assert (await box.push()).blobs["uploaded"] == 1
    parts = world.proxy.count("UploadPart")
    assert parts == 3
    other = await world.box("other")
    await other.engine.pull([box.company])
    await other.blobs.put("three.bin", content)
    before = len(world.proxy.seen)
    assert (await other.push()).blobs["uploaded"] == 0
    assert len(world.proxy.seen) == before
    # Production forgets, as one that was restored: the object is looked at, and still not sent.
    connection = await asyncpg.connect(world.url)
    await connection.execute("DELETE FROM localstore.objects WHERE company_id = $1", box.company)
    await connection.close()
    await other.blobs.put("four.bin", content)
    assert (await other.push()).blobs["uploaded"] == 0
    assert world.proxy.count("UploadPart") == parts
    assert await world.keys() == ["four.bin", "one.bin", "three.bin", "two.bin"]


@pytest.mark.parametrize("parts", [1, 3])
async def test_F25_wrong_bytes_at_the_far_end_are_found_and_replaced(world: World, parts: int) -> None:
    """An object of the right name and size but other bytes is not taken for the right one; it is sent anew."""
    box = await world.box()
    content = world.large(parts)
    info = await box.blobs.put("file.bin", content)
    key = f"{box.company}/objects/{info.hash[:2]}/{info.hash}"
    await world.bucket.call("put_object", Key=key, Body=content[:-1] + bytes([content[-1] ^ 1]))
    assert (await box.push()).blobs["uploaded"] == 1
    reader = await world.far().open(info.hash)
    assert reader is not None
    assert blake3(await reader.read(0, len(content))).hexdigest() == info.hash


async def test_a_busy_and_a_cut_object_store_are_tried_again(world: World) -> None:
    """503 SlowDown, cut connections and lost answers cost time, but no part is lost and no push fails."""
    refused = {
        ("UploadPart", 0): Fate.SLOW_DOWN,
        ("UploadPart", 1): Fate.CUT,
        ("CompleteMultipartUpload", 0): Fate.SLOW_DOWN,
    }
    refused |= {("PutObject", 0): Fate.LOSE_ANSWER, ("HeadObject", 0): Fate.SLOW_DOWN}
    world.proxy.rule = lambda request: refused.get((request.kind, request.number), Fate.PASS)
    box = await world.box()
    big, small = await box.blobs.put("big.bin", world.large()), await box.blobs.put("small.txt", b"small")
    await box.push()
    assert {(seen.kind, seen.number) for seen in world.proxy.seen} >= {*refused}
    for info in (big, small):
        found = await world.far().stat(info.hash)
        assert found is not None
        assert found.size == info.size


async def test_an_object_store_that_stays_away_fails_the_push_and_loses_nothing(world: World) -> None:
    """The push says what does not answer and stages nothing that could not be promoted; the next one does it all."""
    stamina.set_testing(True, attempts=2)
    try:
        world.proxy.rule = lambda _: Fate.CUT
        box = await world.box()
        await box.blobs.put("note.txt", b"written on a train")
        failed = await box.push(exit_code=1)
        assert failed.failure is not None
        assert failed.failure.code == "object_store_unavailable"
        assert await world.rows("SELECT state FROM localstore.ledger WHERE company_id = $1", box.company) == []
        # Only the bucket tries again, and the connection below it once; the link to production does not on top of them.
        assert len(world.proxy.seen) <= 2 * 2
    finally:
        stamina.set_testing(False)
    world.proxy.rule = lambda _: Fate.PASS
    await box.push()
    assert await world.keys() == ["note.txt"]


async def test_the_timeout_of_the_command_is_the_object_stores_too(world: World) -> None:
    """A store that takes requests and answers none is given up after `--timeout`, once for all that is to be sent."""
    world.proxy.rule = lambda _: Fate.STALL
    box = await world.box()
    await asyncio.gather(*(box.blobs.put(f"{number}.txt", b"%d" % number) for number in range(20)))
    async with SyncEngine(box.store, to=world.url, settings=SyncSettings(timeout=2)) as engine:
        (failed,) = (await engine.push([box.company], promote=True)).tenants
    assert failed.failure is not None
    assert (failed.failure.code, "silent for 2 seconds" in failed.failure.message) == ("object_store_unavailable", True)
    assert len(world.proxy.seen) <= OBJECTS_TOGETHER


async def test_a_rollback_finds_the_bytes_that_were_replaced(world: World) -> None:
    """After the rollback of a promotion that replaced a blob its row names the old object, which a sweep left there."""
    box = await world.box()
    old = await box.blobs.put("note.txt", b"first")
    await box.push()
    new = await box.blobs.put("note.txt", b"second")
    batch = (await box.push()).batch
    assert batch is not None
    (swept,) = (await box.engine.sweep([box.company], grace=LATER)).tenants
    assert (swept.seen, swept.removed) == (2, 0)
    await box.engine.rollback(batch)
    assert await world.rows("SELECT hash FROM blobs WHERE company_id = $1", box.company) == [(old.hash,)]
    reader = await world.far().open(old.hash)
    assert reader is not None
    assert await reader.read(0, 10) == b"first"
    # What was taken back is held, and named by that: it can be put in line again.
    assert (await box.engine.sweep([box.company], grace=LATER)).tenants[0].removed == 0
    await box.engine.requeue(batch)
    await box.push()
    assert await world.rows("SELECT hash FROM blobs WHERE company_id = $1", box.company) == [(new.hash,)]


async def test_a_sweep_removes_only_what_nothing_names(world: World) -> None:
    """Rows, undo, staged batches and the grace time keep an object; one that nothing names goes, and can come again."""
    box = await world.box()
    kept = await box.blobs.put("kept.txt", b"kept")
    dropped = await box.blobs.put("dropped.txt", b"dropped")
    await box.push()
    staged = await box.blobs.put("staged.txt", b"staged")
    await box.blobs.delete("dropped.txt")
    box.only(await box.engine.push([box.company]))
    orphan = blake3(b"nobody's").hexdigest()
    await world.far().add(orphan, 8, io.BytesIO(b"nobody's"))
    assert (await box.engine.sweep([box.company])).tenants[0].removed == 0
    (swept,) = (await box.engine.sweep([box.company], grace=LATER)).tenants
    assert (swept.seen, swept.removed, swept.bytes) == (4, 1, 8)
    box.only(await box.engine.promote(tenants=[box.company]))
    assert (await box.engine.sweep([box.company], grace=LATER)).tenants[0].removed == 0
    connection = await asyncpg.connect(world.url)
    await connection.execute("DELETE FROM localstore.undo WHERE company_id = $1", box.company)
    await connection.close()
    assert (await box.engine.sweep([box.company], grace=LATER)).tenants[0].removed == 1
    there = [info.hash for info in (kept, dropped, staged) if await world.far().stat(info.hash) is not None]
    assert there == [kept.hash, staged.hash]
    await box.blobs.put("dropped.txt", b"dropped")
    assert (await box.push()).blobs["uploaded"] == 1
    assert await world.far().stat(dropped.hash) is not None


async def test_a_sweep_beside_a_push_takes_nothing_that_the_push_names(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a sweep that comes before the record a push sends the object anew; one that comes later leaves it."""
    box = await world.box()
    info = await box.blobs.put("note.txt", b"there already")
    await world.far().add(info.hash, info.size, io.BytesIO(b"there already"))
    await asyncio.sleep(2)  # S3 tells seconds.
    confirm = record.confirm
    removed = []

    async def sweep(grace: timedelta) -> None:
        (swept,) = (await box.engine.sweep([box.company], grace=grace)).tenants
        removed.append(swept.removed)

    async def sweep_and_confirm(*arguments: Any) -> None:
        if not removed:
            await sweep(timedelta())
        await confirm(*arguments)

    async def sweep_and_stage(*arguments: Any) -> str:
        await sweep(timedelta(minutes=1))
        return await stage(*arguments)

    monkeypatch.setattr(record, "confirm", sweep_and_confirm)
    monkeypatch.setattr("sync.pipeline.stage", sweep_and_stage)
    pushed = await box.push()
    assert (removed, pushed.blobs["uploaded"]) == ([1, 0], 1)
    assert await is_intact(world.far(), info.hash, info.size)


async def test_a_pull_brings_rows_at_once_and_bytes_when_they_are_read(world: World) -> None:
    """Another box reads a blob from the far end, verified, and keeps it; wrong bytes are an error and are not kept."""
    box = await world.box()
    big, small = await box.blobs.put("big.bin", world.large()), await box.blobs.put("small.txt", b"small")
    wrong = await box.blobs.put("wrong.txt", b"right")
    await box.push()
    other = await world.box("other")
    assert other.only(await other.engine.pull([box.company])).blobs["downloaded"] == 0
    assert not other.object(small.hash).exists()
    assert await other.blobs.get("small.txt") == b"small"
    gets = world.proxy.count("GetObject")
    assert await other.blobs.get("small.txt") == b"small"
    assert world.proxy.count("GetObject") == gets
    key = f"{box.company}/objects/{wrong.hash[:2]}/{wrong.hash}"
    await world.bucket.call("put_object", Key=key, Body=b"wrong")
    with pytest.raises(BlobDamaged):
        await other.blobs.get("wrong.txt")
    assert not other.object(wrong.hash).exists()
    pulled = other.only(await other.engine.pull([box.company], blobs=True), exit_code=3)
    assert pulled.blobs == {"uploaded": 0, "downloaded": 1, "bytes": big.size, "missing": 1}
    assert [row for row, _ in pulled.left_alone] == ["blobs/wrong.txt"]
    assert other.object(big.hash).stat().st_size == big.size
    assert (await other.blobs.get("big.bin")) == world.large()


async def test_the_real_attachments_reach_another_box_bit_for_bit(world: World, helpdesk_data: Path) -> None:
    """All files of real tickets go up with one push and come down with one pull, by their names as they are."""
    folder = helpdesk_data.parent / "attachments"
    files = {normalize("NFC", str(path.relative_to(folder))): path for path in folder.rglob("*") if path.is_file()}
    box = await world.box()
    for key, path in files.items():
        await box.blobs.put(key, path)
    contents = {key: path.read_bytes() for key, path in files.items()}
    assert (await box.push()).blobs["uploaded"] == len({*contents.values()})
    other = await world.box("other")
    other.only(await other.engine.pull([box.company], blobs=True))
    world.proxy.rule = lambda _: Fate.CUT
    assert {key: await other.blobs.get(key) for key in contents} == contents


async def test_no_push_reaches_another_tenants_objects(world: World) -> None:
    """A row that names another's object, or a path, gets nothing of it: keys, uploads and records are per company."""
    box = await world.box()
    secret = await box.blobs.put("secret.txt", b"another company's secret")
    await box.push()
    thief = await world.box("thief", company=f"thief-{box.company}")
    mine = await thief.blobs.put("mine.txt", b"mine")
    for number, digest in enumerate(
        (secret.hash, f"../../{box.company}/objects/{secret.hash[:2]}/{secret.hash}", "", "x")
    ):
        await thief.store.tenant(thief.company).database.write(
            partial(_name, company=thief.company, key=f"stolen-{number}", digest=digest, size=secret.size)
        )
    before = len(world.proxy.seen)
    assert (await thief.push(exit_code=3)).blobs["uploaded"] == 1
    assert set(await thief.held()) == {f"blobs/stolen-{number}" for number in range(4)}
    paths = {seen.path for seen in world.proxy.seen[before:]}
    assert paths
    assert not [path for path in paths if f"/{box.company}/" in path]
    reader = await thief.engine.pull([thief.company], blobs=True)
    assert reader.exit_code == 3
    with pytest.raises(BlobDamaged):
        await thief.blobs.get("stolen-0")
    (swept,) = (await thief.engine.sweep([thief.company], grace=LATER)).tenants
    assert (swept.seen, swept.removed) == (1, 0)
    assert await world.far().stat(secret.hash) is not None
    assert await world.far(thief.company).stat(mine.hash) is not None
    assert await world.rows("SELECT hash FROM localstore.objects WHERE company_id = $1", thief.company) == [
        (mine.hash,)
    ]


async def test_credentials_that_may_not_list_still_go_on_with_an_upload(world: World) -> None:
    """What arrived is noted in the tenant's file, so an upload goes on also where the store tells nothing of it."""
    cutting = absent = True

    def deny(request: Request) -> Fate:
        if request.kind in {"ListMultipartUploads", "ListParts"} or (request.kind == "HeadObject" and absent):
            return Fate.DENY
        return Fate.CUT if request.kind == "UploadPart" and request.number >= 2 and cutting else Fate.PASS

    def tell_when_there(request: Request) -> Fate:
        nonlocal absent
        absent = absent and request.kind != "CompleteMultipartUpload"
        return deny(request)

    stamina.set_testing(True, attempts=1)
    try:
        world.proxy.rule = deny
        box = await world.box()
        await box.blobs.put("big.bin", world.large(6))
        await box.push(exit_code=1)
    finally:
        stamina.set_testing(False)
    cutting = False
    world.proxy.rule = tell_when_there
    arrived = await box.store.tenant(box.company).database.read(_noted)
    assert arrived
    before = world.proxy.count("UploadPart")
    assert (await box.push()).blobs["uploaded"] == 1
    assert world.proxy.count("UploadPart") - before == 6 - len(arrived)
    assert world.proxy.count("CreateMultipartUpload") == 1
    assert await box.store.tenant(box.company).database.read(_noted) == []


def _noted(file: sqlite3.Connection) -> list[tuple[Any, ...]]:
    return file.execute("SELECT part FROM localstore_uploads WHERE part > 0").fetchall()


def _name(file: sqlite3.Connection, *, company: str, key: str, digest: str, size: int) -> None:
    file.execute(
        "INSERT INTO blobs (company_id, key, size, hash, content_type, folded) VALUES (?, ?, ?, ?, 'text/plain', ?)",
        (company, key, size, digest, key),
    )


def _make_links(file: sqlite3.Connection) -> None:
    """Make a table whose rows need a blob's, and one row of it that needs none."""
    file.execute(
        "CREATE TABLE links (company_id TEXT NOT NULL, id INTEGER NOT NULL, key TEXT, PRIMARY KEY (company_id, id), "
        "FOREIGN KEY (company_id, key) REFERENCES blobs (company_id, key))"
    )
    table = table_from_sqlite(file, "links")
    assert table is not None
    install(file, [table])
    (company,) = file.execute("SELECT company_id FROM localstore_identity").fetchone()
    file.executemany("INSERT INTO links VALUES (?, ?, ?)", [(company, 1, "note.txt"), (company, 2, None)])


async def test_the_command_tells_what_it_uploads_downloads_and_sweeps(world: World) -> None:
    """`push`, `pull --blobs` and `sweep` move bytes and say how many, as sentences and as JSON."""
    env = {"DATABASE_URL": world.url, **world.proxy.server.environment}
    run = partial(asyncio.to_thread, sync, **env)
    box = await world.box()
    await box.blobs.put("note.txt", b"written on a train")
    await box.close()
    pushed = await run("push", "--promote", "--data", world.folder / "one")
    assert pushed.code == 0, pushed.all
    assert "1 blob uploaded (18 bytes)" in pushed.out
    there: list[str | Path] = ["--data", world.folder / "other", "--tenant", world.company, "--json"]
    pulled = await run("pull", "--blobs", *there)
    assert pulled.json["tenants"][0]["blobs"] == {"uploaded": 0, "downloaded": 1, "bytes": 18, "missing": 0}
    digest = blake3(b"nobody's").hexdigest()
    await world.far().add(digest, 8, io.BytesIO(b"nobody's"))
    assert (await run("sweep", *there)).json["tenants"][0]["removed"] == 0
    await asyncio.sleep(2)  # S3 tells seconds.
    swept = await run("sweep", "--grace", "0", *there)
    assert swept.json["tenants"][0] == {"tenant": world.company, "seen": 2, "removed": 1, "bytes": 8, "unfinished": 0}
    without = await asyncio.to_thread(sync, "sweep", *there, DATABASE_URL=world.url)
    assert without.code == 2, without.all
    assert "S3_BUCKET_NAME" in without.json["error"]["hint"]


async def test_an_embedded_production_keeps_objects_in_a_folder_beside_it(tmp_path: Path) -> None:
    """Without a bucket, `--to embedded` takes blobs whole: nothing waits, and the store is all that there is."""
    settings = Settings.from_environment(s3_bucket_name=None)
    try:
        async with LocalStore(tmp_path / "data", models=(), settings=settings) as store:
            info = await store.tenant("acme").blobs.put("note.txt", b"written on a train")
            async with SyncEngine(store, to="embedded") as engine:
                result = await engine.push(promote=True)
                assert (result.exit_code, result.tenants[0].blobs["uploaded"]) == (0, 1)
                path = store.root / "acme" / "blobs" / "objects" / info.hash[:2] / info.hash
                path.unlink()
                assert (await engine.pull(blobs=True)).tenants[0].blobs["downloaded"] == 1
                assert path.read_bytes() == b"written on a train"
    finally:
        await EmbeddedServer(tmp_path / "data").erase()
