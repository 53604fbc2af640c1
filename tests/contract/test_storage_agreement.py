"""Whatever is asked in whatever order, every backend answers the same."""

from __future__ import annotations

import asyncio
import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localstore import StorageInterface
from tests.contract.compare import agree, outcome, timeless
from tests.contract.conftest import Every

PLATFORMS = st.sampled_from(("freshdesk", "jira"))
IDS = st.sampled_from(("1", "2", "A-3", "né"))
WORDS = st.sampled_from(("pending", "completed", "failed", "open", "closed"))
TIMES = st.sampled_from(
    ("2024-01-01T00:00:00Z", "2024-01-01T09:00:00+09:00", "2019-12-31", "0001-01-01T00:00:00+14:00", "soon", None, 7)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
MEMBERS = st.sampled_from(
    "subject description status priority tags custom_fields summary is_processed processed_data requester "
    "assignee comments fields company_id updated_at localstore_edited".split()
)
CONVERSATIONS = st.lists(
    st.fixed_dictionaries({}, optional={"id": IDS, "body_text": st.text(max_size=9), "created_at": TIMES}), max_size=4
)
PAYLOADS = st.builds(
    lambda item_id, members, known: members | known | {"id": item_id},
    IDS,
    st.dictionaries(MEMBERS, JSON, max_size=5),
    st.fixed_dictionaries(
        {},
        optional={"created_at": TIMES, "status": WORDS, "processing_status": WORDS, "conversations": CONVERSATIONS},
    ),
)
CALLS = st.one_of(
    st.tuples(st.just("save_ticket"), PLATFORMS, PAYLOADS),
    st.tuples(st.just("save_ticket"), PLATFORMS, PAYLOADS),
    st.tuples(st.just("save_kb_article"), PLATFORMS, PAYLOADS),
    st.tuples(st.just("update_processing_status"), PLATFORMS, IDS, WORDS),
    st.tuples(st.just("save_summary"), PLATFORMS, IDS, JSON),
    st.tuples(st.just("set_processing_progress"), PLATFORMS, st.none() | st.dictionaries(st.text(max_size=5), JSON)),
    st.tuples(st.just("get_ticket"), PLATFORMS, IDS),
    st.tuples(st.just("list_tickets"), st.none() | PLATFORMS, st.none() | WORDS, st.none() | st.integers(0, 5)),
)

_companies = count(1)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(calls=st.lists(CALLS, max_size=12))
async def test_the_same_calls_have_the_same_answers(every: Every, calls: list[tuple[Any, ...]]) -> None:
    """Any calls in any order return the same values of the same types, or raise the same errors with the same words."""
    company = f"company-{next(_companies)}"
    for method, *arguments in calls:
        await agree(every, lambda storage: getattr(storage, method)(company, *arguments), clock=True)  # noqa: B023
    for platform in ("freshdesk", "jira"):
        await agree(every, lambda storage: storage.get_processing_progress(company, platform), clock=True)  # noqa: B023
        for item_id in ("1", "2", "A-3", "né"):
            await agree(every, lambda storage: storage.get_ticket(company, platform, item_id), clock=True)  # noqa: B023
    await agree(every, lambda storage: storage.get_platform_stats(company))


async def test_real_tickets_are_read_back_alike_and_unaltered(every: Every, helpdesk_data: Path) -> None:
    """Real payloads of every help desk: all backends take or refuse the same ones and give the same back."""
    refused, taken = 0, {}
    for folder in sorted(helpdesk_data.glob("*/*/tickets")):
        company, platform = folder.parts[-3:-1]
        for path in sorted(folder.glob("*.json"))[:60]:
            payload = json.loads(path.read_bytes())
            saved = await agree(every, lambda storage: storage.save_ticket(company, platform, payload))  # noqa: B023
            if isinstance(saved, dict):
                refused += 1
                assert "U+0000" in saved["message"]
            else:
                taken[company, platform, saved] = payload
    for key, payload in taken.items():
        found = await agree(every, lambda storage: storage.get_ticket(*key), clock=True)  # noqa: B023
        assert timeless(found) == timeless(
            payload
            | {name: found[name] for name in ("company_id", "platform", "ticket_id", "processing_status")}
            | ({"summary": found["summary"]} if "summary" in found else {})
        )
    for company in await agree(every, lambda storage: storage.list_companies()):
        await agree(every, lambda storage: storage.list_tickets(company, limit=None), clock=True)  # noqa: B023
        await agree(every, lambda storage: storage.get_platform_stats(company))  # noqa: B023
    assert len(taken) > refused


async def test_saves_at_once_of_one_ticket_leave_one_of_them_whole(storage: StorageInterface) -> None:
    """Writers of the same new ticket do not fail, and ticket and conversations are those of one writer."""

    def payload(writer: int) -> dict[str, Any]:
        entries = [{"id": place, "body_text": f"by {writer}"} for place in range(writer % 3 + 1)]
        return {"id": 1, "subject": f"by {writer}", "conversations": entries}

    await asyncio.gather(*(storage.save_ticket("alpha", "freshdesk", payload(writer)) for writer in range(16)))
    found = await storage.get_ticket("alpha", "freshdesk", "1")
    assert found is not None
    writer = int(found["subject"].split()[1])
    assert found["conversations"] == payload(writer)["conversations"]


async def test_writers_at_once_lose_nothing(storage: StorageInterface) -> None:
    """Eight writers of many tickets, each changed twice: every change is there, and every writer reads its own."""

    async def write(writer: int) -> None:
        for number in range(12):
            item_id = f"{writer}-{number}"
            await storage.save_ticket("alpha", "jira", {"key": item_id})
            assert await storage.update_processing_status("alpha", "jira", item_id, "done")
            assert await storage.save_summary("alpha", "jira", item_id, {"of": item_id})
            found = await storage.get_ticket("alpha", "jira", item_id)
            assert found is not None
            assert (found["processing_status"], found["summary"]) == ("done", {"of": item_id})

    await asyncio.gather(*map(write, range(8)))
    assert len(await storage.list_tickets("alpha", limit=None)) == 96
    progress = await storage.get_processing_progress("alpha", "jira")
    assert (progress["total_tickets"], progress["processed_tickets"]) == (96, 96)


async def test_a_cancelled_save_is_done_or_not(storage: StorageInterface) -> None:
    """Cancelling a save at any moment leaves a storage that works and a ticket that is whole or absent."""
    for turns in range(12):
        payload = {"id": turns, "conversations": [{"id": 1, "body_text": "whole"}]}
        task = asyncio.create_task(storage.save_ticket("alpha", "freshdesk", payload))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        found = await storage.get_ticket("alpha", "freshdesk", str(turns))
        assert found is None or found["conversations"] == payload["conversations"]
        assert await storage.save_ticket("alpha", "freshdesk", payload) == str(turns)


@pytest.mark.parametrize(
    "text", ["", "\\", "\\N", '"', "'; DROP TABLE tickets; --", "$1 %s ? :name {0}", "\u202e", "👩‍💻"]
)
async def test_V45_awkward_texts_are_data(every: Every, text: str) -> None:
    """Text that means something to SQL, COPY or a formatter is stored and found as it is."""
    for storage in every.all:
        await storage.save_ticket("alpha", "freshdesk", {"id": 1, "status": text, "subject": text})
    listed = await agree(every, lambda storage: storage.list_tickets("alpha", status=text), clock=True)
    assert [found["subject"] for found in listed] == [text]
    assert (await outcome(every.file, lambda storage: storage.list_tickets("alpha", status=text + "x"))) == []
