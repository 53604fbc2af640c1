"""What StorageInterface promises, on every backend: the answers, the errors, and what is not there."""

from __future__ import annotations

import asyncio
import copy
from datetime import datetime
from typing import Any

import pytest

from localstore import ConfigurationError, InvalidIdentifier, InvalidRow, StorageInterface, StoreError
from tests.contract.compare import agree
from tests.contract.conftest import Every

COMPANY, PLATFORM = "wedosoft", "freshdesk"

TICKET: dict[str, Any] = {
    "id": 42,
    "company_id": 51_000_000_001,
    "subject": "한빛노트 does not start",
    "description_text": "It beeps, then nothing.\n\\N \\. \t",
    "status": 2,
    "priority": 3,
    "custom_fields": {"cf_weight": 1.10, "cf_none": None},
    "tags": ["start", "beep"],
    "created_at": "2024-01-02T03:04:05+09:00",
    "updated_at": "2024-01-03T00:00:00Z",
    "conversations": [{"id": 7, "body_text": "Which version?", "incoming": False}],
}


def ticket(number: int, **members: Any) -> dict[str, Any]:
    """Return a ticket that was created in a second of its own."""
    return {
        "ticket_id": f"T-{number}",
        "status": "open" if number % 2 else "closed",
        "created_at": f"2024-01-01T00:{number // 60:02}:{number % 60:02}Z",
        "updated_at": "2024-02-01T00:00:00Z",
    } | members


async def saved(storage: StorageInterface, *numbers: int, platform: str = PLATFORM, **members: Any) -> None:
    """Save tickets with these numbers."""
    for number in numbers:
        await storage.save_ticket(COMPANY, platform, ticket(number, **members))


async def test_a_ticket_is_read_back_with_what_its_row_says_on_top(storage: StorageInterface) -> None:
    """get_ticket gives the payload as it was, overlaid by whose it is, its status and its times in UTC."""
    assert await storage.save_ticket(COMPANY, PLATFORM, TICKET) == "42"
    assert await storage.get_ticket(COMPANY, PLATFORM, "42") == TICKET | {
        "company_id": COMPANY,
        "platform": PLATFORM,
        "ticket_id": "42",
        "processing_status": "pending",
        "created_at": "2024-01-01T18:04:05Z",
        "updated_at": "2024-01-03T00:00:00Z",
    }


async def test_a_payload_is_not_altered_by_saving_it(storage: StorageInterface) -> None:
    """The caller's dict is as it was, also its own company_id."""
    payload = copy.deepcopy(TICKET)
    await storage.save_ticket(COMPANY, PLATFORM, payload)
    assert payload == TICKET


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"ticket_id": "A", "key": "B", "id": "C"}, "A"),
        ({"key": "B", "id": "C"}, "B"),
        ({"ticket_id": "", "key": None, "id": 5}, "5"),
        ({"id": 2**80}, str(2**80)),
    ],
)
async def test_the_id_is_ticket_id_else_key_else_id(
    storage: StorageInterface, payload: dict[str, Any], expected: str
) -> None:
    """save_ticket returns the id under which the ticket is found."""
    assert await storage.save_ticket(COMPANY, PLATFORM, payload) == expected
    found = await storage.get_ticket(COMPANY, PLATFORM, expected)
    assert found is not None
    assert found["ticket_id"] == expected


async def test_an_articles_id_is_article_id_else_key_else_id(storage: StorageInterface) -> None:
    """save_kb_article returns the article's own id; a ticket's of the same name means nothing to it."""
    assert await storage.save_kb_article(COMPANY, PLATFORM, {"article_id": "A", "id": 1, "ticket_id": "X"}) == "A"
    assert await storage.save_kb_article(COMPANY, PLATFORM, {"id": 1, "title": "How to"}) == "1"
    stats = await storage.get_platform_stats(COMPANY)
    assert stats == {PLATFORM: {"tickets": 0, "knowledge_base": 2, "total": 2}}


@pytest.mark.parametrize("value", [1e16, 1e300, 0.1, 5e-324, -0.0, 2**63, -(2**70), True, 1, 1.0, "1e16", "\\u0000"])
async def test_every_number_comes_back_as_it_was(storage: StorageInterface, value: Any) -> None:
    """A float stays a float, an integer of any length an integer, in the payload as in a summary."""
    await storage.save_ticket(COMPANY, PLATFORM, {"id": 1, "value": value, "processed_data": {"value": value}})
    await storage.save_summary(COMPANY, PLATFORM, "1", {"value": value})
    found = await storage.get_ticket(COMPANY, PLATFORM, "1")
    assert found is not None
    for read in (found["value"], found["processed_data"]["value"], found["summary"]["value"]):
        assert (type(read), read) == (type(value), value)


NESTED: Any = []
for _ in range(3000):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param({"id": 1, "text": "a\0b"}, id="V37-nul"),
        pytest.param({"id": 1, "deep": {"a\0": 1}}, id="V37-nul-in-a-name"),
        pytest.param({"id": 1, "text": "\ud800"}, id="V39-surrogate"),
        pytest.param({"id": 1, "number": float("nan")}, id="V38-nan"),
        pytest.param({"id": 1, "number": float("inf")}, id="V38-infinity"),
        pytest.param({"id": 1, 2: "a key that is no text"}, id="key"),
        pytest.param({"id": 1, "value": object()}, id="no-json"),
        pytest.param({"id": 1, "value": NESTED}, id="V42-depth"),
        pytest.param({"subject": "nobody's"}, id="no-id"),
        pytest.param({"id": True}, id="no-id-either"),
        pytest.param({"id": "x" * 256}, id="N8-long-id"),
        pytest.param({"id": " "}, id="blank-id"),
        pytest.param({"id": "a\nb"}, id="unseen-id"),
        pytest.param(["id"], id="no-object"),
    ],
)
async def test_a_payload_that_one_backend_cannot_hold_is_refused_by_all(every: Every, payload: Any) -> None:
    """It is an InvalidRow with the same words everywhere, and nothing is stored, not even the company."""
    for call in (
        lambda storage: storage.save_ticket(COMPANY, PLATFORM, payload),
        lambda storage: storage.save_kb_article(COMPANY, PLATFORM, payload),
    ):
        found = await agree(every, call)
        assert found["error"] == InvalidRow.__name__
    assert await agree(every, lambda storage: storage.list_companies()) == []


@pytest.mark.parametrize("column", ["status", "priority", "assignee_email", "processing_status"])
async def test_N8_a_text_too_long_for_its_index_is_refused_by_all(every: Every, column: str) -> None:
    """Production's indexes end at 2,704 bytes, so that files refuse what could never be promoted, too."""
    long = "".join(chr(0x4E00 + place * 37 % 20_000) for place in range(342))
    found = await agree(every, lambda storage: storage.save_ticket(COMPANY, PLATFORM, {"id": 1, column: long}))
    assert (found["error"], column in found["message"]) == (InvalidRow.__name__, True)
    fits = {"ticket_id": long[:255], column: long[:341]}
    assert await agree(every, lambda storage: storage.save_ticket(COMPANY, PLATFORM, fits)) == long[:255]


async def test_what_was_set_here_outlives_the_next_collection(storage: StorageInterface) -> None:
    """A payload that says nothing new of the status leaves the status, the summary and what was processed."""
    await storage.save_ticket(COMPANY, PLATFORM, TICKET)
    await storage.update_processing_status(COMPANY, PLATFORM, "42", "completed")
    await storage.save_summary(COMPANY, PLATFORM, "42", {"text": "It beeps."})
    await storage.save_ticket(COMPANY, PLATFORM, TICKET | {"subject": "It starts again"})
    found = await storage.get_ticket(COMPANY, PLATFORM, "42")
    assert found is not None
    assert (found["subject"], found["processing_status"], found["summary"]) == (
        "It starts again",
        "completed",
        {"text": "It beeps."},
    )


async def test_saving_what_is_stored_already_changes_nothing(storage: StorageInterface) -> None:
    """The second save of a payload leaves even the time of the change."""
    payload = {"id": 1, "subject": "no times", "conversations": [{"id": 1, "body": "a"}]}
    await storage.save_ticket(COMPANY, PLATFORM, payload)
    before = await storage.get_ticket(COMPANY, PLATFORM, "1")
    await storage.save_ticket(COMPANY, PLATFORM, payload)
    await storage.update_processing_status(COMPANY, PLATFORM, "1", "pending")
    await storage.save_summary(COMPANY, PLATFORM, "1", None)
    assert await storage.get_ticket(COMPANY, PLATFORM, "1") == before


async def test_a_change_of_a_numbers_type_is_a_change(storage: StorageInterface) -> None:
    """1, 1.0 and true are three values."""
    for value in (1, 1.0, True):
        await storage.save_ticket(COMPANY, PLATFORM, {"id": 1, "value": value})
        found = await storage.get_ticket(COMPANY, PLATFORM, "1")
        assert found is not None
        assert type(found["value"]) is type(value)


async def test_what_get_returns_can_be_saved_again(storage: StorageInterface) -> None:
    """An application may read, change and save a ticket; what it read is what it then says."""
    await storage.save_ticket(COMPANY, PLATFORM, TICKET)
    found = await storage.get_ticket(COMPANY, PLATFORM, "42")
    assert found is not None
    assert await storage.save_ticket(COMPANY, PLATFORM, found | {"processing_status": "done"}) == "42"
    again = await storage.get_ticket(COMPANY, PLATFORM, "42")
    assert again is not None
    assert again == found | {"processing_status": "done"}


async def test_lists_have_the_newest_first(storage: StorageInterface) -> None:
    """The payload's created_at counts, in whatever offset it is written; equal ones stand in order of their ids."""
    await saved(storage, 3, 1, 2)
    await storage.save_ticket(COMPANY, "jira", {"key": "OLD-1", "created_at": "1999-01-01T00:00:00Z"})
    await storage.save_ticket(COMPANY, "jira", {"key": "NEW-1"})
    await storage.save_ticket(COMPANY, "zendesk", {"id": "é", "created_at": "2024-01-01T09:00:02+09:00"})
    await storage.save_ticket(COMPANY, "zendesk", {"id": "Z", "created_at": "2024-01-01T00:00:02Z"})
    listed = await storage.list_tickets(COMPANY)
    assert [found["ticket_id"] for found in listed] == ["NEW-1", "T-3", "T-2", "Z", "é", "T-1", "OLD-1"]
    assert await storage.list_tickets(COMPANY, "jira") == [listed[0], listed[-1]]


async def test_a_list_is_a_list_of_what_get_gives(storage: StorageInterface) -> None:
    """list_tickets and get_ticket say the same of a ticket."""
    await storage.save_ticket(COMPANY, PLATFORM, TICKET | {"processed_data": {"n": 1}})
    await storage.save_summary(COMPANY, PLATFORM, "42", {"text": "s"})
    assert await storage.list_tickets(COMPANY, PLATFORM) == [await storage.get_ticket(COMPANY, PLATFORM, "42")]


async def test_status_and_processing_status_are_two_filters(storage: StorageInterface) -> None:
    """`status` means the ticket's own, `processing_status` ours."""
    await saved(storage, 1, 2, 3, 4)
    await storage.update_processing_status(COMPANY, PLATFORM, "T-1", "closed")

    async def ids(**filters: Any) -> list[str]:
        return [found["ticket_id"] for found in await storage.list_tickets(COMPANY, PLATFORM, **filters)]

    assert await ids(status="closed") == ["T-4", "T-2"]
    assert await ids(processing_status="closed") == ["T-1"]
    assert await ids(status="open", processing_status="pending") == ["T-3"]
    assert await ids(status="\0") == await ids(status="\ud800") == await ids(processing_status="OPEN") == []


async def test_pages_follow_one_another_over_all_platforms(storage: StorageInterface) -> None:
    """Pages put together are the whole list, whatever their size."""
    for platform in ("freshdesk", "jira", "zendesk"):
        await saved(storage, *range(7), platform=platform)
    whole = await storage.list_tickets(COMPANY, limit=None)
    assert len(whole) == 21
    assert whole == await storage.list_tickets(COMPANY)
    for size in (1, 4, 20):
        pages = [await storage.list_tickets(COMPANY, limit=size, offset=start) for start in range(0, 21, size)]
        assert [found for page in pages for found in page] == whole
    assert await storage.list_tickets(COMPANY, limit=None, offset=20) == whole[20:]
    assert await storage.list_tickets(COMPANY, limit=0) == await storage.list_tickets(COMPANY, offset=21) == []


async def test_lists_are_not_cut_at_a_thousand(storage: StorageInterface) -> None:
    """A limit above 1,000 is met, and no limit is none; without one a page has 100."""
    for start in range(0, 1_003, 50):
        numbers = range(start, min(start + 50, 1_003))
        await asyncio.gather(*(storage.save_ticket(COMPANY, PLATFORM, ticket(number)) for number in numbers))
    for limit, expected in ((2_000, 1_003), (None, 1_003), (1_001, 1_001)):
        assert len(await storage.list_tickets(COMPANY, PLATFORM, limit=limit)) == expected
    assert len(await storage.list_tickets(COMPANY)) == 100


@pytest.mark.parametrize("page", [{"limit": -1}, {"offset": -1}, {"limit": 2**63}])
async def test_a_page_that_cannot_be_is_an_error(every: Every, page: dict[str, Any]) -> None:
    """It is a ConfigurationError, and so a ValueError, with or without a company to list."""
    found = await agree(every, lambda storage: storage.list_tickets(COMPANY, **page))
    assert found["error"] == "ConfigurationError"
    assert issubclass(ConfigurationError, ValueError)


async def test_a_status_is_set_where_there_is_a_ticket(storage: StorageInterface) -> None:
    """update_processing_status is True for a ticket and False for none, and changes when the ticket was changed."""
    await storage.save_ticket(COMPANY, PLATFORM, TICKET)
    assert await storage.update_processing_status(COMPANY, PLATFORM, "42", "처리중") is True
    assert await storage.update_processing_status(COMPANY, PLATFORM, "43", "x") is False
    assert await storage.update_processing_status(COMPANY, "jira", "42", "x") is False
    found = await storage.get_ticket(COMPANY, PLATFORM, "42")
    assert found is not None
    assert found["processing_status"] == "처리중"
    assert datetime.fromisoformat(found["updated_at"]) > datetime.fromisoformat(TICKET["updated_at"])


@pytest.mark.parametrize("status", ["\0", "\ud800", "x" * 2000, None, 1])
async def test_a_status_that_cannot_be_stored_is_refused(every: Every, status: Any) -> None:
    """It is an InvalidRow everywhere, also where no ticket would take it."""
    found = await agree(every, lambda storage: storage.update_processing_status(COMPANY, PLATFORM, "42", status))
    assert found["error"] == "InvalidRow"


async def test_a_summary_goes_to_the_ticket_else_to_the_article(storage: StorageInterface) -> None:
    """save_summary is False when neither a ticket nor an article has the id."""
    await storage.save_kb_article(COMPANY, PLATFORM, {"id": "both"})
    assert await storage.save_summary(COMPANY, PLATFORM, "both", {"of": "the article"}) is True
    await storage.save_ticket(COMPANY, PLATFORM, {"id": "both"})
    assert await storage.save_summary(COMPANY, PLATFORM, "both", {"of": "the ticket"}) is True
    assert await storage.save_summary(COMPANY, PLATFORM, "neither", {}) is False
    found = await storage.get_ticket(COMPANY, PLATFORM, "both")
    assert found is not None
    assert found["summary"] == {"of": "the ticket"}


@pytest.mark.parametrize("summary", [{}, [], "", 0, False, {"nested": [None]}])
async def test_an_empty_summary_is_one_and_none_is_not(storage: StorageInterface, summary: Any) -> None:
    """Only None takes a summary away."""
    await storage.save_ticket(COMPANY, PLATFORM, TICKET)
    assert await storage.save_summary(COMPANY, PLATFORM, "42", summary) is True
    found = await storage.get_ticket(COMPANY, PLATFORM, "42")
    assert found is not None
    assert (type(found["summary"]), found["summary"]) == (type(summary), summary)
    assert await storage.save_summary(COMPANY, PLATFORM, "42", None) is True
    found = await storage.get_ticket(COMPANY, PLATFORM, "42")
    assert found is not None
    assert "summary" not in found


async def test_progress_counts_the_tickets(storage: StorageInterface) -> None:
    """Processed means is_processed, or completed, processed or done; failed means failed or error."""
    words = ("completed", "processed", "done", "failed", "error", "pending", "Done")
    for number, word in enumerate(words):
        await storage.save_ticket(COMPANY, PLATFORM, ticket(number, processing_status=word))
    await storage.save_ticket(COMPANY, PLATFORM, ticket(7, is_processed=True))
    await storage.save_ticket(COMPANY, "jira", ticket(8))
    assert await storage.get_processing_progress(COMPANY, PLATFORM) == {
        "total_tickets": 8,
        "processed_tickets": 4,
        "failed_tickets": 2,
        "progress_percentage": 50.0,
        "last_updated": "2024-02-01T00:00:00Z",
    }


async def test_progress_that_was_set_stands_until_it_is_cleared(storage: StorageInterface) -> None:
    """set_processing_progress overrides the counts; None lets them count again and says whether anything was set."""
    await saved(storage, 1, 2, 3)
    counted = await storage.get_processing_progress(COMPANY, PLATFORM)
    told = {
        "total_tickets": 200,
        "processed_tickets": 50,
        "failed_tickets": 1,
        "progress_percentage": 25.0,
        "last_updated": "2024-03-01T00:00:00Z",
    }
    for _ in range(2):
        assert await storage.set_processing_progress(COMPANY, PLATFORM, told) is True
        assert await storage.get_processing_progress(COMPANY, PLATFORM) == told
    assert await storage.set_processing_progress(COMPANY, PLATFORM, {"total": 3, "processed": 1}) is True
    assert await storage.get_processing_progress(COMPANY, PLATFORM) == {
        "total_tickets": 3,
        "processed_tickets": 1,
        "failed_tickets": 0,
        "progress_percentage": 33.33,
        "last_updated": None,
    }
    assert await storage.set_processing_progress(COMPANY, PLATFORM, None) is True
    assert await storage.set_processing_progress(COMPANY, PLATFORM, None) is False
    assert await storage.get_processing_progress(COMPANY, PLATFORM) == counted


async def test_stats_count_by_platform(storage: StorageInterface) -> None:
    """get_platform_stats has a line for each platform that has anything."""
    await saved(storage, 1, 2)
    await saved(storage, 1, platform="jira")
    await storage.save_kb_article(COMPANY, "zendesk", {"id": 1})
    assert await storage.get_platform_stats(COMPANY) == {
        "freshdesk": {"tickets": 2, "knowledge_base": 0, "total": 2},
        "jira": {"tickets": 1, "knowledge_base": 0, "total": 1},
        "zendesk": {"tickets": 0, "knowledge_base": 1, "total": 1},
    }


async def test_an_unknown_company_reads_as_empty_and_is_not_made(storage: StorageInterface) -> None:
    """Neither a read nor a change of something that is not there makes a company."""
    assert await storage.get_ticket("nobody", PLATFORM, "1") is None
    assert await storage.list_tickets("nobody") == []
    assert await storage.update_processing_status("nobody", PLATFORM, "1", "done") is False
    assert await storage.save_summary("nobody", PLATFORM, "1", {}) is False
    assert await storage.set_processing_progress("nobody", PLATFORM, None) is False
    assert await storage.get_platform_stats("nobody") == {}
    assert await storage.get_processing_progress("nobody", PLATFORM) == {
        "total_tickets": 0,
        "processed_tickets": 0,
        "failed_tickets": 0,
        "progress_percentage": 0.0,
        "last_updated": None,
    }
    assert await storage.list_companies() == []


async def test_companies_are_listed_once_something_was_saved(storage: StorageInterface) -> None:
    """Whatever is saved makes its company; they are listed in order."""
    await storage.save_kb_article("zeta", PLATFORM, {"id": 1})
    await storage.set_processing_progress("alpha-2", PLATFORM, {"total": 1})
    await storage.save_ticket("alpha", PLATFORM, {"id": 1})
    await storage.save_ticket("alpha_1", PLATFORM, {"id": 1})
    assert await storage.list_companies() == ["alpha", "alpha-2", "alpha_1", "zeta"]


async def test_companies_and_platforms_do_not_see_each_other(storage: StorageInterface) -> None:
    """The same id in two companies and two platforms is four tickets."""
    places = [(company, platform) for company in ("alpha", "beta") for platform in ("jira", "zendesk")]
    for company, platform in places:
        await storage.save_ticket(company, platform, {"id": 1, "of": f"{company} {platform}"})
        await storage.save_kb_article(company, platform, {"id": 1})
    await storage.update_processing_status("alpha", "jira", "1", "done")
    for company, platform in places:
        found = await storage.get_ticket(company, platform, "1")
        assert found is not None
        assert found["of"] == f"{company} {platform}"
        assert found["processing_status"] == ("done" if (company, platform) == ("alpha", "jira") else "pending")
        assert len(await storage.list_tickets(company)) == 2


@pytest.mark.parametrize("name", ["../x", "", "Wedosoft", "a b", "a\0", "con", "x" * 64, "ünï", "a/b", "a'b"])
async def test_S1_a_company_or_platform_must_be_an_identifier(every: Every, name: str) -> None:
    """Every method refuses every such name with the same InvalidIdentifier, also for what only reads."""
    for company, platform in ((name, PLATFORM), (COMPANY, name)):
        for call in (
            lambda storage: storage.save_ticket(company, platform, {"id": 1}),  # noqa: B023
            lambda storage: storage.get_ticket(company, platform, "1"),  # noqa: B023
            lambda storage: storage.list_tickets(company, platform),  # noqa: B023
            lambda storage: storage.update_processing_status(company, platform, "1", "x"),  # noqa: B023
            lambda storage: storage.save_summary(company, platform, "1", {}),  # noqa: B023
            lambda storage: storage.get_processing_progress(company, platform),  # noqa: B023
            lambda storage: storage.set_processing_progress(company, platform, None),  # noqa: B023
            lambda storage: storage.save_kb_article(company, platform, {"id": 1}),  # noqa: B023
        ):
            found = await agree(every, call)
            assert found["error"] == "InvalidIdentifier"
    found = await agree(every, lambda storage: storage.get_platform_stats(name))
    assert found["error"] == "InvalidIdentifier"
    assert issubclass(InvalidIdentifier, ValueError)


@pytest.mark.parametrize("item_id", ["", "a\0b", "\ud800", "x" * 300, "nobody's", "1' OR 1=1", None, 4.2, True])
async def test_an_id_that_no_ticket_can_have_is_absent(every: Every, item_id: Any) -> None:
    """It is None and False, not an error."""
    for storage in every.all:
        await storage.save_ticket(COMPANY, PLATFORM, {"id": 1})
    assert await agree(every, lambda storage: storage.get_ticket(COMPANY, PLATFORM, item_id)) is None
    assert (
        await agree(every, lambda storage: storage.update_processing_status(COMPANY, PLATFORM, item_id, "x")) is False
    )
    assert await agree(every, lambda storage: storage.save_summary(COMPANY, PLATFORM, item_id, {})) is False


async def test_an_id_may_be_given_as_the_number_it_is_in_the_payload(storage: StorageInterface) -> None:
    """Help desks number their tickets, and so do those who ask for them."""
    await storage.save_ticket(COMPANY, PLATFORM, TICKET)
    number: Any = TICKET["id"]
    assert await storage.get_ticket(COMPANY, PLATFORM, number) is not None


async def test_a_closed_storage_says_so(every: Every) -> None:
    """Every call raises StoreError; closing again does nothing."""
    for storage in every.all:
        await storage.close()
        await storage.close()
        assert storage.closed
    for call in (
        lambda storage: storage.save_ticket(COMPANY, PLATFORM, {"id": 1}),
        lambda storage: storage.get_ticket(COMPANY, PLATFORM, "1"),
        lambda storage: storage.list_companies(),
    ):
        found = await agree(every, call)
        assert found["error"] == StoreError.__name__
