"""README and examples are programs: each is run as it stands, in an empty folder, with a PostgreSQL of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from localstore.postgres.embedded import EmbeddedServer
from tests.conftest import REPOSITORY
from tests.integration.command import environment, sync

EXAMPLES = sorted((REPOSITORY / "examples").glob("[0-9][0-9]_*.py"))
EXPECTED = {
    "01_notes": ["planned: {'inserted': 2", "promoted: True", "taken back: 2 rows", "still here: 2 notes"],
    "02_held_rows": [
        "pushed: 1 inserted, 1 held",
        "held: tickets/freshdesk/2 title value",
        "pushed: 1 inserted, 0 held",
    ],
    "03_storage": ["resolved: ['42']", "processed: 1 of 1"],
    "05_cache": ["counting", "words: 4 4", "counting", "words: 6", "visits: 1 2", "hits and misses: 1 2"],
    "04_vectors": [
        "nearest: ['knowledge_base/freshdesk/3', 'knowledge_base/freshdesk/1']",
        "stale: ['knowledge_base/freshdesk/2']",
        "promoted: 3 vectors",
    ],
}


def run(program: Path, folder: Path) -> str:
    """Run a program in a folder, where it makes a store, and return what it printed."""
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


async def erase(store: Path) -> None:
    """Remove a store's server, whose files may lie elsewhere."""
    await EmbeddedServer(store).erase()


async def test_the_lines_of_the_readme_run(tmp_path: Path) -> None:
    """README's first screen is a whole program: afterwards its batch is in production's log, taken back."""
    readme = (REPOSITORY / "README.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    program = tmp_path / "readme.py"
    program.write_text(lines)
    try:
        assert run(program, tmp_path) == ""
        log = sync("log", "--to", "embedded", "--data", tmp_path / "data", "--json").json["batches"]
        assert [(line["kind"], line["state"], line["rows"]) for line in log] == [
            ("rollback", "promoted", 3),
            ("push", "rolled_back", 3),
        ]
    finally:
        await erase(tmp_path / "data")


def test_every_example_is_expected() -> None:
    """No example is left untested."""
    assert [path.stem for path in EXAMPLES] == sorted(EXPECTED)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
async def test_the_examples_run(example: Path, tmp_path: Path) -> None:
    """Each example ends well and prints what it says."""
    try:
        printed = run(example, tmp_path)
        assert [line for line in EXPECTED[example.stem] if line not in printed] == [], printed
    finally:
        await erase(tmp_path / "data")


@pytest.mark.parametrize("page", ["README.md", "docs/commands.md"])
def test_links_lead_somewhere(page: str) -> None:
    """Every relative link of the page names a file or folder that is there."""
    path = REPOSITORY / page
    links = re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []
