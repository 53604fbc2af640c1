"""What a new payload changes in what is stored: a pure function, so that every backend does the same.

Only the columns change to which the new payload gives another value than the old one did, as an import does it: what
was set here since (a processing status, a summary, an edited title) outlives the next collection of the same ticket.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from localstore.columns import RawJSON, parse_json
from localstore.interchange.items import STAMPS, ItemKind
from localstore.interchange.mapping import Columns, MappedTicket
from localstore.interchange.rows import CONVERSATION_ROWS, RAW_COLUMNS, Row, Rows
from localstore.schema.tables import Kind
from localstore.storage.payload import Incoming, write_json


@dataclass(frozen=True, slots=True)
class Conversations:
    """New rows, changed columns by conversation id, and the ids that are gone."""

    new: tuple[Row, ...] = ()
    changed: tuple[tuple[str, Columns], ...] = ()
    gone: tuple[str, ...] = ()


def new_row(kind: ItemKind, key: tuple[str, ...], incoming: Incoming, moment: datetime) -> Row:
    """Return the row of an item that is not there yet; times that the payload lacks are `moment`."""
    row: Row = dict(zip(kind.rows.table.key, key, strict=True)) | incoming.mapped.columns
    row["raw_data"] = incoming.text
    for stamp in STAMPS:
        row[stamp] = row[stamp] or moment
    return row


def changed_columns(kind: ItemKind, row: Row, incoming: Incoming, moment: datetime) -> Columns:
    """Return the columns to set in the row that is there; nothing where the payload is stored already."""
    before, after = mapped(kind, row).columns, incoming.mapped.columns
    changes = {
        name: after[name]
        for name in kind.columns
        if not same(before[name], after[name]) and not same(row[name], after[name])
    }
    for stamp in STAMPS:
        if stamp in changes and changes[stamp] is None:
            del changes[stamp]
    if not same(_parsed(row["raw_data"]), incoming.payload):
        changes["raw_data"] = incoming.text
    if changes and after["updated_at"] is None:
        changes["updated_at"] = moment
    return changes


def changed_conversations(
    ticket_key: tuple[str, ...], before: Mapping[str, Columns], after: Mapping[str, Columns], stored: Iterable[Row]
) -> Conversations:
    """Return what two payloads' conversations change in the stored ones; those that neither names stay."""
    rows = {row["conversation_id"]: row for row in stored}
    names = CONVERSATION_ROWS.table.key
    new, changed = [], []
    for conversation_id, columns in after.items():
        old = before.get(conversation_id)
        differing = [name for name in columns if old is None or not same(old[name], columns[name])]
        if not differing:
            continue
        row = rows.get(conversation_id)
        if row is None:
            new.append(dict(zip(names, (*ticket_key, conversation_id), strict=True)) | columns)
        elif changes := {name: columns[name] for name in differing if not same(row[name], columns[name])}:
            changed.append((conversation_id, changes))
    gone = tuple(name for name in before if name not in after and name in rows)
    return Conversations(tuple(new), tuple(changed), gone)


def written(rows: Rows, columns: Columns) -> Columns:
    """Return the columns as they are stored: documents as text, which is the same text in every backend."""
    by_name = rows.table.by_name
    return {
        name: value
        if value is None or isinstance(value, RawJSON) or name in RAW_COLUMNS or by_name[name].kind is not Kind.JSON
        else RawJSON(write_json(value, f"{rows.table.name}.{name}"))
        for name, value in columns.items()
    }


def mapped(kind: ItemKind, row: Row) -> MappedTicket:
    """Return what the stored payload says."""
    payload = _parsed(row["raw_data"])
    return kind.map(payload if isinstance(payload, dict) else {}, row["platform"])


def same(a: Any, b: Any) -> bool:
    """Return whether two values are the same as JSON, where 1, 1.0 and true are three; order of members aside."""
    match a, b:
        case (dict(), dict()):
            return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
        case (list(), list()):
            return len(a) == len(b) and all(map(same, a, b))
        case _:
            return type(a) is type(b) and bool(a == b)


def _parsed(text: str | None) -> Any:
    return None if text is None else parse_json(text)
