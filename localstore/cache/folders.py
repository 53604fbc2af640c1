"""Which cache folders this process uses: one `Folder` each, however many caches ask for it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from localstore.cache.folder import Folder
from localstore.sqlite.registry import registry


@dataclass(slots=True)
class Folders:
    """The folders in use by path, each with how many use it."""

    found: dict[str, tuple[Folder, int]] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def acquire(self, path: Path, bytes_max: int) -> Folder:
        """Return the process's `Folder` of this path; every call needs a `release`."""
        # The store may be reached through links, a tenant's folder in it may not: two paths are never one folder.
        key = str(Path(os.path.realpath(path.parent.parent), path.parent.name, path.name))
        with self.lock:
            folder, users = self.found.get(key, (None, 0))
            if folder is None:
                # They share the budget of the tenants' files: of both, those unused for longest make room.
                folder = Folder(path, bytes_max, registry().descriptors)
            self.found[key] = (folder, users + 1)
            return folder

    async def release(self, folder: Folder) -> None:
        """Give `folder` up; the last one to do so closes it."""
        with self.lock:
            key = next((key for key, (known, _) in self.found.items() if known is folder), None)
            if key is None:
                return
            users = self.found[key][1] - 1
            if users:
                self.found[key] = (folder, users)
                return
            del self.found[key]
        await folder.close()


_folders = Folders()


def folders() -> Folders:
    """Return this process's folders."""
    return _folders


def _begin_anew() -> None:
    global _folders  # noqa: PLW0603 - what is one a process has to change with the process
    _inherited.append(_folders)
    _folders = Folders()


_inherited: list[Folders] = []
"""A forked child neither uses nor closes its parent's connections."""

os.register_at_fork(after_in_child=_begin_anew)
