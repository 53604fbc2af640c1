"""One tenant's objects in a bucket, below the tenant's own prefix."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from math import ceil
from threading import Lock
from typing import Any, BinaryIO, Final
from urllib.parse import quote

from localstore.blobs.objects import FOLDER, Link, ObjectInfo, Objects, Reader, digest_of, object_path
from localstore.blobs.s3 import Bucket
from localstore.errors import BlobDamaged, BlobError, ObjectStoreDenied
from localstore.identifiers import check_tenant_id
from localstore.sqlite.threads import in_thread

PART_BYTES: Final = 8 * 1024 * 1024
"""Sent at once: what an interruption can cost, and large enough that S3's limit of 10,000 parts is far away."""

PARTS_TOGETHER: Final = 4
"""Parts of one object under way at once, each of them in memory."""

PAGE: Final = 1000
"""The most that S3 lists at once."""

YOUNG: Final = timedelta(days=1)
"""An object older than this is made young again before a row names it; copying it each time would cost too much."""


class S3Objects(Objects):
    """The objects of one company in a bucket.

    A large object goes up in parts to its final key, where it appears when all of them have arrived. Its name is its
    content, so whoever sends it again, after a kill or beside another, goes on with the parts that are there.
    """

    def __init__(self, bucket: Bucket, company_id: str) -> None:
        self._bucket = bucket
        self._company_id = check_tenant_id(company_id)

    def __repr__(self) -> str:
        return f"<S3Objects of {self._company_id} in {self._bucket!r}>"

    async def collect(self) -> BinaryIO:
        """Return a temporary file that has no name, so that nothing of it outlives the process."""
        return await in_thread(tempfile.TemporaryFile)

    async def add(self, digest: str, size: int, file: BinaryIO) -> bool:
        """Upload the content of `file`."""
        key = self._key(digest)
        found = await self.stat(digest)
        if found is not None and found.size == size and await self._make_young(found):
            return False
        source = _Source(file, size)
        if size <= 2 * PART_BYTES:
            part = await source.part(1, whole=True)
            await self._bucket.call("put_object", Key=key, Body=part.data, ContentMD5=part.md5_base64)
        else:
            await self._upload(key, source)
        arrived = await self.stat(digest)
        if arrived is None or arrived.size != size:
            raise BlobDamaged(
                f"an object of {size} bytes arrived with {arrived.size if arrived else 0} in {self._bucket!r}",
                hint="run the same call again, and look at the object store's own log if it stays so",
            )
        return True

    async def hold(self, digest: str) -> bool:
        """Make an object young where it is old."""
        found = await self.stat(digest)
        return found is not None and await self._make_young(found)

    async def stat(self, digest: str) -> ObjectInfo | None:
        """Return what is known of an object."""
        try:
            head = await self._bucket.call("head_object", Key=self._key(digest))
        except FileNotFoundError:
            return None
        return ObjectInfo(digest, int(head["ContentLength"]), head["LastModified"])

    async def open(self, digest: str) -> Reader | None:
        """Open an object."""
        return _S3Reader(self._bucket, self._key(digest)) if await self.stat(digest) is not None else None

    async def pages(self) -> AsyncIterator[list[ObjectInfo]]:
        """Give all objects, a page of the bucket's listing at a time."""
        more: dict[str, Any] = {}
        while True:
            prefix = f"{self._company_id}/{FOLDER}/"
            answer = await self._bucket.call("list_objects_v2", Prefix=prefix, MaxKeys=PAGE, **more)
            yield [
                ObjectInfo(digest, int(entry["Size"]), entry["LastModified"])
                for entry in answer.get("Contents", [])
                if (digest := digest_of(entry["Key"]))
            ]
            if not answer.get("IsTruncated"):
                return
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    async def remove(self, digest: str, before: datetime) -> bool:
        """Remove an object that is still as old as `before`."""
        found = await self.stat(digest)
        if found is None or found.modified >= before:
            return False
        await self._bucket.call("delete_object", Key=self._key(digest))
        return True

    async def remove_unfinished(self, before: datetime) -> int:
        """Give up uploads that were begun before that moment; their parts cost storage and are listed nowhere."""
        uploads = [found for found in await self._uploads(f"{self._company_id}/{FOLDER}/") if found.begun < before]
        for upload in uploads:
            with suppress(FileNotFoundError):
                await self._bucket.call("abort_multipart_upload", Key=upload.key, UploadId=upload.id)
        return len(uploads)

    async def presign(self, digest: str, link: Link) -> str:
        """Return a link that saves the object under its blob's name, so that no browser runs what is in it."""
        plain = "".join(char if (char.isascii() and char.isalnum()) or char in " ._-()" else "_" for char in link.name)
        disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(link.name, safe='')}"
        return await self._bucket.link(
            self._key(digest),
            link.seconds,
            ResponseContentDisposition=disposition,
            ResponseContentType=link.content_type,
        )

    async def _make_young(self, found: ObjectInfo) -> bool:
        if datetime.now(UTC) - found.modified < YOUNG:
            return True
        key = self._key(found.hash)
        try:
            source = {"Bucket": self._bucket.name, "Key": key}
            await self._bucket.call("copy_object", Key=key, CopySource=source, MetadataDirective="REPLACE")
        except FileNotFoundError:
            return False
        return True

    async def _upload(self, key: str, source: _Source) -> None:
        """Send what is missing of an object; begins anew once where another one ended the same upload meanwhile."""
        for last in (False, True):
            upload_id, there = await self._begin(key)
            try:
                parts = await self._send(key, upload_id, source, there)
                await self._bucket.call(
                    "complete_multipart_upload", Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}
                )
            except FileNotFoundError as error:
                if await self.stat(key.rsplit("/", 1)[-1]) is not None:
                    return
                if last:
                    raise BlobError(
                        f"an upload to {self._bucket!r} was ended by somebody else again and again",
                        hint="run the same call again when nobody gives up uploads in the bucket",
                    ) from error
            else:
                return

    async def _begin(self, key: str) -> tuple[str, dict[int, dict[str, Any]]]:
        """Return the id of an upload of this object, one that was begun before if there is any, and its parts."""
        try:
            uploads = await self._uploads(key)
        except ObjectStoreDenied:
            # Credentials that may only write cannot see what others began; they can still send all of it.
            uploads = []
        for upload in sorted(uploads, key=lambda upload: upload.begun, reverse=True):
            if upload.key == key:
                with suppress(FileNotFoundError):
                    return upload.id, await self._parts(key, upload.id)
        answer = await self._bucket.call("create_multipart_upload", Key=key)
        return answer["UploadId"], {}

    async def _send(
        self, key: str, upload_id: str, source: _Source, there: dict[int, dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Send the parts that are not there and return all of them."""
        turns = asyncio.Semaphore(PARTS_TOGETHER)

        async def send(number: int) -> dict[str, Any]:
            async with turns:
                part = await source.part(number)
                known = there.get(number)
                # Of a part that arrived, a server says the MD5; one that says something else gets the part again.
                if known and known["Size"] == len(part.data) and known["ETag"].strip('"') == part.md5_hex:
                    return {"PartNumber": number, "ETag": known["ETag"]}
                answer = await self._bucket.call(
                    "upload_part",
                    Key=key,
                    UploadId=upload_id,
                    PartNumber=number,
                    Body=part.data,
                    ContentMD5=part.md5_base64,
                )
                return {"PartNumber": number, "ETag": answer["ETag"]}

        tasks = [asyncio.create_task(send(number + 1)) for number in range(ceil(source.size / PART_BYTES))]
        try:
            return await asyncio.gather(*tasks)
        finally:
            # Nothing may read the file any more when one part has failed, or the caller was cancelled.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _parts(self, key: str, upload_id: str) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        more: dict[str, Any] = {}
        while True:
            answer = await self._bucket.call("list_parts", Key=key, UploadId=upload_id, MaxParts=PAGE, **more)
            found |= {part["PartNumber"]: part for part in answer.get("Parts", [])}
            if not answer.get("IsTruncated"):
                return found
            more = {"PartNumberMarker": answer["NextPartNumberMarker"]}

    async def _uploads(self, prefix: str) -> list[_Upload]:
        found: list[_Upload] = []
        more: dict[str, Any] = {}
        while True:
            answer = await self._bucket.call("list_multipart_uploads", Prefix=prefix, **more)
            found += [
                _Upload(entry["Key"], entry["UploadId"], entry["Initiated"]) for entry in answer.get("Uploads", [])
            ]
            if not answer.get("IsTruncated"):
                return found
            more = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}

    def _key(self, digest: str) -> str:
        return f"{self._company_id}/{object_path(digest)}"


@dataclass(frozen=True, slots=True)
class _Upload:
    key: str
    id: str
    begun: datetime


@dataclass(frozen=True, slots=True)
class _Part:
    data: bytes
    md5_hex: str
    md5_base64: str


class _Source:
    """A file that is read part by part, in threads."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.size = size
        self._file = file
        self._alone = Lock()

    async def part(self, number: int, *, whole: bool = False) -> _Part:
        """Return a part, by its number from 1, with the checksum that the server verifies."""
        return await in_thread(partial(self._part, number, self.size if whole else PART_BYTES))

    def _part(self, number: int, size: int) -> _Part:
        with self._alone:
            self._file.seek((number - 1) * PART_BYTES)
            data = self._file.read(size)
        digest = hashlib.md5(data, usedforsecurity=False)
        return _Part(data, digest.hexdigest(), b64encode(digest.digest()).decode())


class _S3Reader(Reader):
    def __init__(self, bucket: Bucket, key: str) -> None:
        self._bucket = bucket
        self._key = key

    async def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to `end`."""
        try:
            return await self._bucket.read(self._key, start, end)
        except FileNotFoundError as error:
            raise BlobDamaged(
                "an object went away while it was read", hint="put the blob again; a sweep's grace was too short"
            ) from error

    async def close(self) -> None:
        """Do nothing: each read is a request of its own."""
