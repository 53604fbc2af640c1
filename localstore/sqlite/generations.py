"""How far the changes of each tracked table have come: a text that is another one after any change of its rows.

Every write leaves a mark, whatever tool it was made with, so the newest mark of a table says how far it is. Marks go,
though: acknowledged ones are trimmed, and a pull deletes its own. What goes is added up in one fact of the file first.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field

_FACT = "generations"
"""By table id: how often rows changed without leaving marks (`moved`), and the newest mark that went (`seq`)."""


def keep(connection: sqlite3.Connection, up_to: int) -> None:
    """Remember the newest mark of each table up to `up_to`, before such marks go or stop being the table's."""
    rows = connection.execute(
        "SELECT tbl, max(seq) FROM main.localstore_marks WHERE seq <= ? AND tbl IS NOT NULL GROUP BY tbl", (up_to,)
    ).fetchall()
    if rows:
        facts = _read(connection)
        for table, seq in rows:
            fact = facts.setdefault(str(table), {"moved": 0, "seq": 0})
            fact["seq"] = max(fact["seq"], seq)
        _write(connection, facts)


def move(connection: sqlite3.Connection, tables: Iterable[int]) -> None:
    """Say that rows of these tables changed although no mark tells of it."""
    listed = sorted(set(tables))
    if listed:
        facts = _read(connection)
        for table in listed:
            facts.setdefault(str(table), {"moved": 0, "seq": 0})["moved"] += 1
        _write(connection, facts)


def moved(connection: sqlite3.Connection, table: int) -> int:
    """Return how often rows of a table changed without leaving marks."""
    return _read(connection).get(str(table), {"moved": 0})["moved"]


@dataclass(slots=True)
class Generations:
    """Reads generations again and again, each time looking only at the marks made since the last time."""

    _life: tuple[object, ...] = ()
    _up_to: int = 0
    _newest: dict[int, int] = field(default_factory=dict)

    def read(self, connection: sqlite3.Connection, tables: Iterable[str]) -> dict[str, str]:
        """Return the generation of each of the tables, within one read transaction; untracked ones are left out.

        It holds what makes two files, or two lives of one file, incomparable: the replica and its epoch, and the
        version of the schema, which moves when triggers are dropped, mended or a table is rebuilt.
        """
        identity = connection.execute("SELECT replica, epoch FROM main.localstore_identity").fetchone()
        (schema,) = connection.execute("PRAGMA main.schema_version").fetchone()
        facts = _read(connection)
        # Where marks went without a trace but this one, what was seen of them does not count any more.
        life = (*identity, schema, *((table, fact["moved"]) for table, fact in sorted(facts.items())))
        if life != self._life:
            self._life, self._up_to, self._newest = life, 0, {}
        for table, seq in connection.execute(
            "SELECT tbl, max(seq) FROM main.localstore_marks WHERE seq > ? GROUP BY tbl", (self._up_to,)
        ).fetchall():
            self._up_to = max(self._up_to, seq)
            if table is not None:
                self._newest[table] = seq
        ids = dict(connection.execute("SELECT name, id FROM main.localstore_tables"))
        return {
            name: f"{identity[0]}.{identity[1]}.{schema}.{self._of(facts, ids[name])}" for name in tables if name in ids
        }

    def _of(self, facts: dict[str, dict[str, int]], table: int) -> str:
        fact = facts.get(str(table), {"moved": 0, "seq": 0})
        return f"{fact['moved']}.{max(fact['seq'], self._newest.get(table, 0))}"


def _read(connection: sqlite3.Connection) -> dict[str, dict[str, int]]:
    row = connection.execute("SELECT value FROM main.localstore_state WHERE name = ?", (_FACT,)).fetchone()
    facts: dict[str, dict[str, int]] = json.loads(row[0]) if row else {}
    return facts


def _write(connection: sqlite3.Connection, facts: dict[str, dict[str, int]]) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO main.localstore_state (name, value) VALUES (?, ?)", (_FACT, json.dumps(facts))
    )
