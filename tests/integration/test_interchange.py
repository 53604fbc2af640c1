"""The JSON layout into real tenant files and back: nothing written twice, nothing lost, nothing followed blindly."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from localstore.columns import RawJSON
from localstore.errors import ConfigurationError, NotAStore, TenantNotFound
from localstore.helpdesk import Conversation, KnowledgeArticle, ProcessingProgress, Ticket, natural_id
from localstore.helpdesk.generate import generate
from localstore.interchange.json_export import export_json
from localstore.interchange.json_import import ImportReport, import_json
from localstore.store import LocalStore

DATA_TABLES = ("tickets", "conversations", "knowledge_base", "processing_progress")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    """Return a store of its own."""
    async with LocalStore(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a generated tree of three companies."""
    generate(tmp_path / "tree", seed=11, tickets=60)
    return tmp_path / "tree"


def _write(path: Path, payload: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    path.write_bytes(data)
    return path


def _files(directory: Path) -> dict[str, bytes]:
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*.json")}


async def _query(store: LocalStore, company: str, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    async with store.tenant(company, create=False) as tenant:
        return await tenant.database.read(lambda connection: connection.execute(sql, values).fetchall())


async def _shell(store: LocalStore, company: str, *statements: str) -> None:
    """Write as a shell does: another connection, foreign keys off, nothing but SQLite."""
    connection = sqlite3.connect(store.root / company / "store.db")
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


async def _rows(store: LocalStore, company: str) -> dict[str, list[tuple[Any, ...]]]:
    return {table: await _query(store, company, f"SELECT * FROM {table} ORDER BY 1, 3, 2") for table in DATA_TABLES}


async def _newest_mark(store: LocalStore, company: str) -> int:
    return int((await _query(store, company, "SELECT coalesce(max(seq), 0) FROM localstore_marks"))[0][0])


def _totals(report: ImportReport, table: str) -> tuple[int, int, int, int]:
    counts = [tenant.tables[table] for tenant in report.tenants if table in tenant.tables]
    return (
        sum(count.new for count in counts),
        sum(count.changed for count in counts),
        sum(count.unchanged for count in counts),
        sum(count.deleted for count in counts),
    )


async def test_real_tickets_go_in_and_come_out_to_the_byte(
    store: LocalStore, helpdesk_data: Path, tmp_path: Path
) -> None:
    """Every real ticket and comment is imported, a second run writes nothing, and the export is the same tree."""
    report = await import_json(store, helpdesk_data)
    assert (report.exit_code, report.broken) == (0, ())
    assert _totals(report, "tickets") == (2_170, 0, 0, 0)
    assert _totals(report, "conversations") == (6_383, 0, 0, 0)
    marks = {company: await _newest_mark(store, company) for company in await store.tenants()}
    assert sum(marks.values()) == 2_170 + 6_383
    again = await import_json(store, helpdesk_data)
    assert _totals(again, "tickets") == (0, 0, 2_170, 0)
    assert _totals(again, "conversations") == (0, 0, 6_383, 0)
    assert {company: await _newest_mark(store, company) for company in await store.tenants()} == marks
    for company, kept in (("aloy", 1_491), ("daemon", 312), ("mod", 366), ("sample", 1)):
        assert await _query(store, company, "SELECT count(*) FROM tickets") == [(kept,)]
    assert (await export_json(store, tmp_path / "out")).exit_code == 0
    assert _files(tmp_path / "out") == _files(helpdesk_data)


async def test_a_generated_tree_goes_in_and_comes_out_to_the_byte(
    store: LocalStore, tree: Path, tmp_path: Path
) -> None:
    """Tickets, articles, summaries and progress all survive; a second import writes nothing."""
    report = await import_json(store, tree)
    assert (report.exit_code, len(report.tenants)) == (0, 3)
    assert _totals(report, "tickets")[0] == 180
    assert _totals(report, "progress")[0] == 3
    before = {company: await _rows(store, company) for company in await store.tenants()}
    marks = {company: await _newest_mark(store, company) for company in before}
    again = await import_json(store, tree)
    for table in ("tickets", "conversations", "knowledge_base", "summaries", "progress"):
        assert _totals(again, table)[:2] == (0, 0)
        assert _totals(again, table)[2] == _totals(report, table)[0]
    assert {company: await _newest_mark(store, company) for company in before} == marks
    assert {company: await _rows(store, company) for company in before} == before
    await export_json(store, tmp_path / "out")
    assert _files(tmp_path / "out") == _files(tree)


async def test_a_stored_payload_is_the_files_text(store: LocalStore, tmp_path: Path) -> None:
    """raw_data keeps spacing, member order, long numbers and the payload's own company_id."""
    text = '{ "b": 1.10, "a" : 12345678901234567890123, "company_id": 77,\r\n "a": [ ] }\n'
    _write(tmp_path / "in/acme/crm/tickets/x.json", b"\xef\xbb\xbf" + text.encode())
    await import_json(store, tmp_path / "in")
    assert await _query(store, "acme", "SELECT raw_data, company_id, ticket_id FROM tickets") == [(text, "acme", "x")]


async def test_V37_V39_json_that_production_cannot_hold_is_kept_whole(store: LocalStore, tmp_path: Path) -> None:
    """U+0000 and lone surrogates stay in raw_data; columns hold what SQLite can; the export is the file."""
    text = (
        r'{"id": 1, "subject": "nul \u0000 here", "description": "half \ud83d", "tags": ["\udfff"], "conversations": '
    )
    text += r'[{"id": 5, "body_text": "\ud800"}]}'
    _write(tmp_path / "in/acme/freshdesk/tickets/1.json", text.encode())
    report = await import_json(store, tmp_path / "in")
    assert report.exit_code == 0
    (row,) = await _query(store, "acme", "SELECT raw_data, title, description, tags FROM tickets")
    assert row == (text, "nul \0 here", "half \ufffd", '["\ufffd"]')
    assert await _query(store, "acme", "SELECT content FROM conversations") == [("\ufffd",)]
    await export_json(store, tmp_path / "out")
    assert _files(tmp_path / "out") == _files(tmp_path / "in")
    async with store.tenant("acme") as tenant:
        ticket = await tenant.get(Ticket, ("freshdesk", "1"))
        assert ticket is not None
        assert ticket.raw_data["subject"] == "nul \0 here"


async def test_broken_files_are_listed_and_stop_nothing(store: LocalStore, tmp_path: Path) -> None:
    """Each unreadable file is named with its reason, orphaned summaries too, and all else is imported: exit 3."""
    folder = tmp_path / "in/acme/jira"
    _write(folder / "tickets/1.json", {"id": 1})
    _write(folder / "tickets/1 copy.json", {"id": 1, "subject": "again"})
    _write(folder / "tickets/array.json", [1])
    _write(folder / "tickets/cut.json", b'{"id": 2, "sub')
    _write(folder / "tickets/empty.json", b"")
    _write(folder / "tickets/latin.json", b'{"id": "\xfc"}')
    _write(folder / "tickets/nan.json", b'{"id": 3, "x": NaN}')
    _write(folder / "tickets/bad-id.json", {"ticket_id": "a\0b"})
    _write(folder / "tickets/notes.txt", b"not ours")
    _write(folder / "tickets/zz.json", {"id": "last"})
    _write(folder / "summaries/1.json", {"summary": {"ok": 1}})
    _write(folder / "summaries/404.json", {"summary": {"lost": 1}})
    _write(folder / "progress/progress.json", b"{")
    _write(tmp_path / "in/Bad Name/jira/tickets/1.json", {"id": 1})
    report = await import_json(store, tmp_path / "in")
    assert report.exit_code == 3
    reasons = {broken.path.removeprefix("acme/jira/"): broken.reason for broken in report.broken}
    assert reasons.keys() == {
        "Bad Name",
        "progress/progress.json",
        "summaries/404.json",
        *(f"tickets/{name}.json" for name in ("1 copy", "array", "bad-id", "cut", "empty", "latin", "nan")),
    }
    assert "the same id as 1.json" in reasons["tickets/1 copy.json"]
    assert "orphaned" in reasons["summaries/404.json"]
    assert "not UTF-8" in reasons["tickets/latin.json"]
    assert await _query(store, "acme", "SELECT ticket_id, summary FROM tickets ORDER BY 1") == [
        ("1", '{"ok":1}'),
        ("last", None),
    ]
    assert (await import_json(store, tmp_path / "in")).broken == report.broken
    assert await store.tenants() == ["acme"]


async def test_a_changed_file_changes_its_columns_only(store: LocalStore, tmp_path: Path) -> None:
    """Of a new payload only what it changed is written, and local edits of other columns stay."""
    payload: dict[str, Any] = {
        "id": 1,
        "subject": "first",
        "status": 2,
        "tags": ["a"],
        "updated_at": "2024-01-01T00:00:00Z",
        "conversations": [
            {"id": 1, "body_text": "one"},
            {"id": 2, "body_text": "two"},
            {"id": 3, "body_text": "three"},
        ],
    }
    path = _write(tmp_path / "in/acme/freshdesk/tickets/1.json", payload)
    await import_json(store, tmp_path / "in")
    await _shell(
        store, "acme", "UPDATE tickets SET title = 'mine'", "DELETE FROM conversations WHERE conversation_id = '3'"
    )
    unchanged = await import_json(store, tmp_path / "in")
    assert _totals(unchanged, "tickets") == (0, 0, 1, 0)
    start = await _newest_mark(store, "acme")
    payload |= {
        "status": 5,
        "conversations": [{"id": 2, "body_text": "two!"}, {"id": 3, "body_text": "three"}, {"id": 4}],
    }
    _write(path, payload)
    report = await import_json(store, tmp_path / "in")
    assert _totals(report, "tickets") == (0, 1, 0, 0)
    assert _totals(report, "conversations") == (1, 1, 1, 1)
    assert await _query(store, "acme", "SELECT title, status FROM tickets") == [("mine", "closed")]
    assert await _query(store, "acme", "SELECT conversation_id, content FROM conversations ORDER BY 1") == [
        ("2", "two!"),
        ("4", None),
    ]
    marks = await _query(store, "acme", "SELECT op, count(*) FROM localstore_marks WHERE seq > ? GROUP BY 1", start)
    # One insert, three column updates (status and raw_data of the ticket, content of a message) and one delete.
    assert marks == [(1, 1), (2, 3), (3, 1)]


async def test_times_that_the_payload_lacks_are_stable(store: LocalStore, tmp_path: Path) -> None:
    """A row whose payload has no times keeps those of its first import."""
    _write(tmp_path / "in/acme/crm/tickets/1.json", {"id": 1})
    await import_json(store, tmp_path / "in")
    first = await _query(store, "acme", "SELECT created_at, updated_at FROM tickets")
    assert None not in first[0]
    await import_json(store, tmp_path / "in")
    assert await _query(store, "acme", "SELECT created_at, updated_at FROM tickets") == first


async def test_edited_rows_survive_an_export_and_an_import(store: LocalStore, tree: Path, tmp_path: Path) -> None:
    """Edits by the API and by a shell, new rows, removed ones: an import elsewhere gives the same rows, a fixpoint."""
    await import_json(store, tree)
    moment = datetime(2025, 5, 5, 5, 5, tzinfo=UTC)
    async with store.tenant("nordlicht") as tenant:
        ticket = await tenant.get(Ticket, ("freshdesk", "1003"))
        assert ticket is not None
        ticket.description = None
        ticket.tags = ["neu", {"x": [1.5, None]}]
        ticket.status = "waiting for 🚚"
        await tenant.put_many(
            [
                ticket,
                Ticket(platform="freshdesk", ticket_id="../a/b", title="made here", created_at=moment),
                Conversation(platform="freshdesk", ticket_id="../a/b", conversation_id="c 1", content="hi\0"),
                Conversation(platform="freshdesk", ticket_id="1004", conversation_id="extra", content="more"),
                KnowledgeArticle(platform="freshdesk", article_id="1004", title="twin", summary={"of": "twin"}),
                ProcessingProgress(platform="jira", total_items=4, progress_percentage=2.5, last_updated=moment),
            ]
        )
    await _shell(
        store,
        "nordlicht",
        "UPDATE tickets SET title = 'from the shell', summary = '{\"new\": true}' WHERE ticket_id = '1005'",
        "UPDATE tickets SET summary = NULL WHERE raw_summary IS NOT NULL",
        "UPDATE conversations SET content = 'edited' WHERE rowid % 3 = 0",
        "DELETE FROM conversations WHERE rowid % 5 = 0",
        "UPDATE knowledge_base SET title = upper(title)",
        "UPDATE processing_progress SET failed_items = 9 WHERE platform = 'freshdesk'",
        "INSERT INTO tickets (company_id, platform, ticket_id) VALUES ('nordlicht', 'freshdesk', 'CON')",
    )
    exported = await export_json(store, tmp_path / "one")
    assert exported.exit_code == 0
    edited = json.loads((tmp_path / "one/nordlicht/freshdesk/tickets/1003.json").read_bytes())
    assert (edited["status"], edited["description"], edited["tags"]) == (
        "waiting for 🚚",
        None,
        ["neu", {"x": [1.5, None]}],
    )
    async with LocalStore(tmp_path / "second") as second:
        report = await import_json(second, tmp_path / "one")
        assert report.exit_code == 0
        assert report.broken == ()
        for company in await store.tenants():
            assert await _without_origin(second, company) == await _without_origin(store, company)
        await export_json(second, tmp_path / "two")
    assert _files(tmp_path / "two") == _files(tmp_path / "one")
    back = await import_json(store, tmp_path / "one")
    assert back.exit_code == 0
    assert _totals(back, "conversations")[0] == 0
    once_more = await import_json(store, tmp_path / "one")
    assert all(_totals(once_more, table)[:2] == (0, 0) for table in ("tickets", "conversations", "summaries"))


async def _without_origin(store: LocalStore, company: str) -> dict[str, list[dict[str, Any]]]:
    """Return all rows as values, but for where they came from and the times that only a first import set."""
    found: dict[str, list[dict[str, Any]]] = {}
    async with store.tenant(company, create=False) as tenant:
        for model in (Ticket, Conversation, KnowledgeArticle, ProcessingProgress):
            rows = await tenant.find(model, limit=None)
            shown = [row.model_dump(exclude={"raw_data", "raw_summary", "id"}) for row in rows]
            if model is ProcessingProgress:
                # A progress.json says nothing of the row's own times.
                for row in shown:
                    del row["created_at"], row["updated_at"]
            for row in shown:
                if row.get("ticket_id") == "CON":
                    # The shell left its times empty, which an import fills.
                    del row["created_at"], row["updated_at"]
            found[str(model.__tablename__)] = sorted(shown, key=str)
    return found


async def test_conversations_go_with_their_ticket_in_any_shell(store: LocalStore, tmp_path: Path) -> None:
    """Deleting a ticket deletes its conversations, with foreign keys off as well."""
    for number in (1, 2):
        messages = [{"id": 1, "body_text": "a"}, {"id": 2, "body_text": "b"}]
        _write(tmp_path / f"in/acme/freshdesk/tickets/{number}.json", {"id": number, "conversations": messages})
    await import_json(store, tmp_path / "in")
    await _shell(store, "acme", "PRAGMA foreign_keys = OFF", "DELETE FROM tickets WHERE ticket_id = '1'")
    assert await _query(store, "acme", "SELECT DISTINCT ticket_id FROM conversations") == [("2",)]
    async with store.tenant("acme") as tenant:
        assert await tenant.delete(Ticket, ("freshdesk", "2"))
        assert await tenant.find(Conversation) == []


async def test_ids_follow_from_the_natural_key_on_every_path(store: LocalStore, tmp_path: Path) -> None:
    """Import, put and an ORM session give a row the same id, so that two boxes agree."""
    _write(tmp_path / "in/acme/jira/tickets/A-1.json", {"key": "A-1", "fields": {"summary": "s"}})
    await import_json(store, tmp_path / "in")
    async with store.tenant("acme") as tenant:
        await tenant.put(Ticket(platform="jira", ticket_id="A-2", raw_data=RawJSON('{"key": "A-2"}')))
        async with tenant.session() as session:
            session.add(Ticket(company_id="acme", platform="jira", ticket_id="A-3"))
            await session.commit()
        found = await tenant.find(Ticket)
    assert [(row.ticket_id, row.id) for row in found] == [
        (name, natural_id("tickets", "acme", "jira", name)) for name in ("A-1", "A-2", "A-3")
    ]


async def test_only_the_tenants_asked_for(store: LocalStore, tree: Path, tmp_path: Path) -> None:
    """A selection imports and exports these companies alone; an unknown one is an error before anything is done."""
    with pytest.raises(TenantNotFound, match="nobody"):
        await import_json(store, tree, tenants=["hanbit", "nobody"])
    assert await store.tenants() == []
    report = await import_json(store, tree, tenants=["hanbit"])
    assert [tenant.tenant for tenant in report.tenants] == ["hanbit"]
    assert await store.tenants() == ["hanbit"]
    await import_json(store, tree, tenants=["azulmar"])
    await export_json(store, tmp_path / "out", tenants=["azulmar"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["azulmar"]
    with pytest.raises(TenantNotFound):
        await export_json(store, tmp_path / "out", tenants=["nobody"])


async def test_directories_that_cannot_be_meant_are_refused(store: LocalStore, tree: Path, tmp_path: Path) -> None:
    """A missing directory, one without the layout, and an export into the store itself are clear errors."""
    with pytest.raises(NotAStore, match="does not exist"):
        await export_json(store, tmp_path / "out")
    with pytest.raises(NotAStore, match="not a directory"):
        await import_json(store, tmp_path / "missing")
    with pytest.raises(ConfigurationError, match="holds no <company>"):
        await import_json(store, tree / "hanbit")
    await import_json(store, tree)
    for directory in (store.root, store.root / "hanbit"):
        with pytest.raises(ConfigurationError, match="lies in the store"):
            await export_json(store, directory)


async def test_rows_that_cannot_be_files_are_listed(store: LocalStore, tmp_path: Path) -> None:
    """A platform that is no folder's name and a broken raw_data are named, and the rest is exported: exit 3."""
    _write(tmp_path / "in/acme/jira/tickets/1.json", {"id": 1})
    await import_json(store, tmp_path / "in")
    await _shell(
        store,
        "acme",
        "INSERT INTO tickets (company_id, platform, ticket_id) VALUES ('acme', '../up', '1')",
        "INSERT INTO tickets (company_id, platform, ticket_id, raw_data) VALUES ('acme', 'jira', '2', 'oops')",
        "INSERT INTO tickets (company_id, platform, ticket_id) VALUES ('acme', 'jira', '3')",
        "UPDATE tickets SET title = CAST(x'ff61' AS TEXT) WHERE ticket_id = '3'",
        "INSERT INTO tickets (company_id, platform, ticket_id, created_at) VALUES ('acme', 'jira', '4', 'yesterday')",
        "INSERT INTO tickets (company_id, platform, ticket_id) VALUES ('acme', 'jira', CAST(x'ff' AS TEXT))",
    )
    report = await export_json(store, tmp_path / "out")
    assert report.exit_code == 3
    assert sorted(skipped.row for skipped in report.skipped) == ["../up", "tickets/jira/2", "tickets/jira/\ufffd"]
    assert sorted(path.name for path in (tmp_path / "out/acme/jira/tickets").iterdir()) == [
        f"{number}.json" for number in (1, 2, 3, 4)
    ]
    assert json.loads((tmp_path / "out/acme/jira/tickets/3.json").read_bytes())["title"] == "\ufffda"


async def test_a_tenant_that_fails_does_not_stop_the_others(store: LocalStore, tree: Path) -> None:
    """A tenant whose file is no store of ours is reported with its error; the others are imported: exit 1."""
    (store.root / "azulmar").mkdir(parents=True)
    (store.root / "azulmar" / "store.db").write_bytes(b"not a database, not at all" * 100)
    report = await import_json(store, tree)
    assert report.exit_code == 1
    assert [bool(tenant.error) for tenant in report.tenants] == [True, False, False]
    assert await _query(store, "nordlicht", "SELECT count(*) FROM tickets") == [(60,)]


async def test_two_imports_at_once_agree(store: LocalStore, tree: Path, tmp_path: Path) -> None:
    """Two imports of one tree into one store leave what one import leaves."""
    reports = await asyncio.gather(import_json(store, tree), import_json(store, tree))
    assert [report.exit_code for report in reports] == [0, 0]
    assert sum(_totals(report, "tickets")[0] for report in reports) == 180
    await export_json(store, tmp_path / "out")
    assert _files(tmp_path / "out") == _files(tree)


async def test_F1_a_killed_import_is_finished_by_the_next(store: LocalStore, tree: Path, tmp_path: Path) -> None:
    """After kill -9 at whatever moment the same import again leaves what one whole import leaves."""
    command = (sys.executable, "-m", "localstore", "import", "json", str(tree), "--data", str(store.root))
    for seen_before in range(3):
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        ended = asyncio.ensure_future(process.wait())
        while not ended.done() and len(await store.tenants()) <= seen_before:
            await asyncio.wait([ended], timeout=0.001)
        if not ended.done():
            process.kill()
        await ended
    report = await import_json(store, tree)
    assert report.exit_code == 0
    await export_json(store, tmp_path / "out")
    assert _files(tmp_path / "out") == _files(tree)
