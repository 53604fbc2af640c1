"""Large objects go to S3 in parts, and an upload that was cut off goes on with the parts that arrived."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import Any, Final, TypeAlias

from localstore.blobs.s3 import Bucket
from localstore.blobs.s3_failures import code_of
from localstore.blobs.s3_source import PART_BYTES, Part, Source
from localstore.blobs.uploads import Arrived, Upload, Uploads
from localstore.errors import BlobError, ObjectStoreDenied, ObjectStoreUnavailable

PARTS_TOGETHER: Final = 4
"""Parts of one object under way at once, each of them in memory."""

ATTEMPTS_MAX: Final = 3
"""So often an upload that others work on is begun, or gone on with."""

PAGE: Final = 1000
"""The most that S3 lists at once."""

_Parts: TypeAlias = dict[int, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Begun:
    """An upload that a store lists: nobody has completed it or given it up."""

    key: str
    id: str
    begun: datetime


class Multipart:
    """Uploads in parts to one bucket. With `uploads`, a record of this machine, they need no right to list anything."""

    def __init__(self, bucket: Bucket, uploads: Uploads | None = None) -> None:
        self._bucket = bucket
        self._noted = uploads

    async def upload(self, key: str, digest: str, source: Source) -> str | None:
        """Send what is missing of an object and return its ETag, or None where another one was faster.

        Begins anew where another one ended the same upload meanwhile, or sent one of its parts again just then.
        """
        for attempt in range(1, ATTEMPTS_MAX + 1):
            last = attempt == ATTEMPTS_MAX
            upload_id, there, noted = await self._begin(key, digest)
            try:
                parts = await self._send(key, digest, Upload(upload_id, noted), source, there)
                answer = await self._bucket.call(
                    "complete_multipart_upload", Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}
                )
            except FileNotFoundError as error:
                await self.forget(digest)
                if await self._is_there(key):
                    return None
                if last:
                    raise BlobError(
                        f"an upload to {self._bucket!r} was ended by somebody else again and again",
                        hint="run the same call again when nobody gives up uploads in the bucket",
                    ) from error
            except ObjectStoreUnavailable:
                # Some servers answer so to a part of an upload that another one has completed meanwhile.
                if not await self._is_there(key):
                    raise
                await self.forget(digest)
                return None
            except BlobError as error:
                # A part that another one is replacing by the same bytes may not be there for a moment.
                if last or error.__cause__ is None or code_of(error.__cause__) != "InvalidPart":
                    raise
            else:
                await self.forget(digest)
                return etag_of(answer)
        raise AssertionError("the last attempt returns or raises")

    async def _begin(self, key: str, digest: str) -> tuple[str, _Parts, Mapping[int, Arrived]]:
        """Return the id of an upload of this object, one that was begun before if there is any, and its parts.

        The parts are those that the store lists, and those that were noted here when they arrived.
        """
        noted = None if self._noted is None else await self._noted.find(digest)
        if noted is not None:
            with suppress(FileNotFoundError):
                return noted.id, await self._listed(key, noted), noted.parts
        try:
            uploads = await self.list(key)
        except ObjectStoreDenied:
            # Credentials that may only write cannot see what others began; they can still send all of it.
            uploads = []
        for upload in sorted(uploads, key=lambda upload: upload.begun, reverse=True):
            if upload.key == key:
                with suppress(FileNotFoundError):
                    parts = await self.parts(key, upload.id)
                    await self._begun(digest, upload.id)
                    return upload.id, parts, {}
        answer = await self._bucket.call("create_multipart_upload", Key=key)
        await self._begun(digest, answer["UploadId"])
        return answer["UploadId"], {}, {}

    async def _listed(self, key: str, noted: Upload) -> _Parts:
        """Return the parts of an upload as the store lists them; what was noted here where it does not tell."""
        try:
            return await self.parts(key, noted.id)
        except ObjectStoreDenied:
            return {number: {"ETag": part.etag} for number, part in noted.parts.items()}

    async def _begun(self, digest: str, upload_id: str) -> None:
        if self._noted is not None:
            await self._noted.begun(digest, upload_id)

    async def _send(self, key: str, digest: str, upload: Upload, source: Source, there: _Parts) -> list[dict[str, Any]]:
        """Send the parts that are not there and return all of them."""
        turns = asyncio.Semaphore(PARTS_TOGETHER)

        async def send(number: int) -> dict[str, Any]:
            async with turns:
                part = await source.part(number)
                known = there.get(number)
                if known is not None and _has_arrived(part, known, upload.parts.get(number)):
                    return {"PartNumber": number, "ETag": known["ETag"]}
                answer = await self._bucket.call(
                    "upload_part",
                    Key=key,
                    UploadId=upload.id,
                    PartNumber=number,
                    Body=part.data,
                    ContentMD5=part.md5_base64,
                )
                if self._noted is not None:
                    arrived = Arrived(part.md5_hex, answer["ETag"])
                    await self._noted.arrived(digest, upload.id, number, arrived)
                return {"PartNumber": number, "ETag": answer["ETag"]}

        tasks = [asyncio.create_task(send(number + 1)) for number in range(ceil(source.size / PART_BYTES))]
        try:
            return await asyncio.gather(*tasks)
        finally:
            # Nothing may read the file any more when one part has failed, or the caller was cancelled.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def parts(self, key: str, upload_id: str) -> _Parts:
        """Return the parts of an upload that arrived, by their numbers."""
        found: _Parts = {}
        more: dict[str, Any] = {}
        while True:
            answer = await self._bucket.call("list_parts", Key=key, UploadId=upload_id, MaxParts=PAGE, **more)
            found |= {part["PartNumber"]: part for part in answer.get("Parts", [])}
            if not answer.get("IsTruncated"):
                return found
            more = {"PartNumberMarker": answer["NextPartNumberMarker"]}

    async def forget(self, digest: str) -> None:
        """Forget what was noted of an object's upload, which has ended."""
        if self._noted is not None and await self._noted.find(digest) is not None:
            await self._noted.ended(digest)

    async def list(self, prefix: str) -> list[Begun]:
        """Return the uploads below a prefix that nobody has completed or given up."""
        found: list[Begun] = []
        more: dict[str, Any] = {}
        while True:
            answer = await self._bucket.call("list_multipart_uploads", Prefix=prefix, **more)
            found += [Begun(entry["Key"], entry["UploadId"], entry["Initiated"]) for entry in answer.get("Uploads", [])]
            if not answer.get("IsTruncated"):
                return found
            more = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}

    async def _is_there(self, key: str) -> bool:
        try:
            await self._bucket.call("head_object", Key=key)
        except (FileNotFoundError, ObjectStoreDenied):
            return False
        return True


def etag_of(answer: Mapping[str, Any]) -> str:
    """Return the ETag that an answer tells, without its quotes."""
    return str(answer["ETag"]).strip('"')


def _has_arrived(part: Part, known: Mapping[str, Any], noted: Arrived | None) -> bool:
    """Return whether a part that a store has is this one: by the MD5 it tells, or by what was noted at its arrival."""
    if known.get("Size", len(part.data)) != len(part.data):
        return False
    return etag_of(known) == part.md5_hex or (noted is not None and noted == Arrived(part.md5_hex, known["ETag"]))
