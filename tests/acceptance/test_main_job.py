"""The main job, end to end, by the command alone: JSON files into tenants, tenants into production, and back."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from localstore.helpdesk.generate import generate
from tests.integration.command import Outcome, command, sync

TABLES = ("tickets", "conversations", "knowledge_base", "processing_progress")

NUL_TICKET = '{"id": "plant-nul", "subject": "a\\u0000b", "description": "text before\\u0000and after"}'
SURROGATE_TICKET = '{"id": "plant-surrogate", "subject": "half a character \\ud83d", "description": "whole"}'
GOOD_TICKET = '{"id": "plant-good", "subject": "naïve 東京 🚄", "description": "line\\r\\nline\\\\N"}'
NUL_ARTICLE = '{"id": "plant-article", "title": "t", "content": "c\\u0000"}'
GOOD_ARTICLE = '{"id": "plant-good-article", "title": "Wie geht das?", "content": "so"}'
GOOD_SUMMARY = '{"summary": {"text": "short and good"}}'
NUL_SUMMARY = '{"summary": {"text": "cut\\u0000off"}}'
PROGRESS = '{"total_tickets": 12, "processed_tickets": 5, "failed_tickets": 1, "progress_percentage": 41.67}'


@pytest.fixture(params=["generated", "real"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a tree of help-desk JSON that the test may change: generated everywhere, real where there is some."""
    folder = tmp_path / "json tree"
    if request.param == "real":
        # The data may be read-only; a copy of its bytes alone is not.
        shutil.copytree(request.getfixturevalue("helpdesk_data"), folder, copy_function=shutil.copyfile)
        for copied in (folder, *folder.rglob("*")):
            copied.chmod(0o700 if copied.is_dir() else 0o600)
    else:
        generate(folder, seed=7, companies=3, tickets=60)
    return folder


@dataclass(frozen=True, slots=True)
class Files:
    """What the files hold, counted without the product: payloads by company, platform, folder and id."""

    documents: dict[tuple[str, str, str, str], Any]
    comments: int

    @classmethod
    def read(cls, tree: Path) -> Files:
        """Read every file of the tree."""
        documents = {}
        comments = 0
        for path in sorted(tree.glob("*/*/*/*.json")):
            company, platform, folder, _ = path.relative_to(tree).parts
            document = json.loads(path.read_bytes())
            identity = document.get("ticket_id") or document.get("key") or document.get("id") or path.stem
            documents[company, platform, folder, str(identity)] = document
            if folder == "tickets":
                inner = document.get("fields", {}).get("comment", {}).get("comments", [])
                comments += len(inner or document.get("conversations") or document.get("comments") or [])
        return cls(documents, comments)

    def of(self, folder: str) -> dict[tuple[str, str, str], Any]:
        """Return the documents of one folder by company, platform and id."""
        return {(key[0], key[1], key[3]): document for key, document in self.documents.items() if key[2] == folder}


@dataclass(frozen=True, slots=True)
class Job:
    """The commands of the story, all on one store and one production."""

    data: Path
    production: str

    def push(self, code: int = 0) -> Any:
        """Push and promote, and return the JSON."""
        return self._json(sync("push", "--promote", *self.to, "--json"), code)

    def verify(self, code: int = 0) -> Any:
        """Compare, and return the JSON."""
        return self._json(sync("verify", *self.to, "--json"), code)

    @property
    def to(self) -> tuple[str | Path, ...]:
        """Return the options that every command gets."""
        return ("--to", self.production, "--data", self.data)

    def held(self) -> dict[str, Any]:
        """Return what is in quarantine, by the row's address."""
        items = sync("quarantine", "list", "--data", self.data, "--json").json["items"]
        return {item["row"]: item for item in items}

    async def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask production as its superuser."""
        connection = await asyncpg.connect(self.production)
        try:
            return [tuple(row) for row in await connection.fetch(query, *values)]
        finally:
            await connection.close()

    async def dump(self) -> dict[str, list[str]]:
        """Return every row of every table of production as text."""
        return {
            table: [text for (text,) in await self.rows(f'SELECT t::text FROM {table} t ORDER BY t::text COLLATE "C"')]
            for table in TABLES
        }

    def local(self, tenant: str, query: str, *values: str) -> list[tuple[Any, ...]]:
        """Run a statement on a tenant's file, as the sqlite3 shell does, and commit it."""
        with closing(sqlite3.connect(self.data / tenant / "store.db")) as connection, connection:
            connection.text_factory = bytes
            return connection.execute(query, values).fetchall()

    @staticmethod
    def _json(outcome: Outcome, code: int) -> Any:
        assert (outcome.code, outcome.err) == (code, ""), outcome.all
        return outcome.json


async def test_the_main_job(tree: Path, tmp_path: Path, production: str) -> None:
    """Files become tenants and production, equal at every step; one edit moves one row; a rollback leaves no trace.

    Then what Postgres cannot hold is planted: it is held by name, all else goes, and nothing is lost.
    """
    job = Job(tmp_path / "data", production)
    files = Files.read(tree)

    assert command("import", "json", tree, "--data", job.data).code == 0
    pushed = job.push()
    assert {entry["state"] for entry in pushed["tenants"]} == {"promoted"}
    assert all(tenant["equal"] for tenant in job.verify()["tenants"])
    await production_holds_the_files(job, files)

    state = await job.dump()
    again = job.push()
    assert {entry["state"] for entry in again["tenants"]} == {"unchanged"}
    assert [again["totals"][name] for name in ("inserted", "updated", "deleted")] == [0, 0, 0]
    assert command("import", "json", tree, "--data", job.data).code == 0
    assert {entry["state"] for entry in job.push()["tenants"]} == {"unchanged"}
    assert await job.dump() == state

    await one_edit_and_back(job, next(iter(files.of("tickets"))), state)
    await what_postgres_cannot_hold(job, tree, next(iter(files.of("tickets"))))


async def production_holds_the_files(job: Job, files: Files) -> None:
    """Check that production holds as many rows as there are files and comments, and each payload as it was."""
    tickets = files.of("tickets")
    articles = files.of("knowledge_base")
    assert await job.rows("SELECT count(*) FROM tickets") == [(len(tickets),)]
    assert await job.rows("SELECT count(*) FROM conversations") == [(files.comments,)]
    assert await job.rows("SELECT count(*) FROM knowledge_base") == [(len(articles),)]
    assert await job.rows("SELECT count(*) FROM processing_progress") == [(len(files.of("progress")),)]
    found = await job.rows("SELECT company_id, platform, ticket_id, raw_data::text FROM tickets")
    assert {row[:3]: json.loads(row[3]) for row in found} == tickets
    found = await job.rows("SELECT company_id, platform, article_id, raw_data::text FROM knowledge_base")
    assert {row[:3]: json.loads(row[3]) for row in found} == articles


async def one_edit_and_back(job: Job, key: tuple[str, str, str], state: dict[str, list[str]]) -> None:
    """Check that one edited row is one row pushed, and that its rollback restores production to the last byte."""
    company, platform, ticket_id = key
    job.local(
        company,
        "UPDATE tickets SET priority = 'edited on a train' WHERE platform = ? AND ticket_id = ?",
        platform,
        ticket_id,
    )
    pushed = job.push()
    assert {name: number for name, number in pushed["totals"].items() if number and name != "tenants"} == {"updated": 1}
    (batch,) = [entry["batch"] for entry in pushed["tenants"] if entry["batch"]]
    assert await job.dump() != state
    assert sync("rollback", batch, *job.to).code == 0
    assert await job.dump() == state
    row = f"tickets/{platform}/{ticket_id}"
    assert job.held()[row]["reason"] == "rolled_back"
    (edited,) = job.local(company, "SELECT priority FROM tickets WHERE ticket_id = ?", ticket_id)
    assert edited == (b"edited on a train",)
    assert job.verify(3)["exit"] == 3
    assert sync("quarantine", "discard", row, "--tenant", company, "--data", job.data).code == 0
    job.push()
    job.verify()
    assert await job.dump() == state


async def what_postgres_cannot_hold(job: Job, tree: Path, key: tuple[str, str, str]) -> None:
    """Plant what is bad beside what is good; the bad is held with its reason, whole in the file; the good arrives."""
    company, platform, ticket_id = key
    folder = tree / company / platform
    planted = {
        "tickets/plant-nul": NUL_TICKET,
        "tickets/plant-surrogate": SURROGATE_TICKET,
        "tickets/plant-good": GOOD_TICKET,
        "knowledge_base/plant-article": NUL_ARTICLE,
        "knowledge_base/plant-good-article": GOOD_ARTICLE,
        "summaries/plant-good": GOOD_SUMMARY,
        f"summaries/{ticket_id}": NUL_SUMMARY,
        "progress/progress": PROGRESS,
        "tickets/broken": '{"id": 1,',
        "summaries/of-nothing": GOOD_SUMMARY,
    }
    for name, text in planted.items():
        path = (folder / name).with_name(f"{(folder / name).name}.json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    imported = command("import", "json", tree, "--data", job.data, "--json")
    assert imported.code == 3
    assert {Path(broken["path"]).stem for broken in imported.json["broken"]} == {"broken", "of-nothing"}

    pushed = job.push(3)
    assert {entry["state"] for entry in pushed["tenants"]} <= {"promoted", "unchanged"}
    held = job.held()
    assert {row: (item["reason"], item["tenant"]) for row, item in held.items()} == {
        f"tickets/{platform}/plant-nul": ("value", company),
        f"tickets/{platform}/plant-surrogate": ("value", company),
        f"tickets/{platform}/{ticket_id}": ("value", company),
        f"knowledge_base/{platform}/plant-article": ("value", company),
    }
    assert all(item["detail"] and item["column"] for item in held.values())

    good = await job.rows(
        "SELECT raw_data::text, raw_summary::text FROM tickets WHERE company_id = $1 AND ticket_id = 'plant-good'",
        company,
    )
    assert [(json.loads(row[0]), json.loads(row[1])) for row in good] == [
        (json.loads(GOOD_TICKET), json.loads(GOOD_SUMMARY))
    ]
    assert await job.rows("SELECT count(*) FROM knowledge_base WHERE article_id LIKE 'plant%'") == [(1,)]
    assert await job.rows("SELECT total_items FROM processing_progress WHERE company_id = $1", company) == [(12,)]

    differs = {tenant["tenant"] for tenant in job.verify(3)["tenants"] if not tenant["equal"]}
    assert differs == {company}
    for name, text in (("plant-nul", NUL_TICKET), ("plant-surrogate", SURROGATE_TICKET)):
        assert job.local(company, "SELECT raw_data FROM tickets WHERE ticket_id = ?", name) == [(text.encode(),)]
    assert {entry["state"] for entry in job.push(3)["tenants"]} == {"unchanged"}
