"""What of a tenant's file production does not have yet: rows with marks, and tables that travel whole."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

import asyncpg

from localstore.codec import Value
from localstore.sqlite import marks
from localstore.sqlite.database import Snapshot
from localstore.sqlite.layout import CatalogueEntry, read_catalogue
from sync import batches, ledger
from sync.changes import changes
from sync.verify.frames import Frames
from sync.verify.order import Place


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a file stands against production: the marks up to `promoted_to` are in effect there.

    `whole` are the tables that travel whole. `ahead` says that the file knows of a promotion which the state of
    production that is being looked at does not have yet.
    """

    catalogue: tuple[CatalogueEntry, ...]
    promoted_to: int
    whole: frozenset[str]
    ahead: bool


async def standing(connection: asyncpg.Connection, snapshot: Snapshot) -> Standing:
    """Compare the file's batches with the ledger."""
    catalogue = tuple(await snapshot.run(read_catalogue))
    chain = await snapshot.run(batches.live)
    states = await ledger.states(connection, [batch.batch for batch in chain])
    promoted_to = 0
    whole = {entry.table.name for entry in catalogue if entry.snapshot_due}
    ahead = False
    for batch in chain:
        in_effect = states.get(batch.batch) in ledger.IN_EFFECT
        if in_effect or batch.state == "acknowledged":
            promoted_to = max(promoted_to, batch.marks_to)
            ahead = not in_effect
        else:
            whole |= batch.snapshots
    return Standing(catalogue, promoted_to, frozenset(whole), ahead)


def waiting(
    connection: sqlite3.Connection, entry: CatalogueEntry, frames: Frames, after: int
) -> Iterator[tuple[Place | None, tuple[str, ...], str, tuple[int, ...]]]:
    """Yield the rows of a table that are waiting to be sent: place, key's looks, operation, changed columns."""
    at = {column.name: place for place, column in enumerate(frames.columns)}
    key_places = [at[name] for name in entry.table.key]
    for change in changes(connection, entry, after, marks.newest(connection)):
        row: list[Value | None] = [None] * len(frames.columns)
        for place, part in zip(key_places, change.key, strict=True):
            row[place] = part
        local = frames.encode(row)
        yield local.place, local.shown, change.op, change.changed
