"""Which files this process has open: one `Database` a file, however many stores ask for it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock

from localstore.sqlite.connection import FileId, Options, identify
from localstore.sqlite.database import Database
from localstore.sqlite.descriptors import Descriptors, descriptors_default


@dataclass(slots=True)
class _Entry:
    database: Database
    users: int = 0


@dataclass(slots=True)
class Registry:
    """The open files of one process, by real path and by which file that path led to."""

    descriptors: Descriptors = field(default_factory=lambda: Descriptors(descriptors_default()))
    entries: dict[tuple[str, FileId], _Entry] = field(default_factory=dict)
    lock: RLock = field(default_factory=RLock)

    def acquire(self, path: Path, tenant: str, options: Options) -> Database:
        """Return the process's `Database` of this file, checked; every call needs a `release`."""
        key = (os.path.realpath(path), identify(path, tenant))
        with self.lock:
            entry = self.entries.get(key)
            if entry is None:
                entry = self.entries[key] = _Entry(Database(path, tenant, options, self.descriptors))
            entry.users += 1
        try:
            entry.database.open()
        except BaseException:
            self.release(entry.database)
            raise
        return entry.database

    def release(self, database: Database) -> bool:
        """Give `database` up; returns whether nobody else uses it, and the caller must then close it."""
        key = (os.path.realpath(database.path), database.file_id)
        with self.lock:
            entry = self.entries.get(key)
            if entry is None or entry.database is not database:
                return False
            entry.users -= 1
            if entry.users > 0:
                return False
            del self.entries[key]
            return True


_registry = Registry()
_inherited: list[Registry] = []
"""A forked child neither uses nor closes its parent's connections: either could damage the file."""


def registry() -> Registry:
    """Return this process's registry."""
    return _registry


def _begin_anew() -> None:
    global _registry  # noqa: PLW0603 - what is one a process has to change with the process
    _inherited.append(_registry)
    _registry = Registry()


os.register_at_fork(after_in_child=_begin_anew)
