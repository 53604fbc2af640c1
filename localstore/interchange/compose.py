"""The text of an exported file: the payload as it came, with what was edited since as top-level members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from localstore.interchange.document import BrokenDocument, dump, parse, replace_members
from localstore.interchange.items import PROGRESS, STAMPS, TICKET, ItemKind
from localstore.interchange.layout import PROGRESS_FILE, Names
from localstore.interchange.mapping import (
    CONVERSATION_COLUMNS,
    CONVERSATIONS,
    EDITED,
    BadIdentifier,
    Columns,
    map_summary,
)
from localstore.interchange.rows import Row, differ
from localstore.interchange.values import time_text

_NOTHING = "{}"


@dataclass(frozen=True, slots=True)
class Composed:
    """A file to write. `summary` is what its payload itself says about the summary, `complaint` what was lost."""

    name: str
    text: str
    edited: bool = False
    summary: Any = None
    complaint: str = ""


def compose_item(
    kind: ItemKind, row: Row, conversations: Mapping[str, Row], names: Names, *, embed_summary: bool = False
) -> Composed:
    """Return the file of a ticket, an article or a progress.

    A summary has a file of its own, and is among the members only with `embed_summary` or where it was taken away.
    """
    text, payload, complaint = _payload(row)
    mapped = kind.map(payload, row["platform"])
    edited = {
        name: row[name]
        for name in kind.columns
        if differ(row[name], mapped.columns[name])
        and not (name in STAMPS and mapped.columns[name] is None)
        and (name != "summary" or embed_summary or _is_taken_away(row))
    }
    members: dict[str, Any] = {name: _as_json(value) for name, value in edited.items()}
    if kind is TICKET and _conversations_differ(conversations, mapped.conversations):
        members[CONVERSATIONS] = _entries(payload, conversations)
    name = _name(kind, row, payload, names)
    if name is None:
        name = names.similar(row[kind.id_column])
        members = {kind.id_column: row[kind.id_column]} | members
    if members:
        members |= {
            stamp: _as_json(row[stamp]) for stamp in STAMPS if mapped.columns[stamp] is None and row[stamp] is not None
        }
        marked = payload.get(EDITED)
        before = [word for word in marked if isinstance(word, str)] if isinstance(marked, list) else []
        members[EDITED] = sorted({*before, *members} - {kind.id_column})
        text = replace_members(text, members)
    return Composed(name, text, bool(members), mapped.columns.get("summary"), complaint)


def compose_summary(kind: ItemKind, row: Row, in_payload: Any, names: Names) -> Composed | None:
    """Return the file of a row's summary; None where there is none or where the payload itself holds it."""
    raw, summary, item_id = row["raw_summary"], row["summary"], row[kind.id_column]
    if raw is None and (summary is None or not differ(summary, in_payload)):
        return None
    name = names.exactly(item_id)
    as_it_came = raw is not None and _says(raw, name, item_id, summary)
    return Composed(name or names.similar(item_id), raw if as_it_came else _record(row, item_id, summary))


def _payload(row: Row) -> tuple[str, dict[str, Any], str]:
    text = row["raw_data"]
    if text is None:
        return _NOTHING, {}, ""
    try:
        return text, parse(text), ""
    except BrokenDocument as error:
        return _NOTHING, {}, f"raw_data is {error}; only the columns were exported"


def _is_taken_away(row: Row) -> bool:
    return row["summary"] is None and row["raw_summary"] is None


def _conversations_differ(rows: Mapping[str, Row], mapped: Mapping[str, Columns]) -> bool:
    return rows.keys() != mapped.keys() or any(
        differ(rows[name][column], columns[column]) for name, columns in mapped.items() for column in columns
    )


def _entries(payload: Mapping[str, Any], rows: Mapping[str, Row]) -> list[dict[str, Any]]:
    """Return the conversations by our columns, each over the help desk's own entry where the payload has one here."""
    listed = payload.get(CONVERSATIONS)
    native: dict[str, dict[str, Any]] = {}
    for entry in listed if isinstance(listed, list) else ():
        if isinstance(entry, dict):
            native[str(entry.get("conversation_id", entry.get("id")))] = entry
    return [
        native.get(name, {})
        | {"conversation_id": name}
        | {column: _as_json(row[column]) for column in CONVERSATION_COLUMNS}
        for name, row in rows.items()
    ]


def _name(kind: ItemKind, row: Row, payload: Mapping[str, Any], names: Names) -> str | None:
    """Return a file name from which, or beside which, an import takes the row's id; None if the payload must say it."""
    if kind is PROGRESS:
        return PROGRESS_FILE.removesuffix(".json")
    item_id = row[kind.id_column]
    try:
        if kind.identify(payload, "") == item_id:
            return names.similar(item_id)
    except BadIdentifier:
        # The payload holds no id, so that the file's name is one.
        return names.exactly(item_id)
    return None


def _says(raw: str, stem: str | None, item_id: str, summary: Any) -> bool:
    """Return whether an import of this text under this name gives the summary to the item."""
    try:
        mapped = map_summary(parse(raw), stem or "")
    except (BrokenDocument, BadIdentifier):
        return False
    return mapped.item_id == item_id and not differ(mapped.summary, summary)


def _record(row: Row, item_id: str, summary: Any) -> str:
    record = {"company_id": row["company_id"], "platform": row["platform"], "item_id": item_id, "summary": summary}
    return dump(record, indent=True)


def _as_json(value: Any) -> Any:
    return time_text(value) if isinstance(value, datetime) else value
