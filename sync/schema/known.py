"""What production has, as far as a schema change has to know it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from localstore.schema.postgres import production_columns
from sync.production.describe import ProductionTable
from sync.production.registry import Registered


@dataclass(frozen=True, slots=True)
class Known:
    """What production has of a target: its tables by local name, and the shapes that were registered."""

    target: str
    present: Mapping[str, ProductionTable]
    registered: Mapping[tuple[str, str], Registered]

    def was_ours(self, table: str, column: str) -> bool:
        """Return whether some registered shape of the table has the column; other columns are production's own."""
        return any(
            column == name
            for (registered, _), entry in self.registered.items()
            if registered == table
            for name, _, _ in production_columns(entry.table)
        )
