"""The command: results on stdout, errors with a next step on stderr, the documented exit codes, never a traceback."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import typer

import localstore.cli
from localstore import LocalStore
from localstore.cli import main
from localstore.cli.output import explain, printable, run
from localstore.errors import MissingRights, StoreError

Capture = pytest.CaptureFixture[str]


def call(*arguments: str) -> int:
    """Run the command in this process and return its exit code."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def call_json(capture: Capture, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run the command with --json and return its exit code and the one object that it printed."""
    code = call(*arguments, "--json")
    captured = capture.readouterr()
    assert captured.err == ""
    assert captured.out.count("\n") == 1
    printed: dict[str, Any] = json.loads(captured.out)
    assert printed["version"] == 1
    assert printed["exit"] == code
    return code, printed


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder that is a store with one tenant; its path has a space."""
    root = tmp_path / "my data"
    assert call("init", "--data", str(root), "--quiet") == 0
    assert call("tenants", "create", "acme", "--data", str(root), "--quiet") == 0
    return root


def test_init_makes_a_store_and_may_run_again(tmp_path: Path, capsys: Capture) -> None:
    """The second run changes nothing and succeeds."""
    root = tmp_path / "data"
    assert call_json(capsys, "init", "--data", str(root))[1]["created"] is True
    before = sorted(root.iterdir())
    assert call_json(capsys, "init", "--data", str(root))[1]["created"] is False
    assert sorted(root.iterdir()) == before
    assert call("tenants", "list", "--data", str(root)) == 0


def test_tenants_are_made_listed_and_shown(data: Path, capsys: Capture) -> None:
    """For people and as JSON."""
    assert call_json(capsys, "tenants", "list", "--data", str(data))[1]["tenants"] == [{"tenant": "acme"}]
    shown = call_json(capsys, "tenants", "show", "acme", "--data", str(data))[1]
    assert (shown["tenant"], shown["mode"], shown["epoch"], shown["tables"]) == ("acme", "file", 1, {})
    assert call("tenants", "show", "acme", "--data", str(data)) == 0
    assert shown["replica"] in capsys.readouterr().out


def test_show_counts_rows_and_what_is_pending(data: Path, capsys: Capture) -> None:
    """The file says which tables it has; no model is imported."""
    from localstore.helpdesk import Ticket

    async def fill() -> None:
        async with LocalStore(data, models=[Ticket]) as store:
            await store.tenant("acme").put_many([Ticket(platform="jira", ticket_id=f"A-{n}") for n in range(3)])

    asyncio.run(fill())
    shown = call_json(capsys, "tenants", "show", "acme", "--data", str(data))[1]
    assert shown["tables"] == {"tickets": {"rows": 3, "pending": 3}}


def test_quiet_prints_nothing_but_errors(data: Path, capsys: Capture) -> None:
    """And --json prints its object all the same."""
    assert call("tenants", "list", "--data", str(data), "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert call("tenants", "show", "nope", "--data", str(data), "--quiet") == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert call_json(capsys, "tenants", "list", "--data", str(data), "--quiet")[0] == 0


def test_the_folder_comes_from_the_option_else_data_path_else_data(
    data: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In this order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA_PATH", raising=False)
    assert str(tmp_path / "data") in call_json(capsys, "tenants", "list")[1]["error"]["message"]
    monkeypatch.setenv("DATA_PATH", str(data))
    assert call_json(capsys, "tenants", "list")[1]["tenants"] == [{"tenant": "acme"}]
    assert call_json(capsys, "tenants", "list", "--data", str(tmp_path / "none"))[0] == 1


BAD_INPUT = [
    (["tenants", "list", "--data", "{tmp}/missing"], 1, "does not exist", "init"),
    (["tenants", "list", "--data", "{tmp}/folder"], 1, "is no store", "init"),
    (["tenants", "show", "nope", "--data", "{data}"], 1, "no tenant nope", "tenants list"),
    (["tenants", "show", "../x", "--data", "{data}"], 2, "'../x'", "lower-case"),
    (["tenants", "create", "../x", "--data", "{data}"], 2, "'../x'", "lower-case"),
    (["tenants", "create", "acme", "--data", "{data}"], 1, "exists already", "tenants show acme"),
    (["tenants", "create", "a", "--data", "{tmp}/file"], 1, "file", ""),
    (["tenants", "show"], 2, "Missing argument", "--help"),
    (["tenants", "show", "acme", "--nonsense"], 2, "nonsense", "--help"),
    (["tenants", "nonsense"], 2, "nonsense", "--help"),
    (["nonsense"], 2, "nonsense", "--help"),
]


@pytest.mark.parametrize(("arguments", "code", "message", "hint"), BAD_INPUT, ids=lambda value: str(value)[:40])
def test_bad_input_gets_one_clear_line_and_a_next_step(
    arguments: list[str], code: int, message: str, hint: str, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The documented exit code, the same words as text and as JSON, nothing on the other stream."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    given = [argument.format(tmp=tmp_path, data=data) for argument in arguments]
    assert call(*given) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert hint in captured.err
    assert "Try: " in captured.err
    assert "Traceback" not in captured.err
    assert len(captured.err.splitlines()) == 2
    error = call_json(capsys, *given)[1]["error"]
    assert message in error["message"]
    assert hint in error["hint"]


def test_config_show_hides_secrets(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is secret is only said to be set."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://ada:pa55word@db.example/app")
    code, shown = call_json(capsys, "config", "show")
    assert (code, shown["settings"]["database_url"]) == (0, "(set)")
    assert call("config", "show") == 0
    assert "pa55word" not in capsys.readouterr().out


def test_a_bad_setting_is_a_usage_error_that_does_not_repeat_it(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt variable is named; its value, which may be a secret in the wrong place, is not."""
    monkeypatch.setenv("STORAGE_TYPE", "pa55word")
    assert call("config", "show") == 2
    captured = capsys.readouterr()
    assert "STORAGE_TYPE" in captured.err
    assert "pa55word" not in captured.err


def test_an_unexpected_error_is_one_line_without_credentials(capsys: Capture) -> None:
    """With the way to a traceback, which is not printed unasked."""
    error = RuntimeError("cannot reach postgresql://ada:pa55word@db.example/app\nmore")
    assert explain(error, json=False) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: unexpected RuntimeError: cannot reach postgresql://…@db.example/app")
    assert "LOCALSTORE_TRACEBACK=1" in captured.err
    assert "Traceback" not in captured.err


def test_a_traceback_is_printed_when_asked_for(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """LOCALSTORE_TRACEBACK=1 shows where it happened."""
    monkeypatch.setenv("LOCALSTORE_TRACEBACK", "1")

    async def fail() -> None:
        raise RuntimeError("on purpose")

    with pytest.raises(typer.Exit) as caught:
        run(fail())
    assert caught.value.exit_code == 1
    assert "in fail" in capsys.readouterr().err


def test_run_gives_each_error_its_exit_code(capsys: Capture) -> None:
    """A refusal by a guard is 6, an interruption 130, any other error 1."""

    async def fail(error: BaseException) -> None:
        raise error

    for error, code in ((MissingRights("no"), 6), (StoreError("no"), 1), (KeyboardInterrupt(), 130)):
        with pytest.raises(typer.Exit) as caught:
            run(fail(error))
        assert caught.value.exit_code == code
        assert "Traceback" not in capsys.readouterr().err


def test_a_message_cannot_move_the_terminals_cursor() -> None:
    """Control and bidi characters of hostile names are replaced; letters of any script and emoji stay."""
    assert printable("a\x1b[2Jb\u202ec") == "a\ufffd[2Jb\ufffdc"
    assert printable("日本語 👩\u200d💻 é") == "日本語 👩\u200d💻 é"


def test_a_broken_package_is_reported_where_it_matters(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command says why it is missing; all others work."""
    broken = EntryPoint(name="gadget", value="no_such_package:app", group="localstore.commands")
    monkeypatch.setattr(localstore.cli, "entry_points", lambda **_: [broken])
    assert call("gadget", "--any", "thing") == 2
    captured = capsys.readouterr()
    assert "no_such_package" in captured.err
    assert "Try: " in captured.err
    assert call("--help") == 0
    assert "gadget" in capsys.readouterr().out


def test_another_package_adds_its_commands(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typer app under its name, or a callable that adds what it likes."""
    app = typer.Typer()

    @app.command("hello")
    def hello() -> None:
        print("hello from an app")

    @app.command("other")
    def other() -> None:
        print("other")

    def register(root: typer.Typer) -> None:
        root.command("greet")(lambda: print("hello from a callable"))

    class Loaded:
        def __init__(self, name: str, value: Any) -> None:
            self.name, self.value = name, value

        def load(self) -> Any:
            return self.value

    monkeypatch.setattr(localstore.cli, "entry_points", lambda **_: [Loaded("app", app), Loaded("more", register)])
    assert call("app", "hello") == 0
    assert call("greet") == 0
    assert capsys.readouterr().out == "hello from an app\nhello from a callable\n"


def test_the_module_and_the_script_are_the_same_command(data: Path) -> None:
    """`python -m localstore` works, says its version, and stops quietly when nobody reads on."""
    program = [sys.executable, "-m", "localstore"]
    shown = subprocess.run([*program, "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("localstore ")
    listed = subprocess.run(
        [*program, "tenants", "list", "--data", str(data)], capture_output=True, text=True, check=True
    )
    assert (listed.stdout, listed.stderr) == ("acme\n", "")
    unread, closed = os.pipe()
    os.close(unread)
    ended = subprocess.run(
        [*program, "tenants", "list", "--data", str(data)],
        stdout=closed,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(closed)
    assert "Traceback" not in ended.stderr
    assert "Exception" not in ended.stderr
