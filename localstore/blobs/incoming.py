"""Bytes on their way in: collected in a private file, counted and hashed while they come."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterable, Awaitable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self

from localstore.blobs.objects import CHUNK_BYTES, Objects, new_hasher
from localstore.blobs.types import HEAD_BYTES
from localstore.errors import BlobError, BlobRefused, ConfigurationError
from localstore.sqlite.threads import in_thread


class Readable(Protocol):
    """A file or a stream: `read(n)` gives bytes, empty ones at the end, at once or when awaited."""

    def read(self, size: int, /) -> bytes | Awaitable[bytes]:
        """Return up to `size` bytes."""


Content = bytes | bytearray | memoryview | os.PathLike[str] | Readable | AsyncIterable[bytes]
"""What a blob's bytes may come from; a plain text is none of them, since it could be either content or a path."""


class Incoming:
    """One blob's bytes, until they are kept or forgotten. Use it in `async with`, which forgets what nobody kept."""

    def __init__(self, objects: Objects, size_max: int) -> None:
        self._objects = objects
        self._size_max = size_max
        self._hasher = new_hasher()
        self._file: BinaryIO | None = None
        self._waiting = bytearray()
        self.size = 0
        self.head = b""

    async def __aenter__(self) -> Self:
        """Make the file."""
        self._file = await self._objects.collect()
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close the file; what was not kept is gone."""
        if self._file is not None:
            await in_thread(partial(_forget, self._file))

    @property
    def hash(self) -> str:
        """Return the hash of what came in, in hex; `flush` first."""
        digest: str = self._hasher.hexdigest()
        return digest

    @property
    def file(self) -> BinaryIO:
        """Return the file."""
        assert self._file is not None
        return self._file

    async def fill(self, content: Content) -> None:
        """Take everything that `content` gives."""
        if isinstance(content, bytes | bytearray | memoryview):
            await self._take(memoryview(content).cast("B"))
        elif isinstance(content, os.PathLike):
            file = await in_thread(partial(_open, Path(content)))
            try:
                while chunk := await in_thread(partial(file.read, CHUNK_BYTES)):
                    await self.write(chunk)
            finally:
                await in_thread(file.close)
        elif callable(getattr(content, "read", None)):
            await self._read_all(content)
        elif isinstance(content, AsyncIterable):
            async for chunk in content:
                await self.write(chunk)
        else:
            raise ConfigurationError(
                f"a blob cannot be made from {type(content).__name__}",
                hint="give bytes, a pathlib.Path, a file opened in binary mode, or an async iterator of bytes",
            )
        await self.flush()

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take some bytes; small pieces wait for one another."""
        if not isinstance(chunk, bytes | bytearray | memoryview):
            raise ConfigurationError(
                f"a blob is made of bytes, not of {type(chunk).__name__}", hint="open the file in binary mode"
            )
        self._waiting += chunk
        if len(self._waiting) >= CHUNK_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Hash and write what waits."""
        if self._waiting:
            waiting, self._waiting = self._waiting, bytearray()
            await self._take(memoryview(waiting))

    async def keep(self) -> bool:
        """Make an object of what came in; return whether it is new. May be called again."""
        return await self._objects.add(self.hash, self.size, self.file)

    async def _read_all(self, source: Any) -> None:
        if inspect.iscoroutinefunction(source.read):
            while chunk := await source.read(CHUNK_BYTES):
                await self.write(chunk)
            return
        # Somebody else's stream may take its time, for which no thread of ours that tenants' files need should wait.
        while chunk := await asyncio.to_thread(source.read, CHUNK_BYTES):
            await self.write(chunk)

    async def _take(self, data: memoryview) -> None:
        self.size += len(data)
        if self.size > self._size_max:
            raise BlobRefused(
                f"a blob may have {self._size_max} bytes, and this one has more",
                hint="raise LOCALSTORE_BLOB_SIZE_MAX, or put it in parts",
            )
        if len(self.head) < HEAD_BYTES:
            self.head += bytes(data[: HEAD_BYTES - len(self.head)])
        await in_thread(partial(self._write, data))

    def _write(self, data: memoryview) -> None:
        self._hasher.update(data)
        try:
            self.file.write(data)
        except OSError as error:
            raise BlobError(
                f"a blob could not be written: {error.strerror or error}",
                hint="free some disk space and put it again; nothing of it was kept",
            ) from error


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise BlobError(
            f"{path} cannot be read: {error.strerror or error}", hint="name a file that exists and may be read"
        ) from error


def _forget(file: BinaryIO) -> None:
    discard = getattr(file, "discard", file.close)
    discard()
