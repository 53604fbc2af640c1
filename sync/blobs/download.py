"""Download: bring to a tenant's folder the objects that its rows name and that are not there, or not whole."""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import Final

from localstore.blobs.objects import is_hash
from localstore.blobs.table import TABLE, hash_place
from localstore.sqlite.database import Database
from sync.blobs.lane import Lane
from sync.blobs.place import Place
from sync.blobs.tally import Tally

TOGETHER: Final = 1000
"""Rows that are looked at together: they, but never all of a tenant's, are in memory."""

_PAGE: Final = "SELECT key, hash, size FROM blobs WHERE company_id = ? AND key > ? ORDER BY key LIMIT ?"


async def download(database: Database, place: Place, tally: Tally) -> tuple[tuple[str, str], ...]:
    """Bring what is missing or damaged here, and return the rows whose bytes could not be had, with the reason.

    Safe to run twice: what is here and whole is not fetched again, and nothing is kept that is not what its name says.
    """
    if not any(hash_place(table) is not None for table in database.tables):
        return ()
    lane = Lane.of(database, place, tally)
    left: list[tuple[str, str]] = []
    after = ""
    while rows := await database.read(partial(_page, company=database.company_id, after=after)):
        sizes = {digest: size for _, digest, size in rows if digest is not None and is_hash(digest)}
        reasons = await lane.fetch([(digest, size or 0) for digest, size in sizes.items()])
        left += [(f"{TABLE}/{key}", reasons[digest]) for key, digest, _ in rows if digest in reasons]
        tally.missing |= {*reasons}
        after = rows[-1][0]
    return tuple(left)


def _page(file: sqlite3.Connection, *, company: str, after: str) -> list[tuple[str, str | None, int | None]]:
    return file.execute(_PAGE, (company, after, TOGETHER)).fetchall()
