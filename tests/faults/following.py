"""An application that goes on writing while its tenant's mode changes: each write to whichever side takes it."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
from contextlib import AsyncExitStack, closing
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

from localstore import FileStorage, PostgresStorage, StorageInterface
from localstore.config import Settings
from localstore.errors import StoreBusy, WrongMode
from sync import HybridStorage

_processes = multiprocessing.get_context("forkserver")

TICKETS: Final = 8
"""So few that every one is written again and again, in every mode."""

PAUSE_SECONDS: Final = 0.01
WAIT_SECONDS: Final = 0.3
"""How long a write waits for a change of mode, or a lock, before it tries again: a killed change needs a command."""

_GUARDED = "localstore: tenant"


async def _follow(data: str, url: str, company: str, name: str, *, hybrid: bool, orders: Connection) -> dict[str, str]:
    """Write until told to stop; return what was confirmed last of each ticket."""
    confirmed: dict[str, str] = {}
    settings = Settings(localstore_busy_timeout=WAIT_SECONDS)
    async with AsyncExitStack() as stack:
        made: list[StorageInterface] = (
            [HybridStorage(data, url, settings=settings)]
            if hybrid
            else [FileStorage(data, settings=settings), PostgresStorage(url)]
        )
        storages = [await stack.enter_async_context(storage) for storage in made]
        revision = 0
        while not orders.poll():
            revision += 1
            ticket = f"{name}-{revision % TICKETS}"
            if revision % TICKETS == 0:
                if _by_shell(Path(data), company, ticket, str(revision)):
                    confirmed[ticket] = str(revision)
            else:
                for storage in storages:
                    try:
                        await storage.save_ticket(company, "jira", {"id": ticket, "subject": str(revision)})
                    except (WrongMode, StoreBusy):
                        continue
                    confirmed[ticket] = str(revision)
                    break
            if revision == 1:
                orders.send("writing")
            await asyncio.sleep(PAUSE_SECONDS)
    return confirmed


def _by_shell(data: Path, company: str, ticket: str, title: str) -> bool:
    """Write as a program that knows nothing of modes; return whether the file took it."""
    with closing(sqlite3.connect(data / company / "store.db", timeout=60, isolation_level=None)) as shell:
        try:
            shell.execute(
                "INSERT INTO tickets (company_id, platform, ticket_id, title) VALUES (?, 'jira', ?, ?) "
                "ON CONFLICT (company_id, platform, ticket_id) DO UPDATE SET title = excluded.title",
                (company, ticket, title),
            )
        except sqlite3.IntegrityError as error:
            if not str(error).startswith(_GUARDED):
                raise
            return False
    return True


def _be(data: str, url: str, company: str, name: str, hybrid: bool, orders: Connection) -> None:
    orders.send(asyncio.run(_follow(data, url, company, name, hybrid=hybrid, orders=orders)))


class Follower:
    """One such process: started when made, stopped by `stop`, which returns the titles that were confirmed last.

    With `hybrid` it has the one storage that finds the right side itself, and pushes in the background, too.
    """

    def __init__(self, data: Path, url: str, company: str, name: str, *, hybrid: bool = False) -> None:
        self._orders, theirs = _processes.Pipe()
        self._process: ForkServerProcess = _processes.Process(
            target=_be, args=(str(data), url, company, name, hybrid, theirs)
        )
        self._process.start()
        theirs.close()
        assert self._orders.recv() == "writing"

    def stop(self) -> dict[str, str]:
        """Let it finish its write and end."""
        self._orders.send("stop")
        confirmed: dict[str, str] = self._orders.recv()
        self._process.join()
        self._process.close()
        self._orders.close()
        return confirmed
