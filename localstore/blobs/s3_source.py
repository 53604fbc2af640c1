"""A file on its way to S3: read part by part, with the checksums by which a server knows its bytes."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from dataclasses import dataclass
from functools import partial
from math import ceil
from threading import Lock
from typing import BinaryIO, Final

from localstore.blobs.objects import CHUNK_BYTES
from localstore.sqlite.threads import in_thread

PART_BYTES: Final = 8 * 1024 * 1024
"""Sent at once: what an interruption can cost, and large enough that S3's limit of 10,000 parts is far away."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its bytes, and their MD5 as S3 tells it and as it is told."""

    data: bytes
    md5_hex: str
    md5_base64: str


class Source:
    """A file that is read part by part, in threads."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.size = size
        self._file = file
        self._alone = Lock()
        self._md5s: dict[int, bytes] = {}

    async def part(self, number: int, *, whole: bool = False) -> Part:
        """Return a part, by its number from 1, with the checksum that the server verifies."""
        return await in_thread(partial(self._part, number, self.size if whole else PART_BYTES))

    async def etag(self, *, in_parts: bool) -> str:
        """Return what S3 calls this content, after it came in one piece or in parts of our size."""
        return await in_thread(self._etag_of_parts if in_parts else self._etag_of_whole)

    def _part(self, number: int, size: int) -> Part:
        with self._alone:
            self._file.seek((number - 1) * PART_BYTES)
            data = self._file.read(size)
        digest = hashlib.md5(data, usedforsecurity=False)
        if size == PART_BYTES:
            self._md5s[number] = digest.digest()
        return Part(data, digest.hexdigest(), b64encode(digest.digest()).decode())

    def _etag_of_parts(self) -> str:
        numbers = range(1, ceil(self.size / PART_BYTES) + 1)
        for number in numbers:
            if number not in self._md5s:
                self._part(number, PART_BYTES)
        joined = b"".join(self._md5s[number] for number in numbers)
        return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(numbers)}"

    def _etag_of_whole(self) -> str:
        digest = hashlib.md5(usedforsecurity=False)
        with self._alone:
            self._file.seek(0)
            while data := self._file.read(CHUNK_BYTES):
                digest.update(data)
        return digest.hexdigest()
