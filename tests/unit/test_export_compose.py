"""What an exported file says of a row is what an import reads from it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localstore.interchange.compose import compose_item, compose_summary
from localstore.interchange.document import parse
from localstore.interchange.items import TICKET, read_item
from localstore.interchange.layout import Names
from localstore.interchange.mapping import CONVERSATION_COLUMNS, TICKET_COLUMNS, map_summary, map_ticket
from localstore.interchange.rows import Row, differ

PAYLOADS: tuple[dict[str, Any], ...] = (
    {"id": 5, "subject": "s", "description": "<p>d</p>", "description_text": "d", "status": 2, "tags": ["a"]},
    {"key": "K-1", "fields": {"summary": "s", "description": "d", "comment": {"comments": [{"id": "1", "body": "b"}]}}},
    {"ticket_id": "t/1", "title": "x", "summary": {"old": True}, "created_at": "2024-01-01", "comments": ["hi"]},
    {"conversations": [{"id": 7, "body_text": "b", "to_emails": ["x@example.com"]}], "description_text": None},
    {},
)
TEXTS = st.none() | st.text(st.characters(exclude_categories=["Cs"]))
JSON_VALUES = st.none() | st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("abc\0é"), inner, max_size=2),
    max_leaves=4,
)
TIMES = st.none() | st.datetimes(timezones=st.just(UTC))
STRATEGIES: dict[str, st.SearchStrategy[Any]] = dict.fromkeys((*TICKET_COLUMNS, *CONVERSATION_COLUMNS), TEXTS) | {
    "tags": JSON_VALUES,
    "custom_fields": JSON_VALUES,
    "processed_data": JSON_VALUES,
    "attachments": JSON_VALUES,
    "is_processed": st.none() | st.booleans(),
    "created_at": TIMES,
    "updated_at": TIMES,
}
EDITS = st.fixed_dictionaries({}, optional={name: STRATEGIES[name] for name in TICKET_COLUMNS if name != "summary"})
MESSAGES = st.none() | st.dictionaries(
    st.text("ab1#/", min_size=1, max_size=4),
    st.fixed_dictionaries({name: STRATEGIES[name] for name in CONVERSATION_COLUMNS}),
    max_size=3,
)
PLACES = st.integers(0, len(PAYLOADS) - 1)


def _row(payload: dict[str, Any] | None, edits: dict[str, Any], item_id: str) -> Row:
    mapped = map_ticket(payload or {}, "crm").columns
    raw = None if payload is None else json.dumps(payload)
    return {"company_id": "acme", "platform": "crm", "ticket_id": item_id, "raw_data": raw, "raw_summary": None} | (
        mapped | edits
    )


def _same(a: dict[str, Any], b: dict[str, Any], *, stamps_of: dict[str, Any]) -> bool:
    """Return whether two rows agree; a time that is in no payload is the first import's own business."""
    return all(
        not differ(a[name], b[name]) or (name in ("created_at", "updated_at") and stamps_of[name] is None) for name in b
    )


@given(place=PLACES, edits=EDITS, messages=MESSAGES)
def test_an_edited_row_survives_its_file(
    place: int, edits: dict[str, Any], messages: dict[str, dict[str, Any]] | None
) -> None:
    """Whatever is edited to whatever value, conversations too, an import of the exported file reads it back."""
    payload = PAYLOADS[place]
    item_id = TICKET.identify(payload, "stem")
    row = _row(payload, edits, item_id)
    native = map_ticket(payload, "crm")
    said = native.conversations if messages is None else messages
    conversations = {name: columns | {"conversation_id": name} for name, columns in said.items()}
    composed = compose_item(TICKET, row, conversations, Names(case_matters=True))
    read = read_item(TICKET, "crm", Path(f"{composed.name}.json"), composed.text, parse(composed.text))
    assert read.item_id == item_id
    assert _same(row, read.mapped.columns, stamps_of=read.mapped.columns)
    assert read.mapped.conversations.keys() == said.keys()
    assert not any(differ(said[name], read.mapped.conversations[name]) for name in said)
    again = compose_item(TICKET, row | {"raw_data": composed.text}, conversations, Names(case_matters=True))
    assert (again.text, again.edited) == (composed.text, False)


@given(place=PLACES)
def test_a_row_nobody_edited_is_its_payload_to_the_byte(place: int) -> None:
    """Without an edit the text is the one that was imported."""
    payload = PAYLOADS[place]
    row = _row(payload, {}, TICKET.identify(payload, "stem"))
    conversations = {
        name: columns | {"conversation_id": name} for name, columns in map_ticket(payload, "crm").conversations.items()
    }
    composed = compose_item(TICKET, row, conversations, Names(case_matters=True))
    assert (composed.text, composed.edited) == (row["raw_data"], False)


@pytest.mark.parametrize("item_id", ["1", "a/b", "CON", "x" * 255, "주문", "..", "a:b"])
def test_a_row_made_here_carries_its_id(item_id: str) -> None:
    """A row without a payload becomes a file that says everything, its id too where the name cannot."""
    row = _row(None, {"title": "written here", "created_at": datetime(2024, 1, 1, tzinfo=UTC)}, item_id)
    composed = compose_item(TICKET, row, {}, Names(case_matters=True))
    read = read_item(TICKET, "crm", Path(f"{composed.name}.json"), composed.text, parse(composed.text))
    assert read.item_id == item_id
    assert (read.mapped.columns["title"], read.mapped.columns["created_at"]) == ("written here", row["created_at"])


def test_an_edit_leaves_the_help_desks_own_entries_in_place() -> None:
    """An edited message keeps what Freshdesk said beside it."""
    payload = PAYLOADS[3]
    edited = map_ticket(payload, "freshdesk").conversations["7"] | {"content": "edited", "conversation_id": "7"}
    composed = compose_item(TICKET, _row(payload, {}, "stem"), {"7": edited}, Names(case_matters=True))
    (entry,) = parse(composed.text)["conversations"]
    assert (entry["content"], entry["to_emails"], entry["body_text"]) == ("edited", ["x@example.com"], "b")


def test_what_is_lost_is_said() -> None:
    """A raw_data that somebody broke is not exported, and the report says so."""
    composed = compose_item(TICKET, _row(None, {"raw_data": "oops", "title": "t"}, "1"), {}, Names(case_matters=True))
    assert "not JSON" in composed.complaint
    assert parse(composed.text)["title"] == "t"


@pytest.mark.parametrize("summary", [{"a": 1}, None, "text", ["x"], False])
@pytest.mark.parametrize("raw", [None, '{"a": 1}', '{"item_id": "k", "summary": {"b": 2}, "more": 3}'])
@pytest.mark.parametrize("item_id", ["k", "a/b"])
def test_a_summary_survives_its_file(summary: Any, raw: str | None, item_id: str) -> None:
    """An edited or removed summary is read back; one that is as it came keeps its text."""
    row = _row({}, {}, item_id) | {"summary": summary, "raw_summary": raw}
    composed = compose_summary(TICKET, row, None, Names(case_matters=True))
    if composed is None:
        assert (raw, summary) == (None, None)
        return
    read = map_summary(parse(composed.text), composed.name)
    assert read.item_id == item_id
    assert not differ(read.summary, summary)
    if raw == '{"a": 1}' and summary == {"a": 1} and item_id == "k":
        assert composed.text == raw
