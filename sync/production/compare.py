"""What stands between a table's shape and production's table of that name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from localstore.postgres.policies import COMPANY_POLICY, OWNER
from localstore.postgres.quoting import quote_identifier
from localstore.schema.postgres import production_columns, production_key
from localstore.schema.steps import widens
from localstore.schema.tables import Kind, Table
from localstore.schema.types import PRODUCTION_TYPES, TRAVELLING_VECTOR
from sync.feed import FEED_TRIGGERS
from sync.production.describe import ProductionTable

_KINDS: Final = {name: kind for kind, name in PRODUCTION_TYPES.items()} | {TRAVELLING_VECTOR: Kind.VECTOR}


def differences(table: Table, production: ProductionTable) -> tuple[str, ...]:
    """Return each difference for which rows of this shape cannot be promoted; nothing when they can.

    Production may have more columns, where a row can leave them out, and stricter ones: a value that they do not take
    is held by itself. A table that is not ours must also keep tenants apart already; ours is made to.
    """
    if production.kind not in ("r", "p"):
        return ("it is not a table",)
    return (*_columns(table, production), *_key(table, production), *_protection(production))


def remedy(pairs: Iterable[tuple[Table, ProductionTable]]) -> str:
    """Return the next command where production's tables have another shape.

    A change of type takes the flag. It would make a wider column narrow again, and then the file is what follows.
    """
    return remedy_for(
        (kind, production.columns[name].type)
        for table, production in pairs
        for name, kind, _ in production_columns(table)
        if name in production.columns and not fits(kind, production.columns[name].type)
    )


def remedy_for(differing: Iterable[tuple[str, str]]) -> str:
    """Return the next command for columns that have another type than is wanted: pairs of both, or none."""
    types = list(differing)
    kinds = [(_KINDS[wanted], _KINDS.get(there)) for wanted, there in types]
    if any(there is not None and widens(wanted, there) for wanted, there in kinds):
        return "give the file the wider type with `localstore schema apply --models MODULE`, then the same command"
    flag = " --destructive" if types else ""
    return f"run `localstore sync schema apply{flag}` to bring production in line, then the same command again"


def fits(expected: str, actual: str) -> bool:
    """Return whether a column of production has the type that a shape needs, or waits for the extension that has it."""
    return expected == actual or (expected == PRODUCTION_TYPES[Kind.VECTOR] and actual == TRAVELLING_VECTOR)


def _columns(table: Table, production: ProductionTable) -> list[str]:
    expected = production_columns(table)
    company = production_columns(table)[0][0] if not table.has_company else table.company
    found = []
    for name, kind, _ in expected:
        column = production.columns.get(name)
        if column is None:
            found.append(f"column {quote_identifier(name)} is missing")
        elif not fits(kind, column.type):
            found.append(f"column {quote_identifier(name)} is {column.type}, not {kind}")
        elif column.identity == "a":
            found.append(f"column {quote_identifier(name)} is always an identity and takes no value")
        elif name == company and not column.not_null:
            found.append(f"column {quote_identifier(name)} holds the company and may be NULL")
    names = {name for name, _, _ in expected}
    found += [
        f"column {quote_identifier(name)} is NOT NULL without a default and unknown here"
        for name in production.required
        if name not in names
    ]
    return found


def _key(table: Table, production: ProductionTable) -> list[str]:
    key, expected = production.primary_key, production_key(table)
    if key is None:
        return [f"it has no primary key ({', '.join(map(quote_identifier, expected))})"]
    if set(key.columns) != set(expected):
        names = ", ".join(map(quote_identifier, key.columns))
        return [f"its primary key is ({names}), not ({', '.join(map(quote_identifier, expected))})"]
    return ["its primary key is deferrable"] if key.deferrable else []


def _protection(production: ProductionTable) -> list[str]:
    found = [
        f"another permissive policy {quote_identifier(name)} opens it to rows of any company it names"
        for name, permissive in production.policies.items()
        if permissive and name != COMPANY_POLICY
    ]
    if production.owner == OWNER:
        return found
    if not production.forced:
        found.append("row-level security is not forced on it")
    if COMPANY_POLICY not in production.policies:
        found.append(f"the policy {COMPANY_POLICY} is missing")
    if not FEED_TRIGGERS.keys() <= production.feed_triggers:
        found.append("the feed's triggers are missing")
    return found
