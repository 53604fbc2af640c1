"""What promoting a batch is asked for, and what it did."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

WRITTEN = {"i": "inserted", "u": "updated", "d": "deleted"}
COUNTED = {
    "conflict": "conflicts",
    "value": "quarantined",
    "constraint": "quarantined",
    "waits": "quarantined",
    "rolled_back": "quarantined",
}


@dataclass(slots=True)
class TableCounts:
    """What a promotion did to one table, in rows."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0
    conflicts: int = 0
    quarantined: int = 0

    def to_json(self) -> dict[str, int]:
        """Return the counts by name."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Outcome:
    """What promoting one batch did, or, in a plan, would do."""

    batch: UUID
    tables: dict[str, TableCounts] = field(default_factory=dict)
    digest: str | None = None
    held: int = 0

    def to_json(self) -> dict[str, dict[str, int]]:
        """Return the counts by table."""
        return {name: counts.to_json() for name, counts in self.tables.items()}


@dataclass(frozen=True, slots=True)
class Options:
    """How to promote.

    `allow_deletes` is a number of rows a table and batch (None: the greater of 1,000 and a fifth). `abort` gives the
    batch up rather than hold a row. `digest` locks and fingerprints what is touched. `trial` leaves alone what a
    ROLLBACK would not bring back.
    """

    allow_deletes: int | None = None
    abort: bool = False
    digest: bool = False
    trial: bool = False
