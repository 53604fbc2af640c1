"""Objects: immutable bytes under the hash of what they are, wherever they are kept."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Final

from blake3 import blake3

from localstore.errors import BlobDamaged, ConfigurationError
from localstore.identifiers import preview

FOLDER: Final = "objects"
CHUNK_BYTES: Final = 4 * 1024 * 1024
"""Read, hashed and sent at once: large enough that calls and threads cost nothing beside it."""

_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object, and since when it is there."""

    hash: str
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Link:
    """How long a link lasts, and as what a browser saves what it leads to."""

    seconds: int
    name: str
    content_type: str


class Reader(ABC):
    """An object that is being read. Its bytes stay the same to the end, also when it is removed meanwhile on a disk."""

    @abstractmethod
    async def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to `end`, fewer only where the object ends."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of the object; a second call does nothing."""


class Objects(ABC):
    """The objects of one tenant. Every method may be called again after any failure, and `add` above all.

    The name is the content: there is nothing to overwrite, two writers of one object agree, and an object that
    nobody names harms nobody until a sweep removes it.
    """

    @abstractmethod
    async def collect(self) -> BinaryIO:
        """Return a private, empty file for bytes on their way in; closing it removes it unless `add` took it."""

    @abstractmethod
    async def add(self, digest: str, size: int, file: BinaryIO) -> bool:
        """Keep the whole content of `file` under its hash; return False where it was here already.

        Once this returns the object is as safe as the place allows, and young: no sweep takes it before its time.
        Must be idempotent.
        """

    @abstractmethod
    async def hold(self, digest: str) -> bool:
        """Make an object young, and return whether it is here."""

    @abstractmethod
    async def stat(self, digest: str) -> ObjectInfo | None:
        """Return what is known of an object, or None."""

    @abstractmethod
    async def open(self, digest: str) -> Reader | None:
        """Open an object for reading, or return None where it is not here."""

    @abstractmethod
    def pages(self) -> AsyncIterator[list[ObjectInfo]]:
        """Give all objects, some at a time, in no order."""

    @abstractmethod
    async def remove(self, digest: str, before: datetime) -> bool:
        """Remove an object that is still as old as `before`; return whether it was removed."""

    @abstractmethod
    async def remove_unfinished(self, before: datetime) -> int:
        """Remove what writers left behind that were killed before that moment; return how much it was."""

    async def presign(self, digest: str, link: Link) -> str:
        """Return a link with which anybody may GET this one object, where something serves it."""
        del digest, link
        raise ConfigurationError(
            "these blobs have no links: nothing serves a disk or a process's memory",
            hint="set S3_BUCKET_NAME (and S3_ENDPOINT_URL) and push, or serve them from the application with "
            "tenant.blobs.open",
        )


def object_path(digest: str) -> str:
    """Return an object's path below its tenant's folder.

    Hashes come from rows, which anybody with a file may have written: what is none must not become a path.
    """
    if not is_hash(digest):
        raise BlobDamaged(
            f"{preview(digest)} is no content hash, so there is no object of that name",
            hint="put the blob again; `localstore blobs list` shows what the rows say",
        )
    return f"{FOLDER}/{digest[:2]}/{digest}"


def is_hash(digest: str) -> bool:
    """Return whether this can name an object."""
    return _HASH.fullmatch(digest) is not None


def digest_of(path: str) -> str | None:
    """Return the hash that a path ends in, or None where it is no object's."""
    name = path.rsplit("/", 1)[-1]
    return name if _HASH.fullmatch(name) and path.endswith(object_path(name)) else None


def new_hasher() -> blake3:
    """Return what computes an object's name: 32 bytes of BLAKE3."""
    return blake3()


def size_if_whole(file: BinaryIO, digest: str) -> int | None:
    """Return how many bytes a file has if they are what their name says, else None. Runs in a thread."""
    hasher, size = new_hasher(), 0
    while data := file.read(CHUNK_BYTES):
        hasher.update(data)
        size += len(data)
    return size if hasher.hexdigest() == digest else None
