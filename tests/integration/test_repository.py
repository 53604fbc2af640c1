"""The ticket repository: every call on a tenant's file and on production, and both give the same answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from localstore import LocalStore
from localstore.errors import ConfigurationError, InvalidIdentifier, InvalidRow, WrongTenant
from localstore.helpdesk import Conversation, Ticket
from localstore.helpdesk.filters import After
from localstore.helpdesk.models import natural_id
from localstore.helpdesk.queries import ALTERNATIVES_MAX, OFFSET_MAX
from localstore.helpdesk.repository import TicketRepository
from localstore.postgres.connect import Server
from localstore.postgres.pool import Pool
from tests.conftest import Login
from tests.integration.helpdesk import Both, make_tables, shown

ACME = ("acme", "jira")
START = datetime(2024, 5, 1, 12, tzinfo=UTC)
NINE = START + timedelta(hours=9, microseconds=9)
STATUSES = ("open", "pending", "résolu", None)
PRIORITIES = ("low", "high", None)
PEOPLE = ("ann@example.com", "böb@example.com", None)
NUMBERS = range(24)
UNDATED = (7, 11)


def ticket(number: int, company: str = "acme", platform: str = "jira", **columns: Any) -> Ticket:
    """Return a ticket whose columns follow from its number; every fifth shares its moment with the one before."""
    moment = START + timedelta(hours=number - (number % 5 == 0), microseconds=number % 5 and number)
    values: dict[str, Any] = {
        "title": f"Ticket {number}",
        "status": STATUSES[number % 4],
        "priority": PRIORITIES[number % 3],
        "assignee_email": PEOPLE[number // 2 % 3],
        "is_processed": (False, True, None)[number % 3],
        "tags": ["a", "ü", number],
        "raw_data": {"company_id": "their own", "n": number, "deep": {"x": [1.5, None, True, "日本"]}},
        "created_at": moment,
        "updated_at": moment,
        **columns,
    }
    return Ticket(company_id=company, platform=platform, ticket_id=f"T-{number}", **values)


def message(number: int, part: int, **columns: Any) -> Conversation:
    """Return a message of a ticket."""
    values: dict[str, Any] = {"content": f"{number}/{part}", "created_at": START + timedelta(days=9 - part), **columns}
    return Conversation(
        company_id="acme",
        platform="jira",
        ticket_id=f"T-{number}",
        conversation_id=f"{part}",
        updated_at=START,
        **values,
    )


def ids(tickets: list[Ticket]) -> list[str]:
    """Return the ids of tickets, in their order."""
    return [one.ticket_id for one in tickets]


def stored(number: int) -> Ticket:
    """Return a ticket as the fixture leaves it."""
    row = ticket(number)
    if number in UNDATED:
        row.__dict__["created_at"] = None
    return row


def _listed(row: Any) -> datetime:
    # A date that is not there counts as one after all others.
    return row.created_at or datetime.max.replace(tzinfo=UTC)


def expected(chosen: Any) -> list[str]:
    """Return the ids of the fixture's tickets that were chosen, in the order of a list."""
    rows = sorted((row for row in map(stored, NUMBERS) if chosen(row)), key=lambda row: row.ticket_id)
    return ids(sorted(rows, key=_listed, reverse=True))


@pytest.fixture
async def empty(tmp_path: Path, production: str, login: Login) -> AsyncIterator[Both]:
    """Give a store, and a production reached by a login that is only a member of `app_user`."""
    await make_tables(production)
    async with LocalStore(tmp_path / "data") as store, Pool(Server.parse(login("app_user")), max_size=3) as pool:
        yield Both(store, pool, TicketRepository(store), TicketRepository(pool))


@pytest.fixture
async def both(empty: Both) -> Both:
    """Give both sides with two dozen tickets, and others of a second platform and company."""
    await empty.put(*map(ticket, NUMBERS), ticket(1, platform="zendesk"), ticket(99, platform="zendesk"))
    await empty.put(ticket(1, "other"), ticket(50, "other"))
    for number in UNDATED:
        values = {"created_at": None, "updated_at": ticket(number).updated_at}
        await empty.ask("update_ticket", *ACME, f"T-{number}", values)
    return empty


async def test_the_newest_tickets_come_first_and_ties_by_id(both: Both) -> None:
    """Without a filter the platform's tickets come newest first, those of one moment by id, undated ones ahead."""
    assert ids(await both.ask("get_tickets", *ACME)) == expected(lambda _: True)


CASES: list[tuple[dict[str, Any], Any]] = [
    ({"status": ["open"]}, lambda t: t.status == "open"),
    ({"status": "résolu"}, lambda t: t.status == "résolu"),
    ({"status": ["open", "pending", "nothing"]}, lambda t: t.status in ("open", "pending")),
    ({"status": ["open", None]}, lambda t: t.status in ("open", None)),
    ({"status": []}, lambda _: False),
    ({"status": ["o\0pen", "\ud800"]}, lambda _: False),
    ({"status": None}, lambda _: True),
    ({"priority": ["high"]}, lambda t: t.priority == "high"),
    ({"assignee_email": ["böb@example.com"]}, lambda t: t.assignee_email == "böb@example.com"),
    ({"is_processed": True}, lambda t: t.is_processed is True),
    ({"is_processed": False}, lambda t: not t.is_processed),
    ({"date_range": {"start": NINE}}, lambda t: t.created_at and t.created_at >= NINE),
    ({"date_range": {"end": "2024-05-01T23:00:00.000009+02:00"}}, lambda t: t.created_at and t.created_at <= NINE),
    (
        {"date_range": {"start": NINE.replace(tzinfo=None), "end": NINE + timedelta(hours=3)}},
        lambda t: t.created_at and NINE <= t.created_at <= NINE + timedelta(hours=3),
    ),
    (
        {"status": ["open", "pending"], "priority": "low", "is_processed": False, "assignee_email": [None]},
        lambda t: (
            t.status in ("open", "pending") and t.priority == "low" and not t.is_processed and not t.assignee_email
        ),
    ),
]


async def test_a_filter_chooses_what_it_says(both: Both) -> None:
    """Each filter, alone and with others, gives the tickets that meet it, in a list's order."""
    for filters, chosen in CASES:
        assert ids(await both.ask("get_tickets", *ACME, filters)) == expected(chosen), filters


@pytest.mark.parametrize(
    ("filters", "chosen"),
    [({}, lambda _: True), CASES[3], CASES[10], ({"priority": ["low", "high"], "is_processed": False}, None)],
)
async def test_pages_by_offset_and_by_key_make_up_the_list(both: Both, filters: dict[str, Any], chosen: Any) -> None:
    """Pages of any size, by offset or after a ticket, are the list, nothing twice and nothing missing."""
    whole = ids(await both.ask("get_tickets", *ACME, filters, None))
    assert whole
    assert chosen is None or whole == expected(chosen)
    for size in (1, 5, 24) if filters else (1, 2, 5, 24, 30):
        by_offset: list[str] = []
        while page := await both.ask("get_tickets", *ACME, filters, size, len(by_offset)):
            by_offset += ids(page)
        by_key: list[str] = []
        last: Ticket | After | None = None
        while page := await both.ask("get_tickets", *ACME, filters, limit=size, after=last):
            by_key += ids(page)
            last = page[-1]
        assert by_offset == by_key == whole


async def test_values_beyond_what_is_searched_one_by_one_are_found_all_the_same(both: Both) -> None:
    """So many values that no page is made of each, and an offset so far that none is, give the same tickets."""
    statuses = ["open", "pending", *map(str, range(ALTERNATIVES_MAX))]
    assert ids(await both.ask("get_tickets", *ACME, {"status": statuses})) == expected(CASES[2][1])
    assert await both.ask("get_tickets", *ACME, {"status": ["open", "pending"]}, 100, OFFSET_MAX + 1) == []


async def test_a_page_by_key_keeps_to_its_filter(both: Both) -> None:
    """The page after a ticket holds those that meet the filter, whether or not that ticket does."""
    filters = {"status": ["open"]}
    whole = await both.ask("get_tickets", *ACME, filters)
    rest = await both.ask("get_tickets", *ACME, filters, after=After(whole[1].created_at, whole[1].ticket_id))
    assert ids(rest) == ids(whole)[2:]


async def test_no_limit_is_no_limit(both: Both) -> None:
    """A list is cut where the caller says, also nowhere or at nothing, and skips what it is told to."""
    await both.put(*(ticket(number) for number in range(200, 320)))
    assert len(await both.ask("get_tickets", *ACME)) == 100
    assert len(await both.ask("get_tickets", *ACME, None, None)) == 144
    assert len(await both.ask("get_tickets", *ACME, None, None, 140)) == 4
    assert await both.ask("get_tickets", *ACME, None, 0) == []


IMPOSSIBLE: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (({"stauts": "open"},), {}),
    (({"status": [1]},), {}),
    (({"is_processed": 1},), {}),
    (({"date_range": ["2024-01-01"]},), {}),
    (({"date_range": {"start": "yesterday"}},), {}),
    ((None, -1), {}),
    ((None, 1, -1), {}),
    ((None, 1, 1), {"after": After(None, "T-1")}),
]


async def test_what_cannot_be_asked_is_said_before_anything_is_read(empty: Both) -> None:
    """An unknown filter, a value of the wrong kind or a contradictory page is an error on both sides."""
    for side in (empty.file, empty.production):
        for arguments, options in IMPOSSIBLE:
            with pytest.raises(ConfigurationError):
                await side.get_tickets(*ACME, *arguments, **options)


async def test_a_ticket_is_found_by_its_id(both: Both) -> None:
    """The ticket comes with all its columns; an id of another platform or of nobody gives None."""
    found = await both.ask("get_ticket_by_id", *ACME, "T-3")
    assert shown(found) == shown(ticket(3))
    assert found.model_dump()["raw_data"]["n"] == 3
    for missing in ("T-99", "", "t-3", "T-3\0", "\ud800"):
        assert await both.ask("get_ticket_by_id", *ACME, missing) is None


async def test_an_unknown_company_reads_as_empty_and_is_not_made(both: Both) -> None:
    """Reading of a company that is not there finds nothing and makes no file."""
    assert await both.ask("get_tickets", "nobody", "jira") == []
    assert await both.ask("get_ticket_by_id", "nobody", "jira", "1") is None
    assert await both.ask("update_ticket", "nobody", "jira", "1", {"title": "x"}) is None
    assert (await both.ask("get_ticket_stats", "nobody", "jira"))["total_tickets"] == 0
    assert await both.ask("get_conversations", "nobody", "jira", ["1"]) == {"1": []}
    assert await both.store.tenants() == ["acme", "other"]


async def test_S1_a_company_or_platform_that_is_no_name_is_refused(empty: Both) -> None:
    """What cannot name a tenant or a platform is an error on both sides."""
    for side in (empty.file, empty.production):
        for company, platform in (("../x", "jira"), ("acme", "Jira"), ("", "jira"), ("acme", "")):
            with pytest.raises(InvalidIdentifier):
                await side.get_tickets(company, platform)


async def test_statistics_count_every_ticket_once(both: Both) -> None:
    """The counts by status, by priority and by being processed each make up the total."""
    stats = await both.ask("get_ticket_stats", *ACME)
    assert stats == {
        "total_tickets": 24,
        "status_distribution": dict.fromkeys(("open", "pending", "résolu", None), 6),
        "priority_distribution": {"low": 8, "high": 8, None: 8},
        "processed_count": 8,
        "unprocessed_count": 16,
    }


async def test_conversations_come_with_their_tickets_in_two_queries(both: Both) -> None:
    """However many tickets there are, they and all their messages, oldest first, take two queries.

    A file is asked one thing more, whether other tools spelled times otherwise.
    """
    await both.put(*(message(number, part) for number in NUMBERS for part in range(number % 4)))
    await both.put(message(5, 9, created_at=START), message(5, 8, created_at=START))
    asked: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    event.listen(Engine, "before_cursor_execute", count)
    try:
        threads = await both.file.get_threads(*ACME, None, 20)
    finally:
        event.remove(Engine, "before_cursor_execute", count)
    assert len(asked) == 3
    assert asked[0].startswith("SELECT tickets.ticket_id \n")
    sent: list[str] = []
    async with both.pool.transaction("acme") as connection:
        raw = connection._con
    raw.add_query_logger(lambda record: sent.append(record.query))
    assert shown(await both.production.get_threads(*ACME, None, 20)) == shown(threads)
    assert sum(query.startswith("SELECT") for query in sent) == 2
    assert [thread.ticket.ticket_id for thread in threads] == expected(lambda _: True)[:20]
    parts = {thread.ticket.ticket_id: [one.conversation_id for one in thread.conversations] for thread in threads}
    assert parts["T-23"] == ["2", "1", "0"]
    assert parts["T-5"] == ["8", "9", "0"]
    assert parts["T-4"] == []


async def test_conversations_of_more_tickets_than_one_query_takes(both: Both) -> None:
    """Messages of a thousand ids come whole, and an id that no ticket has brings an empty list."""
    await both.put(message(3, 1), message(4, 1))
    wanted = [f"T-{number}" for number in range(1001)] + ["T-3", "\ud800"]
    found = await both.ask("get_conversations", *ACME, wanted)
    assert len(found) == 1002
    assert {name for name, messages in found.items() if messages} == {"T-3", "T-4"}


async def test_a_created_ticket_is_returned_as_stored(empty: Both) -> None:
    """What creating returns is what reading gives: defaults, the id by its key, times in UTC, JSON as parsed."""
    data = {
        "ticket_id": "T-1",
        "title": "naïve \\N \t\r\n ☃",
        "tags": ("a", "b"),
        "raw_data": {"n": 1.0, "none": None},
        "created_at": datetime(2024, 5, 1, 14, tzinfo=timezone(timedelta(hours=2))),
        "updated_at": "2024-05-01T12:00:00Z",
    }
    made = await empty.ask("create_ticket", *ACME, data)
    assert shown(made) == shown(await empty.ask("get_ticket_by_id", *ACME, "T-1"))
    assert made.created_at == made.updated_at == START
    assert made.tags == ["a", "b"]
    assert (made.is_processed, made.processing_status) == (False, "pending")
    assert made.id == natural_id("tickets", "acme", "jira", "T-1")


async def test_a_ticket_cannot_be_created_twice(both: Both) -> None:
    """Creating what is there is an error that changes nothing."""
    before = shown(await both.ask("get_ticket_by_id", *ACME, "T-3"))
    for side in (both.file, both.production):
        with pytest.raises(InvalidRow, match="tickets/jira/T-3 is there already"):
            await side.create_ticket(*ACME, {"ticket_id": "T-3", "title": "again"})
    assert shown(await both.ask("get_ticket_by_id", *ACME, "T-3")) == before


UNFIT: list[dict[str, Any]] = [
    {"title": "no id"},
    {"ticket_id": 7},
    {"ticket_id": ""},
    {"ticket_id": "n", "titel": "x"},
    {"ticket_id": "n", "id": "x"},
    {"ticket_id": "n", "title": 5},
    {"ticket_id": "n", "is_processed": "yes"},
    {"ticket_id": "n", "created_at": "2024-02-30"},
    {"ticket_id": "n", "tags": float("nan")},
    {"ticket_id": "n", "tags": object()},
    {"ticket_id": "n", "title": "\ud800"},
    {"ticket_id": "\ud800"},
    {"ticket_id": "n", "platform": "zendesk"},
]


async def test_data_that_no_ticket_can_hold_are_refused(empty: Both) -> None:
    """An unknown column or a value of the wrong kind is one error on both sides, and nothing is written."""
    for side in (empty.file, empty.production):
        for data in UNFIT:
            with pytest.raises(InvalidRow):
                await side.create_ticket(*ACME, data)
        assert await side.get_tickets(*ACME) == []


async def test_another_company_in_the_data_is_refused(empty: Both) -> None:
    """Data that name another company than the call does are written nowhere."""
    for side in (empty.file, empty.production):
        with pytest.raises(WrongTenant):
            await side.create_ticket(*ACME, {"ticket_id": "1", "company_id": "other"})


async def test_V1_V37_V39_what_production_cannot_hold_is_refused_there(empty: Both) -> None:
    """A value that Postgres has no form for is an InvalidRow, which repeats no value, and nothing is written."""
    for values in ({"title": "a\0b"}, {"raw_data": {"x": "\0"}}, {"tags": ["\ud800"]}):
        with pytest.raises(InvalidRow, match="tickets/jira/n cannot be written"):
            await empty.production.create_ticket(*ACME, {"ticket_id": "n", **values})
    assert await empty.production.get_tickets(*ACME) == []


async def test_an_update_sets_its_columns_and_the_time(both: Both) -> None:
    """Only the columns named change, and updated_at; what is returned is what is read afterwards."""
    moment = START + timedelta(days=30)
    changes: dict[str, Any] = {
        "title": "new",
        "is_processed": True,
        "summary": {"s": [1]},
        "priority": None,
        "updated_at": moment,
    }
    changed = await both.ask("update_ticket", *ACME, "T-3", changes)
    assert shown(changed) == shown(await both.ask("get_ticket_by_id", *ACME, "T-3"))
    assert shown(changed) == shown(ticket(3, **changes))
    for side in (both.file, both.production):
        touched = await side.update_ticket(*ACME, "T-4", {"status": "closed"})
        assert touched is not None
        assert touched.updated_at > START + timedelta(days=30)


async def test_an_update_of_nothing_changes_nothing(both: Both) -> None:
    """Without data the ticket is returned as it is; a ticket that is not there is None."""
    assert shown(await both.ask("update_ticket", *ACME, "T-3", {})) == shown(ticket(3))
    assert await both.ask("update_ticket", *ACME, "T-99", {"title": "x"}) is None


async def test_an_update_that_cannot_be_changes_nothing(both: Both) -> None:
    """A key is not to be changed, nor a column that is not there."""
    for side in (both.file, both.production):
        for data in ({"ticket_id": "T-4"}, {"titel": "x"}, {"is_processed": 1}, {"platform": "zendesk"}):
            with pytest.raises(InvalidRow):
                await side.update_ticket(*ACME, "T-3", {"title": "half", **data})
    assert shown(await both.ask("get_ticket_by_id", *ACME, "T-3")) == shown(ticket(3))


async def test_a_session_of_the_caller_commits_when_the_caller_does(both: Both) -> None:
    """A repository of a session writes in its transaction, reads that back, and leaves the commit to the caller."""
    tenant = both.store.tenant("acme")
    async with tenant.session() as session:
        repository = TicketRepository(session)
        made = await repository.create_ticket(*ACME, {"ticket_id": "S-1", "created_at": START})
        changed = await repository.update_ticket(*ACME, "T-3", {"title": "in the session"})
        assert made.ticket_id in ids(await repository.get_tickets(*ACME))
        assert changed is not None
        changed.status = "through the session"
        with pytest.raises(InvalidRow, match="already"):
            await repository.create_ticket(*ACME, {"ticket_id": "S-1"})
        assert await both.file.get_ticket_by_id(*ACME, "S-1") is None
        await session.commit()
    read = TicketRepository(tenant)
    assert await read.get_ticket_by_id(*ACME, "S-1") is not None
    kept = await read.get_ticket_by_id(*ACME, "T-3")
    assert kept is not None
    assert (kept.title, kept.status) == ("in the session", "through the session")


async def test_a_tenants_repository_writes_no_other_company(both: Both) -> None:
    """A repository of one tenant finds nothing of another and refuses to write it."""
    repository = TicketRepository(both.store.tenant("acme"))
    assert await repository.get_tickets("other", "jira") == []
    with pytest.raises(WrongTenant):
        await repository.create_ticket("other", "jira", {"ticket_id": "x"})


async def test_R_no_company_sees_or_changes_anothers_tickets(both: Both) -> None:
    """The same id in two companies is two tickets, and each call touches the one it names."""
    await both.ask("update_ticket", "other", "jira", "T-1", {"title": "theirs", "updated_at": START})
    assert shown(await both.ask("get_ticket_by_id", *ACME, "T-1")) == shown(ticket(1))
    assert ids(await both.ask("get_tickets", "other", "jira")) == ["T-50", "T-1"]


async def test_production_in_a_schema_of_its_own(empty: Both, production: str, login: Login) -> None:
    """A repository finds its tables in the schema it is told, and no others."""
    await make_tables(production, "help desk")
    async with Pool(Server.parse(login("app_user")), max_size=1) as pool:
        repository = TicketRepository(pool, schema="help desk")
        await repository.create_ticket(*ACME, {"ticket_id": "1"})
        await repository.update_ticket(*ACME, "1", {"title": "x"})
        assert ids(await repository.get_tickets(*ACME)) == ["1"]
        assert (await repository.get_ticket_stats(*ACME))["total_tickets"] == 1
    assert await empty.production.get_tickets(*ACME) == []


def test_a_repository_of_anything_else_is_refused() -> None:
    """Only what holds tickets can be a repository's source."""
    with pytest.raises(ConfigurationError):
        TicketRepository("data")  # type: ignore[arg-type]
