"""Blobs in an object store: uploads that go on after a kill, links, refusals that say what to do, no secret shown."""

from __future__ import annotations

import asyncio
import hashlib
import io
import multiprocessing
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from blake3 import blake3
from pydantic import SecretStr

from localstore import (
    BlobError,
    BlobNotFound,
    Blobs,
    ConfigurationError,
    LocalStore,
    ObjectStoreUnavailable,
    Settings,
)
from localstore.blobs import s3_multipart, s3_objects
from localstore.blobs.s3 import Bucket
from localstore.blobs.s3_multipart import Multipart
from localstore.blobs.s3_objects import S3Objects
from localstore.blobs.s3_source import PART_BYTES
from tests.faults.killing import _wrap

if TYPE_CHECKING:
    from tests.contract.s3_server import S3Server

pytest_plugins = ["tests.contract.s3_server"]

PARTS = 5
SECRET = "the-secret-key-of-these-tests"


class CountingBucket(Bucket):
    """A bucket that counts its calls."""

    calls: Counter[str]

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Count and make the call."""
        self.calls[method] += 1
        return await super().call(method, **parameters)


def counting(kind: type[CountingBucket], server: S3Server) -> CountingBucket:
    """Return the server's bucket as one of this kind."""
    bucket = kind(
        server.bucket_name,
        endpoint_url=server.endpoint_url,
        access_key=server.access_key,
        secret_key=SecretStr(server.secret_key),
    )
    bucket.calls = Counter()
    return bucket


@pytest.fixture
def company() -> str:
    """Name a company that nobody else uses: all tests share the bucket."""
    return f"wedosoft-{secrets.token_hex(4)}"


@pytest.fixture
async def bucket(s3_server: S3Server) -> AsyncIterator[CountingBucket]:
    """Give the bucket, counting."""
    async with counting(CountingBucket, s3_server) as bucket:
        yield bucket


@pytest.fixture
async def blobs(tmp_path: Path, bucket: CountingBucket, company: str) -> AsyncIterator[Blobs]:
    """Give a tenant's blobs in the bucket."""
    from tests.contract.blob_backends import file_index, limits

    async with LocalStore(tmp_path / "data", models=()) as store:
        yield Blobs(file_index(store.tenant(company)), S3Objects(bucket, company), limits())


def large(seed: int = 0) -> bytes:
    """Return content that goes up in parts, the last of them small."""
    return random.Random(seed).randbytes((PARTS - 1) * PART_BYTES + 1000)


async def test_F25_an_upload_that_was_killed_goes_on_where_it_was(
    s3_server: S3Server, bucket: CountingBucket, company: str
) -> None:
    """SIGKILL in the middle of an upload: nothing is to be seen of it, and the next one sends only what is missing."""
    data = large()
    digest = blake3(data).hexdigest()
    process = multiprocessing.get_context("forkserver").Process(target=_upload_and_die, args=(s3_server, company, 2))
    process.start()
    await asyncio.to_thread(process.join, 120)
    assert process.exitcode == -signal.SIGKILL
    process.close()
    objects = S3Objects(bucket, company)
    assert await objects.stat(digest) is None
    assert [found async for page in objects.pages() for found in page] == []
    (upload,) = (await bucket.call("list_multipart_uploads", Prefix=company))["Uploads"]
    arrived = (await bucket.call("list_parts", Key=upload["Key"], UploadId=upload["UploadId"]))["Parts"]
    assert len(arrived) == 2
    bucket.calls.clear()
    assert await objects.add(digest, len(data), io.BytesIO(data))
    assert bucket.calls["upload_part"] == PARTS - len(arrived)
    assert bucket.calls["create_multipart_upload"] == 0
    reader = await objects.open(digest)
    assert reader is not None
    assert await reader.read(0, len(data)) == data
    assert not await objects.add(digest, len(data), io.BytesIO(data))
    assert bucket.calls["upload_part"] == PARTS - len(arrived)


async def test_a_part_that_is_not_what_was_sent_is_sent_again(bucket: CountingBucket, company: str) -> None:
    """Going on with an upload, a part whose checksum differs is not trusted."""
    data = large(1)
    digest = blake3(data).hexdigest()
    objects = S3Objects(bucket, company)
    key = objects._key(digest)
    upload = (await bucket.call("create_multipart_upload", Key=key))["UploadId"]
    wrong = bytes(PART_BYTES)
    await bucket.call("upload_part", Key=key, UploadId=upload, PartNumber=1, Body=wrong)
    right = data[PART_BYTES : 2 * PART_BYTES]
    await bucket.call("upload_part", Key=key, UploadId=upload, PartNumber=2, Body=right)
    bucket.calls.clear()
    assert await objects.add(digest, len(data), io.BytesIO(data))
    assert bucket.calls["upload_part"] == PARTS - 1
    reader = await objects.open(digest)
    assert reader is not None
    assert hashlib.sha256(await reader.read(0, len(data))).digest() == hashlib.sha256(data).digest()


async def test_two_uploads_of_one_object_at_once_agree(s3_server: S3Server, company: str) -> None:
    """Two senders of the same large content both succeed, whoever completes the upload first."""
    data = large(2)
    digest = blake3(data).hexdigest()
    async with s3_server.bucket as one, s3_server.bucket as other:
        both = [S3Objects(one, company), S3Objects(other, company)]
        await asyncio.gather(*(objects.add(digest, len(data), io.BytesIO(data)) for objects in both))
        found = await both[0].stat(digest)
        assert found is not None
        assert found.size == len(data)


class MeddlingBucket(CountingBucket):
    """A bucket in which another sender replaces a part just before the upload is completed for the first time."""

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Make the call."""
        if method == "complete_multipart_upload" and self.calls[method] == 0:
            place = {name: parameters[name] for name in ("Key", "UploadId")}
            await super().call("upload_part", **place, PartNumber=2, Body=b"x" * PART_BYTES)
        return await super().call(method, **parameters)


async def test_a_part_that_is_replaced_just_then_is_sent_again(s3_server: S3Server, company: str) -> None:
    """The store refuses to complete with a part that is another one by now; only that part goes again."""
    data = large(2)
    digest = blake3(data).hexdigest()
    async with counting(MeddlingBucket, s3_server) as bucket:
        assert await S3Objects(bucket, company).add(digest, len(data), io.BytesIO(data)) is True
        parts = -(-len(data) // PART_BYTES)
        assert (bucket.calls["upload_part"], bucket.calls["complete_multipart_upload"]) == (parts + 2, 2)
        assert bucket.calls["create_multipart_upload"] == 1
        found = await bucket.call("head_object", Key=f"{company}/objects/{digest[:2]}/{digest}")
        assert found["ContentLength"] == len(data)


async def test_a_sweep_gives_up_uploads_that_nobody_goes_on_with(
    bucket: CountingBucket, company: str, blobs: Blobs
) -> None:
    """An upload begun before the grace is aborted, a younger one and another company's are left alone."""
    keys = [f"{owner}/objects/ab/{'ab' * 32}" for owner in (company, f"{company}-other")]
    for key in keys:
        await bucket.call("create_multipart_upload", Key=key)
    assert await blobs.objects.remove_unfinished(datetime(2000, 1, 1, tzinfo=UTC)) == 0
    assert (await blobs.sweep(timedelta(seconds=-5))).unfinished == 1
    left = (await bucket.call("list_multipart_uploads", Prefix=company))["Uploads"]
    assert [upload["Key"] for upload in left] == keys[1:]


async def test_listings_are_read_to_their_end(
    bucket: CountingBucket, company: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects and parts come in pages, and the last one is read like the first."""
    monkeypatch.setattr(s3_objects, "PAGE", 2)
    monkeypatch.setattr(s3_multipart, "PAGE", 2)
    objects = S3Objects(bucket, company)
    contents = [b"%d" % number for number in range(5)]
    for content in contents:
        await objects.add(blake3(content).hexdigest(), len(content), io.BytesIO(content))
    pages = [page async for page in objects.pages()]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert {found.hash for page in pages for found in page} == {blake3(content).hexdigest() for content in contents}
    key = objects._key("ab" * 32)
    upload = (await bucket.call("create_multipart_upload", Key=key))["UploadId"]
    for number in range(1, 6):
        await bucket.call("upload_part", Key=key, UploadId=upload, PartNumber=number, Body=b"x")
    assert sorted(await Multipart(bucket).parts(key, upload)) == [1, 2, 3, 4, 5]


async def test_an_old_object_is_made_young_before_a_row_names_it(
    bucket: CountingBucket, company: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Holding an object that is older than a day copies it onto itself, with no bytes sent and none changed."""
    objects = S3Objects(bucket, company)
    digest = blake3(b"old").hexdigest()
    await objects.add(digest, 3, io.BytesIO(b"old"))
    before = await objects.stat(digest)
    bucket.calls.clear()
    assert await objects.hold(digest)
    assert bucket.calls["copy_object"] == 0
    monkeypatch.setattr(s3_objects, "YOUNG", timedelta(seconds=-5))
    await asyncio.sleep(1)  # S3 tells seconds.
    assert await objects.hold(digest)
    after = await objects.stat(digest)
    assert bucket.calls["copy_object"] == 1
    assert before is not None
    assert after is not None
    assert (after.modified > before.modified, after.size) == (True, 3)
    assert not await objects.hold("cd" * 32)


async def test_S8_a_link_is_for_one_object_of_the_tenant_and_ends(
    blobs: Blobs, company: str, s3_server: S3Server
) -> None:
    """A link GETs the blob as a download under its name, for 15 minutes at most, and nothing else below the prefix."""
    info = await blobs.put('지원/보고서 "1".html', b"<script>alert(1)</script>", content_type="text/html")
    link = await blobs.presign(info.key, 60)
    parts = urlsplit(link)
    assert unquote(parts.path) == f"/{s3_server.bucket_name}/{company}/objects/{info.hash[:2]}/{info.hash}"
    query = parse_qs(parts.query)
    assert query["X-Amz-Expires"] == ["60"]

    def fetch() -> tuple[bytes, Any]:
        with urllib.request.urlopen(link, timeout=30) as answer:
            return answer.read(), answer.headers

    body, headers = await asyncio.to_thread(fetch)
    assert body == b"<script>alert(1)</script>"
    assert headers["Content-Disposition"].startswith("attachment;")
    assert unquote(headers["Content-Disposition"]).endswith('보고서 "1".html')
    for seconds in (0, 901, -1):
        with pytest.raises(ConfigurationError, match="seconds"):
            await blobs.presign(info.key, seconds)
    with pytest.raises(BlobNotFound):
        await blobs.presign("another", 60)


@pytest.mark.parametrize("left", ["kept = bucket", "del bucket; gc.collect(); await asyncio.sleep(0.1)"])
def test_a_bucket_that_nobody_closes_complains_of_nothing(s3_server: S3Server, left: str) -> None:
    """Its connections go when it goes, or with the process, and neither prints that they were left open."""
    program = (
        "import asyncio, gc\n"
        "from localstore import Settings\n"
        "from localstore.blobs.s3 import Bucket\n"
        "async def main():\n"
        "    global kept\n"
        "    bucket = Bucket.from_settings(Settings.from_environment())\n"
        "    await bucket.call('list_objects_v2')\n"
        f"    {left}\n"
        "asyncio.run(main())\n"
    )
    environment = {**os.environ, **s3_server.environment}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("region", [None, "us-east-1", "eu-central-1"])
@pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:9"])
async def test_S8_a_link_is_signed_with_version_4_and_shows_no_secret(endpoint: str | None, region: str | None) -> None:
    """Whatever the region, a link carries the signature that all servers accept, and never what made it."""
    secret = SecretStr(SECRET)
    async with Bucket("bucket", endpoint_url=endpoint, access_key="key", secret_key=secret, region=region) as bucket:
        link = await bucket.link("acme/objects/ab/cd", 60)
    query = parse_qs(urlsplit(link).query)
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-Signature"]
    assert not {"Signature", "AWSAccessKeyId"} & query.keys()
    assert SECRET not in unquote(link)


def test_one_bucket_serves_one_loop_after_another(s3_server: S3Server, company: str) -> None:
    """The same objects work on loops that follow one another, with a close between them."""
    bucket = s3_server.bucket
    objects = S3Objects(bucket, company)
    digest = blake3(b"loops").hexdigest()

    async def add() -> bool:
        async with bucket:
            return await objects.add(digest, 5, io.BytesIO(b"loops"))

    assert asyncio.run(add())
    assert not asyncio.run(add())


async def test_S5_no_secret_is_shown(s3_server: S3Server, tmp_path: Path) -> None:
    """Neither a repr, nor the settings, nor an error repeats the secret, whatever went wrong."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    shown = []
    for endpoint, name in ((closed, s3_server.bucket_name), (s3_server.endpoint_url, "no-such-bucket-here")):
        settings = Settings.from_environment(
            s3_endpoint_url=endpoint, s3_access_key="key", s3_secret_key=SecretStr(SECRET), s3_bucket_name=name
        )
        async with Bucket.from_settings(settings) as bucket:
            objects = S3Objects(bucket, "wedosoft")
            with pytest.raises(BlobError) as caught:
                await objects.add("ab" * 32, 1, io.BytesIO(b"x"))
            shown += [repr(bucket), repr(objects), repr(settings), str(settings.shown())]
            error: BaseException | None = caught.value
            while error is not None:
                shown += [repr(error), str(error), getattr(error, "hint", "")]
                error = error.__cause__ or error.__context__
            if endpoint == closed:
                assert isinstance(caught.value, ObjectStoreUnavailable)
                assert caught.value.retryable
            else:
                assert "does not exist" in caught.value.message
    assert not [text for text in shown if SECRET in text]


@pytest.mark.parametrize(
    "wrong",
    [
        {"s3_endpoint_url": "simplecache::http://x"},
        {"s3_endpoint_url": "file:///etc"},
        {"s3_endpoint_url": f"http://key:{SECRET}@127.0.0.1"},
        {"s3_endpoint_url": "http://[::1"},
        {"s3_endpoint_url": "127.0.0.1:9000"},
        {"s3_bucket_name": "../other"},
        {"s3_bucket_name": "bucket/prefix"},
        {"s3_bucket_name": None},
    ],
)
def test_S1_an_address_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    """Chained URLs, other schemes, credentials in the URL and paths in the bucket's name are refused, unrepeated."""
    given = {"s3_endpoint_url": "http://127.0.0.1:9", "s3_bucket_name": "bucket"} | wrong
    with pytest.raises(ConfigurationError) as caught:
        Bucket.from_settings(Settings.from_environment(**given))
    assert SECRET not in str(caught.value)


def _upload_and_die(server: S3Server, company: str, parts: int) -> None:
    """Upload in a process of its own, which dies when so many parts have arrived."""

    async def work() -> None:
        async with server.bucket as bucket:
            data = large()
            await S3Objects(bucket, company).add(blake3(data).hexdigest(), len(data), io.BytesIO(data))

    # One part after the other, so that not all of them have arrived when the process dies.
    s3_multipart.PARTS_TOGETHER = 1  # type: ignore[misc]
    # Two calls return before the parts' do: which uploads were begun, and the beginning of this one.
    _wrap("localstore.blobs.s3:Bucket", "call", after=True, nth=2 + parts)
    asyncio.run(work())
