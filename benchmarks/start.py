"""Measure what a command costs before it does anything, as a ratio to starting Python itself in the same run.

Run `python benchmarks/start.py`. Each figure is the least processor time of seven starts, which other programs on the
machine disturb less than the time on the clock.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS = 7
PYTHON = ("-c", "pass")
COMMANDS = (
    ("--version",),
    ("tenants", "list"),
    ("tenants", "show", "acme"),
    ("import", "json", "--help"),
    ("sync", "status"),
    ("sync", "push", "--help"),
    ("--help",),
)


def processor_seconds(arguments: tuple[str, ...], data: Path) -> float:
    """Return the least processor time that a run of Python with these arguments takes."""
    seconds = []
    for _ in range(ROUNDS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "DATA_PATH": str(data)},
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds)


def main() -> None:
    """Print each command's figure."""
    with tempfile.TemporaryDirectory(prefix="localstore-bench-") as folder:
        data = Path(folder) / "data"
        create = ("-m", "localstore", "tenants", "create", "acme", "--quiet", "--data", str(data))
        subprocess.run([sys.executable, *create], check=True)
        yardstick = processor_seconds(PYTHON, data)
        for command in COMMANDS:
            seconds = processor_seconds(("-m", "localstore", *command), data)
            print(f"{' '.join(command):24} {seconds / yardstick:7.1f}   ({seconds * 1000:.0f} ms)", flush=True)


if __name__ == "__main__":
    main()
