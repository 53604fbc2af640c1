"""One file, one writing connection: commits in groups, turns for sessions, and files that are not the tenant's."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select, text

from localstore import ForeignFile, InvalidRow, LocalStore, Settings, StoreBusy, StoreError, Tenant, TenantModel
from localstore.sqlite.checkpoint import has_wal_reset_bug
from localstore.sqlite.connection import Options, connect
from localstore.sqlite.database import Database
from localstore.sqlite.failures import translate
from localstore.sqlite.identity import APPLICATION_ID
from localstore.sqlite.writer import Writer


class Entry(TenantModel, table=True):
    """The only model of these tests."""

    __tablename__ = "database_entries"

    text: str


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    """Open a store that gives up waiting soon."""
    settings = Settings.from_environment(localstore_busy_timeout=0.2)
    async with LocalStore(tmp_path / "data", models=[Entry], settings=settings) as opened:
        yield opened


@pytest.fixture
async def tenant(store: LocalStore) -> Tenant:
    """Open a tenant."""
    return await store.tenant("acme").open()


def insert(name: str) -> Any:
    """Return work that inserts one row."""

    def work(connection: sqlite3.Connection) -> str:
        connection.execute("INSERT INTO database_entries (company_id, id, text) VALUES ('acme', ?, ?)", (name, name))
        return name

    return work


async def names(database: Database) -> list[str]:
    """Return what is stored."""
    return await database.read(
        lambda connection: [row[0] for row in connection.execute("SELECT text FROM database_entries ORDER BY text")]
    )


async def test_concurrent_writes_commit_together_and_each_gets_its_result(tenant: Tenant) -> None:
    """Many waiting writes need few commits, and no result goes astray."""
    path, commits = tenant.database.path, []
    connection = connect(path, Options(), writes=True)
    writer = Writer("acme", 10, lambda: connection, lambda _: commits.append(1))
    results = await asyncio.gather(*(writer.write(insert(f"{number:03}")) for number in range(300)))
    assert results == [f"{number:03}" for number in range(300)]
    assert len(commits) < 100
    await writer.close()
    connection.close()
    assert len(await names(tenant.database)) == 300


async def test_a_failing_write_undoes_only_itself(tenant: Tenant) -> None:
    """Those that shared its commit stay."""

    def broken(connection: sqlite3.Connection) -> None:
        insert("half")(connection)
        raise RuntimeError("on purpose")

    database = tenant.database
    outcomes = await asyncio.gather(
        *(database.write(insert(name)) for name in "ab"),
        database.write(broken),
        database.write(insert("a")),
        *(database.write(insert(name)) for name in "cd"),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [str, str, RuntimeError, InvalidRow, str, str]
    assert await names(database) == ["a", "b", "c", "d"]


async def test_a_write_that_fails_the_common_commit_fails_alone(tenant: Tenant) -> None:
    """A deferred foreign key is judged at COMMIT; the others of the group are committed without it."""
    database = tenant.database

    def add_table(connection: sqlite3.Connection) -> None:
        connection.execute(
            "CREATE TABLE links (id INTEGER PRIMARY KEY, up INTEGER REFERENCES links DEFERRABLE INITIALLY DEFERRED)"
        )

    def dangle(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO links (up) VALUES (99)")

    await database.write(add_table)
    outcomes = await asyncio.gather(
        *(database.write(insert(name)) for name in "ab"),
        database.write(dangle),
        database.write(insert("c")),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [str, str, InvalidRow, str]
    assert await names(database) == ["a", "b", "c"]


async def test_C20_a_write_that_ends_its_transaction_is_refused(tenant: Tenant) -> None:
    """`executescript` commits behind everybody's back; the writer notices and goes on."""
    with pytest.raises(StoreError, match="ended the transaction"):
        await tenant.database.write(lambda connection: connection.executescript("SELECT 1"))
    await tenant.database.write(insert("after"))
    assert await names(tenant.database) == ["after"]


async def test_a_cancelled_write_is_done_or_not_done_and_blocks_nobody(tenant: Tenant) -> None:
    """Cancelling any of many waiting writes leaves the writer working."""
    tasks = [asyncio.create_task(tenant.database.write(insert(f"{number:02}"))) for number in range(50)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    acknowledged = {outcome for outcome in outcomes if isinstance(outcome, str)}
    assert acknowledged <= set(await names(tenant.database))
    await tenant.database.write(insert("after"))
    assert "after" in await names(tenant.database)


async def test_a_put_inside_the_same_tasks_session_is_refused_at_once(tmp_path: Path) -> None:
    """Waiting for oneself would never end, however patient the store is; the error says what to do."""
    settings = Settings.from_environment(localstore_busy_timeout=3600)
    async with LocalStore(tmp_path / "patient", models=[Entry], settings=settings) as patient:
        tenant = patient.tenant("acme")
        async with tenant.session() as session:
            session.add(Entry(text="session"))
            await session.flush()
            with pytest.raises(StoreBusy, match="session") as caught:
                await tenant.put(Entry(text="put"))
            assert "commit" in caught.value.hint
            await session.commit()
        await tenant.put(Entry(text="put"))
        assert await names(tenant.database) == ["put", "session"]


async def test_another_tasks_put_waits_for_the_session_and_then_is_done(tmp_path: Path) -> None:
    """Fast path and sessions take turns in the order of their arrival."""
    async with LocalStore(tmp_path / "other", models=[Entry]) as patient, patient.tenant("acme") as tenant:
        async with tenant.session() as session:
            session.add(Entry(text="session"))
            await session.flush()
            put = asyncio.create_task(tenant.put(Entry(text="put")))
            while not tenant.database._writer._queue:
                await asyncio.sleep(0)
            assert await names(tenant.database) == []
            await session.commit()
        await put
        assert await names(tenant.database) == ["put", "session"]


async def test_a_write_gives_up_on_a_session_that_never_ends(tenant: Tenant) -> None:
    """The busy timeout bounds the wait, for puts and for other sessions, and the writer recovers."""
    async with tenant.session() as session:
        session.add(Entry(text="session"))
        await session.flush()

        async def second_session() -> None:
            async with tenant.session() as other:
                await other.exec(select(Entry))

        for waiting in (tenant.put(Entry(text="put")), second_session()):
            with pytest.raises(StoreBusy):
                await asyncio.create_task(_as_coroutine(waiting))
        await session.commit()
    await tenant.put(Entry(text="after"))
    assert await names(tenant.database) == ["after", "session"]


async def _as_coroutine(waiting: Any) -> Any:
    return await waiting


async def test_many_sessions_and_puts_at_once_lose_nothing(tmp_path: Path) -> None:
    """Every one of them is stored, whoever waited for whom."""
    async with LocalStore(tmp_path / "busy", models=[Entry]) as busy, busy.tenant("acme") as tenant:

        async def through_session(number: int) -> None:
            async with tenant.session() as session:
                session.add(Entry(text=f"s{number:02}"))
                await session.commit()
                session.add(Entry(text=f"t{number:02}"))
                await session.commit()

        await asyncio.gather(
            *(through_session(number) for number in range(20)),
            *(tenant.put(Entry(text=f"p{number:02}")) for number in range(100)),
        )
        assert len(await names(tenant.database)) == 140


async def test_a_cancelled_session_gives_its_turn_back(tenant: Tenant) -> None:
    """Whatever it had written is gone, and the next writer goes on."""
    begun = asyncio.Event()

    async def holding() -> None:
        async with tenant.session() as session:
            session.add(Entry(text="lost"))
            await session.flush()
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(holding())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await tenant.put(Entry(text="after"))
    assert await names(tenant.database) == ["after"]


async def test_P13_a_session_that_reads_first_can_still_write(tenant: Tenant) -> None:
    """Its transaction is a writing one from the first statement, so no other commit can come in between."""
    await tenant.put(Entry(text="one"))
    async with tenant.session() as session:
        found = (await session.exec(select(Entry))).one()
        other = sqlite3.connect(tenant.database.path, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("INSERT INTO database_entries (company_id, id, text) VALUES ('acme', 'x', 'x')")
        other.close()
        found.text = "two"
        await session.commit()
    assert await names(tenant.database) == ["two"]


async def test_another_process_that_keeps_the_file_locked_is_a_store_busy(tenant: Tenant) -> None:
    """Puts and sessions give up in time, say why, may be retried, and work again afterwards."""
    other = sqlite3.connect(tenant.database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy, match="another process") as caught:
        await tenant.put(Entry(text="x"))
    assert caught.value.retryable
    async with tenant.session() as session:
        session.add(Entry(text="x"))
        with pytest.raises(StoreBusy):
            await session.commit()
    other.execute("ROLLBACK")
    other.close()
    await tenant.put(Entry(text="x"))


async def test_a_snapshot_does_not_move(tenant: Tenant) -> None:
    """Writes go on beside it and are seen by the next one only."""
    database = tenant.database
    await database.write(insert("before"))

    def count(connection: sqlite3.Connection) -> int:
        return int(connection.execute("SELECT count(*) FROM database_entries").fetchone()[0])

    async with database.snapshot() as snapshot:
        await database.write(insert("after"))
        assert await snapshot.run(count) == 1
        assert await database.read(count) == 2
        with pytest.raises(StoreError):
            await snapshot.run(insert("never"))
    async with database.snapshot() as snapshot:
        assert await snapshot.run(count) == 2


async def test_readers_cannot_write(tenant: Tenant) -> None:
    """A read that writes is an error of SQLite's, not a change."""
    with pytest.raises(StoreError):
        await tenant.database.read(insert("x"))
    assert await names(tenant.database) == []


async def test_F8_every_connection_has_its_pragmas(tenant: Tenant) -> None:
    """Durability, foreign keys, complete triggers and no trust in the schema, on both sides."""

    def pragmas(connection: sqlite3.Connection) -> dict[str, Any]:
        wanted = ("journal_mode", "synchronous", "foreign_keys", "recursive_triggers", "trusted_schema", "busy_timeout")
        return {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in wanted}

    expected = {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "recursive_triggers": 1,
        "trusted_schema": 0,
        "busy_timeout": 200,
    }
    turn = await tenant.database.turn()
    writing = pragmas(turn.connection)
    turn.release()
    assert writing == expected
    assert await tenant.database.read(pragmas) == expected


async def test_synchronous_may_be_relaxed_by_a_setting(tmp_path: Path) -> None:
    """NORMAL is faster and may lose the last commits in a power cut; it is never the default."""
    settings = Settings.from_environment(localstore_synchronous="NORMAL")
    async with LocalStore(tmp_path / "quick", models=[Entry], settings=settings) as quick:
        tenant = await quick.tenant("acme").open()
        turn = await tenant.database.turn()
        assert turn.connection.execute("PRAGMA synchronous").fetchone()[0] == 1
        turn.release()


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 53, 0), False),
    ],
)
def test_the_wal_reset_bug_is_known_by_version(version: tuple[int, ...], affected: bool) -> None:
    """Fixed in 3.51.3, and in 3.50.7 and 3.44.6 on their branches."""
    assert has_wal_reset_bug(version) is affected


async def test_the_wal_does_not_grow_without_end(tenant: Tenant) -> None:
    """It is copied back as it grows, whoever does it, and is gone once the file is closed."""
    wal = tenant.database.path.with_name("store.db-wal")
    sizes = []
    for _ in range(6):
        await tenant.put_many([Entry(text="x" * 900) for _ in range(2000)])
        sizes.append(wal.stat().st_size)
    assert max(sizes) < 3.5 * sizes[0]


async def test_a_closed_store_leaves_one_file(store: LocalStore, tenant: Tenant) -> None:
    """Neither WAL nor shared memory stays, so that the file can be copied."""
    folder = tenant.folder
    await tenant.put(Entry(text="x"))
    await store.close()
    assert sorted(entry.name for entry in folder.iterdir()) == ["blobs", "cache", "outbox", "store.db", "store.lock"]
    with pytest.raises(StoreError, match="closed"):
        await tenant.put(Entry(text="y"))


async def test_F9_a_file_deleted_while_open_is_noticed(tenant: Tenant) -> None:
    """No write goes into a file that nobody can find."""
    await tenant.put(Entry(text="x"))
    tenant.database.path.unlink()
    for attempt in (tenant.put(Entry(text="y")), tenant.find(Entry)):
        with pytest.raises(ForeignFile, match="deleted"):
            await attempt


async def test_F10_a_file_replaced_while_open_is_noticed(store: LocalStore, tenant: Tenant) -> None:
    """The old connections neither read nor write the new file; a new store takes it up as it is."""
    path = tenant.database.path
    await tenant.put(Entry(text="old"))
    other = await store.create_tenant("spare")
    await other.put(Entry(text="spare"))
    await store.close()
    replacement = path.with_name("replacement")
    shutil.copy(path, replacement)
    async with LocalStore(store.root, models=[Entry]) as again, again.tenant("acme") as open_one:
        await open_one.put(Entry(text="lost with the file"))
        replacement.replace(path)
        with pytest.raises(ForeignFile, match="replaced"):
            await open_one.put(Entry(text="x"))
        path.with_name("store.db-wal").unlink(missing_ok=True)
        path.with_name("store.db-shm").unlink(missing_ok=True)
        async with LocalStore(store.root, models=[Entry]) as fresh:
            assert await names((await fresh.tenant("acme").open()).database) == ["old"]


async def test_F12_an_emptied_file_is_refused_while_open_and_at_open(store: LocalStore, tenant: Tenant) -> None:
    """SQLite would take it for a new database."""
    path = tenant.database.path
    await tenant.put(Entry(text="x"))
    os.truncate(path, 0)
    with pytest.raises(ForeignFile, match="emptied"):
        await tenant.put(Entry(text="y"))
    with pytest.raises(ForeignFile, match="empty"):
        await LocalStore(store.root, models=[Entry]).tenant("acme").open()


def _foreign_database(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.close()


def _without_identity(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM localstore_identity")
    connection.commit()
    connection.close()


def _newer_format(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE localstore_identity SET format = 99")
    connection.commit()
    connection.close()


def _only_the_number(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("CREATE TABLE t (x)")
    connection.close()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b"not a database at all" * 100), "no SQLite database"),
        (_foreign_database, "not made by localstore"),
        (_only_the_number, "holds no identity"),
        (_without_identity, "holds no identity"),
        (_newer_format, "newer localstore"),
        (lambda path: (path.rename(path.with_name("real")), path.symlink_to("real")), "not an ordinary file"),
        (lambda path: (path.unlink(), path.mkdir()), "not an ordinary file"),
        (lambda path: path.write_bytes(path.read_bytes()[:100] + b"\xff" * 5000), "damaged|cannot|malformed"),
    ],
    ids=["text", "foreign", "number-only", "no-identity", "newer", "link", "folder", "damaged"],
)
async def test_a_file_that_is_not_the_tenants_is_refused(
    store: LocalStore, tenant: Tenant, spoil: Any, message: str
) -> None:
    """It is neither used nor changed, and the error says what it is."""
    path = tenant.database.path
    await store.close()
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(StoreError, match=message) as caught:
        await LocalStore(store.root, models=[Entry]).tenant("acme").open()
    assert caught.value.hint
    assert (path.read_bytes() if path.is_file() else b"") == before


async def test_another_tenants_file_is_refused(store: LocalStore, tenant: Tenant) -> None:
    """A file copied into another tenant's folder would mix companies."""
    await store.create_tenant("globex")
    source = tenant.database.path
    await store.close()
    shutil.copy(source, store.root / "globex" / "store.db")
    with pytest.raises(ForeignFile, match="belongs to tenant 'acme'"):
        await LocalStore(store.root, models=[Entry]).tenant("globex").open()


async def test_F6_a_full_disk_is_one_clear_error_and_costs_nothing_committed(tenant: Tenant) -> None:
    """What was acknowledged stays, and writing goes on once there is space."""
    await tenant.put(Entry(text="kept"))

    def limit(pages: int) -> Any:
        return lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()[0]

    turn = await tenant.database.turn()
    pages = limit(1)(turn.connection)
    turn.release()
    with pytest.raises(StoreError, match="no space"):
        await tenant.put_many([Entry(text="x" * 4000) for _ in range(200)])
    assert await names(tenant.database) == ["kept"]
    turn = await tenant.database.turn()
    assert limit(pages + 10_000)(turn.connection) > pages
    turn.release()
    await tenant.put(Entry(text="later"))
    assert await names(tenant.database) == ["kept", "later"]


OPENED: list[str] | None = None


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if OPENED is not None and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        OPENED.append(os.fsdecode(arguments[0]))


async def test_F14_nothing_but_sqlite_opens_a_tenants_file(store: LocalStore) -> None:
    """Closing such a descriptor would drop SQLite's locks; every open of the interpreter is listened to."""
    global OPENED  # noqa: PLW0603 - an audit hook cannot be taken away again
    sys.addaudithook(_listen)
    OPENED = []
    try:
        tenant = await store.create_tenant("watched")
        await tenant.put(Entry(text="x"))
        async with tenant.session() as session:
            session.add(Entry(text="y"))
            await session.commit()
        async with LocalStore(store.root, models=[Entry]) as second:
            await second.tenant("watched").find(Entry)
            await second.tenants()
        opened = OPENED
    finally:
        OPENED = None
    assert any(name.endswith("store.lock") for name in opened)
    assert [name for name in opened if Path(name).name in {"store.db", "store.db-wal", "store.db-shm"}] == []


def test_every_error_of_sqlite_has_a_translation() -> None:
    """Whatever family it is of, it becomes one of ours; what is not SQLite's stays as it is."""
    for error in (sqlite3.OperationalError("x"), sqlite3.IntegrityError("x"), sqlite3.DatabaseError("x")):
        assert isinstance(translate(error, "acme"), StoreError)
    other = ValueError("x")
    assert translate(other, "acme") is other


async def test_a_cancelled_read_is_interrupted_and_harms_no_other(tenant: Tenant) -> None:
    """A query that would never end ends with its task, and those that follow it are not hit."""
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def forever(connection: sqlite3.Connection) -> None:
        loop.call_soon_threadsafe(begun.set)
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
        ).fetchone()

    for _ in range(5):
        begun.clear()
        task = asyncio.create_task(tenant.database.read(forever))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.gather(*(names(tenant.database) for _ in range(4))) == [[]] * 4


async def test_a_cancelled_sessions_statement_is_interrupted(tenant: Tenant) -> None:
    """The turn comes back although the statement would have gone on for ever."""

    async def forever() -> None:
        async with tenant.session() as session:
            await session.exec(
                text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n")  # type: ignore[call-overload]
            )

    task = asyncio.create_task(forever())
    while tenant.database._writer._turn is None:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await tenant.put(Entry(text="after"))
    assert await names(tenant.database) == ["after"]


async def test_cancelling_at_any_moment_leaks_neither_turn_nor_reader(store: LocalStore) -> None:
    """However far each call had come, everything is given back and the tenant can be put to sleep."""
    tenant = await store.tenant("acme").open()

    async def snapshot() -> None:
        async with tenant.database.snapshot() as opened:
            await opened.run(lambda connection: connection.execute("SELECT 1").fetchone())

    async def session(readonly: bool) -> None:
        async with tenant.session(readonly=readonly) as opened:
            await opened.exec(select(Entry))

    for steps in range(60):
        calls = (snapshot(), session(True), session(False), tenant.put(Entry(text="x")), tenant.find(Entry))
        tasks = [asyncio.create_task(call) for call in calls]
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await tenant.put(Entry(text="after"))
    assert "after" in await names(tenant.database)
    database = tenant.database
    assert database._readers == len(database._idle_readers)
    assert database._writer._turn is None
    assert database._writer._turns_wanted == 0


async def test_closing_the_store_ends_a_session_that_was_left_open(store: LocalStore, tenant: Tenant) -> None:
    """It is rolled back, can neither write nor commit any more, and closes without a complaint."""
    session = tenant.session()
    session.add(Entry(text="lost"))
    await session.flush()
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await session.exec(select(Entry))
    with pytest.raises(StoreError, match="closed"):
        await session.commit()
    await session.close()
    async with LocalStore(store.root, models=[Entry]) as again:
        assert await again.tenant("acme").find(Entry) == []
