"""From a payload to columns: which fields of which help desk mean what in our tables. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from localstore.interchange import flat, jira
from localstore.interchange.values import first_text, storable_json, text_of, time_of

# The member of an exported payload that names its edited columns: their top-level members win at import, null included.
EDITED = "localstore_edited"
CONVERSATIONS = "conversations"

# A key goes into Postgres' indexes, whose entries are limited to 2,704 bytes together with company and platform.
ID_CHARACTERS_MAX = 255

PENDING = "pending"

Columns = dict[str, Any]


class BadIdentifier(ValueError):
    """Raised when a payload's id cannot be a key; its message is the reason."""


@dataclass(frozen=True, slots=True)
class MappedTicket:
    """A ticket's columns and its conversations' columns by conversation id."""

    columns: Columns
    conversations: dict[str, Columns]


@dataclass(frozen=True, slots=True)
class MappedSummary:
    """A summary and the ticket or article it is about."""

    item_id: str
    summary: Any


def ticket_id(payload: Mapping[str, Any], stem: str) -> str:
    """Return the ticket's id: `ticket_id`, else `key`, else `id`, else the file's stem."""
    return _identifier(payload, ("ticket_id", "key", "id"), stem)


def article_id(payload: Mapping[str, Any], stem: str) -> str:
    """Return the article's id: `article_id`, else `key`, else `id`, else the file's stem."""
    return _identifier(payload, ("article_id", "key", "id"), stem)


def map_ticket(payload: Mapping[str, Any], platform: str) -> MappedTicket:
    """Return a ticket's columns (without its key) and conversations."""
    if jira.is_jira(payload):
        native, spoken_for = jira.ticket_columns(payload), frozenset[str]()
    else:
        native, spoken_for = flat.ticket_columns(payload, platform), _FLAT_MEMBERS
    columns = native | {
        "summary": storable_json(summary) if isinstance(summary := payload.get("summary"), dict) else None,
        "is_processed": payload.get("is_processed") is True,
        "processed_data": storable_json(payload.get("processed_data")),
        "processing_status": text_of(payload.get("processing_status")) or PENDING,
    }
    edited = _edited(payload)
    _overlay(columns, payload, _TICKET_READERS, edited, spoken_for)
    return MappedTicket(columns, _conversations(payload, exact=CONVERSATIONS in edited))


def map_article(payload: Mapping[str, Any]) -> Columns:
    """Return an article's columns (without its key)."""
    columns: Columns = {
        "title": first_text(payload, "title", "subject", "name"),
        "content": first_text(payload, "content", "description_text", "description", "body", "text"),
        "summary": storable_json(summary) if isinstance(summary := payload.get("summary"), dict) else None,
        "created_at": time_of(payload.get("created_at")),
        "updated_at": time_of(payload.get("updated_at")),
    }
    _overlay(columns, payload, _ARTICLE_READERS, _edited(payload), _FLAT_MEMBERS)
    return columns


def map_progress(payload: Mapping[str, Any]) -> Columns:
    """Return the columns of a platform's processing progress."""
    columns: Columns = {
        "total_items": _first(_whole, payload, "total_items", "total_tickets", "total"),
        "processed_items": _first(_whole, payload, "processed_items", "processed_tickets", "processed"),
        "failed_items": _first(_whole, payload, "failed_items", "failed_tickets", "failed"),
        "progress_percentage": _number(payload.get("progress_percentage")),
        "last_updated": time_of(payload.get("last_updated")),
        "created_at": time_of(payload.get("created_at")),
        "updated_at": time_of(payload.get("updated_at")),
    }
    _overlay(columns, payload, _PROGRESS_READERS, _edited(payload))
    return columns


def map_summary(payload: Mapping[str, Any], stem: str) -> MappedSummary:
    """Return a summary and what it is about: `item_id`, else `ticket_id`, else `article_id`, else the file's stem.

    The summary is the member `summary` of a record, which is told by its `item_id` or by that member being an object;
    any other object is a summary itself.
    """
    item_id = _identifier(payload, ("item_id", "ticket_id", "article_id"), stem)
    inner = payload.get("summary")
    is_record = isinstance(inner, dict) or ("summary" in payload and "item_id" in payload)
    summary = inner if is_record else dict(payload)
    return MappedSummary(item_id, storable_json(summary))


def _identifier(payload: Mapping[str, Any], names: Iterable[str], stem: str) -> str:
    for name in names:
        value = payload.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str) and value:
            return _checked(value, f"the value of “{name}”")
    return _checked(stem, "the file's name")


def _checked(text: str, what: str) -> str:
    if len(text) > ID_CHARACTERS_MAX:
        raise BadIdentifier(f"{what} cannot be an id: it is longer than {ID_CHARACTERS_MAX} characters")
    if not text.strip() or not text.isprintable():
        raise BadIdentifier(f"{what} cannot be an id: it holds characters that cannot be seen")
    return text


def _conversations(payload: Mapping[str, Any], *, exact: bool) -> dict[str, Columns]:
    """Return the conversations by id; one without an id is named by its place, a second one of an id by both."""
    found: dict[str, Columns] = {}
    if exact:
        entries: Iterable[Columns] = _exact_conversations(payload)
    elif jira.is_jira(payload):
        entries = jira.conversations(payload)
    else:
        entries = flat.conversations(payload)
    for place, columns in enumerate(entries, 1):
        conversation_id = columns.pop("conversation_id") or ""
        if not conversation_id.isprintable() or len(conversation_id) > ID_CHARACTERS_MAX:
            conversation_id = ""
        if not conversation_id or conversation_id in found:
            conversation_id = f"{conversation_id}#{place}"
        found[conversation_id] = _NO_CONVERSATION | columns
    return found


def _exact_conversations(payload: Mapping[str, Any]) -> Iterable[Columns]:
    entries = payload.get(CONVERSATIONS)
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            columns: Columns = {"conversation_id": text_of(entry.get("conversation_id"))}
            _overlay(columns, entry, _CONVERSATION_READERS, frozenset(_CONVERSATION_READERS))
            yield columns


def _edited(payload: Mapping[str, Any]) -> frozenset[str]:
    names = payload.get(EDITED)
    return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()


def _overlay(
    columns: Columns,
    payload: Mapping[str, Any],
    readers: Mapping[str, Callable[[Any], Any]],
    edited: frozenset[str],
    spoken_for: frozenset[str] = frozenset(),
) -> None:
    """Let top-level members of a column's name win.

    Those marked as edited always do, null included. Others do where they have the column's own type and are not
    `spoken_for`: names that the help desk uses itself, which have been read already (a description in HTML beside
    its plain text, say).
    """
    for name, read in readers.items():
        if name in edited:
            columns[name] = read(payload.get(name))
        elif name in payload and name not in spoken_for and (value := read(payload[name])) is not None:
            columns[name] = value


def _first(read: Callable[[Any], Any], payload: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        if (value := read(payload.get(name))) is not None:
            return value
    return None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    fits = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return value if fits else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


_TICKET_READERS: dict[str, Callable[[Any], Any]] = {
    "title": text_of,
    "description": text_of,
    "status": text_of,
    "priority": text_of,
    "requester_name": text_of,
    "requester_email": text_of,
    "assignee_name": text_of,
    "assignee_email": text_of,
    "tags": storable_json,
    "custom_fields": storable_json,
    "summary": storable_json,
    "is_processed": _flag,
    "processed_data": storable_json,
    "processing_status": text_of,
    "created_at": time_of,
    "updated_at": time_of,
}
_CONVERSATION_READERS: dict[str, Callable[[Any], Any]] = {
    "content": text_of,
    "message_type": text_of,
    "author_name": text_of,
    "author_email": text_of,
    "author_type": text_of,
    "attachments": storable_json,
    "created_at": time_of,
    "updated_at": time_of,
}
_ARTICLE_READERS: dict[str, Callable[[Any], Any]] = {
    "title": text_of,
    "content": text_of,
    "summary": storable_json,
    "created_at": time_of,
    "updated_at": time_of,
}
_PROGRESS_READERS: dict[str, Callable[[Any], Any]] = {
    "total_items": _whole,
    "processed_items": _whole,
    "failed_items": _whole,
    "progress_percentage": _number,
    "last_updated": time_of,
    "created_at": time_of,
    "updated_at": time_of,
}
_NO_CONVERSATION: Columns = dict.fromkeys(_CONVERSATION_READERS)

TICKET_COLUMNS = tuple(_TICKET_READERS)
CONVERSATION_COLUMNS = tuple(_CONVERSATION_READERS)
ARTICLE_COLUMNS = tuple(_ARTICLE_READERS)
PROGRESS_COLUMNS = tuple(_PROGRESS_READERS)

# What the flat shapes read themselves from members named like our columns.
_FLAT_MEMBERS = frozenset({"description", "tags", "custom_fields", "summary", "content"})

__all__ = [
    "ARTICLE_COLUMNS",
    "CONVERSATIONS",
    "CONVERSATION_COLUMNS",
    "EDITED",
    "PROGRESS_COLUMNS",
    "TICKET_COLUMNS",
    "BadIdentifier",
    "MappedSummary",
    "MappedTicket",
    "article_id",
    "map_article",
    "map_progress",
    "map_summary",
    "map_ticket",
    "ticket_id",
]
