"""What payloads of the help desks mean in our columns."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localstore.interchange.mapping import (
    EDITED,
    BadIdentifier,
    article_id,
    map_article,
    map_progress,
    map_summary,
    map_ticket,
    ticket_id,
)

FRESHDESK: dict[str, Any] = {
    "id": 17,
    "subject": "Lamp flickers",
    "description": "<p>It <b>flickers</b></p>",
    "description_text": "It flickers",
    "status": 4,
    "priority": 4,
    "company_id": 5100,
    "requester_id": 9,
    "requester": {"id": 9, "name": "Maya Okafor", "email": "maya@example.com"},
    "responder_id": 3,
    "responder": {"id": 3, "name": "Noor Haddad", "email": "noor@example.com"},
    "tags": ["lamp"],
    "custom_fields": {"cf_order": None},
    "created_at": "2024-03-01T10:00:00Z",
    "updated_at": "2024-03-02T12:30:00+02:00",
    "conversations": [
        {"id": 1, "body_text": "hello", "incoming": True, "private": False, "source": 0, "user_id": 9},
        {"id": 2, "body": "<p>note</p>", "incoming": False, "private": True, "source": 2, "user_id": 3},
        {"id": 3, "body_text": "public note", "incoming": False, "private": False, "source": 2, "user_id": 4},
        {"id": 4, "body_text": "x", "incoming": False, "source": 0, "from_email": "Ana Ruiz <ana@example.com>"},
    ],
}
ZENDESK: dict[str, Any] = {
    "id": 35,
    "subject": "Order lost",
    "description": "Where is it?",
    "status": "solved",
    "priority": "urgent",
    "requester_id": 71,
    "assignee_id": 72,
    "users": [
        {"id": 71, "name": "Íñigo", "email": "i@example.com", "role": "end-user"},
        {"id": 72, "name": "Yuna", "email": "y@example.com", "role": "agent"},
    ],
    "tags": [],
    "custom_fields": [{"id": 1, "value": "es"}],
    "created_at": "2024-01-01T00:00:00Z",
    "comments": [
        {"id": 5, "author_id": 71, "plain_body": "Where is it?", "public": True, "created_at": "2024-01-01T00:00:00Z"},
        {"id": 6, "author_id": 72, "body": "Looking", "public": False},
        {"id": 7, "author_id": -1, "body": "Merged", "public": True, "via": {"channel": "system"}},
    ],
}
JIRA: dict[str, Any] = {
    "id": "10001",
    "key": "MOD-42",
    "fields": {
        "summary": "Crash on start",
        "description": "line one\r\nline two",
        "status": {"name": "In Progress", "id": "3"},
        "priority": {"name": "High"},
        "labels": ["crash"],
        "reporter": {"name": "jdoe", "key": "jdoe", "displayName": "Jo Doe", "emailAddress": "jo@example.com"},
        "creator": {"name": "bot", "key": "bot", "displayName": "Bot"},
        "assignee": None,
        "customfield_1": {"value": "사내"},
        "customfield_2": None,
        "created": "2014-02-11T12:29:50.000+0000",
        "updated": "2014-02-11T12:29:50.500+0100",
        "comment": {
            "comments": [
                {"id": "1", "author": {"key": "jdoe", "displayName": "Jo Doe"}, "body": "same here"},
                {
                    "id": "2",
                    "author": {"key": "dev", "displayName": "Dev"},
                    "visibility": {"type": "role"},
                    "body": "x",
                },
                {"id": "2", "author": {"key": "dev"}},
            ]
        },
    },
}


def test_freshdesk_numbers_become_their_documented_words() -> None:
    """Freshdesk's 2 to 5 and 1 to 4 are the words of its reference, in the product's lower case."""
    statuses = [map_ticket({"status": number}, "freshdesk").columns["status"] for number in (2, 3, 4, 5)]
    priorities = [map_ticket({"priority": number}, "freshdesk").columns["priority"] for number in (1, 2, 3, 4)]
    assert statuses == ["open", "pending", "resolved", "closed"]
    assert priorities == ["low", "medium", "high", "urgent"]


def test_other_numbers_stay_what_they_are() -> None:
    """A number that Freshdesk does not document, or that another product sends, is not given a word."""
    assert map_ticket({"status": 12}, "freshdesk").columns["status"] == "12"
    assert map_ticket({"status": 2}, "crm").columns["status"] == "2"
    assert map_ticket({"status": True}, "freshdesk").columns["status"] is None


def test_freshdesk_ticket() -> None:
    """A Freshdesk payload fills every column that it speaks of, and its plain text goes before its HTML."""
    mapped = map_ticket(FRESHDESK, "freshdesk")
    assert ticket_id(FRESHDESK, "stem") == "17"
    assert mapped.columns == {
        "title": "Lamp flickers",
        "description": "It flickers",
        "status": "resolved",
        "priority": "urgent",
        "requester_name": "Maya Okafor",
        "requester_email": "maya@example.com",
        "assignee_name": "Noor Haddad",
        "assignee_email": "noor@example.com",
        "tags": ["lamp"],
        "custom_fields": {"cf_order": None},
        "summary": None,
        "is_processed": False,
        "processed_data": None,
        "processing_status": "pending",
        "created_at": datetime(2024, 3, 1, 10, tzinfo=UTC),
        "updated_at": datetime(2024, 3, 2, 10, 30, tzinfo=UTC),
    }


def test_freshdesk_conversations() -> None:
    """Freshdesk's private, incoming and source say what a message is and who wrote it."""
    found = map_ticket(FRESHDESK, "freshdesk").conversations
    assert [(c["message_type"], c["author_type"], c["author_name"], c["content"]) for c in found.values()] == [
        ("public", "customer", "Maya Okafor", "hello"),
        ("private", "agent", "Noor Haddad", "<p>note</p>"),
        ("note", "agent", None, "public note"),
        ("public", "agent", "Ana Ruiz", "x"),
    ]
    assert list(found) == ["1", "2", "3", "4"]
    assert found["4"]["author_email"] == "ana@example.com"


def test_zendesk_ticket_with_its_people() -> None:
    """A Zendesk payload names people by number; its `users` say who they are."""
    mapped = map_ticket(ZENDESK, "zendesk")
    assert (mapped.columns["title"], mapped.columns["status"], mapped.columns["priority"]) == (
        "Order lost",
        "solved",
        "urgent",
    )
    assert (mapped.columns["requester_email"], mapped.columns["assignee_name"]) == ("i@example.com", "Yuna")
    assert mapped.columns["custom_fields"] == [{"id": 1, "value": "es"}]
    assert [(c["message_type"], c["author_type"], c["author_name"]) for c in mapped.conversations.values()] == [
        ("public", "customer", "Íñigo"),
        ("private", "agent", "Yuna"),
        ("public", "system", None),
    ]


def test_jira_issue() -> None:
    """A JIRA issue is read from below `fields`; times with offsets become UTC; texts keep their CRLF."""
    mapped = map_ticket(JIRA, "jira")
    assert ticket_id(JIRA, "stem") == "MOD-42"
    assert mapped.columns["title"] == "Crash on start"
    assert mapped.columns["description"] == "line one\r\nline two"
    assert (mapped.columns["status"], mapped.columns["priority"]) == ("In Progress", "High")
    assert (mapped.columns["requester_name"], mapped.columns["requester_email"]) == ("Jo Doe", "jo@example.com")
    assert mapped.columns["assignee_name"] is None
    assert mapped.columns["custom_fields"] == {"customfield_1": {"value": "사내"}}
    assert mapped.columns["updated_at"] == datetime(2014, 2, 11, 11, 29, 50, 500_000, tzinfo=UTC)
    assert [(c["author_type"], c["message_type"]) for c in mapped.conversations.values()] == [
        ("customer", "public"),
        ("agent", "private"),
        ("agent", "public"),
    ]


def test_two_comments_with_one_id_are_both_kept() -> None:
    """A second comment of the same id gets a name of its own, the same at each reading."""
    assert list(map_ticket(JIRA, "jira").conversations) == ["1", "2", "2#3"]


def test_jira_rich_text_becomes_plain() -> None:
    """A description that is a document of JIRA's newer API is read as its words."""
    body = {
        "type": "doc",
        "content": [
            {"type": "paragraph", "content": [{"type": "text", "text": "Hello "}, {"type": "text", "text": "there"}]},
            {"type": "paragraph", "content": [{"type": "mention", "attrs": {"text": "@Jo"}}]},
        ],
    }
    payload = {"key": "A-1", "fields": {"summary": "s", "description": body}}
    assert map_ticket(payload, "jira").columns["description"] == "Hello there\n@Jo"


@pytest.mark.parametrize("payload", [{}, {"fields": 3}, {"comments": 5, "tags": "x", "requester": 9, "status": []}])
def test_an_object_without_meaning_maps_to_nothing(payload: dict[str, Any]) -> None:
    """Any object is accepted; what says nothing fills nothing."""
    mapped = map_ticket(payload, "crm")
    told = {name for name, value in mapped.columns.items() if value is not None}
    assert told == {"is_processed", "processing_status"}
    assert mapped.conversations == {}


def test_id_comes_from_ticket_id_then_key_then_id_then_stem() -> None:
    """The id is the first of these that is a number or a text."""
    assert ticket_id({"ticket_id": "t", "key": "k", "id": 1}, "s") == "t"
    assert ticket_id({"ticket_id": None, "key": "k", "id": 1}, "s") == "k"
    assert ticket_id({"key": {"no": "id"}, "id": 1}, "s") == "1"
    assert ticket_id({"id": ""}, "s") == "s"
    assert article_id({"article_id": 4, "id": 5}, "s") == "4"


@pytest.mark.parametrize("bad", ["a\0b", "a\nb", "\ud800", "x" * 256, "   ", "a\N{RIGHT-TO-LEFT OVERRIDE}b"])
def test_an_id_that_cannot_be_a_key_is_refused(bad: str) -> None:
    """Ids with invisible characters, or too long for an index, are refused with the reason."""
    with pytest.raises(BadIdentifier, match="cannot be an id"):
        ticket_id({"ticket_id": bad}, "s")


def test_top_level_members_win() -> None:
    """A member that is named and typed like a column wins over what the help desk says elsewhere."""
    columns = map_ticket(JIRA | {"title": "Edited", "status": "done", "description": "new"}, "jira").columns
    assert (columns["title"], columns["status"], columns["description"]) == ("Edited", "done", "new")


def test_marked_members_win_always() -> None:
    """A member marked as edited wins over everything, also when it is null and where the help desk uses its name."""
    edited = FRESHDESK | {"description": "mine", "tags": None, EDITED: ["description", "tags"]}
    columns = map_ticket(edited, "freshdesk").columns
    assert (columns["description"], columns["tags"]) == ("mine", None)


def test_company_id_of_a_payload_is_left_alone() -> None:
    """A payload's own company_id is the help desk's business and no column of ours."""
    assert "company_id" not in map_ticket(FRESHDESK, "freshdesk").columns


def test_V1_nul_in_a_payload_is_kept_in_the_columns() -> None:
    """U+0000 goes into the column as it is: SQLite keeps it, and production's refusal names the row."""
    assert map_ticket({"subject": "a\0b"}, "freshdesk").columns["title"] == "a\0b"


def test_V2_lone_surrogates_are_replaced_in_the_columns() -> None:
    """A lone surrogate cannot be UTF-8, so columns hold U+FFFD instead, also inside JSON."""
    columns = map_ticket({"subject": "a\ud800", "tags": ["\udfff"], "custom_fields": {"\ud800": 1}}, "x").columns
    assert (columns["title"], columns["tags"], columns["custom_fields"]) == ("a\ufffd", ["\ufffd"], {"\ufffd": 1})


@pytest.mark.parametrize(
    "text", ["0000-00-00T00:00:00Z", "2024-02-30", "yesterday", "0001-01-01T00:00:00+14:00", 1_700_000_000, "", None]
)
def test_V25_a_time_that_is_none_is_left_out(text: Any) -> None:
    """What is no time of the calendar gives no column; the payload keeps it."""
    assert map_ticket({"created_at": text}, "x").columns["created_at"] is None


def test_article_progress_and_summary() -> None:
    """Articles, progress and summaries are read from the shapes of the help desks and of saved records."""
    article = map_article(
        {"title": "How", "description": "<p>x</p>", "description_text": "x", "created_at": "2024-01-01"}
    )
    assert (article["title"], article["content"]) == ("How", "x")
    progress = map_progress({"total_tickets": 5, "processed_tickets": 3, "progress_percentage": 60})
    assert (progress["total_items"], progress["processed_items"], progress["failed_items"]) == (5, 3, None)
    assert progress["progress_percentage"] == 60.0
    record = map_summary({"item_id": 4, "summary": {"a": 1}, "created_at": "x"}, "stem")
    assert (record.item_id, record.summary) == ("4", {"a": 1})
    bare = map_summary({"problem": "p"}, "stem")
    assert (bare.item_id, bare.summary) == ("stem", {"problem": "p"})


def test_saved_state_of_processing_is_read() -> None:
    """What an earlier storage saved with a ticket goes into the columns of the same names."""
    payload = {"processing_status": "done", "is_processed": True, "processed_data": {"k": [1]}, "ticket_id": "5"}
    columns = map_ticket(payload, "freshdesk").columns
    assert (columns["processing_status"], columns["is_processed"], columns["processed_data"]) == (
        "done",
        True,
        {"k": [1]},
    )


KEYS = st.sampled_from(
    "id key fields summary description description_text subject title status priority requester reporter responder "
    "assignee creator users tags labels custom_fields conversations comments comment author user_id author_id name "
    "displayName email body content attachments created_at updated_at created updated incoming private source via "
    "channel type text attrs item_id processing_status is_processed processed_data total_items "
    "localstore_edited".split()
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None))
    | st.sampled_from(["Ana <a@example.com>", "2024-01-31T00:00:00+0000", "\ud800", "doc", "paragraph", "\0"])
)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=25
)


@given(payload=st.dictionaries(KEYS, ANYTHING, max_size=8), platform=st.sampled_from(["freshdesk", "jira", "crm"]))
def test_any_json_object_is_accepted(payload: dict[str, Any], platform: str) -> None:
    """No object, however strange, stops an import, and what is read from it can be stored as UTF-8."""
    mapped = map_ticket(payload, platform)
    found = [mapped.columns, map_article(payload), map_progress(payload), *mapped.conversations.values()]
    found.append({"summary": map_summary(payload, "stem").summary} if "item_id" not in payload else {})
    for columns in found:
        for value in columns.values():
            if isinstance(value, datetime):
                assert value.tzinfo is UTC
            else:
                json.dumps(value, ensure_ascii=False).encode()
    assert all(name.isprintable() and name for name in mapped.conversations)
