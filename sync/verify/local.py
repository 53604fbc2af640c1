"""The file's side: rows in the order of their keys, in batches that are bounded by rows and bytes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from functools import partial
from typing import Final

from localstore.postgres.quoting import quote_identifier
from localstore.schema.sqlite import read_shape
from localstore.schema.tables import Table
from localstore.sqlite.database import Snapshot
from sync.changes import FETCH_ROWS, undecoded
from sync.verify.frames import Frames, LocalRow
from sync.verify.order import OutOfOrder, Place
from sync.verify.sorting import Sorted

LOCAL: Final = "local"

BATCH_ROWS: Final = 2_000
BATCH_BYTES: Final = 1 << 20
"""What is handed over at a time: enough to make the switch of threads cheap, little enough to have in memory."""


class LocalRows:
    """A table's rows as of a snapshot. `sort` sorts them first; without it a row out of order raises OutOfOrder."""

    def __init__(self, snapshot: Snapshot, frames: Frames, *, sort: bool) -> None:
        self._snapshot = snapshot
        self._frames = frames
        self._sort = sort
        self._rows: Iterator[LocalRow] | None = None
        self._cursor: sqlite3.Cursor | None = None
        self._sorted: Sorted | None = None
        self._last: Place | None = None
        self.count = 0

    async def batch(self) -> list[LocalRow]:
        """Return the next rows; none at the end."""
        return await self._snapshot.run(self._batch)

    async def close(self) -> None:
        """End the reading; the snapshot remains."""
        await self._snapshot.run(lambda _: self._close())

    def _close(self) -> None:
        if self._cursor is not None:
            self._cursor.close()
        if self._sorted is not None:
            self._sorted.close()

    def _batch(self, connection: sqlite3.Connection) -> list[LocalRow]:
        statement = select(connection, self._frames.table) if self._rows is None else None
        with undecoded(connection):
            if self._rows is None:
                self._rows = self._open(connection, statement)
            batch: list[LocalRow] = []
            size = 0
            for row in self._rows:
                batch.append(row)
                size += len(row.frame)
                if size >= BATCH_BYTES or len(batch) >= BATCH_ROWS:
                    break
            return batch

    def _open(self, connection: sqlite3.Connection, statement: str | None) -> Iterator[LocalRow]:
        if statement is None:
            return iter(())
        self._cursor = connection.cursor()
        self._cursor.execute(statement)
        if not self._sort:
            return self._in_order(self._encoded(self._cursor))
        self._sorted = Sorted(len(self._frames.key_places))
        self._sorted.add(self._encoded(self._cursor))
        return iter(self._sorted)

    def _encoded(self, cursor: sqlite3.Cursor) -> Iterator[LocalRow]:
        encode = self._frames.encode
        for rows in iter(partial(cursor.fetchmany, FETCH_ROWS), []):
            self.count += len(rows)
            yield from map(encode, rows)

    def _in_order(self, rows: Iterator[LocalRow]) -> Iterator[LocalRow]:
        for row in rows:
            if row.place is not None:
                if self._last is not None and row.place < self._last:
                    raise OutOfOrder(LOCAL)
                self._last = row.place
            yield row


def select(connection: sqlite3.Connection, table: Table) -> str | None:
    """Return the statement that reads a table in the order of its key, None where the file has lost the table."""
    if read_shape(connection, table.name) is None:
        return None
    names = ", ".join(quote_identifier(column.name) for column in table.sent)
    order = ", ".join(f"{quote_identifier(name)} COLLATE BINARY" for name in table.key)
    return f"SELECT {names} FROM main.{quote_identifier(table.name)} ORDER BY {order}"
