"""The drift of one verification, on disk: which columns of which rows, and what production has there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import asyncpg
import orjson

from localstore.schema.tables import address
from localstore.sqlite.threads import in_thread
from sync.production import Registered
from sync.pull.fetch import named_keys, rows_of
from sync.pull.incoming import Arrival, Incoming
from sync.pull.keys import Keys
from sync.repair.trust import Trust
from sync.verify.differences import DIFFERENCES_MAX
from sync.verify.findings import Finding
from sync.verify.sorting import scratch

KEYS_AT_A_TIME: Final = 1_000

NO_KEY: Final = "its key is none that both sides can have; write the row anew under another one"
NOT_TAKEN: Final = "others wrote it, and a pull could not take that over"

WHOLE: Final = -1
"""Stands for a column's place where the whole row is on one side only."""


class LeftAlone:
    """Rows that a repair does not touch, counted, and the first ones with the reason."""

    def __init__(self) -> None:
        self.first: dict[str, str] = {}
        self.rows: int = 0
        self._last: str | None = None

    def add(self, table: str, key: tuple[str, ...], why: str) -> None:
        """Leave a row alone; one with several differences may come several times in a row."""
        row = address(table, key)
        if row != self._last:
            self._last = row
            self.rows += 1
            if len(self.first) < DIFFERENCES_MAX:
                self.first[row] = why

    def copy(self) -> LeftAlone:
        """Return the same rows, to which others can be added."""
        copy = LeftAlone()
        copy.first, copy.rows = dict(self.first), self.rows
        return copy


class Drifted(NamedTuple):
    """A row with drift: what production has of it, and the places that differ, none where a side lacks the row."""

    arrival: Arrival
    places: tuple[int, ...]


class Drifts:
    """Takes drift while it is found; each row's key is asked for in the very state of production that was compared."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._doubts: dict[str, str | None] = {}
        self._rows = Incoming()
        self._database = scratch()
        self._database.execute(
            "CREATE TABLE drift (tbl TEXT, ident TEXT, place INTEGER, PRIMARY KEY (tbl, ident, place)) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")
        self.known: dict[str, Registered] = {}
        self.left_alone = LeftAlone()

    def __bool__(self) -> bool:
        return bool(self.known)

    async def take(self, connection: asyncpg.Connection, known: Registered, found: Sequence[Finding]) -> None:
        """Take drift of one table, and read what production has of its rows."""
        name, company = known.table.name, self._trust.company
        if name not in self._doubts:
            self._doubts[name] = await self._trust.doubt(connection, known)
        keys = Keys(known.table, company)
        wanted = list(await in_thread(lambda: self._keep(keys, found)))
        for start in range(0, len(wanted), KEYS_AT_A_TIME):
            self.known[name] = known
            query = named_keys(wanted[start : start + KEYS_AT_A_TIME])
            await rows_of(connection, known, company, keys, query, self._rows)

    def rows(self, table: str) -> Iterator[Drifted]:
        """Yield a table's drifted rows."""
        rows = self._database.execute(
            "SELECT ident, json_group_array(place) FROM drift WHERE tbl = ? GROUP BY ident", (table,)
        )
        for ident, places in rows:
            yield Drifted(self._rows.get(table, ident), _places(places))

    def has(self, table: str, ident: str) -> bool:
        """Return whether a row has drift."""
        found = self._database.execute("SELECT 1 FROM drift WHERE tbl = ? AND ident = ? LIMIT 1", (table, ident))
        return found.fetchone() is not None

    def differences(self, table: str) -> int:
        """Return how many differences of a table are drift that can be put in line."""
        found: int = self._database.execute("SELECT count(*) FROM drift WHERE tbl = ?", (table,)).fetchone()[0]
        return found

    def close(self) -> None:
        """Forget everything."""
        self._rows.close()
        self._database.close()

    def _keep(self, keys: Keys, found: Sequence[Finding]) -> dict[tuple[str, ...], None]:
        name = keys.table.name
        again = {keys.of_texts(key) for key in self._again(name)}
        wanted: dict[tuple[str, ...], None] = {}
        for finding in found:
            ident = keys.of_texts(finding.key) if finding.exact else None
            why = self._doubts[name] or (NO_KEY if ident is None else NOT_TAKEN if ident in again else None)
            if why is not None:
                self.left_alone.add(name, finding.key, why)
                continue
            wanted[finding.key] = None
            place = WHOLE if finding.column is None else finding.column
            self._database.execute("INSERT OR IGNORE INTO drift VALUES (?, ?, ?)", (name, ident, place))
        return wanted

    def _again(self, table: str) -> tuple[tuple[str, ...], ...]:
        return () if self._trust.cursor is None else self._trust.cursor.again.get(table, ())


def _places(array: str) -> tuple[int, ...]:
    places = orjson.loads(array)
    return () if WHOLE in places else tuple(sorted(places))
