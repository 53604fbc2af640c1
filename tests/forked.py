"""The real command in a process of its own, forked from one that has imported everything and opened nothing.

That spares each of them the imports, which take longer than most commands. `tests/unit/test_start.py` looks at a
command's own start, and the examples and the acceptance tests run programs that start from nothing.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import stamina

ATTEMPTS_MAX = 100
"""More than anything is tried, so that a hasty command tries as often as any."""

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.preloaded"])


def redirect(out: Path, err: Path | None = None) -> None:
    """Send what this process prints, as UTF-8, to files: errors to the same one unless they have their own."""
    for path, numbers in ((out, (1, 2)), (err, (2,))):
        if path is not None:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            for number in numbers:
                os.dup2(file, number)
            os.close(file)
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(encoding="utf-8")


def be_command(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: Path | None,
    out: Path,
    err: Path,
    *,
    hasty: bool = False,
) -> None:
    """Be `localstore …` in this folder and environment; a hasty one does not pause before it tries again."""
    redirect(out, err)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    if hasty:
        stamina.set_testing(True, attempts=ATTEMPTS_MAX, cap=True)
    if folder is not None:
        os.chdir(folder)
    from localstore.cli import main

    sys.argv = ["localstore", *arguments]
    main()
