"""The record of uploads that are under way, in the tenant's file: what arrived is known after any crash.

An object store tells the same by its own lists, but not to credentials that may only write, and where it encrypts with
keys of its own its checksums of parts are not those of the bytes. So each part is noted when its arrival was answered.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from localstore.sqlite.database import Database

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS localstore_uploads (
    place TEXT NOT NULL,
    hash TEXT NOT NULL,
    part INTEGER NOT NULL,
    upload TEXT NOT NULL,
    md5 TEXT,
    etag TEXT,
    PRIMARY KEY (place, hash, part)
)
"""
_IS_THERE: Final = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = 'localstore_uploads'"
_READ: Final = "SELECT part, upload, md5, etag FROM localstore_uploads WHERE place = ? AND hash = ? ORDER BY part"
_NOTE: Final = (
    "INSERT OR REPLACE INTO localstore_uploads (place, hash, part, upload, md5, etag) VALUES (?, ?, ?, ?, ?, ?)"
)
_FORGET: Final = "DELETE FROM localstore_uploads WHERE place = ? AND hash = ?"

_WHOLE: Final = 0
"""The number of the row that is about the upload itself; parts are counted from 1."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A part that arrived: the MD5 of what was sent, and the name that the object store gave it."""

    md5: str
    etag: str


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that was begun, and the parts of it that arrived, by their numbers."""

    id: str
    parts: Mapping[int, Arrived]


class Uploads:
    """The uploads from one tenant's file to one place. Every method may be called again."""

    def __init__(self, database: Database, place: str) -> None:
        self._database = database
        self._place = place

    async def find(self, digest: str) -> Upload | None:
        """Return the upload of an object that was begun and not ended, or None."""
        return await self._database.read(partial(self._find, digest))

    async def begun(self, digest: str, upload: str) -> None:
        """Note that an upload was begun, before any part of it is sent; what was known of another one goes."""
        await self._database.write(partial(self._begun, digest, upload))

    async def arrived(self, digest: str, upload: str, number: int, part: Arrived) -> None:
        """Note that a part arrived."""
        values = (self._place, digest, number, upload, part.md5, part.etag)
        await self._database.write(lambda file: file.execute(_NOTE, values))

    async def ended(self, digest: str) -> None:
        """Forget an upload that is complete, or given up."""
        await self._database.write(partial(self._ended, digest))

    # What follows runs in threads.

    def _find(self, digest: str, file: sqlite3.Connection) -> Upload | None:
        if file.execute(_IS_THERE).fetchone() is None:
            return None
        rows = file.execute(_READ, (self._place, digest)).fetchall()
        if not rows or rows[0][0] != _WHOLE:
            return None
        upload = rows[0][1]
        return Upload(upload, {number: Arrived(md5, etag) for number, of, md5, etag in rows[1:] if of == upload})

    def _begun(self, digest: str, upload: str, file: sqlite3.Connection) -> None:
        file.execute(_TABLE)
        file.execute(_FORGET, (self._place, digest))
        file.execute(_NOTE, (self._place, digest, _WHOLE, upload, None, None))

    def _ended(self, digest: str, file: sqlite3.Connection) -> None:
        if file.execute(_IS_THERE).fetchone() is not None:
            file.execute(_FORGET, (self._place, digest))
