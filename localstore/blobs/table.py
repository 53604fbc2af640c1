"""The table of blobs' rows, by name and shape: for whoever handles it as any table and loads no model."""

from __future__ import annotations

from typing import Final

from localstore.schema.tables import Table

TABLE: Final = "blobs"

HASH: Final = "hash"
"""The column that names the object which holds a blob's bytes."""

_SHAPE: Final = frozenset({"company_id", "key", "size", HASH, "content_type", "folded"})


def hash_place(table: Table) -> int | None:
    """Return the place of the column that names an object, None for a table that is not the one of blobs."""
    names = [column.name for column in table.sent]
    return names.index(HASH) if table.name == TABLE and _SHAPE.issubset(names) else None
