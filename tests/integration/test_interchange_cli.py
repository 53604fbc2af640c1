"""`localstore import json` and `localstore export json` as their users meet them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from localstore.cli import main
from localstore.helpdesk.generate import generate


def _run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return stop.value.code, out, err


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a small generated tree."""
    generate(tmp_path / "tree", seed=2, tickets=12)
    return tmp_path / "tree"


def test_import_prints_a_line_a_tenant(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first run counts what is new, the second what is unchanged; both exit 0."""
    code, out, err = _run(capsys, "import", "json", tree, "--data", tmp_path / "data")
    assert (code, err) == (0, "")
    assert [line.split(":")[0] for line in out.splitlines()] == ["azulmar", "hanbit", "nordlicht"]
    assert "tickets 12 new" in out
    code, out, _ = _run(capsys, "import", "json", tree, "--data", tmp_path / "data", "--tenant", "hanbit")
    assert (code, "tickets 12 unchanged" in out, " new" in out) == (0, True, False)


def test_import_lists_broken_files_and_exits_3(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Broken files are named on stderr, also with --quiet, and the exit code tells a script."""
    (tree / "hanbit/jira/tickets/broken.json").write_text("{")
    code, out, err = _run(capsys, "import", "json", tree, "--data", tmp_path / "data", "--quiet")
    assert (code, out) == (3, "")
    assert "not imported: hanbit/jira/tickets/broken.json: not JSON" in err
    assert "Try: " in err


def test_json_output_is_one_object(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json stdout holds one versioned object and nothing else, for both commands."""
    (tree / "hanbit/jira/tickets/broken.json").write_text("[]")
    code, out, err = _run(capsys, "import", "json", tree, "--data", tmp_path / "data", "--json")
    done: dict[str, Any] = json.loads(out)
    assert (code, err, done["version"], done["exit"]) == (3, "", 1, 3)
    assert done["broken"] == [{"path": "hanbit/jira/tickets/broken.json", "reason": "not a JSON object"}]
    assert done["tenants"][1]["tables"]["tickets"] == {"new": 12, "changed": 0, "unchanged": 0, "deleted": 0}
    code, out, _ = _run(capsys, "export", "json", tmp_path / "out", "--data", tmp_path / "data", "--json")
    exported = json.loads(out)
    assert (code, exported["version"], exported["skipped"]) == (0, 1, [])
    assert exported["tenants"][0]["files"]["tickets"] == 12


def test_export_writes_what_was_imported(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Import and export by command give the same files."""
    _run(capsys, "import", "json", tree, "--data", tmp_path / "data")
    code, out, _ = _run(capsys, "export", "json", tmp_path / "out", "--data", tmp_path / "data")
    assert (code, "12 tickets" in out) == (0, True)
    for path in tree.rglob("*.json"):
        assert (tmp_path / "out" / path.relative_to(tree)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("import", "json", "missing"), 1, "missing is not a directory"),
        (("import", "json", "tree", "--tenant", "nobody"), 1, "holds nothing of nobody"),
        (("import", "json", "tree/hanbit"), 2, "holds no <company>/<platform>"),
        (("export", "json", "out"), 1, "does not exist"),
    ],
)
def test_bad_input_is_one_clear_line(
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    """What cannot be meant is said with the next command, without a traceback."""
    monkeypatch.chdir(tree.parent)
    found, out, err = _run(capsys, *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert "Try: " in err
    assert "Traceback" not in err
