"""`localstore sync` as its users meet it: processes, exit codes, one JSON object, sentences with a next command."""

from __future__ import annotations

import asyncio
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from localstore import LocalStore
from localstore.helpdesk import Conversation, KnowledgeArticle, ProcessingProgress, Ticket
from localstore.postgres.connect import Server, connection_to
from sync.steps.promote import lock_company
from tests.integration.command import command, environment, hastily, sync

COUNTS = {"inserted", "updated", "deleted", "unchanged", "conflicts", "quarantined"}

MODELS = (Ticket, Conversation, KnowledgeArticle, ProcessingProgress)


def ticket(number: int, **columns: object) -> Ticket:
    """Return a ticket."""
    fields: dict[str, Any] = {"title": f"Ticket {number}", "status": "open", "priority": "low", **columns}
    return Ticket(platform="jira", ticket_id=f"MOD-{number}", **fields)


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """Return a store of two tenants, acme with three tickets and zeta with one."""
    root = tmp_path / "my data"
    async with LocalStore(root, models=MODELS) as store:
        await store.tenant("acme").put_many([ticket(1), ticket(2), ticket(3)])
        await store.tenant("zeta").put_many([ticket(1)])
    return root


def shell(data: Path, statement: str, tenant: str = "acme") -> None:
    """Write to a tenant's file as the sqlite3 shell does."""
    with closing(sqlite3.connect(data / tenant / "store.db")) as connection, connection:
        connection.execute(statement)


async def in_production(url: str, statement: str) -> list[asyncpg.Record]:
    """Run a statement in production as its superuser."""
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(statement))
    finally:
        await connection.close()


async def test_a_reviewer_without_files_plans_promotes_and_rolls_back(
    data: Path, production: str, tmp_path: Path
) -> None:
    """One machine plans; another, with neither store nor environment, promotes that plan, looks, and takes it back."""
    file = tmp_path / "plan.json"
    planned = sync("plan", "--out", file, "--to", production, "--data", data, "--json")
    assert (planned.code, planned.err) == (0, "")
    assert planned.json["totals"]["inserted"] == 4
    assert await in_production(production, "SELECT * FROM tickets") == []
    elsewhere = tmp_path / "elsewhere"
    there = {"DATABASE_URL": production, "DATA_PATH": str(elsewhere)}
    staged = sync("plan", **there)
    assert (staged.code, "acme" in staged.out, "would be promoted in batch" in staged.out) == (0, True, True)
    promoted = sync("promote", file, "--json", **there)
    assert promoted.code == 0, promoted.all
    tenants = promoted.json["tenants"]
    assert [(entry["tenant"], entry["state"]) for entry in tenants] == [("acme", "promoted"), ("zeta", "promoted")]
    assert all(set(entry["tables"]["tickets"]) >= COUNTS for entry in tenants)
    log = sync("log", "--json", **there)
    assert {line["batch"] for line in log.json["batches"]} == {entry["batch"] for entry in tenants}
    shown = sync("show", tenants[0]["batch"][:8], **there)
    assert (shown.code, shown.out.count("insert\n")) == (0, 3)
    taken = sync("rollback", tenants[0]["batch"], "--json", **there)
    assert taken.json["tenants"][0]["tables"]["tickets"]["deleted"] == 3
    rows = await in_production(production, "SELECT company_id FROM tickets")
    assert [row["company_id"] for row in rows] == ["zeta"]
    assert not elsewhere.exists()


async def test_a_plan_made_stale_by_an_application_exits_5(data: Path, production: str, tmp_path: Path) -> None:
    """Once production has moved, the plan is refused with exit 5 and nothing is promoted; a new plan goes through."""
    assert sync("push", "--promote", "--to", production, "--data", data).code == 0
    shell(data, "UPDATE tickets SET status = 'ours' WHERE ticket_id = 'MOD-1'")
    file = tmp_path / "plan.json"
    assert sync("plan", "--out", file, "--to", production, "--data", data).code == 0
    await in_production(production, "UPDATE tickets SET priority = 'theirs' WHERE company_id = 'acme'")
    stale = sync("promote", file, "--to", production)
    assert (stale.code, stale.err.count("error: "), stale.err.count("Try: ")) == (5, 1, 1)
    assert await in_production(production, "SELECT * FROM tickets WHERE status = 'ours'") == []
    assert sync("plan", "--out", file, "--to", production, "--data", data).code == 0
    assert sync("promote", file, "--to", production).code == 0


async def test_held_rows_are_named_with_the_command_that_settles_them(data: Path, production: str) -> None:
    """A bad value, its dependant and a conflict exit 3, are listed offline, and go as soon as they are settled."""
    to = ("--to", production, "--data", data)
    assert sync("push", "--promote", *to).code == 0
    await in_production(production, "UPDATE tickets SET status = 'theirs' WHERE company_id || ticket_id = 'acmeMOD-1'")
    shell(data, "UPDATE tickets SET status = 'ours' WHERE ticket_id = 'MOD-1'")
    async with LocalStore(data, models=MODELS) as store:
        reply = Conversation(platform="jira", ticket_id="MOD-9", conversation_id="1", content="waits")
        await store.tenant("acme").put_many([ticket(9, description="a\0b"), reply])
    pushed = sync("push", "--promote", *to)
    assert (pushed.code, pushed.err) == (3, "")
    for part in ("tickets/jira/MOD-9", "conversations/jira/MOD-9/1", "sync quarantine list", "sync conflicts list"):
        assert part in pushed.out
    (conflict,) = sync("conflicts", "list", "--data", data, "--json").json["items"]
    assert conflict["key"] == {"platform": "jira", "ticket_id": "MOD-1"}
    assert (conflict["local"]["status"], conflict["production"]) == ("ours", {"status": "theirs"})
    assert conflict["row"] == "tickets/jira/MOD-1"
    quarantined = sync("quarantine", "list", "--data", data, "--json").json["items"]
    assert {item["row"]: item["reason"] for item in quarantined} == {
        "tickets/jira/MOD-9": "value",
        "conversations/jira/MOD-9/1": "waits",
    }
    shown = sync("conflicts", "show", "tickets/jira/MOD-1", "--data", data)
    assert (shown.code, re.search(r"status\s+open\s+ours\s+theirs", shown.out) is not None) == (0, True)
    status = sync("status", "--data", data, "--json").json["tenants"]
    assert [(entry["conflicts"], entry["quarantined"]) for entry in status] == [(1, 2), (0, 0)]
    verified = sync("verify", *to)
    assert (verified.code, "zeta: equal" in verified.out) == (3, True)
    assert "tickets/jira/MOD-1 status: here ours, production theirs; held (conflict)" in verified.out
    assert sync("conflicts", "resolve", "tickets/jira/MOD-1", "--use", "local", "--data", data).code == 0
    fixed = sync("quarantine", "fix", "tickets/jira/MOD-9", "--column", "description", "--value", "ab", "--data", data)
    assert (fixed.code, "push --promote" in fixed.out) == (0, True)
    settled = sync("push", "--promote", *to)
    assert settled.code == 0, settled.all
    assert sync("verify", *to).code == 0
    rows = await in_production(production, "SELECT description FROM tickets WHERE ticket_id = 'MOD-9'")
    assert [row["description"] for row in rows] == ["ab"]
    assert "There are no conflicts." in sync("conflicts", "list", *to).out
    assert "Nothing is in quarantine." in sync("quarantine", "list", "--data", data).out


async def test_retry_and_discard_settle_a_held_row(data: Path, production: str) -> None:
    """A row that production refused is tried again as it is, or given up for what production has."""
    to = ("--to", production, "--data", data)
    assert sync("push", "--promote", *to).code == 0
    shell(data, "UPDATE tickets SET description = 'a' || char(0) WHERE ticket_id = 'MOD-1'")
    assert sync("push", "--promote", *to).code == 3
    assert sync("quarantine", "retry", "tickets/jira/MOD-1", "--data", data).code == 0
    assert sync("push", "--promote", *to).code == 3
    assert sync("quarantine", "discard", "tickets/jira/MOD-1", "--data", data).code == 0
    assert sync("push", "--promote", *to).code == 0
    assert sync("verify", *to).code == 0


async def test_withdraw_rollback_and_requeue_tell_what_comes_next(data: Path, production: str) -> None:
    """What is given up travels again; what is taken back waits to be put in line; later writes are spared."""
    to = ("--to", production, "--data", data)
    staged = sync("push", "--tenant", "acme", *to, "--json").json["tenants"][0]
    assert staged["state"] == "staged"
    withdrawn = sync("withdraw", staged["batch"][:8], *to)
    assert (withdrawn.code, "sync push" in withdrawn.out) == (0, True)
    first = sync("push", "--promote", "--tenant", "acme", *to, "--json").json["tenants"][0]
    assert (first["state"], first["tables"]["tickets"]["inserted"]) == ("promoted", 3)
    shell(data, "UPDATE tickets SET priority = 'high' WHERE ticket_id <> 'MOD-3'")
    second = sync("push", "--promote", "--tenant", "acme", *to, "--json").json["tenants"][0]
    await in_production(production, "UPDATE tickets SET status = 'theirs' WHERE company_id || ticket_id = 'acmeMOD-1'")
    taken = sync("rollback", second["batch"], *to)
    assert taken.code == 3
    assert "left alone: tickets/jira/MOD-1 (written in production since)" in taken.out
    assert f"sync requeue {second['batch'][:8]}" in taken.out
    rows = await in_production(production, "SELECT priority FROM tickets ORDER BY ticket_id")
    assert [row["priority"] for row in rows] == ["high", "low", "low"]
    again = sync("requeue", second["batch"][:8], *to)
    assert (again.code, "1 row of batch" in again.out) == (0, True)
    assert sync("push", "--promote", "--tenant", "acme", *to).code == 0
    rows = await in_production(production, "SELECT priority FROM tickets ORDER BY ticket_id")
    assert [row["priority"] for row in rows] == ["high", "high", "low"]


async def test_a_repair_is_staged_and_then_promoted(data: Path, production: str) -> None:
    """`verify --repair` names the batch and the commands that follow; after the promotion `verify` exits 0."""
    to = ("--to", production, "--data", data)
    assert sync("push", "--promote", *to).code == 0
    assert "nothing to repair" in sync("verify", "--repair", *to).out
    for statement in (
        "ALTER TABLE tickets DISABLE TRIGGER localstore_feed_update",
        "UPDATE tickets SET title = 'lost' WHERE company_id = 'acme' AND ticket_id <> 'MOD-3'",
        "ALTER TABLE tickets ENABLE TRIGGER localstore_feed_update",
    ):
        await in_production(production, statement)
    hinted = sync("verify", *to)
    assert hinted.code == 4
    assert "sync verify --repair" in hinted.out
    repaired = sync("verify", "--repair", "--json", *to)
    assert repaired.code == repaired.json["exit"] == 3
    acme, zeta = repaired.json["tenants"]
    assert (acme["tenant"], acme["repaired"], acme["left_alone"], acme["whole"]) == ("acme", 2, [], [])
    assert acme["tables"]["tickets"]["causes"] == {"drift": 2}
    assert (zeta["tenant"], zeta["equal"], zeta["repaired"], zeta["batch"]) == ("zeta", True, 0, None)
    assert sync("withdraw", acme["batch"], *to).code == 0
    shell(data, "DELETE FROM localstore_marks")
    told = sync("verify", "--repair", "--tenant", "acme", *to)
    assert told.code == 3
    assert "2 drifted rows in line for production (2 of tickets)" in told.out
    (batch,) = re.findall(r"Staged as batch ([0-9a-f]{8})", told.out)
    assert f"localstore sync promote {batch} --to URL --data" in told.out
    assert sync("promote", batch, *to).code == 0
    assert sync("verify", *to).code == 0


async def test_verify_exits_4_for_what_nothing_explains(data: Path, production: str) -> None:
    """An edit by others is named with row, column and both values; pending rows alone exit 3."""
    to = ("--to", production, "--data", data)
    assert sync("push", "--promote", *to).code == 0
    shell(data, "UPDATE tickets SET status = 'later' WHERE ticket_id = 'MOD-2'")
    pending = sync("verify", *to, "--json")
    assert (pending.code, pending.json["exit"]) == (3, 3)
    (difference,) = pending.json["tenants"][0]["tables"]["tickets"]["differences"]
    assert (difference["column"], difference["why"]) == ("status", "pending")
    await in_production(production, "UPDATE tickets SET title = 'Théirs' WHERE ticket_id = 'MOD-3'")
    foreign = sync("verify", *to)
    assert foreign.code == 4
    assert "tickets/jira/MOD-3 title: here Ticket 3, production Théirs; foreign edit" in foreign.out


async def test_empty_results_are_said_in_words_and_quiet_says_nothing(
    data: Path, production: str, tmp_path: Path
) -> None:
    """Nothing to do is a sentence; with --quiet it is silence; both exit 0, also before any tenant exists."""
    assert command("init", "--data", tmp_path / "new").code == 0
    empty = ("--data", tmp_path / "new")
    assert "There are no tenants yet." in sync("status", *empty).out
    assert sync("push", "--to", production, *empty).out == "There are no tenants.\n"
    assert sync("log", "--to", production, *empty).out == "No batch was ever sealed.\n"
    to = ("--to", production, "--data", data)
    assert sync("push", "--promote", "--quiet", *to).all == ""
    assert sync("push", "--promote", *to).out == "Nothing new to push (2 tenants).\n"
    assert sync("promote", *to).out == "Nothing is staged (2 tenants).\n"


async def test_init_prepares_a_database_that_a_pushing_login_may_use(data: Path, production: str) -> None:
    """`sync init` needs no store and runs again freely; before it, commands that only look say what to run."""
    unprepared = sync("log", "--to", production)
    assert (unprepared.code, "Try: localstore sync init" in unprepared.err) == (6, True)
    assert sync("init", "--to", production, DATA_PATH=str(data.parent / "missing")).code == 0
    again = sync("init", "--to", production, "--data", data, "--json")
    assert (again.code, again.json["tables"]) == (
        0,
        ["conversations", "knowledge_base", "processing_progress", "tickets"],
    )


def test_tables_fit_80_columns_in_a_pipe(data: Path, production: str) -> None:
    """In a pipe no table is wider than 80 columns, none has blank edges, and nothing colours it."""
    to = ("--to", production, "--data", data)
    pages = [sync("push", "--promote", *to), sync("status", "--data", data), sync("log", *to)]
    for page in pages:
        table = [line for line in page.out.splitlines() if "  " in line or "─" in line]
        assert table
        assert max(map(len, table)) <= 80
        assert "\x1b" not in page.out
        assert "\n\n" not in page.out


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let processes heed SIGINT, as at a terminal: what a shell starts in the background inherits its being ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
async def test_an_interrupted_push_exits_130_and_a_rerun_completes(tmp_path: Path, production: str) -> None:
    """SIGINT amid a push ends it without a traceback; the same command again brings every row once."""
    data = tmp_path / "data"
    async with LocalStore(data, models=MODELS) as store:
        await store.tenant("acme").put_many([ticket(number) for number in range(50)])
    arguments = ["sync", "push", "--promote", "--to", production, "--data", str(data)]
    # Another promotion of the company, so that this one is sure to be under way still.
    async with connection_to(Server.parse(production)) as other, other.transaction():
        await lock_company(other, "acme")
        process = subprocess.Popen(
            [sys.executable, "-m", "localstore", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        while not await other.fetchval(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
        ):
            assert process.poll() is None, process.communicate()
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.to_thread(process.communicate, timeout=120)
    assert (process.returncode, out) == (130, "")
    assert err == "error: interrupted\nTry: run the same command again: it goes on\n"
    again = command(*arguments)
    assert again.code == 0, again.all
    (row,) = await in_production(production, "SELECT count(*) AS number FROM tickets")
    assert row["number"] == 50
    assert sync("verify", "--to", production, "--data", data).code == 0


def test_a_damaged_file_does_not_stop_the_other_tenants(data: Path, production: str) -> None:
    """Each command serves the tenants that it can, names the one that it cannot, and exits with its code."""
    to = ("--to", production, "--data", data)
    assert sync("push", "--promote", *to).code == 0
    shell(data, "UPDATE tickets SET status = 'new'", "acme")
    (data / "zeta" / "store.db").write_bytes(b"")
    for verb, expected in (("status", "acme "), ("push", "acme: staged"), ("verify", "acme: 3 differences")):
        outcome = sync(verb, *to)
        assert (outcome.code, expected in outcome.out) == (1, True), outcome.all
        assert (outcome.err.count("error: "), outcome.err.count("Try: "), "zeta" in outcome.err) == (1, 1, True)
        printed = sync(verb, *to, "--json").json
        assert (printed["exit"], [entry["tenant"] for entry in printed["tenants"]]) == (1, ["acme", "zeta"])
        assert printed["tenants"][1]["error"]["code"] == "foreign_file"


def test_lists_fall_back_on_the_files_where_production_does_not_answer(data: Path, production: str) -> None:
    """With DATABASE_URL set and nobody there the lists say so and show the files'; with --to it is an error."""
    shell(data, "UPDATE tickets SET description = char(0) WHERE ticket_id = 'MOD-1'")
    assert sync("push", "--promote", "--to", production, "--data", data).code == 3
    nobody = "postgresql://me:s3cret@127.0.0.1:1/shop"
    for verb, part in ((("log",), "acknowledged"), (("quarantine", "list"), "MOD-1"), (("conflicts", "list"), "no ")):
        offline = hastily("sync", *verb, "--data", data, DATABASE_URL=nobody)
        assert (offline.code, part in offline.out) == (0, True), offline.all
        assert offline.err == "Production does not answer; this is what the tenants' files know.\n"
    assert hastily("sync", "log", "--data", data, "--to", nobody).code == 1


def test_a_decision_names_its_tenant_and_hears_of_promotions_elsewhere(data: Path, production: str) -> None:
    """A row held for two tenants needs --tenant; one that another machine's promotion held is found all the same."""
    to = ("--to", production, "--data", data)
    for tenant in ("acme", "zeta"):
        shell(data, "UPDATE tickets SET description = char(0) WHERE ticket_id = 'MOD-1'", tenant)
    assert sync("push", *to).code == 0
    assert sync("promote", "--to", production).code == 3
    retry = ("quarantine", "retry", "tickets/jira/MOD-1")
    assert "no held row" in sync(*retry, "--data", data).err
    both = sync(*retry, *to)
    assert (both.code, "--tenant acme" in both.err) == (2, True), both.all
    assert sync("quarantine", "show", "tickets/jira/MOD-1", *to).code == 2
    chosen = sync(*retry, "--tenant", "zeta", "--data", data, "--json")
    assert (chosen.code, chosen.json["item"]["tenant"]) == (0, "zeta")


def test_deletes_beyond_the_limit_are_refused_until_allowed(data: Path, production: str) -> None:
    """More deletes than allowed exit 6 and change nothing; with the number raised they go."""
    to = ("--to", production, "--data", data, "--tenant", "acme")
    assert sync("push", "--promote", *to).code == 0
    shell(data, "DELETE FROM tickets")
    refused = sync("push", "--promote", "--allow-deletes", "2", *to)
    assert (refused.code, "--allow-deletes" in refused.err) == (6, True), refused.all
    allowed = sync("push", "--promote", "--allow-deletes", "3", *to, "--json")
    assert (allowed.code, allowed.json["totals"]["deleted"]) == (0, 3), allowed.all


def test_on_error_abort_gives_up_the_batch_and_keeps_its_changes(data: Path, production: str) -> None:
    """With abort one bad row stops its batch with exit 6; with hold the same changes go, but for that row."""
    to = ("--to", production, "--data", data, "--tenant", "acme")
    assert sync("push", "--promote", *to).code == 0
    shell(data, "UPDATE tickets SET status = 'new'")
    shell(data, "UPDATE tickets SET description = char(0) WHERE ticket_id = 'MOD-1'")
    refused = sync("push", "--promote", "--on-error", "abort", *to)
    assert (refused.code, refused.err.count("error: ")) == (6, 1), refused.all
    held = sync("push", "--promote", *to, "--json")
    assert held.code == 3, held.all
    assert (held.json["totals"]["updated"], held.json["totals"]["quarantined"]) == (2, 1)


def test_python_m_sync_is_the_same_command(data: Path) -> None:
    """`python -m sync status` and `localstore sync status` print the same."""
    assert command("status", "--data", data, module="sync").out == sync("status", "--data", data).out
