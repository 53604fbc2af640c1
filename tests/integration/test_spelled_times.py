"""Times that another tool spelled otherwise: lists, pages and ranges of a file are those of production all the same."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localstore import FileStorage, LocalStore, PostgresStorage
from localstore.errors import InvalidRow
from localstore.evolution import Evolution
from localstore.helpdesk import Conversation, Ticket
from localstore.helpdesk.filters import After
from localstore.helpdesk.models import KnowledgeArticle, ProcessingProgress
from localstore.helpdesk.repository import TicketRepository
from localstore.postgres.connect import Server
from localstore.postgres.pool import Pool
from localstore.schema.steps import Action
from localstore.sqlite.prepare import Models
from tests.conftest import Login
from tests.integration.helpdesk import Both, make_tables
from tests.spelling import DAY, MOMENTS, spellings

STATUSES = ("open", "closed", None)
HOUR = timedelta(hours=1)

_companies = count(1)


@dataclass(frozen=True, slots=True)
class Spelled:
    """A ticket's moment, and the text that another tool wrote for it."""

    moment: datetime | None
    text: str | None
    status: str | None = "open"
    is_processed: bool | None = False


DRAWN = st.builds(
    lambda drawn, status, processed: Spelled(drawn[0], drawn[1], status, processed),
    st.just((None, None)) | MOMENTS.flatmap(lambda moment: st.tuples(st.just(moment), spellings(moment))),
    st.sampled_from(STATUSES),
    st.sampled_from((True, False, None)),
)
FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"status": ["open"]},
    {"status": ["open", None]},
    {"is_processed": False},
    {"date_range": {"start": DAY}},
    {"date_range": {"end": DAY + 5 * HOUR}},
    {"date_range": {"start": DAY, "end": DAY + 5 * HOUR}, "status": ["open", "closed"]},
)


@dataclass(frozen=True, slots=True)
class World:
    """A store and a production with the same tickets, as repositories and as storages."""

    both: Both
    storages: tuple[FileStorage, PostgresStorage]
    root: Path

    async def write(self, company: str, tickets: Sequence[Spelled]) -> None:
        """Put the tickets on both sides, and spell their times in the file as another tool does."""
        rows: list[Any] = []
        for number, ticket in enumerate(tickets):
            about: dict[str, Any] = {"company_id": company, "platform": "jira", "ticket_id": f"T-{number}"}
            times: dict[str, Any] = {"created_at": DAY, "updated_at": ticket.moment or DAY}
            rows.append(Ticket(**about, **times, status=ticket.status, is_processed=ticket.is_processed))
            rows.append(Conversation(**about | {"ticket_id": "T-0"}, conversation_id=f"{number}", **times))
        await self.both.put(*rows)
        async with self.both.pool.transaction(company) as connection:
            for number, ticket in enumerate(tickets):
                for column, table in (("ticket_id", "tickets"), ("conversation_id", "conversations")):
                    key = f"T-{number}" if table == "tickets" else f"{number}"
                    statement = f"UPDATE {table} SET created_at = $1 WHERE {column} = $2"
                    await connection.execute(statement, ticket.moment, key)
        with closing(sqlite3.connect(self.root / company / "store.db", isolation_level=None, timeout=10)) as shell:
            for number, ticket in enumerate(tickets):
                values = (ticket.text, ticket.text, f"T-{number}")
                shell.execute(
                    "UPDATE tickets SET created_at = ?, updated_at = coalesce(?, updated_at) WHERE ticket_id = ?",
                    values,
                )
                shell.execute(
                    "UPDATE conversations SET created_at = ? WHERE conversation_id = ?", (ticket.text, f"{number}")
                )


@pytest.fixture
async def world(tmp_path: Path, production: str, login: Login) -> AsyncIterator[World]:
    """Give an empty store and an empty production."""
    await make_tables(production)
    root, url = tmp_path / "data", login("app_user")
    async with (
        LocalStore(root) as store,
        Pool(Server.parse(url), max_size=3) as pool,
        FileStorage(root) as file,
        PostgresStorage(url) as server,
    ):
        both = Both(store, pool, TicketRepository(store), TicketRepository(pool))
        yield World(both, (file, server), root)


async def agree(world: World, company: str, tickets: Sequence[Spelled]) -> None:
    """See that both sides give the same lists, however they are asked for."""
    here, both = (company, "jira"), world.both
    for filters in FILTERS:
        whole = [one.ticket_id for one in await both.ask("get_tickets", *here, filters, None)]
        for size in (1, 2, len(tickets)):
            by_offset: list[str] = []
            while page := await both.ask("get_tickets", *here, filters, size, len(by_offset)):
                by_offset += [one.ticket_id for one in page]
            by_key: list[str] = []
            last: Ticket | None = None
            while page := await both.ask("get_tickets", *here, filters, limit=size, after=last):
                by_key += [one.ticket_id for one in page]
                assert len(by_key) <= len(tickets)
                last = page[-1]
            assert by_offset == by_key == whole
        if not filters:
            assert len(whole) == len(tickets)
    for moment in {ticket.moment for ticket in tickets}:
        await both.ask("get_tickets", *here, after=After(moment, "T-1"))
    await both.ask("get_threads", *here)
    file, server = world.storages
    assert await file.get_processing_progress(*here) == await server.get_processing_progress(*here)
    for platform in ("jira", None):
        for status in ("open", None):
            for limit, offset in ((None, 0), (2, 0), (2, 1), (100, 2)):
                arguments = (company, platform, status, limit, offset)
                assert await file.list_tickets(*arguments) == await server.list_tickets(*arguments)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(tickets=st.lists(DRAWN, min_size=1, max_size=6))
async def test_every_spelling_has_productions_answers(world: World, tickets: list[Spelled]) -> None:
    """By key, by offset, by range and by filters, nothing is lost or twice, and both sides have one order."""
    company = f"company-{next(_companies)}"
    await world.write(company, tickets)
    await agree(world, company, tickets)


MOMENT = datetime(2024, 1, 3, tzinfo=UTC)
SPELLED = tuple(
    Spelled(moment, text)
    for moment, text in (
        (MOMENT, "2024-01-03 00:00:00.000000"),
        (MOMENT, "2024-01-03 05:00:00+05:00"),
        (MOMENT, "2024-01-02T19:00:00 -05"),
        (MOMENT, "2024-01-03"),
        (MOMENT + timedelta(microseconds=1), "2024-01-03T00:00:00.000001Z"),
        (MOMENT - timedelta(microseconds=1), "2024-01-02 23:59:59.999999"),
        (None, None),
    )
)


async def test_one_moment_in_many_spellings_is_one_moment(world: World) -> None:
    """Tickets of one moment are listed by their ids, whatever each one's text is, also without the index for them."""
    tickets = (*SPELLED, replace(SPELLED[1], status=None))
    await world.write("acme", tickets)
    await agree(world, "acme", tickets)
    listed = await world.both.file.get_tickets("acme", "jira")
    assert [one.ticket_id for one in listed] == ["T-6", "T-4", "T-0", "T-1", "T-2", "T-3", "T-7", "T-5"]
    with closing(sqlite3.connect(world.root / "acme" / "store.db")) as shell:
        shell.execute("DROP INDEX ix_tickets_otherwise")
    await agree(world, "acme", tickets)


async def test_what_is_no_time_hides_no_ticket(tmp_path: Path) -> None:
    """A value that is no time comes before all times: lists have it, and pages behind it miss nothing."""
    values: tuple[Any, ...] = (
        *("soon", "2024-13-45T00:00:00Z", 7, 2.5, b"\xff\xfe", "", None, "9999-12-31T23:59:59-05:00"),
        *(one.text for one in SPELLED),
    )
    async with FileStorage(tmp_path) as storage:
        for number in range(len(values)):
            await storage.save_ticket("acme", "jira", {"id": f"T-{number}"})
        with closing(sqlite3.connect(tmp_path / "acme" / "store.db", isolation_level=None)) as shell:
            for number, value in enumerate(values):
                shell.execute("UPDATE tickets SET created_at = ? WHERE ticket_id = ?", (value, f"T-{number}"))
        whole = await storage.list_tickets("acme", limit=None)
        assert len(whole) == len(values)
        pages = [await storage.list_tickets("acme", limit=2, offset=offset) for offset in range(0, len(values), 2)]
        assert [ticket for page in pages for ticket in page] == whole
        repository = TicketRepository(storage.store)
        with pytest.raises(InvalidRow):
            await repository.get_tickets("acme", "jira")
        behind = [one.ticket_id for one in await repository.get_tickets("acme", "jira", after=After(MOMENT, "T-8"))]
        assert behind == ["T-9", "T-13"]
        since = await repository.get_tickets("acme", "jira", {"date_range": {"start": MOMENT}})
        assert [one.ticket_id for one in since] == ["T-12", "T-10", "T-11", "T-8", "T-9"]


async def test_an_older_file_gets_the_index_by_schema_apply(tmp_path: Path) -> None:
    """A file that was made before is given the index for other spellings, and is current then."""
    models = Models((Ticket, Conversation, KnowledgeArticle, ProcessingProgress))
    async with LocalStore(tmp_path, models=models.models) as store:
        await store.tenant("acme").put(Ticket(platform="jira", ticket_id="1"))
    with closing(sqlite3.connect(tmp_path / "acme" / "store.db", isolation_level=None)) as shell:
        (made,) = shell.execute("SELECT sql FROM sqlite_master WHERE name = 'ix_tickets_otherwise'").fetchone()
        shell.execute("DROP INDEX ix_tickets_otherwise")
    async with LocalStore(tmp_path, models=()) as store:
        change = await Evolution(store, models).apply()
        steps = [step for tenant in change.tenants for step in tenant.steps]
        assert [(step.action, step.subject) for step in steps] == [(Action.ADD_INDEX, "ix_tickets_otherwise")]
        change = await Evolution(store, models).apply()
        assert not any(tenant.steps for tenant in change.tenants)
    with closing(sqlite3.connect(tmp_path / "acme" / "store.db")) as shell:
        found = shell.execute("SELECT sql FROM sqlite_master WHERE name = 'ix_tickets_otherwise'").fetchone()
    assert found == (made,)


async def test_a_table_that_came_without_it_is_given_the_index_when_the_models_are_used(tmp_path: Path) -> None:
    """A tenant that was pulled has production's indexes; the first store or storage with models adds the file's own."""
    async with LocalStore(tmp_path, models=(Ticket,)) as store:
        await store.tenant("acme").put(Ticket(platform="jira", ticket_id="1"))
    with closing(sqlite3.connect(tmp_path / "acme" / "store.db", isolation_level=None)) as shell:
        shell.execute("DROP INDEX ix_tickets_otherwise")
    async with FileStorage(tmp_path) as storage:
        assert len(await storage.list_tickets("acme")) == 1
    with closing(sqlite3.connect(tmp_path / "acme" / "store.db")) as shell:
        assert shell.execute("SELECT count(*) FROM sqlite_master WHERE name = 'ix_tickets_otherwise'").fetchone() == (
            1,
        )
