"""Blobs as streams: read piece by piece, and written piece by piece until they are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Final, Self

from localstore.blobs.incoming import Content, Incoming
from localstore.blobs.model import BlobInfo
from localstore.blobs.objects import CHUNK_BYTES, Reader, new_hasher
from localstore.errors import BlobDamaged, BlobError
from localstore.identifiers import preview

_AGAIN: Final = "put the blob again, or restore the tenant's folder blobs/ from a backup"


class BlobReader:
    """A blob, or a part of it, that is being read. Use it in `async with`; iterating gives its pieces.

    Read from beginning to end, the bytes are checked against the blob's hash: BlobDamaged comes with the last piece.
    Where another place has them whole, they are brought from there, and the same read gives them if nothing has been
    given yet. What it reads is the blob as it was when it was opened.
    """

    def __init__(
        self,
        find: Callable[[], Awaitable[tuple[BlobInfo, Reader]]],
        replace: Callable[[BlobInfo], Awaitable[Reader | None]],
        start: int,
        end: int | None,
    ) -> None:
        self._find = find
        self._replace = replace
        self._start = self._position = start
        self._end = end
        self._info: BlobInfo | None = None
        self._reader: Reader | None = None
        self._hasher = new_hasher() if start == 0 and end is None else None

    async def __aenter__(self) -> Self:
        """Find the blob; raises BlobNotFound and BlobDamaged."""
        self._info, self._reader = await self._find()
        self._end = self._info.size if self._end is None else min(self._end, self._info.size)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the blob."""
        if self._reader is not None:
            await self._reader.close()

    @property
    def info(self) -> BlobInfo:
        """Return what is known of the blob."""
        if self._info is None:
            raise BlobError("the blob is not open", hint="use `async with tenant.blobs.open(key) as blob`")
        return self._info

    async def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes, all that are left by default, and none at the end."""
        if self._reader is None or self._end is None:
            raise BlobError("the blob is not open", hint="use `async with tenant.blobs.open(key) as blob`")
        end = self._end if size < 0 else min(self._position + size, self._end)
        try:
            return await self._next(self._reader, end)
        except BlobDamaged as error:
            whole = await self._replace(self.info)
            if whole is None:
                raise
            await self._reader.close()
            self._reader = whole
            if self._position > self._start:
                raise _damaged(self.info, "was damaged and has been replaced", hint="read it again") from error
            return await self._next(whole, end)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Give the bytes in pieces of a few megabytes."""
        while data := await self.read(CHUNK_BYTES):
            yield data

    async def _next(self, reader: Reader, end: int) -> bytes:
        """Return the bytes up to `end`, and move there only when nothing is known to be wrong with them."""
        wanted = max(0, end - self._position)
        data = await reader.read(self._position, end) if wanted else b""
        if len(data) != wanted:
            raise _damaged(self.info, "is shorter than its row says")
        if self._hasher is not None:
            hasher = self._hasher.copy()
            hasher.update(data)
            if self._position + wanted == self.info.size and hasher.hexdigest() != self.info.hash:
                raise _damaged(self.info, "is not what was put")
            self._hasher = hasher
        self._position += wanted
        return data


class BlobWriter:
    """A blob that is being written. Use it in `async with`: it is kept when the block ends, and not when it fails."""

    def __init__(
        self,
        incoming: Incoming,
        admit: Callable[[], Awaitable[None]],
        save: Callable[[Incoming], Awaitable[BlobInfo]],
    ) -> None:
        self._incoming = incoming
        self._admit = admit
        self._save = save
        self._info: BlobInfo | None = None

    async def __aenter__(self) -> Self:
        """Begin; raises what is certain to forbid the blob already."""
        await self._admit()
        await self._incoming.__aenter__()
        return self

    async def write(self, data: bytes | bytearray | memoryview) -> int:
        """Add some bytes and return how many they were."""
        await self._incoming.write(data)
        return len(data)

    async def fill(self, content: Content) -> None:
        """Add everything that `content` gives."""
        await self._incoming.fill(content)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep the blob, unless the block failed."""
        try:
            if kind is None:
                await self._incoming.flush()
                self._info = await self._save(self._incoming)
        finally:
            await self._incoming.__aexit__(kind, error, trace)

    @property
    def info(self) -> BlobInfo:
        """Return what was kept, after the block."""
        if self._info is None:
            raise BlobError("the blob is not kept yet", hint="it is when the `async with` block has ended")
        return self._info


def _damaged(info: BlobInfo, what: str, hint: str = _AGAIN) -> BlobDamaged:
    return BlobDamaged(f"the object of {preview(info.key)} {what}", hint=hint)
