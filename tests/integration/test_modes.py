"""Claims about a tenant's way from its file to production and back: gates, storages that follow, and two boxes."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from localstore import FileStorage, PostgresStorage
from localstore.errors import ConfigurationError, StoreBusy, WrongMode
from localstore.evolution import Evolution
from localstore.helpdesk.models import Ticket
from localstore.postgres.connect import Server, connection_to
from localstore.postgres.locks import FileLock
from localstore.postgres.quoting import quote_identifier
from localstore.sqlite.mode import set_mode
from localstore.sqlite.prepare import Models
from localstore.store import LocalStore
from sync import SyncEngine, authority
from sync.errors import NotReady
from sync.modes import LOCK_NAME
from sync.steps.seal import alone
from tests.integration.command import command
from tests.integration.helpdesk import make_tables

PLATFORM = "jira"


@pytest.fixture(scope="module")
def server(postgres_server: Server) -> Iterator[Server]:
    """Make one production for all of these tests, which have a tenant each."""
    name = f"modes_{secrets.token_hex(6)}"
    made = postgres_server.with_database(name)

    async def make() -> None:
        async with connection_to(postgres_server) as connection:
            await connection.execute(f"CREATE DATABASE {quote_identifier(name)} TEMPLATE template0")
        await make_tables(made.url)

    async def drop() -> None:
        async with connection_to(postgres_server) as connection:
            await connection.execute(f"DROP DATABASE {quote_identifier(name)} WITH (FORCE)")

    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(make())).result()
        yield made
        thread.submit(lambda: asyncio.run(drop())).result()


@dataclass(frozen=True, slots=True)
class Box:
    """One box with the tenant's file, and the production that all boxes share."""

    company: str
    file: FileStorage
    engine: SyncEngine
    direct: PostgresStorage
    server: Server

    @property
    def path(self) -> Path:
        """Return the tenant's file."""
        return self.file.store.root / self.company / "store.db"

    async def save(self, number: int | str, storage: FileStorage | PostgresStorage | None = None, **more: Any) -> None:
        """Save a ticket, to the file unless said otherwise."""
        await (storage or self.file).save_ticket(self.company, PLATFORM, {"id": str(number), **more})

    async def push(self) -> Any:
        """Push with promotion."""
        (result,) = (await self.engine.push([self.company], promote=True)).tenants
        return result

    async def modes(self) -> tuple[str | None, str | None]:
        """Return production's mode and the file's."""
        (status,) = (await self.engine.modes.status([self.company])).tenants
        return status.production, status.file

    async def assert_equal(self) -> None:
        """Claim that both sides hold the same."""
        (verified,) = await self.engine.verify([self.company])
        assert verified.equal, verified.to_json()

    async def execute(self, statement: str) -> None:
        """Run a statement in production as an application that uses no storage."""
        async with connection_to(self.server) as connection:
            await connection.execute(statement)

    def shell(self, statement: str) -> None:
        """Run a statement in the file, as another program."""
        with closing(sqlite3.connect(self.path, isolation_level=None, timeout=30)) as other:
            other.execute(statement)


@pytest.fixture
async def box(tmp_path: Path, server: Server) -> AsyncIterator[Box]:
    """Give a box with three tickets, in mode file."""
    company = f"company-{secrets.token_hex(4)}"
    async with (
        FileStorage(tmp_path / "data") as file,
        SyncEngine(file.store, to=server.url) as engine,
        PostgresStorage(server.url) as direct,
    ):
        made = Box(company, file, engine, direct, server)
        for number in range(3):
            await made.save(number, subject="here")
        yield made


@pytest.fixture
async def hybrid(box: Box) -> Box:
    """Give the box with its tenant in mode hybrid."""
    await box.push()
    await box.engine.modes.advance(box.company)
    return box


async def test_the_whole_way_and_back(box: Box) -> None:
    """At each mode one storage serves and the others refuse; nothing is lost between them, and both sides agree."""
    modes, company = box.engine.modes, box.company
    with pytest.raises(NotReady, match=r"nothing of .* was promoted") as caught:
        await modes.advance(company)
    assert (caught.value.exit_code, caught.value.hint) == (6, f"localstore sync push --promote --tenant {company}")
    assert await box.modes() == (None, "file")
    await box.push()
    assert (await modes.advance(company)).mode == "hybrid"
    assert await box.modes() == ("hybrid", "hybrid")
    await box.save(3, subject="in hybrid")
    changed = await modes.advance(company)
    assert (changed.before, changed.mode) == ("hybrid", "postgresql")
    await box.assert_equal()
    await box.save(4, box.direct, subject="in production")
    await box.direct.update_processing_status(company, PLATFORM, "0", "done")
    with pytest.raises(WrongMode):
        await box.save(5)
    assert (await box.push()).state == "unchanged"
    (pulled,) = (await box.engine.pull([company])).tenants
    assert (pulled.state, pulled.tables["tickets"]["inserted"]) == ("pulled", 1)
    await box.assert_equal()
    await box.save(6, box.direct, subject="in production")
    assert (await modes.back(company)).mode == "hybrid"
    with pytest.raises(WrongMode):
        await box.save(7, box.direct)
    tickets = await box.file.list_tickets(company)
    assert sorted(ticket["ticket_id"] for ticket in tickets) == ["0", "1", "2", "3", "4", "6"]
    await box.save(8)
    await box.push()
    await box.assert_equal()
    assert (await modes.back(company)).mode == "file"
    again = await modes.back(company, until="file")
    assert (again.before, again.mode) == ("file", "file")
    assert await box.modes() == ("file", "file")


async def test_one_call_goes_as_far_as_it_is_told(box: Box) -> None:
    """`until` takes as many steps as it needs, does nothing in that mode or beyond it, and knows three modes."""
    modes, company = box.engine.modes, box.company
    await box.push()
    assert (await modes.advance(company, until="postgresql")).mode == "postgresql"
    for until in ("postgresql", "hybrid"):
        done = await modes.advance(company, until=until)
        assert (done.before, done.mode) == ("postgresql", "postgresql")
    assert (await modes.back(company, until="file")).mode == "file"
    assert (await modes.back(company, until="hybrid")).mode == "file"
    with pytest.raises(ConfigurationError):
        await modes.advance(company, until="advancing")


async def test_what_stands_in_the_way_is_named_and_the_file_is_open_again(hybrid: Box) -> None:
    """A held row, a row that the file cannot match, a failure half way: the mode is as it was, and writes go on."""
    box, company = hybrid, hybrid.company
    box.shell(
        "INSERT INTO tickets (company_id, platform, ticket_id, title) "
        f"VALUES ('{company}', 'jira', 'bad', 'a' || char(0) || 'b')"
    )
    with pytest.raises(NotReady, match="could not take") as caught:
        await box.engine.modes.advance(company)
    assert caught.value.hint == f"localstore sync quarantine list --tenant {company}"
    box.shell("DELETE FROM tickets WHERE ticket_id = 'bad'")
    await box.push()
    box.shell(
        "CREATE TRIGGER picky BEFORE UPDATE ON tickets WHEN NEW.title = 'theirs' "
        "BEGIN SELECT RAISE(ABORT, 'not that title'); END"
    )
    await box.execute(f"UPDATE tickets SET title = 'theirs' WHERE company_id = '{company}' AND ticket_id = '1'")
    with pytest.raises(NotReady, match="differ in 1 places"):
        await box.engine.modes.advance(company)
    assert await box.modes() == ("hybrid", "hybrid")
    await box.save(9)
    box.shell("DROP TRIGGER picky")
    assert (await box.engine.modes.advance(company)).mode == "postgresql"
    await box.assert_equal()


async def test_a_blob_whose_bytes_production_lacks_keeps_the_file_the_truth(hybrid: Box) -> None:
    """Its row waits for the bytes and is held, so nothing that only this box has is left behind in a copy."""
    box, company = hybrid, hybrid.company
    tenant = await box.file.store.tenant(company).open()
    await tenant.blobs.put("jira/note.txt", b"only here")
    with pytest.raises(NotReady, match="could not take") as caught:
        await box.engine.modes.advance(company)
    assert caught.value.hint == f"localstore sync quarantine list --tenant {company}"
    await tenant.blobs.delete("jira/note.txt")
    assert (await box.engine.modes.advance(company)).mode == "postgresql"
    with pytest.raises(WrongMode):
        await tenant.blobs.put("jira/note.txt", b"too late")


async def test_what_nothing_explains_keeps_a_tenant_in_mode_file(box: Box) -> None:
    """Others' edits of production are not taken for the file's: `verify` is named, and after a pull it goes on."""
    await box.push()
    await box.execute(f"UPDATE tickets SET title = 'theirs' WHERE company_id = '{box.company}' AND ticket_id = '1'")
    await box.save(10)
    with pytest.raises(NotReady, match="neither pending nor held") as caught:
        await box.engine.modes.advance(box.company)
    assert caught.value.hint == f"localstore sync verify --tenant {box.company}"
    assert await box.modes() == ("file", "file")
    await box.engine.pull([box.company])
    assert (await box.engine.modes.advance(box.company)).mode == "hybrid"


async def test_changes_that_somebody_forced_into_a_copy_are_not_lost(hybrid: Box) -> None:
    """A shell that drops a guard leaves marks: a push refuses with both ways out, and each of them carries it."""
    box, company = hybrid, hybrid.company
    await box.engine.modes.advance(company)
    with closing(sqlite3.connect(box.path, isolation_level=None)) as other:
        for (name,) in other.execute("SELECT name FROM sqlite_schema WHERE name GLOB 'localstore_guard_*'").fetchall():
            other.execute(f"DROP TRIGGER {name}")
        other.execute("UPDATE tickets SET title = 'forced' WHERE ticket_id = '1'")
    (refused,) = (await box.engine.push([company], promote=True)).tenants
    assert refused.failure is not None
    assert (refused.failure.exit_code, "mode advance" in refused.failure.hint) == (6, True)
    await box.save(2, box.direct, subject="theirs")
    await box.engine.modes.back(company)
    await box.push()
    await box.assert_equal()
    titles = {ticket["ticket_id"]: ticket["title"] for ticket in await _rows(box)}
    assert (titles["1"], titles["2"]) == ("forced", "theirs")


async def test_another_box_follows(hybrid: Box, tmp_path: Path) -> None:
    """A copy is made a copy; a box with changes of its own keeps its file open until `advance` has carried them."""
    box, company = hybrid, hybrid.company
    async with (
        FileStorage(tmp_path / "other") as file,
        SyncEngine(file.store, to=box.server.url) as engine,
    ):
        other = Box(company, file, engine, box.direct, box.server)
        await engine.pull([company])
        assert await other.modes() == ("hybrid", "hybrid")
        await other.save("from the other box")
        await box.engine.modes.advance(company)
        await box.save(1, box.direct, subject="theirs")
        await engine.pull([company])
        assert await other.modes() == ("postgresql", "hybrid")
        (refused,) = (await engine.push([company])).tenants
        assert refused.failure is not None
        assert refused.failure.code == "wrong_mode"
        done = await engine.modes.advance(company)
        assert (done.before, done.mode) == ("hybrid", "postgresql")
        await other.assert_equal()
        await box.engine.pull([company])
        await box.assert_equal()
        assert len(await _rows(box)) == 4
        await box.engine.modes.back(company)
        await engine.pull([company])
        assert await other.modes() == ("hybrid", "hybrid")
        await other.save("again")
        assert (await other.push()).state == "promoted"


async def test_a_pull_never_opens_a_file_that_was_closed_under_it(hybrid: Box) -> None:
    """A pull that read the old mode, and applies what it fetched after the change, reads the mode again first."""
    box, company = hybrid, hybrid.company
    await box.execute(f"UPDATE tickets SET title = 'theirs' WHERE company_id = '{company}' AND ticket_id = '1'")
    database = (await box.file.store.tenant(company).open()).database
    async with alone(box.path.parent):
        pulling = asyncio.create_task(box.engine.pull([company]))
        lock = f":{(box.path.parent / 'outbox' / '.lock').stat().st_ino} "
        while not any("-> FLOCK" in line and lock in line for line in Path("/proc/locks").read_text().splitlines()):
            await asyncio.sleep(0.01)
        async with connection_to(box.server) as connection:
            await authority.set_mode(connection, company, "postgresql", among=("hybrid",))
        await database.write(partial(set_mode, mode="postgresql"))
    assert (await pulling).exit_code == 0
    assert await box.modes() == ("postgresql", "postgresql")
    await box.assert_equal()


async def test_a_tenant_of_production_alone_is_given_a_file(box: Box) -> None:
    """What an application began in production is pulled into a closed file, and `back` makes that the truth."""
    company = f"direct-{secrets.token_hex(4)}"
    direct = Box(company, box.file, box.engine, box.direct, box.server)
    await direct.save(1, box.direct)
    await box.engine.pull([company])
    assert await direct.modes() == ("postgresql", "postgresql")
    with pytest.raises(WrongMode):
        await direct.save(2)
    assert (await box.engine.modes.back(company)).mode == "hybrid"
    await direct.save(2)
    await direct.push()
    await direct.assert_equal()
    another = f"direct-{secrets.token_hex(4)}"
    await box.direct.save_ticket(another, PLATFORM, {"id": 1})
    assert (await box.engine.modes.back(another)).mode == "hybrid"
    assert len(await box.file.list_tickets(another)) == 1


async def test_a_copy_is_altered_and_rebased_like_any_other_file(hybrid: Box) -> None:
    """A table is rebuilt and whole tables are compared, each with all guards in place afterwards."""
    box, company = hybrid, hybrid.company
    await box.engine.modes.advance(company)
    await box.file.close()
    box.shell("ALTER TABLE tickets ADD COLUMN mistaken TEXT")
    async with LocalStore(box.file.store.root, models=()) as store, SyncEngine(store, to=box.server.url) as engine:
        change = await Evolution(store, Models((Ticket,))).apply([company], destructive=True)
        assert (change.exit_code, change.tenants[0].state) == (0, "changed"), change.to_json()
        with pytest.raises(sqlite3.IntegrityError, match="read-only copy"):
            box.shell("UPDATE tickets SET title = 'no'")
        await box.save(1, box.direct, subject="theirs")
        (pulled,) = (await engine.pull([company])).tenants
        assert pulled.tables["tickets"]["updated"] == 1
        assert (await engine.rebase([company])).exit_code == 0
        with pytest.raises(sqlite3.IntegrityError, match="read-only copy"):
            box.shell("DELETE FROM tickets")
        (verified,) = await engine.verify([company])
        assert verified.equal, verified.to_json()


async def test_one_change_of_a_tenants_mode_at_a_time(hybrid: Box) -> None:
    """A second command is refused while one runs, and a lock of a process that is gone is no lock."""
    lock = FileLock(hybrid.path.parent / LOCK_NAME)
    with lock:
        for verb in (hybrid.engine.modes.advance, hybrid.engine.modes.back):
            with pytest.raises(StoreBusy, match="another command"):
                await verb(hybrid.company)
    assert (await hybrid.engine.modes.advance(hybrid.company)).mode == "postgresql"


async def test_the_commands(box: Box) -> None:
    """`mode status` works from either side, and `advance` and `back` say what they did, as text and as JSON."""
    company, url, data = box.company, box.server.url, box.file.store.root
    await box.push()
    offline = command("mode", "status", company, "--data", data, "--json").json["tenants"][0]
    assert (offline["mode"], offline["production"], offline["changing"]) == ("file", None, False)
    both = ("--data", data, "--to", url)
    done = command("mode", "advance", company, *both, "--until", "postgresql", "--json")
    assert (done.code, done.json["from"], done.json["mode"]) == (0, "file", "postgresql"), done.all
    refused = command("tenants", "show", company, "--data", data, "--json")
    assert refused.json["mode"] == "postgresql"
    told = command("mode", "status", company, *both)
    assert f"localstore mode back {company}" in told.all
    assert command("mode", "advance", company, *both).out == f"{company} is in mode postgresql already.\n"
    back = command("mode", "back", company, *both)
    assert (back.code, "from postgresql to hybrid" in back.out) == (0, True), back.all
    status = command("sync", "status", "--data", data, "--json").json["tenants"][0]
    assert status["mode"] == "hybrid"
    for verb in ("advance", "back", "status"):
        unknown = command("mode", verb, "nobody", *both)
        assert (unknown.code, "Try:" in unknown.err) == (1, True), unknown.all


async def _rows(box: Box) -> list[Any]:
    async with connection_to(box.server) as connection:
        rows: list[Any] = await connection.fetch("SELECT * FROM tickets WHERE company_id = $1", box.company)
        return rows
