"""Seal: turn what was captured since the last batch into one immutable bundle, recorded by compare-and-set.

Safe to run twice: a crash before the record leaves a file that nothing names, which the next seal removes; two seals
of one tenant at once take turns.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

from localstore.errors import StoreBusy
from localstore.schema.tables import parents_first
from localstore.sqlite import capture, marks
from localstore.sqlite.database import Database
from localstore.sqlite.layout import read_catalogue
from sync import batches
from sync.bundle import BundleWriter, Head, Sealed, now
from sync.changes import Change, Row, changes, snapshot_rows
from sync.releases import carried_by, releases
from sync.spellings import PROBED_MAX, Spellings, can_be_spelt_otherwise
from sync.status import remember, remembered

EXPIRED_TO = "expired_to"
"""The record of the last batch whose kept bundle was removed."""


@dataclass(frozen=True, slots=True)
class _Written:
    sealed: Sealed | None
    up_to: int
    open_batches: int
    snapshots: tuple[int, ...]
    released_to: int


async def seal(database: Database, target: str) -> Sealed | None:
    """Seal everything committed up to now; None if there is nothing to send."""
    tenant = database.path.parent
    async with alone(tenant):
        if await database.read(capture.check):
            # The triggers come back before the snapshot is taken, so that nothing is written unseen in between.
            await database.write(lambda connection: capture.install(connection, ()))
        if await database.read(_marks_are_lost):
            await database.write(_carry_all)
        expired = await database.read(lambda connection: _sweep(connection, tenant))
        if expired is not None:
            await database.write(lambda connection: remember(connection, EXPIRED_TO, str(expired)))
        async with database.snapshot() as snapshot:
            written = await snapshot.run(lambda connection: _write(connection, database, tenant / "outbox"))
        if not await database.write(lambda connection: _record(connection, written, target)):
            raise StoreBusy(
                "the tenant's chain changed while it was being sealed",
                hint="run the command again",
                tenant=database.identity.company_id,
            )
    return written.sealed


def _marks_are_lost(connection: sqlite3.Connection) -> bool:
    """Return whether marks number from the beginning again: trimming leaves the newest, so another tool did it."""
    last = batches.newest(connection)
    return last is not None and marks.newest(connection) < last.marks_to


def _carry_all(connection: sqlite3.Connection) -> None:
    """Let the next seal carry every table whole, and new marks count on: what was written in between is unknown."""
    last = batches.newest(connection)
    if last is not None:
        marks.count_on_from(connection, last.marks_to)
        connection.execute("UPDATE localstore_tables SET snapshot_due = 1")


def _write(connection: sqlite3.Connection, database: Database, outbox: Path) -> _Written:
    chain = batches.tail(connection)
    last = chain[-1] if chain else None
    after = last.marks_to if last else 0
    up_to = max(marks.newest(connection), after)
    entries = {entry.table.name: entry for entry in read_catalogue(connection)}
    tables = parents_first(tuple(entry.table for entry in entries.values()))
    identity = database.identity
    head = Head(
        batch=uuid4(),
        company_id=identity.company_id,
        replica=UUID(str(identity.replica)),
        epoch=identity.epoch,
        seq=last.seq + 1 if last else 1,
        parent=last.hash if last else None,
        marks_to=up_to,
        sealed_at=now(),
        tables=tables,
    )
    written = marks.pending(connection, after)
    due = tuple(entry.id for entry in entries.values() if entry.snapshot_due)
    released, released_to = releases(connection, {table.name: table for table in tables})
    writer = BundleWriter(outbox, head)
    try:
        for table in tables:
            entry = entries[table.name]
            decided = released.get(table.name, [])
            whole = {change.key for change in decided if change.op == "i"}
            if entry.snapshot_due or (table.name in written and capture.unmarkable(connection, table)):
                sealing = snapshot_rows(connection, entry)
            else:
                sealing = changes(connection, entry, after, up_to)
            if whole:
                sealing = _others(sealing, whole)
            if can_be_spelt_otherwise(table):
                changed = PROBED_MAX + 1 if entry.snapshot_due else written.get(table.name, 0) + len(decided)
                spellings = Spellings(connection, entry, identity.company_id, changed)
                sealing = spellings.apart(sealing, after, up_to)
                decided = list(spellings.apart(decided, after, up_to))
            writer.add(table, sealing, snapshot=entry.snapshot_due)
            writer.add(table, decided)
        sealed = writer.finish()
    except BaseException:
        writer.discard()
        raise
    opened = sum(batch.state == "sealed" for batch in chain)
    return _Written(sealed, up_to, opened, due, released_to)


def _others(sealing: Iterable[Change], whole: AbstractSet[Row]) -> Iterator[Change]:
    return (change for change in sealing if change.key not in whole)


def _record(connection: sqlite3.Connection, written: _Written, target: str) -> bool:
    if written.sealed is not None:
        if not batches.record(connection, written.sealed, target):
            return False
        connection.executemany(
            "UPDATE localstore_tables SET snapshot_due = 0 WHERE id = ?", [(table,) for table in written.snapshots]
        )
        carried_by(connection, written.sealed.head.batch, written.released_to)
    elif not written.open_batches:
        # Nothing but spurious marks, which no batch will ever acknowledge. The newest stays, but alone it would tell
        # another story than all of them together, so it stops being a table's.
        marks.trim(connection, written.up_to)
        connection.execute("UPDATE localstore_marks SET tbl = NULL WHERE seq <= ?", (written.up_to,))
    return True


def _sweep(connection: sqlite3.Connection, tenant: Path) -> int | None:
    """Tidy what a killed command left behind: partial and unrecorded bundles go, acknowledged ones are kept aside.

    Kept ones go, too, when their time is over; returns the record up to which they have, if that is news.
    """
    outbox = tenant / "outbox"
    for path in outbox.iterdir():
        if path.suffix == ".partial":
            path.unlink()
        elif path.suffix == ".bundle":
            state = connection.execute("SELECT state FROM localstore_batches WHERE batch = ?", (path.stem,)).fetchone()
            if state is None or state[0] == "withdrawn":
                path.unlink()
            elif state[0] == "acknowledged":
                path.rename(outbox / "kept" / path.name)
    return _expire(connection, tenant)


def _expire(connection: sqlite3.Connection, tenant: Path) -> int | None:
    """Remove bundles that were kept long enough; they are in order of time, so that the rest need not be looked at."""
    limit = (now() - timedelta(days=batches.KEPT_DAYS)).isoformat()
    expired = None
    for record, batch, state, acknowledged_at in connection.execute(
        "SELECT rowid, batch, state, acknowledged_at FROM localstore_batches WHERE rowid > ? ORDER BY rowid",
        (int(remembered(connection, EXPIRED_TO) or 0),),
    ):
        if state == "sealed" or (acknowledged_at is not None and acknowledged_at >= limit):
            break
        batches.kept_path(tenant, UUID(batch)).unlink(missing_ok=True)
        expired = record
    return expired


@asynccontextmanager
async def alone(tenant: Path) -> AsyncIterator[None]:
    """Hold the outbox's lock, so that nobody sweeps a bundle away between its file and its record.

    The lock belongs to the open file, so it ends with the process, however that ends.
    """
    outbox = tenant / "outbox"
    outbox.mkdir(mode=0o700, exist_ok=True)
    (outbox / "kept").mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(outbox / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        await asyncio.to_thread(fcntl.flock, descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
