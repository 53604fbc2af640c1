"""Objects on this machine, on a disk or in memory: fsspec's blocking calls, made in threads."""

from __future__ import annotations

import errno
import io
import os
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem

from localstore.blobs.disk import DiskFileSystem, UnfinishedFile
from localstore.blobs.objects import (
    CHUNK_BYTES,
    FOLDER,
    ObjectInfo,
    Objects,
    Reader,
    digest_of,
    object_path,
    size_if_whole,
)
from localstore.errors import BlobError, ForeignFile
from localstore.sqlite.threads import acquire, in_thread

PAGE = 1000


class _LocalReader(Reader):
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._alone = Lock()

    async def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to `end`."""
        return await in_thread(partial(self._read, start, end))

    async def close(self) -> None:
        """Close the file."""
        await in_thread(self._file.close)

    def _read(self, start: int, end: int) -> bytes:
        with self._alone:
            self._file.seek(start)
            return self._file.read(end - start)


class LocalObjects(Objects):
    """What disk and memory share."""

    def __init__(self, files: AbstractFileSystem) -> None:
        self._files = files

    async def collect(self) -> BinaryIO:
        """Return a new file."""
        return await acquire(self._collect, _close)

    async def add(self, digest: str, size: int, file: BinaryIO) -> bool:
        """Keep the content of `file` under its hash."""
        return await in_thread(partial(self._add, digest, size, file))

    async def hold(self, digest: str) -> bool:
        """Make an object young."""
        return await in_thread(partial(self._hold, object_path(digest)))

    async def stat(self, digest: str) -> ObjectInfo | None:
        """Return what is known of an object."""
        path = object_path(digest)
        return await in_thread(partial(self._stat, path))

    async def open(self, digest: str) -> Reader | None:
        """Open an object."""
        file = await acquire(partial(self._open, object_path(digest)), _close)
        return None if file is None else _LocalReader(file)

    async def file(self, digest: str) -> BinaryIO | None:
        """Return an object as a file of the caller's own, which `add` of another place takes, or None."""
        return await acquire(partial(self._open, object_path(digest)), _close)

    async def pages(self) -> AsyncIterator[list[ObjectInfo]]:
        """Give all objects."""
        for folder in await in_thread(self._folders):
            found = iter(await in_thread(partial(self._list, folder)))
            while page := list(islice(found, PAGE)):
                yield page

    async def remove(self, digest: str, before: datetime) -> bool:
        """Remove an object that is still as old as `before`."""
        return await in_thread(partial(self._remove, object_path(digest), before))

    # What follows runs in threads.

    @abstractmethod
    def _collect(self) -> BinaryIO: ...

    @abstractmethod
    def _take(self, file: BinaryIO, path: str) -> None: ...

    @abstractmethod
    def _rejuvenate(self, path: str) -> None: ...

    @abstractmethod
    def _modified(self, entry: dict[str, Any]) -> datetime: ...

    def _add(self, digest: str, size: int, file: BinaryIO) -> bool:
        path = object_path(digest)
        found = self._stat(path)
        # A damaged disk leaves another size or other bytes; the right ones are at hand now, and reading costs less than
        # the sync that it saves.
        if found is not None and found.size == size and self._is_whole(path, digest) and self._hold(path):
            return False
        with _explained(path):
            self._take(file, path)
        return True

    def _is_whole(self, path: str, digest: str) -> bool:
        file = self._open(path)
        if file is None:
            return False
        try:
            return size_if_whole(file, digest) is not None
        except OSError:
            # What a disk cannot read any more is damaged as well.
            return False
        finally:
            file.close()

    def _hold(self, path: str) -> bool:
        try:
            with _explained(path):
                self._rejuvenate(path)
        except FileNotFoundError:
            return False
        return True

    def _stat(self, path: str) -> ObjectInfo | None:
        try:
            with _explained(path):
                entry = self._files.info(path)
        except FileNotFoundError:
            return None
        if entry["type"] != "file":
            raise _no_file(path)
        return self._object(entry)

    def _open(self, path: str) -> BinaryIO | None:
        try:
            with _explained(path):
                file: BinaryIO = self._files.open(path, "rb")
        except FileNotFoundError:
            return None
        return file

    def _folders(self) -> list[str]:
        try:
            return [entry["name"] for entry in self._files.ls(FOLDER, detail=True) if entry["type"] == "directory"]
        except FileNotFoundError:
            return []

    def _list(self, folder: str) -> list[ObjectInfo]:
        entries = self._files.ls(folder, detail=True)
        return [self._object(entry) for entry in entries if entry["type"] == "file" and digest_of(entry["name"])]

    def _remove(self, path: str, before: datetime) -> bool:
        found = self._stat(path)
        if found is None or found.modified >= before:
            return False
        self._files.rm_file(path)
        return True

    def _object(self, entry: dict[str, Any]) -> ObjectInfo:
        return ObjectInfo(digest_of(entry["name"]) or "", int(entry["size"]), self._modified(entry))


class DiskObjects(LocalObjects):
    """Objects in a folder: durable when `add` returns, closed to other users, never behind a link."""

    _files: DiskFileSystem

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__(DiskFileSystem(folder))
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"<DiskObjects {str(self.folder)!r}>"

    async def remove_unfinished(self, before: datetime) -> int:
        """Remove files that were being written when their process was killed."""
        return await in_thread(partial(self._files.remove_abandoned, before.timestamp()))

    def _collect(self) -> BinaryIO:
        with _explained("a new file"):
            return self._files.unfinished()

    def _take(self, file: BinaryIO, path: str) -> None:
        if isinstance(file, UnfinishedFile) and file.files is self._files and not file.is_placed:
            file.place(path)
            return
        file.seek(0)
        with self._files.open(path, "wb") as target:
            while chunk := file.read(CHUNK_BYTES):
                target.write(chunk)

    def _rejuvenate(self, path: str) -> None:
        if self._files.info(path)["type"] != "file":
            raise _no_file(path)
        self._files.touch(path, truncate=False)

    def _modified(self, entry: dict[str, Any]) -> datetime:
        return datetime.fromtimestamp(entry["mtime"], UTC)


class MemoryObjects(LocalObjects):
    """Objects in this object's memory: gone with it."""

    _files: MemoryFileSystem

    def __init__(self) -> None:
        # Without a store of its own, every memory file system of the process would be the same one.
        super().__init__(MemoryFileSystem(global_store=False, skip_instance_cache=True))

    def __repr__(self) -> str:
        return "<MemoryObjects>"

    async def remove_unfinished(self, before: datetime) -> int:
        """Return 0: whoever is killed takes the memory along."""
        del before
        return 0

    def _collect(self) -> BinaryIO:
        return io.BytesIO()

    def _take(self, file: BinaryIO, path: str) -> None:
        file.seek(0)
        self._files.pipe_file(path, file.read())

    def _rejuvenate(self, path: str) -> None:
        found = self._files.store.get(f"/{path}")
        if found is None:
            raise FileNotFoundError(path)
        found.modified = datetime.now(UTC)

    def _modified(self, entry: dict[str, Any]) -> datetime:
        modified: datetime = self._files.modified(entry["name"])
        return modified


def _close(file: BinaryIO | None) -> None:
    if file is not None:
        file.close()


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Say what the file system refused; that something is missing is for the caller to understand."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (NotADirectoryError, IsADirectoryError) as error:
        raise _no_file(path) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _no_file(path) from error
        raise BlobError(
            f"{path} cannot be used: {error.strerror or error}",
            hint="check the disk, its free space and the permissions of the tenant's folder blobs/",
        ) from error


def _no_file(path: str) -> ForeignFile:
    return ForeignFile(
        f"{path} in the tenant's blobs is a link or no file",
        hint="remove it: only plain files and folders belong there",
    )
