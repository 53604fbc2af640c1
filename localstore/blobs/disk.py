"""An fsspec file system of one folder: nothing leads out of it, and what is written appears whole or not at all."""

from __future__ import annotations

import fcntl
import io
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from fsspec.spec import AbstractFileSystem

from localstore.sqlite.permissions import FILE_MODE, FOLDER_MODE, make_folder

UNFINISHED = ".unfinished"
"""The folder of files that are being written, on the same file system as those that they become."""

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK a named pipe that somebody put there would wait for its writer.
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class DiskFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """The files below `root`, by relative paths.

    Every path is walked folder by folder without following a link, so one that somebody planted is an error wherever it
    leads. Folders are 0700, files 0600. A file is written under another name, synced, renamed, and its folder synced.
    """

    protocol: ClassVar[str] = "localstore-disk"
    root_marker: ClassVar[str] = ""
    cachable: ClassVar[bool] = False

    def __init__(self, root: str | os.PathLike[str], **options: Any) -> None:
        super().__init__(**options)
        self.root = Path(root)

    def __repr__(self) -> str:
        return f"<DiskFileSystem {str(self.root)!r}>"

    def info(self, path: str, **_options: Any) -> dict[str, Any]:
        """Return `name`, `size`, `type`, `mtime` (seconds) and `mode`; raises FileNotFoundError."""
        parts = _parts(path)
        with self._folder(parts[:-1]) as folder:
            if not parts:
                return _info("", os.fstat(folder))
            return _info("/".join(parts), os.stat(parts[-1], dir_fd=folder, follow_symlinks=False))

    def ls(self, path: str, detail: bool = True, **_options: Any) -> list[Any]:
        """Return what a folder holds, or the one file itself; files that are being written are left out."""
        parts = _parts(path)
        if self.info(path)["type"] == "file":
            found = [self.info(path)]
        else:
            with self._folder(parts) as folder, os.scandir(folder) as entries:
                found = [
                    _info("/".join((*parts, entry.name)), entry.stat(follow_symlinks=False))
                    for entry in entries
                    if parts or entry.name != UNFINISHED
                ]
        return found if detail else [entry["name"] for entry in found]

    def mkdir(self, path: str, create_parents: bool = True, **_options: Any) -> None:
        """Make a folder; raises FileExistsError."""
        parts = _parts(path)
        with self._folder(parts[:-1], make=create_parents) as folder:
            os.mkdir(parts[-1], FOLDER_MODE, dir_fd=folder)
            os.fsync(folder)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a folder and those above it."""
        if not exist_ok and self.exists(path):
            raise FileExistsError(path)
        with self._folder(_parts(path), make=True):
            pass

    def rmdir(self, path: str) -> None:
        """Remove an empty folder."""
        *above, name = _parts(path)
        with self._folder(above) as folder:
            os.rmdir(name, dir_fd=folder)

    def rm_file(self, path: str) -> None:
        """Remove a file."""
        *above, name = _parts(path)
        with self._folder(above) as folder:
            os.unlink(name, dir_fd=folder)

    def rm(self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files, and folders with all that they hold where `recursive` says so."""
        for found in reversed(self.expand_path(path, recursive=recursive, maxdepth=maxdepth)):
            if self.isdir(found):
                self.rmdir(found)
            else:
                self.rm_file(found)

    def cp_file(self, path1: str, path2: str, **_options: Any) -> None:
        """Copy a file, or make the folder that `path1` is."""
        if self.isdir(path1):
            self.makedirs(path2, exist_ok=True)
            return
        with self.open(path1, "rb") as source, self.open(path2, "wb") as target:
            while chunk := source.read(self.blocksize):
                target.write(chunk)

    def touch(self, path: str, truncate: bool = True, **_options: Any) -> None:
        """Make an empty file, or say of one that it was modified now."""
        if truncate or not self.exists(path):
            with self.open(path, "wb"):
                return
        *above, name = _parts(path)
        with self._folder(above) as folder:
            os.utime(name, dir_fd=folder, follow_symlinks=False)

    def created(self, path: str) -> float:
        """Return when a file was made, in seconds since the epoch."""
        return self.modified(path)

    def modified(self, path: str) -> float:
        """Return when a file was modified, in seconds since the epoch."""
        return float(self.info(path)["mtime"])

    def unfinished(self) -> UnfinishedFile:
        """Return a new file that has no path yet; `place` gives it one, `discard` removes it."""
        make_folder(self.root)
        with self._folder((UNFINISHED,), make=True) as folder:
            name = secrets.token_hex(16)
            return UnfinishedFile(os.open(name, _CREATE_FLAGS, FILE_MODE, dir_fd=folder), self, name)

    def place(self, unfinished: str, path: str, *, replace: bool = True) -> None:
        """Move a synced file to its path; with `replace=False` raises FileExistsError where one is."""
        *above, name = _parts(path)
        with self._folder((UNFINISHED,)) as source, self._folder(above, make=True) as target:
            if replace:
                os.rename(unfinished, name, src_dir_fd=source, dst_dir_fd=target)
            else:
                os.link(unfinished, name, src_dir_fd=source, dst_dir_fd=target)
                os.unlink(unfinished, dir_fd=source)
            # The file is safe from a power cut only when its name is.
            os.fsync(target)

    def remove_unfinished(self, name: str) -> None:
        """Remove a file that is not to be finished."""
        with suppress(FileNotFoundError), self._folder((UNFINISHED,)) as folder:
            os.unlink(name, dir_fd=folder)

    def remove_abandoned(self, before: float) -> int:
        """Remove unfinished files whose writers are gone, untouched since `before`; return how many."""
        try:
            with self._folder((UNFINISHED,)) as folder, os.scandir(folder) as entries:
                names = [entry.name for entry in entries if entry.stat(follow_symlinks=False).st_mtime < before]
                abandoned = [name for name in names if _is_abandoned(folder, name)]
                for name in abandoned:
                    os.unlink(name, dir_fd=folder)
                return len(abandoned)
        except FileNotFoundError:
            return 0

    def _open(self, path: str, mode: str = "rb", **_options: Any) -> BinaryIO:
        if mode == "rb":
            *above, name = _parts(path)
            with self._folder(above) as folder:
                descriptor = os.open(name, _READ_FLAGS, dir_fd=folder)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise IsADirectoryError(path)
            return os.fdopen(descriptor, "rb")
        if mode not in {"wb", "xb"}:
            raise ValueError(f"a file is read or written as a whole, not opened as {mode!r}")
        if mode == "xb" and self.exists(path):
            raise FileExistsError(path)
        file = self.unfinished()
        file.aim(path, replace=mode == "wb")
        return file

    @contextmanager
    def _folder(self, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
        """Open a folder below the root, part by part; missing ones are made where asked to."""
        if make:
            make_folder(self.root)
        descriptor = os.open(self.root, _FOLDER_FLAGS)
        try:
            for part in parts:
                below = _below(descriptor, part, make=make)
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)


class UnfinishedFile(io.FileIO):
    """A file that is being written: closing it places it where it was aimed, and removes it without an aim.

    As long as it is open it is locked, which tells it from one that a killed process left behind.
    """

    def __init__(self, descriptor: int, files: DiskFileSystem, name: str) -> None:
        super().__init__(descriptor, "r+b")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self.files = files
        self._unfinished: str | None = name
        self._aim: tuple[str, bool] | None = None

    @property
    def is_placed(self) -> bool:
        """Return whether the file has its path already; its content can still be read until it is closed."""
        return self._unfinished is None

    def aim(self, path: str, *, replace: bool = True) -> None:
        """Say where closing the file puts it."""
        self._aim = (path, replace)

    def place(self, path: str, *, replace: bool = True) -> None:
        """Sync the file and give it its path for good."""
        assert self._unfinished is not None
        os.fsync(self.fileno())
        self.files.place(self._unfinished, path, replace=replace)
        self._unfinished = None

    def discard(self) -> None:
        """Close the file, and remove it unless it has been placed."""
        self._aim = None
        self.close()

    def write(self, data: Any, /) -> int:
        """Write all of `data`: a plain write may end early."""
        view = memoryview(data).cast("B")
        written = 0
        while written < len(view):
            written += super().write(view[written:])
        return written

    def close(self) -> None:
        """Place the file, or remove it; a second call does nothing."""
        if self.closed:
            return
        try:
            if self._aim is not None and self._unfinished is not None:
                self.place(self._aim[0], replace=self._aim[1])
        finally:
            if self._unfinished is not None:
                self.files.remove_unfinished(self._unfinished)
            super().close()

    def __del__(self) -> None:
        """Remove what nobody finished: a file that is merely forgotten may be incomplete."""
        self.discard()

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        """Place the file, or remove it when the block failed."""
        if kind is not None:
            self._aim = None
        self.close()


def _below(folder: int, part: str, *, make: bool) -> int:
    try:
        return os.open(part, _FOLDER_FLAGS, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
    # Another process may make it in this very moment.
    with suppress(FileExistsError):
        os.mkdir(part, FOLDER_MODE, dir_fd=folder)
        os.fsync(folder)
    return os.open(part, _FOLDER_FLAGS, dir_fd=folder)


def _is_abandoned(folder: int, name: str) -> bool:
    try:
        descriptor = os.open(name, _READ_FLAGS, dir_fd=folder)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _parts(path: str) -> list[str]:
    parts = path.strip("/").split("/") if path.strip("/") else []
    if any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise ValueError(f"{path!a} is no path below the folder")
    return parts


def _info(name: str, found: os.stat_result) -> dict[str, Any]:
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
    return {
        "name": name,
        "size": found.st_size,
        "type": kinds.get(stat.S_IFMT(found.st_mode), "other"),
        "mtime": found.st_mtime,
        "mode": stat.S_IMODE(found.st_mode),
    }
