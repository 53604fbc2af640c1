"""What the engine's methods return: frozen values whose `to_json` is the command's `--json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from localstore.errors import LocalStoreError
from sync.blobs.tally import Tally

COUNTS = ("inserted", "updated", "deleted", "unchanged", "conflicts", "quarantined")

EXIT_DONE = 0
EXIT_REMAINS = 3
EXIT_DIFFERS = 4


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one tenant could not be served; the others were."""

    code: str
    message: str
    hint: str
    exit_code: int

    @classmethod
    def of(cls, error: LocalStoreError) -> Failure:
        """Take over an error's message and hint."""
        return cls(error.code, error.message, error.hint, error.exit_code)

    def to_json(self) -> dict[str, Any]:
        """Return the failure as an error object."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


@dataclass(frozen=True, slots=True)
class TenantResult:
    """What a push, plan, promotion or rollback did for one tenant.

    `state` is staged, promoted, planned, rolled_back, withdrawn, unchanged or failed. `tables` counts rows by table.
    `held` are rows that remain held; `left_alone` addresses that a rollback did not touch.
    """

    tenant: str
    state: str
    batch: UUID | None = None
    batches: tuple[UUID, ...] = ()
    tables: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    seconds: float = 0.0
    held: int = 0
    left_alone: tuple[tuple[str, str], ...] = ()
    failure: Failure | None = None
    blobs: Mapping[str, int] = field(default_factory=lambda: Tally().to_json())

    @property
    def exit_code(self) -> int:
        """Return what the command would exit with for this tenant alone."""
        if self.failure is not None:
            return self.failure.exit_code
        # What was requeued is counted as held, too, but is in line again.
        remain = self.held if self.state != "requeued" else 0
        return EXIT_REMAINS if remain or self.left_alone else EXIT_DONE

    def to_json(self) -> dict[str, Any]:
        """Return the tenant's entry."""
        entry: dict[str, Any] = {
            "tenant": self.tenant,
            "batch": str(self.batch) if self.batch else None,
            "batches": [str(batch) for batch in self.batches],
            "state": self.state,
            "tables": {name: dict(counts) for name, counts in self.tables.items()},
            "blobs": dict(self.blobs),
            "held": self.held,
            "seconds": round(self.seconds, 3),
        }
        if self.left_alone:
            entry["left_alone"] = [{"row": row, "why": why} for row, why in self.left_alone]
        if self.failure is not None:
            entry["error"] = self.failure.to_json()
        return entry


def sum_tables(parts: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """Add up counts by table."""
    total: dict[str, dict[str, int]] = {}
    for tables in parts:
        for name, counts in tables.items():
            into = total.setdefault(name, dict.fromkeys(COUNTS, 0))
            for count, number in counts.items():
                into[count] = into.get(count, 0) + number
    return total


@dataclass(frozen=True, slots=True)
class Result:
    """What one command did, tenant by tenant, in the order in which they were asked for."""

    tenants: tuple[TenantResult, ...]

    @property
    def totals(self) -> dict[str, int]:
        """Return the counts of all tables of all tenants."""
        totals = dict.fromkeys(COUNTS, 0)
        for tenant in self.tenants:
            for counts in tenant.tables.values():
                for name, number in counts.items():
                    totals[name] = totals.get(name, 0) + number
        return totals

    @property
    def exit_code(self) -> int:
        """Return the command's exit code: a failure counts for more than what remains held."""
        return combine(tenant.exit_code for tenant in self.tenants)

    def to_json(self) -> dict[str, Any]:
        """Return the command's JSON."""
        return {
            "version": 1,
            "tenants": [tenant.to_json() for tenant in self.tenants],
            "totals": {"tenants": len(self.tenants), **self.totals},
            "exit": self.exit_code,
        }


def combine(codes: Iterable[int]) -> int:
    """Return one exit code for several tenants: a guard's or an error's if there is one, else the most serious rest."""
    found = set(codes)
    for code in (1, 6, 5, EXIT_DIFFERS, EXIT_REMAINS):
        if code in found:
            return code
    return max(found, default=EXIT_DONE)


@dataclass(frozen=True, slots=True)
class HeldItem:
    """One held change, as the lists show it. Values are texts in production's form; `key` is by column.

    `held_as` is the whole key it is held under. One of more parts than `key` is spelt as in the file, since production
    has no such row: it cannot have that key, or another row of the file has the same one.
    """

    tenant: str
    batch: str | None
    table: str
    key: Mapping[str, str]
    column: str | None
    base: Mapping[str, str | None] | None
    local: Mapping[str, str | None] | None
    production: Mapping[str, str | None] | None
    reason: str
    since: str
    detail: str | None
    waits_for: str | None
    held_as: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """Return the row's address."""
        return "/".join((self.table, *self.key.values()))

    @property
    def spelt(self) -> bool:
        """Return whether the key is as the file spells it."""
        return len(self.held_as) > len(self.key)

    def to_json(self) -> dict[str, Any]:
        """Return the item's entry."""
        return {
            "tenant": self.tenant,
            "batch": self.batch,
            "table": self.table,
            "key": dict(self.key),
            "column": self.column,
            "base": self.base,
            "local": self.local,
            "production": self.production,
            "reason": self.reason,
            "since": self.since,
            "detail": self.detail,
            "waits_for": self.waits_for,
            "row": self.address,
        }
