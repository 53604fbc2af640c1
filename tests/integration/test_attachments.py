"""Attachments of imported tickets: in as blobs, out again bit for bit, also through an object store."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from localstore import BlobInfo, LocalStore, LocalStoreError
from localstore.blobs.s3_objects import S3Objects
from localstore.interchange.json_export import export_json
from localstore.interchange.json_import import import_json
from tests.integration.command import command

if TYPE_CHECKING:
    from tests.contract.s3_server import S3Server

pytest_plugins = ["tests.contract.s3_server"]

REAL_FILES = 44


def layout(root: Path, attachments: dict[str, bytes]) -> Path:
    """Write a company's layout with one ticket and these attachments, by `<ticket>/<name>`."""
    folder = root / "lucene" / "jira"
    (folder / "tickets").mkdir(parents=True)
    (folder / "tickets" / "LUCENE-1.json").write_text(json.dumps({"key": "LUCENE-1", "fields": {"summary": "logo"}}))
    for name, content in attachments.items():
        path = folder / "attachments" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder by their paths, in the normal form that keys have."""
    return {
        unicodedata.normalize("NFC", path.relative_to(folder).as_posix()): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


async def walk(store: LocalStore) -> list[BlobInfo]:
    """Return all blobs of the company."""
    return [blob async for blob in store.tenant("lucene").blobs.walk()]


async def test_the_real_attachments_come_back_bit_for_bit_through_an_object_store(
    helpdesk_data: Path, s3_server: S3Server, tmp_path: Path
) -> None:
    """All 44 real files go in by the command, to S3 and back, and out by an export, byte for byte and name for name."""
    real = helpdesk_data.parent / "attachments"
    root = layout(tmp_path / "in", {})
    shutil.copytree(real, root / "lucene" / "jira" / "attachments")
    done = command("import", "json", root, "--data", tmp_path / "data", "--json")
    assert done.code == 0, done.all
    counts = done.json["tenants"][0]["tables"]["attachments"]
    assert counts == {"new": REAL_FILES, "changed": 0, "unchanged": 0, "deleted": 0}
    async with LocalStore(tmp_path / "data", models=()) as store, s3_server.bucket as bucket:
        blobs = store.tenant("lucene").blobs
        found = {blob.key: blob for blob in await walk(store)}
        wanted = {f"jira/tickets/{name}": content for name, content in contents(real).items()}
        assert sorted(found) == sorted(wanted)
        assert any(not key.isascii() for key in found)
        assert {blob.content_type for blob in found.values()} == {"image/png", "image/jpeg", "application/pdf"}
        remote = S3Objects(bucket, f"lucene-{secrets.token_hex(4)}")
        for key, blob in found.items():
            content = await blobs.get(key)
            assert content == wanted[key]
            await remote.add(blob.hash, blob.size, io.BytesIO(content))
        for key, blob in found.items():
            reader = await remote.open(blob.hash)
            assert reader is not None
            assert await reader.read(0, blob.size) == wanted[key]
        report = await export_json(store, tmp_path / "out")
        assert (report.exit_code, report.tenants[0].files["attachments"]) == (0, REAL_FILES)
    assert contents(tmp_path / "out" / "lucene" / "jira" / "attachments") == contents(real)


async def test_an_import_takes_what_changed_and_leaves_local_edits_alone(tmp_path: Path) -> None:
    """A second import writes nothing; a changed file replaces its blob; an edited blob stays until its file changes."""
    names = {"LUCENE-1/a.txt": b"a", "LUCENE-1/b.txt": b"b", "LUCENE-2/견적 1.pdf": b"%PDF-1.7"}
    root = layout(tmp_path / "in", names)
    async with LocalStore(tmp_path / "data") as store:
        await import_json(store, root)
        blobs = store.tenant("lucene").blobs
        info = await blobs.stat("jira/tickets/LUCENE-2/견적 1.pdf")
        assert info is not None
        assert info.metadata["ticket"] == "tickets/jira/LUCENE-2"
        before = await walk(store)
        assert (await import_json(store, root)).tenants[0].tables["attachments"].unchanged == 3
        assert await walk(store) == before
        await blobs.put("jira/tickets/LUCENE-1/a.txt", b"edited here", metadata=before[0].metadata)
        (root / "lucene/jira/attachments/LUCENE-1/b.txt").write_bytes(b"changed there")
        counts = (await import_json(store, root)).tenants[0].tables["attachments"]
        assert (counts.unchanged, counts.changed) == (2, 1)
        assert await blobs.get("jira/tickets/LUCENE-1/a.txt") == b"edited here"
        assert await blobs.get("jira/tickets/LUCENE-1/b.txt") == b"changed there"


async def test_what_cannot_be_a_blob_is_listed_and_stops_nothing(tmp_path: Path) -> None:
    """Devices' names, links that lead out, folders, pipes and colliding names are listed; the rest goes in."""
    root = layout(tmp_path / "in", {"LUCENE-1/good.png": b"x", "LUCENE-1/nul.txt": b"x", "LUCENE-1/a:b": b"x"})
    folder = root / "lucene/jira/attachments/LUCENE-1"
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (root / "lucene/jira/attachments/out").symlink_to(tmp_path)
    async with LocalStore(tmp_path / "data") as store:
        report = await import_json(store, root)
        assert [blob.key for blob in await walk(store)] == ["jira/tickets/LUCENE-1/good.png"]
        assert report.exit_code == 3
        refused = {Path(broken.path).name for broken in report.broken}
        assert refused == {"nul.txt", "a:b", "link", "folder", "pipe", "out"}
        (folder / "GOOD.png").write_bytes(b"y")
        report = await import_json(store, root)
        assert any("case" in broken.reason for broken in report.broken)


async def test_S1_a_key_that_a_tool_wrote_never_becomes_a_path(tmp_path: Path) -> None:
    """An export lists a row whose key leads elsewhere, or whose bytes are missing, and writes all others."""
    root = layout(tmp_path / "in", {"LUCENE-1/a.txt": b"a", "LUCENE-1/b.txt": b"b"})
    async with LocalStore(tmp_path / "data") as store:
        await import_json(store, root)
        tenant = store.tenant("lucene")
        copy = "INSERT INTO blobs (company_id, key, size, hash) SELECT company_id, ?, size, hash FROM blobs LIMIT 1"
        await tenant.database.write(lambda file: file.execute(copy, ("jira/tickets/../../../../escaped",)))
        await tenant.database.write(lambda file: file.execute(copy, ("jira/tickets/../escaped",)))
        broken = "UPDATE blobs SET hash = ? WHERE key LIKE '%b.txt'"
        await tenant.database.write(lambda file: file.execute(broken, ("ab" * 32,)))
        report = await export_json(store, tmp_path / "out")
        assert report.exit_code == 3
        assert {skipped.row for skipped in report.skipped} == {
            "blobs/jira/tickets/../escaped",
            "blobs/jira/tickets/LUCENE-1/b.txt",
        }
        with pytest.raises(LocalStoreError):
            await tenant.blobs.get("jira/tickets/../escaped")
    assert sorted(contents(tmp_path / "out" / "lucene" / "jira" / "attachments")) == ["LUCENE-1/a.txt"]
    assert not list(tmp_path.rglob("escaped"))
