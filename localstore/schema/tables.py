"""Tables as values: what capture, staging, promotion and verification know of a table.

A `Table` is read from SQLModel models or from a SQLite file, is kept as JSON in the tenant's file (so that the
command never imports user code), and is all that production's tables are made from.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

COMPANY_COLUMN = "company_id"


class Kind(StrEnum):
    """What a column means, whatever SQLite lets it hold. Each kind has one production type."""

    TEXT = "text"
    INTEGER = "integer"
    REAL = "real"
    NUMERIC = "numeric"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"
    DATE = "date"
    TIME = "time"
    UUID = "uuid"
    JSON = "json"
    BLOB = "blob"
    VECTOR = "vector"


class Policy(StrEnum):
    """What happens to a column that both sides changed."""

    MANUAL = "manual"
    LOCAL = "local"
    PRODUCTION = "production"
    MAX = "max"
    MIN = "min"


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `declared` is SQLite's declared type as written; `computed` columns are neither sent nor compared."""

    name: str
    kind: Kind
    nullable: bool = True
    policy: Policy = Policy.MANUAL
    computed: bool = False
    declared: str = ""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """Columns of this table that name a row of `parent` by `parent_columns`."""

    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    on_delete: str = "NO ACTION"


@dataclass(frozen=True, slots=True)
class Index:
    """A plain index, made in production too."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """One tracked table. Columns keep their ordinals for good; new ones are appended.

    `key` is the local primary key (with the company column where it is part of it). `company` is the name of the
    column that holds the tenant in production; `has_company` says whether the local table has that column too.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    uniques: tuple[tuple[str, ...], ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    indexes: tuple[Index, ...] = ()
    company: str = COMPANY_COLUMN
    has_company: bool = True

    @cached_property
    def by_name(self) -> dict[str, Column]:
        """Return the columns by name."""
        return {column.name: column for column in self.columns}

    @cached_property
    def ordinal(self) -> dict[str, int]:
        """Return each column's place in `columns`."""
        return {column.name: place for place, column in enumerate(self.columns)}

    @cached_property
    def sent(self) -> tuple[Column, ...]:
        """Return the columns that travel: all but the computed ones."""
        return tuple(column for column in self.columns if not column.computed)

    @cached_property
    def key_parts(self) -> tuple[str, ...]:
        """Return the key without the company column: what a row's address is made of."""
        return tuple(name for name in self.key if name != self.company)

    @cached_property
    def production_key(self) -> tuple[str, ...]:
        """Return production's primary key: the company column, then the rest."""
        return (self.company, *self.key_parts)

    @cached_property
    def fingerprint(self) -> str:
        """Return 16 hex digits over all that production depends on; equal tables have equal fingerprints."""
        shape = self.to_json()
        for column in shape["columns"]:
            del column["declared"]
        canonical = json.dumps(shape, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the table as plain JSON values."""
        return {
            "name": self.name,
            "columns": [
                {
                    "name": column.name,
                    "kind": column.kind.value,
                    "nullable": column.nullable,
                    "policy": column.policy.value,
                    "computed": column.computed,
                    "declared": column.declared,
                }
                for column in self.columns
            ],
            "key": list(self.key),
            "uniques": [list(unique) for unique in self.uniques],
            "foreign_keys": [
                {
                    "columns": list(key.columns),
                    "parent": key.parent,
                    "parent_columns": list(key.parent_columns),
                    "on_delete": key.on_delete,
                }
                for key in self.foreign_keys
            ],
            "indexes": [{"name": index.name, "columns": list(index.columns)} for index in self.indexes],
            "company": self.company,
            "has_company": self.has_company,
        }

    @classmethod
    def from_json(cls, shape: dict[str, Any]) -> Table:
        """Build the table that `to_json` described."""
        return cls(
            name=shape["name"],
            columns=tuple(
                Column(
                    name=column["name"],
                    kind=Kind(column["kind"]),
                    nullable=column["nullable"],
                    policy=Policy(column["policy"]),
                    computed=column["computed"],
                    declared=column["declared"],
                )
                for column in shape["columns"]
            ),
            key=tuple(shape["key"]),
            uniques=tuple(tuple(unique) for unique in shape["uniques"]),
            foreign_keys=tuple(
                ForeignKey(
                    columns=tuple(key["columns"]),
                    parent=key["parent"],
                    parent_columns=tuple(key["parent_columns"]),
                    on_delete=key["on_delete"],
                )
                for key in shape["foreign_keys"]
            ),
            indexes=tuple(Index(index["name"], tuple(index["columns"])) for index in shape["indexes"]),
            company=shape["company"],
            has_company=shape["has_company"],
        )


def address(table: str, key_parts: tuple[object, ...]) -> str:
    """Return a row's address, `table/keypart/…`, without the company."""
    return "/".join((table, *(str(part) for part in key_parts)))


def parents_first(tables: tuple[Table, ...]) -> tuple[Table, ...]:
    """Return the tables so that a parent stands before its children; members of a cycle keep their order."""
    waiting = {table.name: table for table in tables}
    ordered: list[Table] = []
    while waiting:
        ready = [
            table
            for table in waiting.values()
            if not any(key.parent in waiting and key.parent != table.name for key in table.foreign_keys)
        ] or [next(iter(waiting.values()))]
        for table in ready:
            ordered.append(table)
            del waiting[table.name]
    return tuple(ordered)
