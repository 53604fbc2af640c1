"""What a verification found, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

DIFFERENCES_MAX: Final = 1_000
"""Differences kept of each table; all are explained and counted, but nobody reads more than this."""


class Why(StrEnum):
    """What explains a difference."""

    PENDING = "pending"
    HELD = "held"
    FOREIGN_EDIT = "foreign edit"
    DRIFT = "drift"


EXPLAINED: Final = frozenset({Why.PENDING, Why.HELD})
"""What the next push, or a decision about a held row, will settle."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One column of one row, or a whole row (`column` is None), that is not the same on both sides.

    `key` holds the key's parts as text, the company left out. `local` and `production` are printable beginnings of the
    values, None for NULL and for a row that is not there.
    """

    key: tuple[str, ...]
    column: str | None
    local: str | None
    production: str | None
    why: Why
    detail: str

    def to_json(self, key_columns: tuple[str, ...]) -> dict[str, Any]:
        """Return the difference as plain JSON values."""
        return {
            "key": dict(zip(key_columns, self.key, strict=True)),
            "column": self.column,
            "local": self.local,
            "production": self.production,
            "why": self.why.value,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class TableVerified:
    """One table: how many rows the file has, the first differences, and how many of each cause there are in all."""

    rows: int
    differences: tuple[Difference, ...]
    causes: dict[Why, int]
    key_columns: tuple[str, ...]

    @property
    def different(self) -> int:
        """Return how many differences there are, those that were not kept among them."""
        return sum(self.causes.values())

    def to_json(self) -> dict[str, Any]:
        """Return the table's part of the command's JSON."""
        return {
            "rows": self.rows,
            "different": self.different,
            "causes": {why.value: count for why, count in self.causes.items()},
            "differences": [difference.to_json(self.key_columns) for difference in self.differences],
        }


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did with the drift: how many rows of each table it put in line, and how many differences they had.

    Tables in `whole` travel whole, because writes to them may have gone unmarked. `left_alone` are addresses of rows
    that it did not touch, with the reason, as many as are kept of `left_rows`. `batch` waits to be promoted.
    """

    rows: Mapping[str, int] = field(default_factory=dict)
    differences: int = 0
    whole: tuple[str, ...] = ()
    left_alone: tuple[tuple[str, str], ...] = ()
    left_rows: int = 0
    batch: UUID | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what a repair adds to the tenant's part of the command's JSON."""
        return {
            "repaired": sum(self.rows.values()),
            "whole": list(self.whole),
            "left_alone": [{"row": row, "why": why} for row, why in self.left_alone],
            "batch": str(self.batch) if self.batch else None,
        }


@dataclass(frozen=True, slots=True)
class Verified:
    """One tenant, table by table, and what a repair did where one was asked for."""

    tenant: str
    tables: dict[str, TableVerified]
    repaired: Repaired | None = None

    @property
    def equal(self) -> bool:
        """Return whether production holds exactly what the file holds."""
        return all(not table.causes for table in self.tables.values())

    @property
    def explained(self) -> bool:
        """Return whether every difference is held or pending, or has just been put in line by a repair."""
        unexplained = sum(
            count for table in self.tables.values() for why, count in table.causes.items() if why not in EXPLAINED
        )
        return unexplained == (self.repaired.differences if self.repaired is not None else 0)

    def to_json(self) -> dict[str, Any]:
        """Return the tenant's part of the command's JSON."""
        return {
            "tenant": self.tenant,
            "equal": self.equal,
            "tables": {name: table.to_json() for name, table in self.tables.items()},
            **(self.repaired.to_json() if self.repaired is not None else {}),
        }
