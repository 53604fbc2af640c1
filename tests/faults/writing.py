"""A foreign program that writes to a tenant's file while others push: a process with nothing of ours but SQLite."""

from __future__ import annotations

import multiprocessing
import random
import sqlite3
import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_processes = multiprocessing.get_context("forkserver")

PAUSE_SECONDS = 0.01
"""Between two writes, to leave the processor to those who are tested."""


def _write(path: str, name: str, tickets: int, seed: int, orders: Connection) -> None:
    """Write until told to stop, then say how many tickets of ours there must be."""
    chance = random.Random(seed)
    file = sqlite3.connect(path, timeout=60, isolation_level=None)
    inserted = 0
    while not orders.poll():
        number = chance.randrange(tickets)
        what = chance.choice(("insert", "update", "replace", "delete", "move", "note"))
        file.execute("BEGIN IMMEDIATE")
        if what == "insert":
            inserted += 1
            file.execute(
                "INSERT INTO tickets (company_id, platform, ticket_id, title) VALUES ('acme', ?, ?, 'new')",
                (name, str(inserted)),
            )
        elif what == "update":
            file.execute("UPDATE tickets SET status = ? WHERE ticket_id = ?", (str(chance.random()), str(number)))
        elif what == "replace":
            file.execute(
                "REPLACE INTO tickets (company_id, platform, ticket_id, title) VALUES ('acme', 'jira', ?, ?)",
                (str(number), str(chance.random())),
            )
        elif what == "delete":
            file.execute("DELETE FROM tickets WHERE platform = 'jira' AND ticket_id = ?", (str(number),))
        elif what == "move":
            moved = f"{name}-{number}"
            file.execute("DELETE FROM tickets WHERE platform = 'jira' AND ticket_id = ?", (moved,))
            for table in ("tickets", "conversations"):
                file.execute(
                    f"UPDATE {table} SET ticket_id = ? WHERE platform = 'jira' AND ticket_id = ?", (moved, str(number))
                )
        else:
            file.execute(
                "INSERT INTO conversations (company_id, platform, ticket_id, conversation_id, content) "
                "SELECT company_id, platform, ticket_id, ?, 'note' FROM tickets "
                "WHERE platform = 'jira' AND ticket_id = ?",
                (f"{name}-{chance.random()}", str(number)),
            )
        file.execute("COMMIT")
        time.sleep(PAUSE_SECONDS)
    file.close()
    orders.send(inserted)


class Writer:
    """One such process: started when made, stopped by `stop`, which returns how many tickets it inserted for good."""

    def __init__(self, path: Path, name: str, *, tickets: int, seed: int) -> None:
        self.name = name
        self._orders, theirs = _processes.Pipe()
        self._process: ForkServerProcess = _processes.Process(
            target=_write, args=(str(path), name, tickets, seed, theirs)
        )
        self._process.start()
        theirs.close()

    def stop(self) -> int:
        """Let it finish its write and end."""
        self._orders.send("stop")
        inserted = int(self._orders.recv())
        self._process.join()
        self._process.close()
        self._orders.close()
        return inserted
