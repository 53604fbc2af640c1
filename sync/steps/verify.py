"""Verify: compare a tenant's file with production, row by row, and say of each difference why it is there.

Nothing is written on either side, so it can run at any time and any number of times, beside writers and promotions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol
from uuid import UUID

import asyncpg

from localstore.schema.tables import Table
from localstore.sqlite.database import Database, Snapshot
from localstore.sqlite.layout import CatalogueEntry
from localstore.sqlite.threads import in_thread
from sync.production import Registered
from sync.verify.compare import PRODUCTION, Comparison
from sync.verify.differences import DIFFERENCES_MAX, Difference, TableVerified, Verified, Why
from sync.verify.explain import Explainer
from sync.verify.findings import Finding, Findings
from sync.verify.frames import Frames
from sync.verify.history import History
from sync.verify.local import LOCAL, LocalRows
from sync.verify.order import OutOfOrder
from sync.verify.pending import Standing, standing, waiting
from sync.verify.production import SortedRows, copy_rows, reading
from sync.verify.shown import row_shown
from sync.verify.wider import Unfit

__all__ = ["DIFFERENCES_MAX", "Difference", "TableVerified", "Verified", "Why", "verify"]

SNAPSHOT_ATTEMPTS: Final = 3
"""How often production is looked at anew because a promotion ended between the two snapshots."""

EXPLAINED_AT_A_TIME: Final = 5_000

NEVER_SENT: Final = "production has never been sent the table in this shape"

Registry = dict[tuple[str, str], Registered]


class Drifting(Protocol):
    """Takes what is drift while both states that were compared can still be read."""

    async def take(self, connection: asyncpg.Connection, known: Registered, found: Sequence[Finding]) -> None:
        """Take findings of one table, in the transaction that reads production."""


async def verify(
    connection: asyncpg.Connection,
    database: Database,
    target: str,
    registered: Registry,
    drifting: Drifting | None = None,
) -> Verified:
    """Compare every tracked table of a tenant with production's schema `target`; `drifting` is given all drift.

    Rows are streamed, never gathered: memory grows neither with the tables nor with their differences. The file is read
    as it is after production was, so that whatever was promoted in between shows as waiting, never as missing.
    """
    company = database.identity.company_id
    for attempt in range(1, SNAPSHOT_ATTEMPTS + 1):
        async with reading(connection, company), database.snapshot() as snapshot:
            stands = await standing(connection, snapshot)
            if not stands.ahead or attempt == SNAPSHOT_ATTEMPTS:
                return await Verification(connection, database, target, registered, snapshot, stands, drifting).run()
    raise AssertionError


class Verification:
    """One tenant's tables, one after the other, in one snapshot of each side."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        database: Database,
        target: str,
        registered: Registry,
        snapshot: Snapshot,
        stands: Standing,
        drifting: Drifting | None,
    ) -> None:
        self._connection = connection
        self._company = database.identity.company_id
        self._replica = UUID(database.identity.replica)
        self._registered = {key: known for key, known in registered.items() if known.target == target}
        self._snapshot = snapshot
        self._stands = stands
        self._drifting = drifting

    async def run(self) -> Verified:
        """Compare the tables in the order of the catalogue."""
        tables = {entry.table.name: await self._table(entry) for entry in self._stands.catalogue}
        return Verified(self._company, tables)

    async def _table(self, entry: CatalogueEntry) -> TableVerified:
        known = self._registered.get((entry.table.name, entry.table.fingerprint))
        if known is None:
            return await self._unknown(entry.table)
        sort: frozenset[str] = frozenset()
        while True:
            findings = Findings(len(entry.table.key_parts))
            try:
                rows = await self._compare(known, findings, sort)
                return await self._explain(entry, known, findings, rows)
            except OutOfOrder as found:
                sort |= {found.side}
            finally:
                findings.close()

    async def _compare(self, known: Registered, findings: Findings, sort: frozenset[str]) -> int:
        """Walk both sides side by side and return how many rows the file has; `sort` names the sides to sort first."""
        frames = Frames(known.table, self._company)
        local = LocalRows(self._snapshot, frames, sort=LOCAL in sort)
        try:
            comparison = Comparison(frames, local, findings)
            if PRODUCTION in sort:
                await self._compare_sorted(known, frames, comparison)
            else:
                await copy_rows(self._connection, known, self._company, comparison)
            await comparison.finish()
            return local.count
        finally:
            await local.close()

    async def _compare_sorted(self, known: Registered, frames: Frames, comparison: Comparison) -> None:
        rows = SortedRows(frames)
        try:
            await copy_rows(self._connection, known, self._company, rows)
            for row in rows.rows():
                if isinstance(row, Unfit):
                    await comparison.unfit(row)
                else:
                    await comparison.row(*row)
        finally:
            rows.close()

    async def _explain(self, entry: CatalogueEntry, known: Registered, findings: Findings, rows: int) -> TableVerified:
        if not findings:
            return TableVerified(rows, (), {}, entry.table.key_parts)
        frames = Frames(entry.table, self._company)
        after = self._stands.promoted_to
        await self._snapshot.run(lambda connection: findings.note_pending(waiting(connection, entry, frames, after)))
        history = History(self._connection, self._company, self._replica, known, self._registered)
        await history.open()
        explainer = Explainer(entry.table, history, entry.table.name in self._stands.whole)
        kept: list[Difference] = []
        causes: dict[Why, int] = {}
        batches = findings.batches(EXPLAINED_AT_A_TIME)
        while batch := await in_thread(lambda: next(batches, None)):
            explained = await explainer.explain(batch)
            for difference in explained:
                causes[difference.why] = causes.get(difference.why, 0) + 1
                if len(kept) < DIFFERENCES_MAX:
                    kept.append(difference)
            drift = [one for one, said in zip(batch, explained, strict=True) if said.why is Why.DRIFT]
            if self._drifting is not None and drift:
                await self._drifting.take(self._connection, known, drift)
        return TableVerified(rows, tuple(kept), causes, entry.table.key_parts)

    async def _unknown(self, table: Table) -> TableVerified:
        """Return every row as waiting: production has never been sent this shape of the table."""
        frames = Frames(table, self._company)
        local = LocalRows(self._snapshot, frames, sort=True)
        kept: list[Difference] = []
        try:
            while rows := await local.batch():
                for row in rows[: DIFFERENCES_MAX - len(kept)]:
                    fields = frames.fields(row.frame)
                    key = row.shown if row.place is None else frames.key_text(fields)
                    shown = row_shown(frames, fields, row.defects)
                    kept.append(Difference(key, None, shown, None, Why.PENDING, NEVER_SENT))
        finally:
            await local.close()
        causes = {Why.PENDING: local.count} if local.count else {}
        return TableVerified(local.count, tuple(kept), causes, table.key_parts)
