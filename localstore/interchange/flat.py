"""Tickets whose fields stand at the top of the payload: Freshdesk's, Zendesk's, and all that look alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from localstore.interchange.values import (
    NOBODY,
    Person,
    first_text,
    object_of,
    people_by_id,
    person_of,
    storable_json,
    text_of,
    time_of,
    word_of,
)

FRESHDESK = "freshdesk"

# The words of Freshdesk's API reference for the numbers it sends.
FRESHDESK_STATUS = {2: "open", 3: "pending", 4: "resolved", 5: "closed"}
FRESHDESK_PRIORITY = {1: "low", 2: "medium", 3: "high", 4: "urgent"}
FRESHDESK_NOTE = 2

# Members that only a Freshdesk ticket has: they decide where the folder's name does not.
_FRESHDESK_MEMBERS = frozenset({"description_text", "responder_id", "fr_escalated", "fr_due_by", "email_config_id"})

_STAFF_ROLES = frozenset({"agent", "admin"})
_SYSTEM_CHANNELS = frozenset({"system", "rule", "trigger"})


def ticket_columns(payload: Mapping[str, Any], platform: str) -> dict[str, Any]:
    """Return what the payload says about the ticket, by column; None where it says nothing."""
    freshdesk = is_freshdesk(payload, platform)
    people = people_by_id(payload.get("users"))
    requester = _requester(payload, people)
    assignee = _person(payload, people, "responder", "assignee", "agent", "responder_id", "assignee_id")
    return {
        "title": first_text(payload, "title", "subject", "raw_subject", "summary", "name"),
        "description": first_text(payload, "description_text", "description", "body", "content", "text"),
        "status": _word(payload.get("status"), FRESHDESK_STATUS if freshdesk else {}),
        "priority": _word(payload.get("priority"), FRESHDESK_PRIORITY if freshdesk else {}),
        "requester_name": requester.name,
        "requester_email": requester.email,
        "assignee_name": assignee.name,
        "assignee_email": assignee.email,
        "tags": _list(payload.get("tags", payload.get("labels"))),
        "custom_fields": _container(payload.get("custom_fields")),
        "created_at": time_of(payload.get("created_at")),
        "updated_at": time_of(payload.get("updated_at")),
    }


def conversations(payload: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the columns of each entry of `conversations` (Freshdesk) or `comments` (Zendesk)."""
    people = people_by_id(payload.get("users"))
    requester_id = payload.get("requester_id", object_of(payload.get("requester")).get("id"))
    for list_name in ("conversations", "comments"):
        entries = payload.get(list_name)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, str):
                yield {"conversation_id": None, "content": text_of(entry)}
            elif isinstance(entry, dict):
                yield _conversation(entry, payload, people, requester_id)


def is_freshdesk(payload: Mapping[str, Any], platform: str) -> bool:
    """Return whether the payload's numbers are Freshdesk's."""
    return platform == FRESHDESK or not _FRESHDESK_MEMBERS.isdisjoint(payload)


def _conversation(
    entry: Mapping[str, Any], payload: Mapping[str, Any], people: Mapping[str, Mapping[str, Any]], requester_id: Any
) -> dict[str, Any]:
    author_id = entry.get("user_id", entry.get("author_id"))
    from_requester = author_id is not None and author_id == requester_id
    author = _author(entry, payload, people, author_id, from_requester=from_requester)
    return {
        "conversation_id": word_of(entry.get("id")),
        "content": first_text(entry, "body_text", "plain_body", "body", "content", "text"),
        "message_type": _message_type(entry),
        "author_name": author.name,
        "author_email": author.email,
        "author_type": _author_type(entry, people, author_id, from_requester=from_requester),
        "attachments": _list(entry.get("attachments")),
        "created_at": time_of(entry.get("created_at")),
        "updated_at": time_of(entry.get("updated_at")),
    }


def _message_type(entry: Mapping[str, Any]) -> str:
    if entry.get("private") is True or entry.get("public") is False:
        return "private"
    return "note" if "incoming" in entry and entry.get("source") == FRESHDESK_NOTE else "public"


def _author(
    entry: Mapping[str, Any],
    payload: Mapping[str, Any],
    people: Mapping[str, Mapping[str, Any]],
    author_id: Any,
    *,
    from_requester: bool,
) -> Person:
    for name in ("author", "user", "from_email"):
        if (author := person_of(entry.get(name), people)) != NOBODY:
            return author
    if (author := person_of(author_id, people)) != NOBODY:
        return author
    if from_requester:
        return _requester(payload, people)
    if author_id is not None and author_id == payload.get("responder_id", payload.get("assignee_id")):
        return _person(payload, people, "responder", "assignee", "agent")
    return NOBODY


def _author_type(
    entry: Mapping[str, Any], people: Mapping[str, Mapping[str, Any]], author_id: Any, *, from_requester: bool
) -> str | None:
    if object_of(entry.get("via")).get("channel") in _SYSTEM_CHANNELS:
        return "system"
    if isinstance(incoming := entry.get("incoming"), bool):
        return "customer" if incoming else "agent"
    role = object_of(entry.get("author")).get("role") or people.get(str(author_id), {}).get("role")
    if role in _STAFF_ROLES:
        return "agent"
    if role is not None or from_requester:
        return "customer"
    return None if author_id is None else "agent"


def _requester(payload: Mapping[str, Any], people: Mapping[str, Mapping[str, Any]]) -> Person:
    return _person(payload, people, "requester", "reporter", "customer", "requester_id")


def _person(payload: Mapping[str, Any], people: Mapping[str, Mapping[str, Any]], *names: str) -> Person:
    for name in names:
        if (person := person_of(payload.get(name), people)) != NOBODY:
            return person
    return NOBODY


def _word(value: Any, words: Mapping[int, str]) -> str | None:
    if isinstance(value, int) and value in words and not isinstance(value, bool):
        return words[value]
    if isinstance(value, dict):
        return first_text(value, "name", "label", "value")
    return word_of(value)


def _list(value: Any) -> Any:
    return storable_json(value) if isinstance(value, list) else None


def _container(value: Any) -> Any:
    return storable_json(value) if isinstance(value, (dict, list)) else None
