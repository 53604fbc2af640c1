"""The shape of a staging table: which column holds what, for the writer of bundles and for the SQL of promotion.

A staged row is a fixed head, then the new value of every sent column (`n0`, `n1`, …), then every base (`b0`, `b1`, …).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import asyncpg

from localstore.postgres.policies import PROMOTER
from localstore.postgres.quoting import quote_identifier
from localstore.schema.postgres import COPIED_COLUMNS, production_name
from localstore.schema.tables import Column, Kind, Table
from localstore.schema.types import travelling_type
from sync.ledger import Entry
from sync.production.registry import Registered


@dataclass(frozen=True)
class Staging:
    """A table as it lies in staging. `relation` is the quoted, schema-qualified staging table."""

    table: Table
    relation: str

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Return the columns that travel, in the order of their ordinals."""
        return self.table.sent

    @cached_property
    def place(self) -> dict[str, int]:
        """Return each sent column's place."""
        return {column.name: place for place, column in enumerate(self.columns)}

    @cached_property
    def copy_columns(self) -> tuple[str, ...]:
        """Return the columns of a COPY into staging, in order."""
        count = len(self.columns)
        return (*COPIED_COLUMNS, *(f"n{place}" for place in range(count)), *(f"b{place}" for place in range(count)))

    @cached_property
    def key_places(self) -> tuple[int, ...]:
        """Return the places of the key's parts, the company left out."""
        return tuple(self.place[name] for name in self.table.key_parts)

    @cached_property
    def value_places(self) -> tuple[int, ...]:
        """Return the places of the columns that an update may change: neither key nor company."""
        fixed = {*self.table.key, self.table.company}
        return tuple(place for place, column in enumerate(self.columns) if column.name not in fixed)

    @cached_property
    def many_spellings(self) -> bool:
        """Return whether two keys that differ in the file can be one in production: UUIDs, times, untyped values."""
        keys = [self.columns[place] for place in self.key_places]
        return any(column.kind not in ONE_SPELLING or not column.declared for column in keys)

    def quoted(self, place: int) -> str:
        """Return the production column's quoted name."""
        return quote_identifier(production_name(self.columns[place].name))

    @cached_property
    def company(self) -> str:
        """Return the quoted name of production's company column."""
        return quote_identifier(production_name(self.table.company))

    def read(self, place: int, alias: str = "t") -> str:
        """Return the expression that reads the production column `alias` has, in the type in which it travels."""
        column = f"{alias}.{self.quoted(place)}"
        return f"{column}::{self.type(place)}" if self.columns[place].kind is Kind.VECTOR else column

    def type(self, place: int) -> str:
        """Return the type in which the column travels."""
        return travelling_type(self.columns[place].kind)

    def bit(self, place: int, alias: str = "s") -> str:
        """Return the test whether a staged update changes the column."""
        return f"get_bit({alias}.changed, {place}) = 1"

    def key_text(self, alias: str, prefix: str = "n") -> str:
        """Return the key's parts as a text array read from staged columns."""
        return "ARRAY[" + ", ".join(f"{alias}.{prefix}{place}::text" for place in self.key_places) + "]::text[]"


ONE_SPELLING = frozenset({Kind.TEXT, Kind.INTEGER, Kind.BLOB})
"""Kinds of which SQLite stores equal values equally, as long as the column declares them."""

UNDO_DAYS = 30
"""How long a promotion can be taken back."""

ANALYZED_ROWS_MIN = 20
"""Below this, any plan is fast enough and statistics cost more than they save."""


async def analyze(connection: asyncpg.Connection, staging: Staging, rows: int) -> None:
    """Tell the planner what was just staged, unless it is little."""
    if rows >= ANALYZED_ROWS_MIN:
        columns = ["batch", "ordinal", "op", "reason", *(f"n{place}" for place in staging.key_places)]
        await connection.execute("SELECT localstore.analyze_staging($1, $2)", staging.relation, columns)


async def sweep(connection: asyncpg.Connection, entry: Entry, known: Mapping[tuple[str, str], Registered]) -> None:
    """Remove a promoted or withdrawn batch's staged rows, which nobody needs any more, and undo that has expired."""
    async with connection.transaction():
        await connection.execute(f"SET LOCAL ROLE {quote_identifier(PROMOTER)}")
        for shape in entry.manifest["fingerprints"].items():
            if shape in known:
                await connection.execute(f"DELETE FROM {known[shape].staging} WHERE batch = $1", entry.batch)
        await connection.execute("DELETE FROM localstore.chunks WHERE batch = $1", entry.batch)
        await connection.execute(
            "DELETE FROM localstore.undo u USING localstore.ledger l WHERE l.company_id = $1 AND u.batch = l.batch "
            "AND l.promoted_at < now() - make_interval(days => $2)",
            entry.company_id,
            UNDO_DAYS,
        )
