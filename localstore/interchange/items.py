"""Tickets, articles and progress on their way from files into rows: what is new, what changed, what stays."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from localstore.interchange import layout, mapping
from localstore.interchange.document import BrokenDocument, parse
from localstore.interchange.mapping import Columns, MappedTicket
from localstore.interchange.rows import (
    ARTICLE_ROWS,
    CONVERSATION_ROWS,
    PROGRESS_ROWS,
    TICKET_ROWS,
    Row,
    Rows,
    differ,
    texts_of,
)
from localstore.sqlite.database import Database

# Times that many payloads lack: the first import's moment stands then, and stays.
STAMPS = ("created_at", "updated_at")


@dataclass(frozen=True, slots=True)
class ItemKind:
    """One folder of the layout and the table that its files go to. Progress has no id of its own."""

    folder: str
    rows: Rows
    id_column: str
    columns: tuple[str, ...]
    identify: Callable[[Mapping[str, Any], str], str]
    map: Callable[[Mapping[str, Any], str], MappedTicket]

    @property
    def has_id(self) -> bool:
        """Return whether a row's key has an id beside company and platform."""
        return self.id_column != "platform"

    def key(self, key: tuple[str, str], item_id: str) -> tuple[str, ...]:
        """Return a row's key."""
        return (*key, item_id) if self.has_id else key


TICKET = ItemKind(
    layout.TICKETS, TICKET_ROWS, "ticket_id", mapping.TICKET_COLUMNS, mapping.ticket_id, mapping.map_ticket
)
ARTICLE = ItemKind(
    layout.ARTICLES,
    ARTICLE_ROWS,
    "article_id",
    mapping.ARTICLE_COLUMNS,
    mapping.article_id,
    lambda payload, _platform: MappedTicket(mapping.map_article(payload), {}),
)
PROGRESS = ItemKind(
    layout.PROGRESS,
    PROGRESS_ROWS,
    "platform",
    mapping.PROGRESS_COLUMNS,
    lambda _payload, stem: stem,
    lambda payload, _platform: MappedTicket(mapping.map_progress(payload), {}),
)


@dataclass(slots=True)
class Counts:
    """How many rows an import found new, changed, as they were, or gone from their payload."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    deleted: int = 0

    def add(self, other: Counts) -> None:
        """Add another count to this one."""
        self.new += other.new
        self.changed += other.changed
        self.unchanged += other.unchanged
        self.deleted += other.deleted

    def to_json(self) -> dict[str, int]:
        """Return it as plain JSON values."""
        return {"new": self.new, "changed": self.changed, "unchanged": self.unchanged, "deleted": self.deleted}


@dataclass(frozen=True, slots=True)
class Item:
    """A file that was read: its id, its text and what that means."""

    path: Path
    item_id: str
    text: str
    mapped: MappedTicket = field(repr=False)


def read_item(kind: ItemKind, platform: str, path: Path, text: str, payload: Mapping[str, Any]) -> Item:
    """Return what a file says; raises `BadIdentifier`."""
    item_id = kind.identify(payload, path.stem) if kind.has_id else platform
    return Item(path, item_id, text, kind.map(payload, platform))


async def save_items(
    database: Database, kind: ItemKind, key: tuple[str, str], items: list[Item], moment: datetime
) -> dict[str, Counts]:
    """Write what is new or changed in one transaction, and nothing where nothing is. Safe to repeat."""
    counts = {kind.folder: Counts(), CONVERSATION_ROWS.table.name: Counts()}
    if kind is not TICKET:
        del counts[CONVERSATION_ROWS.table.name]
    ids = [item.item_id for item in items]
    stored = await database.read(
        lambda connection: texts_of(connection, kind.rows, kind.id_column, "raw_data", key, ids)
    )
    pending = [item for item in items if stored.get(item.item_id) != item.text.encode()]
    waiting = {item.item_id for item in pending}
    counts[kind.folder].unchanged = len(items) - len(pending)
    if kind is TICKET:
        counts[CONVERSATION_ROWS.table.name].unchanged = sum(
            len(item.mapped.conversations) for item in items if item.item_id not in waiting
        )
    if pending:
        written = await database.write(lambda connection: _write(connection, kind, key, pending, moment))
        for name, more in written.items():
            counts[name].add(more)
    return counts


def _write(
    connection: sqlite3.Connection, kind: ItemKind, key: tuple[str, str], items: list[Item], moment: datetime
) -> dict[str, Counts]:
    own, conversations = Counts(), Counts()
    for item in items:
        row_key = kind.key(key, item.item_id)
        row = kind.rows.find(connection, row_key)
        if row is None:
            kind.rows.insert(connection, _new_row(kind, row_key, item, moment))
            own.new += 1
        elif changes := _changes(kind, key[1], row, item, moment):
            kind.rows.update(connection, row_key, changes)
            own.changed += 1
        else:
            own.unchanged += 1
        before = {} if row is None else _mapped(kind, key[1], row).conversations
        _write_conversations(connection, row_key, before, item.mapped.conversations, conversations)
    return {kind.folder: own, CONVERSATION_ROWS.table.name: conversations} if kind is TICKET else {kind.folder: own}


def _new_row(kind: ItemKind, row_key: tuple[str, ...], item: Item, moment: datetime) -> Row:
    row: Row = dict(zip(kind.rows.table.key, row_key, strict=True)) | item.mapped.columns | {"raw_data": item.text}
    for stamp in STAMPS:
        row[stamp] = row[stamp] or moment
    return row


def _changes(kind: ItemKind, platform: str, row: Row, item: Item, moment: datetime) -> Columns:
    """Return what a new payload changes in its row: the columns that it gives another value than the old one did."""
    before, after = _mapped(kind, platform, row).columns, item.mapped.columns
    changes = {
        name: after[name]
        for name in kind.columns
        if differ(before[name], after[name]) and differ(row[name], after[name])
    }
    for stamp in STAMPS:
        if stamp in changes and changes[stamp] is None:
            del changes[stamp]
    if row["raw_data"] != item.text:
        changes["raw_data"] = item.text
    if changes and after["updated_at"] is None:
        changes["updated_at"] = moment
    return changes


def _mapped(kind: ItemKind, platform: str, row: Row) -> MappedTicket:
    try:
        return kind.map(parse(row["raw_data"] or "{}"), platform)
    except BrokenDocument:
        return kind.map({}, platform)


def _write_conversations(
    connection: sqlite3.Connection,
    ticket_key: tuple[str, ...],
    before: Mapping[str, Columns],
    after: Mapping[str, Columns],
    counts: Counts,
) -> None:
    for conversation_id, columns in after.items():
        key = (*ticket_key, conversation_id)
        old = before.get(conversation_id)
        changed = [name for name in columns if old is None or differ(old[name], columns[name])]
        if not changed:
            counts.unchanged += 1
            continue
        row = CONVERSATION_ROWS.find(connection, key)
        if row is None:
            CONVERSATION_ROWS.insert(connection, dict(zip(CONVERSATION_ROWS.table.key, key, strict=True)) | columns)
            counts.new += 1
        elif changes := {name: columns[name] for name in changed if differ(row[name], columns[name])}:
            CONVERSATION_ROWS.update(connection, key, changes)
            counts.changed += 1
        else:
            counts.unchanged += 1
    for conversation_id in before.keys() - after.keys():
        counts.deleted += CONVERSATION_ROWS.delete(connection, (*ticket_key, conversation_id))
