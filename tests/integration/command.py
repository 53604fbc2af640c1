"""The real command as a process, for tests that look at it from the outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.forked import be_command, processes

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
    """Run `localstore …` (or another package's command) to its end; a traceback is always a failure."""
    # Where a process of ours finds its modules is settled before it is forked.
    forked = module == "localstore" and "PYTHONPATH" not in env
    given = [str(argument) for argument in arguments]
    return _checked(_forked(given, cwd, env) if forked else _started(module, given, cwd, env))


def hastily(*arguments: str | Path, **env: str) -> Outcome:
    """Run `localstore …` without pauses before it tries again, where nobody will answer anyway."""
    return _checked(_forked([str(argument) for argument in arguments], None, env, hasty=True))


def _checked(outcome: Outcome) -> Outcome:
    assert "Traceback" not in outcome.all, outcome.all
    return outcome


def _forked(arguments: list[str], cwd: Path | None, env: dict[str, str], *, hasty: bool = False) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="localstore-command-") as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = processes.Process(
            target=be_command, args=(arguments, environment(**env), cwd, out, err), kwargs={"hasty": hasty}
        )
        process.start()
        process.join(TIMEOUT_SECONDS)
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
            raise AssertionError(f"the command hangs; it printed: {out.read_text()}{err.read_text()}")
        process.close()
        return Outcome(code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))


def _started(module: str, arguments: list[str], cwd: Path | None, env: dict[str, str]) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment(**env),
        cwd=cwd,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def sync(*arguments: str | Path, **env: str) -> Outcome:
    """Run `localstore sync …`."""
    return command("sync", *arguments, cwd=None, **env)
