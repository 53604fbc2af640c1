"""Tickets in the shape of JIRA's REST API: everything below `fields`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from localstore.interchange.values import (
    first_text,
    object_of,
    person_of,
    storable_json,
    text_of,
    time_of,
    word_of,
)

_CUSTOM_FIELD = "customfield_"

# Nodes of JIRA's rich text after which a line ends.
_BLOCKS = frozenset({"paragraph", "heading", "listItem", "codeBlock", "blockquote", "rule", "tableRow"})


def is_jira(payload: Mapping[str, Any]) -> bool:
    """Return whether the payload is an issue of JIRA."""
    fields = payload.get("fields")
    return isinstance(fields, dict) and ("key" in payload or "summary" in fields)


def ticket_columns(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the issue says about the ticket, by column; None where it says nothing."""
    fields = object_of(payload.get("fields"))
    requester = person_of(fields.get("reporter") or fields.get("creator"))
    assignee = person_of(fields.get("assignee"))
    labels = fields.get("labels")
    custom = {name: value for name, value in fields.items() if name.startswith(_CUSTOM_FIELD) and value is not None}
    return {
        "title": text_of(fields.get("summary")),
        "description": rich_text(fields.get("description")),
        "status": _name_of(fields.get("status")),
        "priority": _name_of(fields.get("priority")),
        "requester_name": requester.name,
        "requester_email": requester.email,
        "assignee_name": assignee.name,
        "assignee_email": assignee.email,
        "tags": storable_json(labels) if isinstance(labels, list) else None,
        "custom_fields": storable_json(custom) if custom else None,
        "created_at": time_of(fields.get("created")),
        "updated_at": time_of(fields.get("updated")),
    }


def conversations(payload: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the columns of each comment of the issue."""
    fields = object_of(payload.get("fields"))
    askers = {_identity(fields.get("reporter")), _identity(fields.get("creator"))} - {None}
    comments = object_of(fields.get("comment")).get("comments")
    for comment in comments if isinstance(comments, list) else ():
        if isinstance(comment, dict):
            author = person_of(comment.get("author"))
            identity = _identity(comment.get("author"))
            hidden = "visibility" in comment or comment.get("jsdPublic") is False
            yield {
                "conversation_id": word_of(comment.get("id")),
                "content": rich_text(comment.get("body")),
                "message_type": "private" if hidden else "public",
                "author_name": author.name,
                "author_email": author.email,
                "author_type": None if identity is None else "customer" if identity in askers else "agent",
                "attachments": None,
                "created_at": time_of(comment.get("created")),
                "updated_at": time_of(comment.get("updated")),
            }


def rich_text(value: Any) -> str | None:
    """Return a text as it is, or the words of JIRA's rich text document, a line for each block."""
    if isinstance(value, dict):
        return text_of("".join(_words(value)).strip("\n"))
    return text_of(value)


def _words(node: Mapping[str, Any]) -> Iterator[str]:
    match node.get("type"):
        case "hardBreak":
            yield "\n"
        case "mention" | "emoji":
            yield str(object_of(node.get("attrs")).get("text", ""))
        case _ if isinstance(node.get("text"), str):
            yield node["text"]
    children = node.get("content")
    for child in children if isinstance(children, list) else ():
        if isinstance(child, dict):
            yield from _words(child)
    if node.get("type") in _BLOCKS:
        yield "\n"


def _name_of(value: Any) -> str | None:
    return first_text(value, "name") if isinstance(value, dict) else text_of(value)


def _identity(person: Any) -> str | None:
    return first_text(person, "accountId", "key", "name") if isinstance(person, dict) else None
