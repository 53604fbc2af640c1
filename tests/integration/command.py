"""The real command as a process, for tests that look at it from the outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 240
_OURS = ("DATABASE_URL", "DATABASE_REPLICA_URL", "DATA_PATH", "STORAGE_TYPE", "PGPASSWORD", "PGUSER", "PGHOST")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command printed and exited with."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return the one object that `--json` prints."""
        return json.loads(self.out)

    @property
    def all(self) -> str:
        """Return everything that was printed."""
        return self.out + self.err


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which nothing of ours is set but what is named."""
    kept = {name: value for name, value in os.environ.items() if name not in _OURS}
    return {**kept, "PYTHONIOENCODING": "utf-8", "COLUMNS": "80", **more}


def command(*arguments: str | Path, module: str = "localstore", cwd: Path | None = None, **env: str) -> Outcome:
    """Run `python -m localstore …` to its end; a traceback is always a failure."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment(**env),
        cwd=cwd,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    outcome = Outcome(done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in outcome.all, outcome.all
    return outcome


def sync(*arguments: str | Path, **env: str) -> Outcome:
    """Run `localstore sync …`."""
    return command("sync", *arguments, cwd=None, **env)
