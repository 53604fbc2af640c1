"""The log of batches, and what one batch did row by row."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

from localstore.schema.tables import address
from sync import batches, ledger
from sync.errors import BatchNotFound
from sync.production import registered

STAGED_AS = {"i": "inserted", "u": "updated", "d": "deleted", "s": "inserted", "r": "updated", "l": "updated"}


@dataclass(frozen=True, slots=True)
class LogLine:
    """One batch. `at` is when its state was reached, as an ISO text; `undoes` names the batch a rollback took back."""

    batch: str
    tenant: str
    kind: str
    state: str
    at: str | None
    by: str | None
    rows: int
    undoes: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the line's entry."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Log:
    """Batches, newest first."""

    lines: tuple[LogLine, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the command's JSON."""
        return {"version": 1, "batches": [line.to_json() for line in self.lines], "exit": 0}


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A row that a batch touched: `before` holds the old values of the changed columns, or of a deleted row."""

    row: str
    action: str
    before: Mapping[str, str | None] | None

    def to_json(self) -> dict[str, Any]:
        """Return the row's entry."""
        return {"row": self.row, "action": self.action, "before": self.before}


@dataclass(frozen=True, slots=True)
class Shown:
    """One batch with at most `limit` of the rows that it wrote; `total` counts them all."""

    line: LogLine
    counts: Mapping[str, Mapping[str, int]]
    rows: tuple[ShownRow, ...]
    total: int

    def to_json(self) -> dict[str, Any]:
        """Return the command's JSON."""
        return {
            "version": 1,
            **self.line.to_json(),
            "tables": {name: dict(counts) for name, counts in self.counts.items()},
            "rows_written": [row.to_json() for row in self.rows],
            "rows_written_total": self.total,
            "exit": 0,
        }


def of_ledger(entries: list[ledger.Entry]) -> Log:
    """Return production's log."""
    return Log(tuple(_line(entry) for entry in entries))


def of_file(connection: sqlite3.Connection, tenant: str, limit: int) -> list[LogLine]:
    """Return what the tenant's file knows of its batches."""
    times = dict(
        connection.execute("SELECT batch, coalesce(acknowledged_at, sealed_at) FROM localstore_batches").fetchall()
    )
    chain = batches.live(connection)[-limit:]
    return [
        LogLine(
            str(batch.batch),
            tenant,
            "push",
            batch.state,
            times.get(str(batch.batch)),
            None,
            sum(sum(counts.values()) for counts in batch.counts.values()),
            None,
        )
        for batch in reversed(chain)
    ]


def staged_counts(entry: ledger.Entry) -> dict[str, dict[str, int]]:
    """Return what a staged batch carries, in the words of a promotion's counts."""
    found: dict[str, dict[str, int]] = {}
    for name, counts in entry.manifest["counts"].items():
        into = found.setdefault(name, {})
        for op, rows in counts.items():
            into[STAGED_AS[op]] = into.get(STAGED_AS[op], 0) + rows
    return found


async def find(connection: asyncpg.Connection, batch: str) -> ledger.Entry:
    """Return the batch whose id begins with `batch`."""
    found = await ledger.find(connection, batch)
    if len(found) != 1:
        what = "no batch" if not found else "more than one batch"
        raise BatchNotFound(f"{what} in production's ledger begins with {batch!r}", hint="localstore sync log")
    return found[0]


async def count_held(connection: asyncpg.Connection, company: str) -> int:
    """Return how many changes of a company are held."""
    return int(await connection.fetchval("SELECT count(*) FROM localstore.held WHERE company_id = $1", company))


async def show(connection: asyncpg.Connection, entry: ledger.Entry, limit: int) -> Shown:
    """Return a batch with the rows that it wrote, from undo."""
    known = {shape: found.table for shape, found in (await registered(connection, entry.target)).items()}
    total = await connection.fetchval("SELECT count(*) FROM localstore.undo WHERE batch = $1", entry.batch)
    rows = await connection.fetch(
        "SELECT tbl, fingerprint, op, key, changed, before FROM localstore.undo "
        "WHERE batch = $1 ORDER BY tbl, key LIMIT $2",
        entry.batch,
        limit,
    )
    shown = []
    for row in rows:
        table = known.get((row["tbl"], row["fingerprint"]))
        before: dict[str, str | None] | None = None
        if row["before"] is not None and table is not None:
            bits = row["changed"].as_string().replace(" ", "") if row["changed"] is not None else "1" * len(table.sent)
            before = {
                column.name: value
                for column, value, bit in zip(table.sent, row["before"], bits, strict=False)
                if bit == "1"
            }
        action = {"i": "insert", "u": "update", "d": "delete"}[row["op"].decode()]
        shown.append(ShownRow(address(row["tbl"], tuple(row["key"])), action, before))
    return Shown(_line(entry), entry.counts or staged_counts(entry), tuple(shown), int(total))


def _line(entry: ledger.Entry) -> LogLine:
    moments = (entry.rolled_back_at, entry.withdrawn_at, entry.promoted_at, entry.staged_at, entry.sealed_at)
    at = next((moment for moment in moments if moment is not None), None)
    return LogLine(
        str(entry.batch),
        entry.company_id,
        entry.kind,
        entry.state,
        at.isoformat(timespec="seconds") if at else None,
        entry.promoted_by,
        sum(sum(counts.values()) for counts in (entry.manifest["counts"] or {}).values()),
        str(entry.undoes) if entry.undoes else None,
    )
