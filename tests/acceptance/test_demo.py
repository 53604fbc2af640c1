"""`localstore demo`: the story is told to its end, with a line a step, and leaves nothing behind."""

from __future__ import annotations

import re
from pathlib import Path

from localstore.helpdesk.generate import generate
from localstore.postgres.embedded import EmbeddedServer
from tests.integration.command import command, hastily, sync

STEPS = (
    "imported",
    "wrote a new ticket",
    "made production ready",
    "pushed",
    "planned",
    "promoted what the plan said",
    "verified, row by row",
    "made two tickets urgent",
    "an application closed ticket",
    "rolled batch",
    "verified again",
    "put what was taken back in line",
)


def told(out: str) -> list[str]:
    """Return the steps that the output tells, each of which begins with its time."""
    return re.findall(r"^ *\d+\.\d\d s   (.+)$", out, flags=re.MULTILINE)


def assert_told_whole(out: str, expected: tuple[str, ...] = STEPS) -> None:
    """Check that every step is there, in order, and what the story claims."""
    steps = told(out)
    assert len(steps) == len(expected), out
    assert [part for part, step in zip(expected, steps, strict=True) if part not in step] == []
    assert "1 row restored, 1 left alone" in out
    assert "written in production since" in out
    assert "foreign edit" in out
    assert "Done in" in out


async def test_the_demo_tells_the_main_job_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """With no option: three tenants, a PostgreSQL of its own, the plan as a table; afterwards no file remains."""
    done = command("demo", TMPDIR=str(tmp_path))
    assert (done.code, done.err) == (0, ""), done.all
    assert_told_whole(done.out, (*STEPS[:2], "nearest to “on a train”: tickets/", *STEPS[2:]))
    assert "all 3 tenants equal" in done.out
    assert re.search(r"^ tenant +table +inserted$", done.out, flags=re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


async def test_the_demo_keeps_the_store_that_is_named(tmp_path: Path) -> None:
    """With --data the store and its production remain, and the commands that it names at the end work."""
    data = tmp_path / "kept here"
    try:
        done = command("demo", "--data", data)
        assert done.code == 0, done.all
        assert "localstore sync log --to embedded --data" in done.out
        log = sync("log", "--to", "embedded", "--data", data)
        assert (log.code, "rollback of" in log.out) == (0, True)
    finally:
        await EmbeddedServer(data).erase()


def test_the_demo_takes_a_tree_of_json_and_a_production(tmp_path: Path, production: str) -> None:
    """With --from and --to it tells the same story about other data, files that cannot be read included."""
    generate(tmp_path / "tree", seed=3, tickets=8)
    (tmp_path / "tree/azulmar/zendesk/tickets/broken.json").write_text("{")
    done = command("demo", "--from", tmp_path / "tree", "--to", production, TMPDIR=str(tmp_path))
    assert done.code == 0, done.all
    assert_told_whole(done.out)
    assert "1 file could not be read" in done.out
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_the_demo_runs_over_the_real_tickets(helpdesk_data: Path, production: str) -> None:
    """Real tickets of four companies: all of them equal."""
    done = command("demo", "--from", helpdesk_data, "--to", production)
    assert done.code == 0, done.all
    assert_told_whole(done.out)
    assert "4 tenants, 2,170 tickets, 6,383 messages" in done.out
    assert "all 4 tenants equal" in done.out


def test_the_demo_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    """A folder without tickets and a server that is not there end in one line and a next step."""
    for options in (("--from", tmp_path / "missing"), ("--to", "postgresql://u:s3cret@127.0.0.1:1/x")):
        done = hastily("demo", *options, TMPDIR=str(tmp_path))
        assert (done.code, done.err.count("error: "), done.err.count("Try: ")) == (1, 1, 1), done.all
        assert "s3cret" not in done.all
        assert list(tmp_path.iterdir()) == []
