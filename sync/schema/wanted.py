"""What the tenants of a store ask of one production schema: their tables, merged where shapes differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from localstore.schema.postgres import (
    production_columns,
    production_indexes,
    production_key,
    production_name,
    unsupported,
)
from localstore.schema.steps import widens
from localstore.schema.tables import Kind, Table
from localstore.schema.types import PRODUCTION_TYPES, TRAVELLING_VECTOR

KINDS: Mapping[str, Kind] = {name: kind for kind, name in PRODUCTION_TYPES.items()} | {TRAVELLING_VECTOR: Kind.VECTOR}
"""The kind behind each of production's types, and behind what stands for one that production lacks."""


@dataclass(slots=True)
class WantedTable:
    """A table as all shapes of it together need it, in production's names.

    `columns` gives (type, whether it may be NULL); `disputed` the columns about which shapes disagree.
    """

    name: str
    shapes: list[Table] = field(default_factory=list)
    columns: dict[str, tuple[str, bool]] = field(default_factory=dict)
    disputed: dict[str, str] = field(default_factory=dict)

    @property
    def unsupported(self) -> tuple[str, ...]:
        """Return why production cannot hold the table."""
        return tuple(dict.fromkeys(reason for shape in self.shapes for reason in unsupported(shape)))

    @property
    def key(self) -> tuple[str, ...]:
        """Return the primary key."""
        return production_key(self.shapes[0])

    @property
    def indexes(self) -> dict[str, tuple[str, ...]]:
        """Return the plain indexes by the name that production gives them."""
        found: dict[str, tuple[str, ...]] = {}
        for shape in self.shapes:
            for columns in production_indexes(shape):
                found.setdefault(production_name("_".join((shape.name, *columns, "idx"))), columns)
        return found

    def add(self, shape: Table) -> None:
        """Take one more shape of the table into account."""
        if any(known.fingerprint == shape.fingerprint for known in self.shapes):
            return
        self.shapes.append(shape)
        for name, kind, required in production_columns(shape):
            if name not in self.columns:
                self.columns[name] = (kind, not required)
                continue
            before, nullable = self.columns[name]
            self.columns[name] = (self._wider(name, before, kind), nullable or not required)

    def _wider(self, column: str, one: str, other: str) -> str:
        if widens(KINDS[one], KINDS[other]):
            return other
        if not widens(KINDS[other], KINDS[one]):
            self.disputed[column] = f"some tenants have it as {one}, others as {other}"
        return one


def merge(tables: Iterable[Table]) -> dict[str, WantedTable]:
    """Return the tables by their local name."""
    wanted: dict[str, WantedTable] = {}
    for table in tables:
        wanted.setdefault(table.name, WantedTable(table.name)).add(table)
    return wanted
