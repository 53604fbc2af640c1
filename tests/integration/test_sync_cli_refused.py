"""Bad input to `localstore sync`: one clear line, `Try: …`, the documented exit code, no traceback, no password."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from localstore import LocalStore
from localstore.helpdesk.models import Ticket
from localstore.postgres.server import Server
from tests.integration.command import Outcome, hastily, sync

SECRET = "s3cret-pa55"


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """Return a store of one tenant."""
    async with LocalStore(tmp_path / "data") as store:
        await store.tenant("acme").put(Ticket(platform="jira", ticket_id="1"))
    return tmp_path / "data"


def assert_refused(outcome: Outcome, code: int, *says: str) -> None:
    """Check the shape that every refusal has."""
    assert outcome.code == code, outcome.all
    assert outcome.out == ""
    lines = outcome.err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "Try"], outcome.err
    assert SECRET not in outcome.all
    for part in says:
        assert part in lines[0]


def test_a_missing_database_is_named(data: Path, production: str) -> None:
    """A database that does not exist is an error that names it, exit 1."""
    url = Server.parse(production).with_database("no_such_database").url
    assert_refused(sync("push", "--to", url, "--data", data), 1, "no_such_database")
    assert (Server.parse(production).password or "-") not in sync("push", "--to", url, "--data", data).all


def test_a_wrong_password_is_not_repeated(data: Path, production: str) -> None:
    """A refused login exits 1 and shows the user, never the password."""
    url = Server.parse(production).with_login("postgres", SECRET).url
    assert_refused(sync("push", "--to", url, "--data", data), 1, "password")
    assert_refused(sync("log", DATABASE_URL=url), 1, "password")


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path, production: str) -> None:
    """Whatever reads tenants refuses a missing folder and a foreign one; what needs none refuses only the foreign."""
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "a.jpg").write_bytes(b"x")
    for verb in ("push", "verify"):
        assert_refused(sync(verb, "--to", production, "--data", foreign), 1, "photos", "no store")
        assert_refused(sync(verb, "--to", production, "--data", tmp_path / "missing"), 1, "does not exist")
    assert_refused(sync("status", "--data", tmp_path / "missing"), 1, "does not exist")
    assert_refused(sync("log", "--data", tmp_path / "missing"), 1, "does not exist")
    assert_refused(sync("plan", "--to", production, "--data", foreign), 1, "photos", "no store")


def test_an_unknown_tenant_is_named(data: Path, production: str) -> None:
    """A tenant that nobody knows is an error in every command that takes one, exit 1."""
    assert sync("init", "--to", production, "--data", data).code == 0
    for verb in (("push",), ("plan",), ("promote",), ("verify",), ("log",), ("conflicts", "list")):
        outcome = sync(*verb, "--to", production, "--data", data, "--tenant", "nobody")
        assert_refused(outcome, 1, "there is no tenant nobody")
    assert_refused(sync("status", "--data", data, "--tenant", "nobody"), 1, "there is no tenant nobody")


@pytest.mark.parametrize("tenant", ["../x", "/etc", "A", "a b", "con", "ä", ""])
def test_S1_a_tenant_id_that_is_no_folder_name_is_refused(data: Path, tenant: str) -> None:
    """A tenant id that could leave the store is refused before anything is opened, exit 2."""
    assert_refused(sync("push", "--data", data, "--to", "postgresql://x/y", "--tenant", tenant), 2, "tenant id")


def test_an_unreachable_host_is_named_without_its_password(data: Path) -> None:
    """Nothing listens there: exit 1, with the host and without the password."""
    url = f"postgresql://me:{SECRET}@127.0.0.1:1/shop"
    assert_refused(hastily("sync", "push", "--to", url, "--data", data), 1, "127.0.0.1:1", "cannot be reached")


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}@host:port/shop",
        f"postgresql://me:{SECRET}/@host/shop",
        f"postgresql://me:{SECRET}%@host/shop",
        f"mysql://me:{SECRET}@host/shop",
        f"me:{SECRET}@host",
        SECRET,
    ],
)
def test_S5_a_malformed_url_is_shown_as_its_scheme_only(data: Path, url: str) -> None:
    """A URL that does not parse is a usage error, exit 2, in words and as JSON, from the option and the environment."""
    assert_refused(sync("push", "--to", url, "--data", data), 2, "database URL")
    for outcome in (sync("plan", "--to", url, "--json"), sync("log", "--json", DATABASE_URL=url)):
        assert (outcome.code, outcome.err) == (2, "")
        printed = json.loads(outcome.out)
        assert (printed["version"], printed["exit"], printed["error"]["code"]) == (1, 2, "configuration")
        assert printed["error"]["hint"]
        assert SECRET not in outcome.out


def test_wrong_options_and_arguments_are_usage_errors(data: Path, production: str, tmp_path: Path) -> None:
    """What contradicts itself exits 2; a file that is no plan is named."""
    (tmp_path / "list.json").write_text("[]")
    assert_refused(sync("push", "--data", data), 2, "no production was named")
    assert_refused(sync("push", "--data", data, "--concurrency", "0"), 2, "--concurrency")
    assert_refused(sync("promote", tmp_path / "list.json", "--to", production), 2, "no plan", "list.json")
    batch = {"batch": "no id", "tenant": "acme", "digest": "", "tables": {}}
    plan = {"format": 1, "target": "public", "made_at": "2026-01-01", "batches": [batch]}
    (tmp_path / "bad.json").write_text(json.dumps({"plan": plan}))
    assert_refused(sync("promote", tmp_path / "bad.json", "--to", production), 2, "no plan", "bad.json")
    nowhere = tmp_path / "no" / "plan.json"
    assert_refused(sync("plan", "--out", nowhere, "--to", production, "--data", data), 2, "cannot be saved")
    assert_refused(sync("promote", tmp_path / "missing.json", "--to", production), 2, "missing.json")
    assert_refused(sync("quarantine", "fix", "a/b", "--column", "c", "--data", data), 2, "--value")
    assert_refused(sync("conflicts", "resolve", "a/b", "--use", "mine", "--data", data), 2, "--use")


def test_batches_and_rows_that_nobody_knows_are_named(data: Path, production: str) -> None:
    """A batch or a held row that is not there exits 1 and names the list to look into."""
    assert sync("init", "--to", production, "--data", data).code == 0
    for verb in ("rollback", "withdraw", "show", "requeue", "promote"):
        assert_refused(sync(verb, "deadbeef", "--to", production, "--data", data), 1, "deadbeef")
    outcome = sync("quarantine", "retry", "tickets/jira/1", "--data", data)
    assert_refused(outcome, 1, "tickets/jira/1")
    assert "quarantine list" in outcome.err
