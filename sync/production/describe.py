"""Production's tables as the server describes them: what a promotion checks before it writes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import asyncpg

from localstore.schema.postgres import production_name
from localstore.schema.tables import Kind
from localstore.schema.types import PRODUCTION_TYPES
from sync.errors import UnknownSchema
from sync.feed import FEED_TRIGGERS
from sync.sql import sql


@dataclass(frozen=True, slots=True)
class ProductionColumn:
    """A column. `type` is `format_type`'s; `identity` is '', 'a' (always) or 'd' (by default).

    `sequence` (quoted, with its schema) is what a default or an identity draws from.
    """

    name: str
    type: str
    not_null: bool
    default: str | None
    identity: str
    generated: bool
    sequence: str | None

    @property
    def has_default(self) -> bool:
        """Return whether a row may leave the column out although it is not null."""
        return self.default is not None or self.identity != "" or self.generated


@dataclass(frozen=True, slots=True)
class Check:
    """A CHECK constraint that is enforced for new rows, as an expression over the table's own column names."""

    name: str
    expression: str
    validated: bool
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unique:
    """A unique constraint or index. With `expressions`, `columns` lacks them; `predicate` makes it partial."""

    name: str
    columns: tuple[str, ...]
    primary: bool
    deferrable: bool
    predicate: str | None
    expressions: bool
    nulls_distinct: bool

    @property
    def plain(self) -> bool:
        """Return whether it covers all rows by columns alone."""
        return self.predicate is None and not self.expressions


@dataclass(frozen=True, slots=True)
class ForeignKeyLink:
    """A foreign key; `child` and `parent` are quoted and with their schemas, columns are in pairs."""

    name: str
    child: str
    child_columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    on_delete: str
    match_full: bool
    deferrable: bool
    validated: bool


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger that is not ours and may change a row or raise; `events` are insert, update, delete."""

    name: str
    function: str
    before: bool
    each_row: bool
    deferrable: bool
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProductionTable:
    """One table of production. `kind` is pg_class's letter, `relation` its quoted name with the schema."""

    target: str
    name: str
    relation: str
    kind: str
    owner: str
    forced: bool
    columns: dict[str, ProductionColumn]
    checks: tuple[Check, ...]
    uniques: tuple[Unique, ...]
    foreign_keys: tuple[ForeignKeyLink, ...]
    referenced_by: tuple[ForeignKeyLink, ...]
    exclusions: tuple[str, ...]
    triggers: tuple[Trigger, ...]
    feed_triggers: frozenset[str]
    policies: dict[str, bool]

    @property
    def primary_key(self) -> Unique | None:
        """Return the primary key."""
        return next((unique for unique in self.uniques if unique.primary), None)

    @property
    def required(self) -> tuple[str, ...]:
        """Return the columns that are not null and have no default."""
        return tuple(column.name for column in self.columns.values() if column.not_null and not column.has_default)


async def describe(connection: asyncpg.Connection, target: str, name: str) -> ProductionTable:
    """Return production's table of that (local) name; raises `UnknownSchema` when there is none."""
    tables = await describe_all(connection, target, (name,))
    if name not in tables:
        raise UnknownSchema(
            f"production has no table {name!r} in schema {target!r}", hint="run `localstore sync schema apply`"
        )
    return tables[name]


async def describe_all(connection: asyncpg.Connection, target: str, names: Iterable[str]) -> dict[str, ProductionTable]:
    """Return the tables of these (local) names that production has, by name, in one query."""
    wanted = {production_name(name): name for name in names}
    rows = await connection.fetch(sql("describe"), target, list(wanted))
    return {wanted[row["name"]]: _table(target, wanted[row["name"]], row) for row in rows}


def _table(target: str, name: str, row: asyncpg.Record) -> ProductionTable:
    parts: dict[str, Any] = {part: found or [] for part, found in json.loads(row["parts"]).items()}
    return ProductionTable(
        target=target,
        name=name,
        relation=row["relation"],
        kind=row["kind"],
        owner=row["owner"],
        forced=row["forced"],
        columns={
            column["name"]: ProductionColumn(**column | {"type": _type(column["type"])}) for column in parts["columns"]
        },
        checks=tuple(Check(**_tupled(check, "columns")) for check in parts["checks"]),
        uniques=tuple(Unique(**_tupled(unique, "columns")) for unique in parts["uniques"]),
        foreign_keys=tuple(_link(link) for link in parts["foreign_keys"]),
        referenced_by=tuple(_link(link) for link in parts["referenced_by"]),
        exclusions=tuple(parts["exclusions"]),
        triggers=tuple(
            Trigger(**_tupled(trigger, "events"))
            for trigger in parts["triggers"]
            if trigger["name"] not in FEED_TRIGGERS
        ),
        feed_triggers=frozenset(trigger["name"] for trigger in parts["triggers"]) & FEED_TRIGGERS.keys(),
        policies={policy["name"]: policy["permissive"] for policy in parts["policies"]},
    )


def _type(shown: str) -> str:
    """Return a type's name; the one of vectors without its schema, which is shown where the search path lacks it."""
    schema, _, name = shown.rpartition(".")
    return name if schema and name == PRODUCTION_TYPES[Kind.VECTOR] else shown


def _link(link: dict[str, Any]) -> ForeignKeyLink:
    return ForeignKeyLink(**_tupled(link, "child_columns", "parent_columns"))


def _tupled(part: dict[str, Any], *names: str) -> dict[str, Any]:
    return part | {name: tuple(part[name] or ()) for name in names}
