"""Summaries on their way from files into the tickets and articles that they are about."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localstore.interchange.document import BrokenDocument, parse
from localstore.interchange.items import ARTICLE, TICKET, Counts
from localstore.interchange.mapping import map_summary
from localstore.interchange.rows import Row, differ, texts_of
from localstore.sqlite.database import Database


@dataclass(frozen=True, slots=True)
class SummaryItem:
    """A summary's file that was read."""

    path: Path
    item_id: str
    text: str
    summary: Any


def read_summary(path: Path, text: str, payload: Mapping[str, Any]) -> SummaryItem:
    """Return what a file says; raises `BadIdentifier`."""
    mapped = map_summary(payload, path.stem)
    return SummaryItem(path, mapped.item_id, text, mapped.summary)


async def save_summaries(
    database: Database, key: tuple[str, str], items: list[SummaryItem]
) -> tuple[Counts, list[SummaryItem]]:
    """Write the summaries that are new or changed; return the counts and those whose item is not there."""
    ids = [item.item_id for item in items]

    def stored(connection: sqlite3.Connection) -> dict[str, bytes | None]:
        # A ticket takes precedence over an article of the same id.
        return texts_of(connection, ARTICLE.rows, ARTICLE.id_column, "raw_summary", key, ids) | texts_of(
            connection, TICKET.rows, TICKET.id_column, "raw_summary", key, ids
        )

    known = await database.read(stored)
    orphans = [item for item in items if item.item_id not in known]
    pending = [item for item in items if item.item_id in known and known[item.item_id] != item.text.encode()]
    counts = Counts(unchanged=len(items) - len(orphans) - len(pending))
    if pending:
        counts.add(await database.write(lambda connection: _write(connection, key, pending)))
    return counts, orphans


def _write(connection: sqlite3.Connection, key: tuple[str, str], items: list[SummaryItem]) -> Counts:
    counts = Counts()
    for item in items:
        for kind in (TICKET, ARTICLE):
            row_key = kind.key(key, item.item_id)
            row = kind.rows.find(connection, row_key)
            if row is not None:
                changes = {"raw_summary": item.text}
                if _is_new(row, item) and differ(row["summary"], item.summary):
                    changes["summary"] = item.summary
                kind.rows.update(connection, row_key, changes)
                if row["raw_summary"] is None and row["summary"] is None:
                    counts.new += 1
                else:
                    counts.changed += 1
                break
    return counts


def _is_new(row: Row, item: SummaryItem) -> bool:
    """Return whether the file says something else than the file that was imported before."""
    if row["raw_summary"] is None:
        return True
    try:
        before = map_summary(parse(row["raw_summary"]), item.path.stem).summary
    except (BrokenDocument, ValueError):
        return True
    return differ(before, item.summary)
