"""The real command in a process of its own, which SIGKILLs itself at a named point, or is killed from outside.

The product knows nothing of this: the points are wrapped around its functions inside the process that is to die.
"""

from __future__ import annotations

import importlib
import inspect
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.forked import processes, redirect

TIMEOUT_SECONDS = 120.0
"""How long a process may take: far more than it needs, so that only one that hangs fails its test."""


def die() -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def _wrap(owner: str, name: str, *, after: bool = False, nth: int = 1) -> None:
    """Die before, or right after, the nth call of a function."""
    module, _, cls = owner.partition(":")
    place: Any = importlib.import_module(module)
    if cls:
        place = getattr(place, cls)
    original = getattr(place, name)
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            die()

    if inspect.iscoroutinefunction(original):

        async def waited(*arguments: Any, **named: Any) -> Any:
            if not after:
                count()
            result = await original(*arguments, **named)
            if after:
                count()
            return result

        setattr(place, name, waited)
        return

    def called(*arguments: Any, **named: Any) -> Any:
        if not after:
            count()
        result = original(*arguments, **named)
        if after:
            count()
        return result

    setattr(place, name, called)


def before(owner: str, name: str, nth: int = 1) -> Callable[[], None]:
    """Return what makes a process die before the nth call of a function."""
    return lambda: _wrap(owner, name, nth=nth)


def after(owner: str, name: str, nth: int = 1) -> Callable[[], None]:
    """Return what makes a process die right after the nth call of a function."""
    return lambda: _wrap(owner, name, after=True, nth=nth)


def _in_copy() -> None:
    """Die when a COPY's rows, but not its end, were handed to the driver."""
    stage = importlib.import_module("sync.steps.stage")

    async def stream(chunk: Any) -> AsyncIterator[bytes]:
        header, payload, _ = chunk.copy
        yield header
        yield payload
        die()

    stage._stream = stream  # type: ignore[attr-defined]


def _commit_sent() -> None:
    """Die when the bytes of the promotion's COMMIT were given to the kernel and its answer was not read."""
    import asyncpg

    pipeline = importlib.import_module("sync.pipeline")
    promote = pipeline.promote
    execute = asyncpg.Connection.execute
    merged = False

    async def promoted(*arguments: Any) -> Any:
        nonlocal merged
        outcome = await promote(*arguments)
        merged = True
        return outcome

    async def executed(self: Any, query: str, *arguments: Any, **named: Any) -> Any:
        sending = execute(self, query, *arguments, **named)
        if merged and query.startswith("COMMIT"):
            # Its first step writes to the socket and then waits; nothing here lets the answer in.
            sending.send(None)
            die()
        return await sending

    pipeline.promote = promoted  # type: ignore[attr-defined]
    asyncpg.Connection.execute = executed


POINTS: dict[str, Callable[[], None]] = {
    "the bundle's temp file is half written": after("sync.bundle:BundleWriter", "_write_chunk", nth=2),
    "the bundle's temp file is written": before("pathlib:Path", "rename"),
    "the bundle has its name but no record": after("sync.bundle:BundleWriter", "finish"),
    "the batch is recorded": after("sync.pipeline", "seal"),
    "the ledger's row is there, no chunk": before("sync.steps.stage", "_claim"),
    "three chunks are staged": before("sync.steps.stage", "_claim", nth=4),
    "a chunk is under way": _in_copy,
    "all chunks are there, not yet said": before("sync.steps.stage", "analyze"),
    "the batch is staged": after("sync.pipeline", "stage"),
    "all is merged, nothing committed": after("sync.pipeline", "promote"),
    "COMMIT is sent, its answer not read": _commit_sent,
    "promoted, not yet confirmed": before("sync.pipeline", "_confirm"),
    "promoted, staging not yet swept": before("sync.pipeline", "sweep"),
    "promoted, not yet acknowledged": before("sync.engine", "acknowledge"),
    "marks trimmed, bundle still in outbox": before("sync.steps.acknowledge", "keep"),
}
"""Where a push can die: the name says what was done last."""

ROLLBACK_POINTS: dict[str, Callable[[], None]] = {
    "all is taken back, nothing committed": after("sync.takeback", "roll_back"),
    "taken back, staging not yet swept": before("sync.takeback", "sweep"),
}
"""Where a rollback can die."""


REPAIR_POINTS: dict[str, Callable[[], None]] = {
    "compared, nothing marked": before("sync.repairing", "repair"),
    "marked, not committed": after("sync.repairing", "repair"),
    "marked, nothing sealed": before("sync.repairing", "_send"),
    "drift sealed, nothing staged": after("sync.pipeline", "seal"),
    "drift staged, nobody told": after("sync.pipeline", "send"),
}
"""Where a repair can die."""


def plant(point: str) -> None:
    """Make this process die at the point."""
    # They are made of what is here, so here they cannot be imported before that.
    from tests.faults.mode_points import named

    (POINTS | ROLLBACK_POINTS | REPAIR_POINTS | named())[point]()


def _run(
    arguments: tuple[str, ...],
    environment: dict[str, str],
    output: str,
    point: str | None,
    chunk_rows: int | None,
    file_bytes_max: int | None,
) -> None:
    """Be the command."""
    os.environ.update(environment)
    redirect(Path(output))
    if chunk_rows is not None:
        importlib.import_module("sync.bundle").CHUNK_ROWS_MAX = chunk_rows  # type: ignore[attr-defined]
    if point is not None:
        plant(point)
    if file_bytes_max is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    from localstore.cli import main

    sys.argv = ["localstore", *arguments]
    main()


class Command:
    """One run of the command: started when made."""

    def __init__(
        self,
        *arguments: str | Path,
        url: str,
        output: Path,
        point: str | None = None,
        chunk_rows: int | None = None,
        file_bytes_max: int | None = None,
    ) -> None:
        self.output = output
        self._process: ForkServerProcess = processes.Process(
            target=_run,
            args=(
                tuple(map(str, arguments)),
                {"DATABASE_URL": url},
                str(output),
                point,
                chunk_rows,
                file_bytes_max,
            ),
        )
        self._process.start()

    def kill(self) -> None:
        """Kill it with SIGKILL, if it is still there."""
        self._process.kill()

    def join(self, seconds: float) -> None:
        """Wait for its end, but no longer than so many seconds."""
        self._process.join(seconds)

    def wait(self) -> int:
        """Return the exit code, the signal's number negated where a signal ended it."""
        self._process.join(TIMEOUT_SECONDS)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            self._process.join()
            raise AssertionError(f"the command hangs; it printed: {self.printed}")
        self._process.close()
        assert "Traceback" not in self.printed, self.printed
        return code

    @property
    def printed(self) -> str:
        """Return what the command printed."""
        return self.output.read_text() if self.output.exists() else ""
