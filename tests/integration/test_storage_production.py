"""PostgresStorage on production as it is: logins with few rights, modes, the feed, rows that sync reads alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from localstore import (
    FileStorage,
    LocalStore,
    MissingRights,
    PostgresDenied,
    PostgresError,
    PostgresStorage,
    PostgresUnavailable,
    Settings,
    WrongMode,
)
from localstore.postgres.companies import MODE_LOCK
from localstore.postgres.connect import Server, connection_to
from localstore.sqlite.mode import set_mode
from localstore.storage.tables import storage_tables
from sync import SyncEngine
from sync.production import prepare, register

PAYLOAD: dict[str, Any] = {
    "id": 1,
    "subject": "It beeps",
    "status": 2,
    "weight": 1e16,
    "tags": ["beep"],
    "custom_fields": {"cf": 1.10},
    "created_at": "2024-01-01T00:00:00Z",
    "updated_at": "2024-01-02T00:00:00Z",
    "conversations": [{"id": 7, "body_text": "Since when?", "created_at": "2024-01-01T01:00:00Z"}],
}
ARTICLE: dict[str, Any] = {"id": 5, "title": "Beeps"} | {name: PAYLOAD[name] for name in ("created_at", "updated_at")}
COMPANY, PLATFORM = "alpha", "freshdesk"


@pytest.fixture
async def owner(production: str) -> AsyncIterator[asyncpg.Connection]:
    """Give a superuser's connection to a production that has the help desk's tables."""
    async with connection_to(Server.parse(production)) as connection:
        await prepare(connection)
        await register(connection, "public", storage_tables())
        yield connection


@pytest.fixture
async def storage(owner: asyncpg.Connection, login: Callable[..., str]) -> AsyncIterator[PostgresStorage]:
    """Give the storage of a login that is a member of app_user and nothing else, with one connection."""
    settings = Settings(localstore_pool_max=1)
    async with PostgresStorage(login("app_user"), settings=settings) as storage:
        yield storage


async def every_call(storage: PostgresStorage | FileStorage, expected: type[Exception]) -> None:
    """Make each call that is about a company and see it refused."""
    for call in (
        storage.save_ticket(COMPANY, PLATFORM, PAYLOAD),
        storage.get_ticket(COMPANY, PLATFORM, "1"),
        storage.list_tickets(COMPANY),
        storage.update_processing_status(COMPANY, PLATFORM, "1", "done"),
        storage.save_summary(COMPANY, PLATFORM, "1", {}),
        storage.get_processing_progress(COMPANY, PLATFORM),
        storage.set_processing_progress(COMPANY, PLATFORM, {"total": 1}),
        storage.set_processing_progress(COMPANY, PLATFORM, None),
        storage.save_kb_article(COMPANY, PLATFORM, ARTICLE),
        storage.get_platform_stats(COMPANY),
    ):
        with pytest.raises(expected):
            await call


async def test_R3_R4_R6_nothing_of_a_call_is_left_on_its_connection(storage: PostgresStorage) -> None:
    """After calls for two companies the one connection names no company, no role and no transaction."""
    for company in ("alpha", "beta"):
        await storage.save_ticket(company, PLATFORM, PAYLOAD)
        await storage.list_tickets(company)
    with pytest.raises(WrongMode):
        await refused_by_mode(storage)
    async with storage._pool._primary.transaction("BEGIN") as (connection, _):
        assert await connection.fetchval("SELECT current_setting('app.current_company_id', true)") in ("", None)
        assert await connection.fetchval("SELECT current_user = session_user")
        assert await connection.fetchval("SELECT count(*) FROM tickets") == 0
        assert await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = session_user") == 1


async def refused_by_mode(storage: PostgresStorage) -> None:
    """Have a call fail in the middle of its transaction."""
    storage.modes = frozenset()  # type: ignore[misc]
    await storage.save_ticket("alpha", PLATFORM, PAYLOAD)


async def test_R5_the_settings_stand_inside_the_transaction(storage: PostgresStorage) -> None:
    """What a call's statements see is its company and app_user, whoever logged in."""
    async with storage._pool.transaction(COMPANY) as connection:
        row = await connection.fetchrow("SELECT current_setting('app.current_company_id'), current_user::text")
        assert tuple(row) == (COMPANY, "app_user")


async def test_R8_a_limited_login_has_its_own_companies_only(
    owner: asyncpg.Connection, storage: PostgresStorage, login: Callable[..., str]
) -> None:
    """A login limited to alpha neither sees beta, nor its mode, nor that it is there, nor makes another company."""
    await storage.save_ticket("alpha", PLATFORM, PAYLOAD)
    await storage.save_ticket("beta", PLATFORM, PAYLOAD)
    url = login("app_user")
    await owner.execute("SELECT localstore.limit_login($1, 'alpha')", Server.parse(url).user)
    async with PostgresStorage(url) as limited:
        assert await limited.list_companies() == ["alpha"]
        assert len(await limited.list_tickets("alpha")) == 1
        await limited.save_ticket("alpha", PLATFORM, PAYLOAD | {"id": 2})
        assert await limited.list_tickets("beta") == []
        assert await limited.get_ticket("beta", PLATFORM, "1") is None
        for company in ("beta", "gamma"):
            with pytest.raises(MissingRights):
                await limited.save_ticket(company, PLATFORM, PAYLOAD)
            with pytest.raises(MissingRights):
                await limited.update_processing_status(company, PLATFORM, "1", "done")
    assert await storage.list_companies() == ["alpha", "beta"]


async def test_R8_a_company_is_registered_for_the_transactions_own_setting_only(
    owner: asyncpg.Connection, login: Callable[..., str]
) -> None:
    """The functions take no company from their caller, and without a setting they tell and make nothing."""
    async with connection_to(Server.parse(login("app_user"))) as app:
        assert await app.fetchval("SELECT localstore.mode_of_company()") is None
        for setting in ("", "../x", "A"):
            async with app.transaction():
                await app.execute("SELECT set_config('app.current_company_id', $1, true)", setting)
                assert await app.fetchval("SELECT localstore.mode_of_company()") is None
            with pytest.raises(asyncpg.InvalidParameterValueError):
                async with app.transaction():
                    await app.execute("SELECT set_config('app.current_company_id', $1, true)", setting)
                    await app.execute("SELECT localstore.register_company('public')")
    assert await owner.fetchval("SELECT count(*) FROM localstore.tenants") == 0


async def test_a_login_without_the_role_is_told_so(owner: asyncpg.Connection, login: Callable[..., str]) -> None:
    """A login that is no member of app_user gets MissingRights, and nothing is stored."""
    async with PostgresStorage(login()) as storage:
        await every_call(storage, MissingRights)
    assert await owner.fetchval("SELECT count(*) FROM localstore.tenants") == 0


async def test_a_database_that_nobody_prepared_is_named_with_the_command(production: str) -> None:
    """Without our functions, or without the tables, the error says what to run."""
    async with PostgresStorage(production) as storage:
        with pytest.raises(PostgresError) as caught:
            await storage.list_tickets(COMPANY)
        assert "localstore sync init" in caught.value.hint
        async with connection_to(Server.parse(production)) as connection:
            await prepare(connection)
        assert await storage.list_companies() == []
        with pytest.raises(PostgresError) as caught:
            await storage.save_ticket(COMPANY, PLATFORM, PAYLOAD)
        assert "localstore sync init" in caught.value.hint
        assert await storage.list_companies() == []


async def test_S5_no_password_is_in_errors_or_reprs(production: str) -> None:
    """A storage that cannot log in or reach its server says where, and nothing secret."""
    server = Server.parse(production)
    away = Server(server.hosts, (1,), "someone", "s3cret-word", "db")
    for url, error in (
        (server.with_login("nobody_here", "s3cret-word").url, PostgresDenied),
        (away.url, PostgresUnavailable),
    ):
        async with PostgresStorage(url) as storage:
            assert "s3cret-word" not in repr(storage)
            with pytest.raises(error) as caught:
                await storage.list_companies()
            assert "s3cret-word" not in f"{caught.value!r}{caught.value.hint}"


@pytest.mark.parametrize("mode", ["file", "hybrid", "advancing"])
async def test_a_tenant_whose_truth_is_elsewhere_is_refused(
    owner: asyncpg.Connection, storage: PostgresStorage, mode: str
) -> None:
    """In every mode but postgresql all calls raise WrongMode with the command to run, and write nothing."""
    await owner.execute("INSERT INTO localstore.tenants (company_id, mode) VALUES ($1, $2)", COMPANY, mode)
    await every_call(storage, WrongMode)
    with pytest.raises(WrongMode) as caught:
        await storage.save_ticket(COMPANY, PLATFORM, PAYLOAD)
    assert (caught.value.exit_code, f"localstore mode advance {COMPANY}" in caught.value.hint) == (6, True)
    assert await owner.fetchval("SELECT (SELECT count(*) FROM tickets) + (SELECT count(*) FROM localstore.feed)") == 0
    assert await storage.list_companies() == [COMPANY]


@pytest.mark.parametrize(("mode", "served"), [("file", True), ("hybrid", True), ("postgresql", False)])
async def test_a_file_that_is_not_the_truth_is_refused(tmp_path: Path, mode: str, served: bool) -> None:
    """FileStorage serves the modes in which the file is the truth; the mode counts from the moment it is written."""
    async with FileStorage(tmp_path) as storage, LocalStore(tmp_path) as store:
        await storage.save_ticket(COMPANY, PLATFORM, PAYLOAD)
        database = (await store.tenant(COMPANY).open()).database
        await database.write(partial(set_mode, mode=mode))
        if served:
            assert await storage.save_ticket(COMPANY, PLATFORM, PAYLOAD | {"id": 2}) == "2"
            assert len(await storage.list_tickets(COMPANY)) == 2
        else:
            await every_call(storage, WrongMode)


async def test_a_save_waits_for_a_change_of_mode_and_then_obeys_it(
    owner: asyncpg.Connection, storage: PostgresStorage
) -> None:
    """Whoever changes the mode under its lock has no write behind its back: the save sees the new mode."""
    await storage.save_ticket(COMPANY, PLATFORM, PAYLOAD)
    async with owner.transaction():
        await owner.execute(MODE_LOCK, COMPANY)
        waiting = asyncio.create_task(storage.save_ticket(COMPANY, PLATFORM, PAYLOAD | {"id": 2}))
        while not await owner.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
            assert not waiting.done()
        await owner.execute("UPDATE localstore.tenants SET mode = 'hybrid' WHERE company_id = $1", COMPANY)
    with pytest.raises(WrongMode):
        await waiting
    assert await owner.fetchval("SELECT count(*) FROM tickets") == 1


async def test_every_write_is_in_the_feed_and_a_repeated_one_is_not(
    owner: asyncpg.Connection, storage: PostgresStorage
) -> None:
    """Boxes that pull learn of what applications wrote, and of nothing that did not change."""
    feed = "SELECT tbl, op::text, key FROM localstore.feed ORDER BY id"
    for _ in range(2):
        await storage.save_ticket(COMPANY, PLATFORM, PAYLOAD)
        await storage.update_processing_status(COMPANY, PLATFORM, "1", "done")
    assert [tuple(row) for row in await owner.fetch(feed)] == [
        ("tickets", "i", [PLATFORM, "1"]),
        ("conversations", "i", [PLATFORM, "1", "7"]),
        ("tickets", "u", [PLATFORM, "1"]),
    ]


async def test_a_row_saved_here_is_the_row_that_a_file_promotes(
    owner: asyncpg.Connection, storage: PostgresStorage, production: str, tmp_path: Path
) -> None:
    """The same payloads, saved to production and saved to a file that is pushed, are the same rows, their ids too."""
    await storage.save_ticket("direct", PLATFORM, PAYLOAD)
    await storage.save_kb_article("direct", PLATFORM, ARTICLE)
    async with FileStorage(tmp_path) as file:
        await file.save_ticket("pushed", PLATFORM, PAYLOAD)
        await file.save_kb_article("pushed", PLATFORM, ARTICLE)
        async with SyncEngine(file.store, to=production) as engine:
            result = await engine.push(promote=True)
            assert [tenant.state for tenant in result.tenants] == ["promoted"]
        answer = await file.get_ticket("pushed", PLATFORM, "1")
    for table in ("tickets", "conversations", "knowledge_base"):
        rows = {
            company: await owner.fetch(
                f"SELECT to_jsonb(t) - 'company_id' - 'id' FROM {table} t WHERE company_id = $1", company
            )
            for company in ("direct", "pushed")
        }
        assert len(rows["direct"]) == 1
        assert rows["direct"] == rows["pushed"]
    await owner.execute("UPDATE localstore.tenants SET mode = 'postgresql' WHERE company_id = 'pushed'")
    assert await storage.get_ticket("pushed", PLATFORM, "1") == answer


async def test_connections_that_the_server_cut_are_replaced(
    owner: asyncpg.Connection, storage: PostgresStorage
) -> None:
    """After a restart of the server the next call works, and what was saved before is there, again and again."""
    await storage.save_ticket(COMPANY, PLATFORM, PAYLOAD)
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1"
    for status in ("done", "failed") * 5:
        await owner.execute(cut, storage.server.user)
        assert await storage.get_ticket(COMPANY, PLATFORM, "1") is not None
        await owner.execute(cut, storage.server.user)
        assert await storage.update_processing_status(COMPANY, PLATFORM, "1", status) is True
