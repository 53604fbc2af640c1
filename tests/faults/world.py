"""A tenant and its production, as the tests of faults write them and as they must be when all is over."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from localstore import LocalStore
from localstore.helpdesk.models import Conversation, Ticket
from localstore.storage.tables import MODELS
from sync import SyncEngine

COMPANY = "acme"

# What both sides are compared by, beside verify: written by hand, so that it shares no code with the product.
COMPARED = {
    "tickets": "SELECT platform, ticket_id, title, status, priority, assignee_name FROM tickets ORDER BY 1, 2",
    "conversations": "SELECT platform, ticket_id, conversation_id, content FROM conversations ORDER BY 1, 2, 3",
}

_PYTHON_SHELL = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=60); c.executescript(sys.stdin.read())"


def ticket(number: int | str, **columns: object) -> Ticket:
    """Return a ticket."""
    fields: dict[str, Any] = {"title": f"Ticket {number}", "status": "open", "priority": "low", **columns}
    return Ticket(company_id=COMPANY, platform="jira", ticket_id=str(number), **fields)


def note(number: int | str, part: int, content: str = "hello") -> Conversation:
    """Return a conversation of a ticket."""
    return Conversation(
        company_id=COMPANY, platform="jira", ticket_id=str(number), conversation_id=str(part), content=content
    )


def shell(path: Path, script: str) -> None:
    """Run a script in the sqlite3 shell, foreign keys off as is its default; in Python where there is no shell."""
    program = shutil.which("sqlite3")
    head = ".timeout 60000\n.bail on\n" if program else ""
    command = [program, str(path)] if program else [sys.executable, "-c", _PYTHON_SHELL, str(path)]
    done = subprocess.run(command, input=head + script, text=True, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def writes(round_: str, first: int) -> str:
    """Return a script that inserts, replaces, updates, deletes and changes keys, from ticket `first` on."""
    return f"""
        INSERT INTO tickets (company_id, platform, ticket_id, title, status)
            VALUES ('{COMPANY}', 'jira', '{round_}-new', 'From the shell', 'open');
        INSERT INTO conversations (company_id, platform, ticket_id, conversation_id, content)
            VALUES ('{COMPANY}', 'jira', '{round_}-new', '1', 'from the shell');
        REPLACE INTO tickets (company_id, platform, ticket_id, title, status)
            VALUES ('{COMPANY}', 'jira', '{first}', 'Replaced in {round_}', 'new');
        UPDATE tickets SET status = '{round_}', priority = 'high' WHERE ticket_id = '{first + 1}';
        UPDATE conversations SET content = 'edited in {round_}' WHERE ticket_id = '{first + 1}';
        DELETE FROM tickets WHERE ticket_id = '{first + 2}';
        BEGIN;
        UPDATE tickets SET ticket_id = '{round_}-moved' WHERE ticket_id = '{first + 3}';
        UPDATE conversations SET ticket_id = '{round_}-moved' WHERE ticket_id = '{first + 3}';
        COMMIT;
    """


@dataclass(frozen=True, slots=True)
class World:
    """A store with one tenant, and the URL of its production."""

    data: Path
    url: str

    @property
    def file(self) -> Path:
        """Return the tenant's file."""
        return self.data / COMPANY / "store.db"

    @property
    def outbox(self) -> Path:
        """Return where the tenant's bundles lie."""
        return self.data / COMPANY / "outbox"

    def shell(self, script: str) -> None:
        """Write to the tenant's file from the shell."""
        shell(self.file, script)

    async def put(self, *rows: Any) -> None:
        """Put rows through the store's own writer."""
        async with LocalStore(self.data, MODELS) as store:
            await store.tenant(COMPANY).put_many(rows)

    async def push(self, url: str | None = None) -> Any:
        """Push and promote in this process."""
        async with LocalStore(self.data, MODELS) as store, SyncEngine(store, to=url or self.url) as engine:
            return await engine.push(promote=True)

    async def fetch(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a statement in production."""
        connection = await asyncpg.connect(self.url)
        try:
            return [tuple(row) for row in await connection.fetch(statement, *arguments)]
        finally:
            await connection.close()

    async def execute(self, statement: str) -> None:
        """Run a script in production as its superuser."""
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    async def value(self, statement: str, *arguments: Any) -> Any:
        """Return the single value of a statement in production."""
        return (await self.fetch(statement, *arguments))[0][0]

    def local(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of a statement in the tenant's file."""
        with closing(sqlite3.connect(self.file, timeout=60)) as connection:
            return connection.execute(statement).fetchall()

    async def ledger(self) -> dict[UUID, str]:
        """Return the states of production's batches."""
        if await self.value("SELECT to_regclass('localstore.ledger')") is None:
            return {}
        return dict(await self.fetch("SELECT batch, state FROM localstore.ledger WHERE kind = 'push'"))

    async def check_rows(self) -> None:
        """Claim that production has the file's rows, each once and no other."""
        for table, statement in COMPARED.items():
            ours = {row[:3]: row for row in self.local(statement)}
            theirs = await self.fetch(statement)
            assert len(theirs) == len({row[:3] for row in theirs})
            assert {row[:3]: row for row in theirs} == ours, table

    async def check_settled(self) -> None:
        """Claim that all is over: both sides equal, every batch took effect once, and nothing lies about."""
        await self.check_rows()
        async with LocalStore(self.data, MODELS) as store, SyncEngine(store, to=self.url) as engine:
            (verified,) = await engine.verify()
            assert verified.equal, verified.to_json()
        known = {UUID(batch): state for batch, state in self.local("SELECT batch, state FROM localstore_batches")}
        live = {batch for batch, state in known.items() if state != "withdrawn"}
        assert {known[batch] for batch in live} <= {"acknowledged"}
        ledger = await self.ledger()
        assert {batch for batch, state in ledger.items() if state == "promoted"} == live
        assert set(ledger.values()) <= {"promoted", "withdrawn"}
        await self._check_single_effects(live)
        await self.check_nothing_left()

    async def _check_single_effects(self, live: set[UUID]) -> None:
        fed = await self.fetch("SELECT batch, count(*) FROM localstore.feed WHERE batch IS NOT NULL GROUP BY 1")
        assert dict(fed) == dict.fromkeys(live, 1)
        twice = "SELECT batch, tbl, key, op FROM localstore.undo GROUP BY 1, 2, 3, 4 HAVING count(*) > 1"
        assert await self.fetch(twice) == []
        counted = """SELECT sum((c.value->>'inserted')::int + (c.value->>'updated')::int + (c.value->>'deleted')::int)
            FROM localstore.ledger l, jsonb_each(l.counts) c WHERE l.state = 'promoted'"""
        assert await self.value(counted) == await self.value("SELECT count(*) FROM localstore.undo")

    async def check_nothing_left(self) -> None:
        """Claim that outbox, marks and staging are as tidy as after a push that nothing disturbed."""
        acknowledged = {
            batch for (batch,) in self.local("SELECT batch FROM localstore_batches WHERE state = 'acknowledged'")
        }
        assert sorted(path.name for path in self.outbox.iterdir()) == [".lock", "kept"]
        assert {path.stem for path in (self.outbox / "kept").iterdir()} == acknowledged
        ((marks,),) = self.local("SELECT count(*) FROM localstore_marks")
        assert marks <= 1
        assert await self.value("SELECT count(*) FROM localstore.chunks") == 0
        tables = await self.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'localstore_staging'::regnamespace AND relkind = 'r'"
        )
        assert tables
        for (name,) in tables:
            assert await self.value(f'SELECT count(*) FROM localstore_staging."{name}"') == 0
