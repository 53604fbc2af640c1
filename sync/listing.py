"""Held changes as lists, read from production or, offline, from the tenant's file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import asyncpg
import orjson

from localstore.schema.tables import Table
from sync.results import HeldItem

QUARANTINE = ("value", "constraint", "waits")
CONFLICTS = ("conflict",)


async def held_in_production(
    connection: asyncpg.Connection, tenants: Sequence[str] | None, target: str, tables: dict[str, Table]
) -> list[HeldItem]:
    """Return what production holds, for all companies or some."""
    rows = await connection.fetch(
        "SELECT company_id, tbl, key, base::text, value::text, production::text, reason, column_name, detail, "
        "waits_for, batch::text, since FROM localstore.held WHERE target = $2 "
        "AND ($1::text[] IS NULL OR company_id = ANY ($1)) ORDER BY company_id, id",
        None if tenants is None else list(tenants),
        target,
    )
    return [
        _item(row["company_id"], {**row, "key": row["key"], "since": row["since"].isoformat()}, tables.get(row["tbl"]))
        for row in rows
    ]


def held_in_file(connection: sqlite3.Connection, tenant: str, tables: dict[str, Table]) -> list[HeldItem]:
    """Return what the tenant's file knows to be held."""
    names = (
        "tbl",
        "key",
        "base",
        "value",
        "production",
        "reason",
        "column_name",
        "detail",
        "waits_for",
        "batch",
        "since",
    )
    rows = connection.execute(f"SELECT {', '.join(names)} FROM localstore_held ORDER BY rowid")
    found = []
    for values in rows:
        row = dict(zip(names, values, strict=True))
        row["key"] = orjson.loads(row["key"])
        found.append(_item(tenant, row, tables.get(row["tbl"])))
    return found


def of_reasons(items: Iterable[HeldItem], reasons: Sequence[str]) -> list[HeldItem]:
    """Return the items held for one of these reasons."""
    return [item for item in items if item.reason in reasons]


def _item(tenant: str, row: dict[str, Any], table: Table | None) -> HeldItem:
    parts = row["key"]
    names = table.key_parts if table is not None else tuple(f"key{at}" for at in range(len(parts)))
    return HeldItem(
        tenant=tenant,
        batch=row["batch"],
        table=row["tbl"],
        key=dict(zip(names, parts, strict=False)),
        column=row["column_name"],
        base=_object(row["base"]),
        local=_object(row["value"]),
        production=_object(row["production"]),
        reason=row["reason"],
        since=row["since"],
        detail=row["detail"],
        waits_for=row["waits_for"],
        held_as=tuple(parts),
    )


def _object(text: str | None) -> dict[str, str | None] | None:
    return None if text is None else orjson.loads(text)
