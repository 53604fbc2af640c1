"""Upload: bring to production's object store the objects that a push names, before the rows that name them.

Safe to run twice: an object is named by its content, what production has confirmed is not looked at again, what is
there whole is not sent again, and a large object goes on with the parts that arrived.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import asyncpg

from localstore.blobs.table import TABLE
from localstore.errors import ObjectStoreUnavailable
from localstore.sqlite.database import Database
from localstore.sqlite.threads import in_thread
from sync.batches import LocalBatch, bundle_path
from sync.blobs import record
from sync.blobs.named import named_by, waiting
from sync.blobs.tally import Tally
from sync.bundle import Bundle
from sync.releases import RETRY, release

if TYPE_CHECKING:
    from sync.blobs.lane import Lane
    from sync.blobs.place import Place

CONFIRMED_TOGETHER: Final = 100
"""Objects that are recorded at once: what a crash makes the next push look at again, and send no byte of."""

ATTEMPTS_MAX: Final = 3
"""How often an object is brought that goes away before it is recorded, as before a sweep that was under way."""


async def upload(
    connection: asyncpg.Connection,
    database: Database,
    open_batches: Sequence[LocalBatch],
    place: Place | None,
    tally: Tally,
) -> None:
    """Bring the objects that open batches name; with no place to bring them to, their rows will wait."""
    naming = [batch for batch in open_batches if TABLE in batch.counts]
    if naming:
        hashes = await in_thread(partial(_named, database, naming))
        await _bring(connection, database, hashes, place, tally)


async def release_objects(
    connection: asyncpg.Connection, database: Database, place: Place | None, tally: Tally
) -> None:
    """Bring what held rows wait for, and put those in line again whose objects production has by now."""
    rows = [row for row in await database.read(waiting) if not row.released]
    if rows:
        there = await _bring(connection, database, {row.hash for row in rows}, place, tally)
        ready = [(TABLE, row.key) for row in rows if row.hash in there]
        await database.write(lambda file: release(file, ready, RETRY))


def _named(database: Database, naming: Sequence[LocalBatch]) -> frozenset[str]:
    bundles = []
    for batch in naming:
        bundle = Bundle(bundle_path(database.path.parent, batch.batch))
        bundle.check(batch.hash)
        bundles.append(bundle)
    return named_by(bundles)


async def _bring(
    connection: asyncpg.Connection, database: Database, hashes: Collection[str], place: Place | None, tally: Tally
) -> frozenset[str]:
    """Bring those objects that production does not have; return those that it has then."""
    company = database.company_id
    there = set(await record.want(connection, company, hashes))
    lacking = sorted({*hashes} - there)
    if place is not None:
        # What speaks to object stores takes long to load, and most pushes have nothing for it.
        from sync.blobs.lane import Lane

        lane = Lane.of(database, place, tally)
        for start in range(0, len(lacking), CONFIRMED_TOGETHER):
            there |= await _bring_some(connection, company, lacking[start : start + CONFIRMED_TOGETHER], lane)
    tally.missing |= {*hashes} - there
    return frozenset(there)


async def _bring_some(connection: asyncpg.Connection, company: str, lacking: list[str], lane: Lane) -> set[str]:
    brought: set[str] = set()
    for _ in range(ATTEMPTS_MAX):
        sizes = await lane.bring(lacking)
        await record.confirm(connection, company, sizes)
        # A sweep that had begun before may have taken an object; from the record on none does.
        lacking = await lane.gone(list(sizes))
        brought |= {*sizes} - {*lacking}
        if not lacking:
            return brought
    raise ObjectStoreUnavailable(
        f"objects of {company} go away from {lane.there!r} as soon as they have arrived",
        hint="look for what else removes objects there, then run the same command again",
        tenant=company,
    )
