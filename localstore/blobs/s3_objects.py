"""One tenant's objects in a bucket, below the tenant's own prefix."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, Final
from urllib.parse import quote

from localstore.blobs.fetch import is_intact
from localstore.blobs.objects import FOLDER, Link, ObjectInfo, Objects, Reader, digest_of, object_path
from localstore.blobs.s3 import Bucket
from localstore.blobs.s3_multipart import PAGE, Multipart, etag_of
from localstore.blobs.s3_source import PART_BYTES, Source
from localstore.blobs.uploads import Uploads
from localstore.errors import BlobDamaged, ObjectStoreDenied
from localstore.identifiers import check_tenant_id
from localstore.sqlite.threads import acquire

_PLAIN: Final = ("", "AES256")
"""Encryption under which an object store names objects and parts by the MD5 of their bytes."""

_SECOND: Final = timedelta(seconds=1)
"""S3 tells times cut to the second; an object counts as young as it may be."""

ATTEMPTS_MAX: Final = 3
"""Sending an object that is gone whenever it has arrived is given up after so many times."""

YOUNG: Final = timedelta(days=1)
"""An object older than this is made young again before a row names it; copying it each time would cost too much."""


class S3Objects(Objects):
    """The objects of one company in a bucket.

    A large object goes up in parts to its final key, where it appears when all of them have arrived. Its name is its
    content, so whoever sends it again, after a kill or beside another, goes on with the parts that are there. With
    `uploads`, a record of this machine, that needs no right to list anything.
    """

    def __init__(self, bucket: Bucket, company_id: str, uploads: Uploads | None = None) -> None:
        self._bucket = bucket
        self._company_id = check_tenant_id(company_id)
        self._multipart = Multipart(bucket, uploads)

    def __repr__(self) -> str:
        return f"<S3Objects of {self._company_id} in {self._bucket!r}>"

    async def collect(self) -> BinaryIO:
        """Return a temporary file that has no name, so that nothing of it outlives the process."""
        return await acquire(tempfile.TemporaryFile, lambda file: file.close())

    async def add(self, digest: str, size: int, file: BinaryIO) -> bool:
        """Upload the content of `file`, unless exactly that is there.

        Each request carries the MD5 of its body, which the server checks. What is there, before and afterwards, is
        judged by its size and by the checksum that the server has of it, else by reading it.
        """
        key = self._key(digest)
        source = Source(file, size)
        try:
            found = await self._head(digest)
        except ObjectStoreDenied:
            # Whoever may not list is not told what is absent, either; one who may not write learns it below.
            found = None
        if found is not None and await self._is_same(digest, found, source) and await self._make_young(found.info):
            await self._multipart.forget(digest)
            return False
        # A sweep without a grace may take the object right after its arrival, before anything names it.
        arrived, attempts = None, 0
        while arrived is None and attempts < ATTEMPTS_MAX:
            attempts += 1
            etag = await self._send(key, digest, source)
            arrived = await self._head(digest)
        if arrived is None or not await self._is_same(digest, arrived, source, answered=etag):
            raise BlobDamaged(
                f"an object of {size} bytes arrived as something else in {self._bucket!r}",
                hint="run the same call again, and look at the object store's own log if it stays so",
            )
        return True

    async def hold(self, digest: str) -> bool:
        """Make an object young where it is old."""
        found = await self.stat(digest)
        return found is not None and await self._make_young(found)

    async def stat(self, digest: str) -> ObjectInfo | None:
        """Return what is known of an object."""
        found = await self._head(digest)
        return None if found is None else found.info

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
                ObjectInfo(digest, int(entry["Size"]), entry["LastModified"] + _SECOND)
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
        uploads = [
            found for found in await self._multipart.list(f"{self._company_id}/{FOLDER}/") if found.begun < before
        ]
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

    async def _send(self, key: str, digest: str, source: Source) -> str | None:
        if source.size > 2 * PART_BYTES:
            return await self._multipart.upload(key, digest, source)
        part = await source.part(1, whole=True)
        return etag_of(await self._bucket.call("put_object", Key=key, Body=part.data, ContentMD5=part.md5_base64))

    async def _head(self, digest: str) -> _Head | None:
        try:
            head = await self._bucket.call("head_object", Key=self._key(digest))
        except FileNotFoundError:
            return None
        info = ObjectInfo(digest, int(head["ContentLength"]), head["LastModified"] + _SECOND)
        return _Head(info, etag_of(head), head.get("ServerSideEncryption", "") in _PLAIN)

    async def _is_same(self, digest: str, found: _Head, source: Source, *, answered: str | None = None) -> bool:
        """Return whether an object is what the file holds.

        Its ETag is the MD5 of its bytes, or that of its parts' MD5s. Where it is neither, the ETag of an upload of ours
        is enough if the store encrypts with keys of its own, since it compared each body's MD5; else it is read.
        """
        if found.info.size != source.size:
            return False
        if found.etag == await source.etag(in_parts="-" in found.etag):
            return True
        if answered == found.etag and not found.is_plain:
            return True
        return await is_intact(self, digest, source.size)

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

    def _key(self, digest: str) -> str:
        return f"{self._company_id}/{object_path(digest)}"


@dataclass(frozen=True, slots=True)
class _Head:
    """What a store says of an object; `is_plain` where its ETag is made of MD5s of the bytes."""

    info: ObjectInfo
    etag: str
    is_plain: bool


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
