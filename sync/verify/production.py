"""Production's side: a company's rows in the order of their keys, read as one snapshot by a role that can only read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import asyncpg

from localstore.postgres.connect import session_settings
from localstore.postgres.policies import COMPANY_SETTING, READER
from localstore.postgres.quoting import quote_identifier, quote_literal
from localstore.schema.tables import Kind
from sync.production import Registered
from sync.staging import Staging
from sync.verify.frames import Fields, Frames, LocalRow, Stream
from sync.verify.order import Place
from sync.verify.sorting import Sorted
from sync.verify.wider import Taker, Unfit, find_wider, narrowed


@asynccontextmanager
async def reading(connection: asyncpg.Connection, company: str) -> AsyncIterator[None]:
    """Open a transaction that sees one state of production, bound to the company; the state is fixed on return."""
    transaction = connection.transaction(isolation="repeatable_read", readonly=True)
    await transaction.start()
    try:
        await connection.execute(f"SET LOCAL ROLE {quote_identifier(READER)}")
        await session_settings(connection)
        await connection.execute("SELECT set_config($1, $2, true)", COMPANY_SETTING, company)
        yield
    finally:
        # Nothing was written, so that nothing has to be committed; a connection that was cut has no transaction left.
        if not connection.is_closed():
            await transaction.rollback()


async def copy_rows(connection: asyncpg.Connection, known: Registered, company: str, taker: Taker) -> None:
    """Hand the company's rows of a table to `taker` in the order of their keys, as the registered shape has them."""
    wider = await find_wider(connection, known)
    staging = Staging(known.table, known.staging)
    names = ", ".join(staging.read(place) for place in range(len(staging.columns)))
    order = ", ".join(
        staging.quoted(place) + (' COLLATE "C"' if staging.columns[place].kind is Kind.TEXT else "")
        for place in staging.key_places
    )
    # A COPY takes no parameters.
    query = f"SELECT {names} FROM {known.relation} t WHERE t.{staging.company} = {quote_literal(company)}"
    query += f" ORDER BY {order}" if order else ""
    await copy_query(connection, query, narrowed(Frames(known.table, company), wider, taker))


async def copy_query(connection: asyncpg.Connection, query: str, take: Callable[[bytes], Awaitable[None]]) -> None:
    """Hand a query's rows to `take`, as pieces of a binary COPY; the next piece waits for it.

    After an error of `take` the rest passes unseen and the connection stays usable; a cancellation cuts it, because
    the driver waits for ever for the end of a COPY that nobody reads.
    """
    failure: list[Exception] = []

    async def pass_on(piece: bytearray) -> None:
        if not failure:
            try:
                await take(bytes(piece))
            except Exception as error:  # noqa: BLE001 (raised below, once the COPY has ended)
                failure.append(error)

    try:
        await connection.copy_from_query(query, output=pass_on, format="binary")
    except asyncio.CancelledError:
        connection.terminate()
        raise
    if failure:
        raise failure[0]


class SortedRows:
    """Production's rows, sorted here because some kinds have another order there (numbers of any length, documents)."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._stream = Stream()
        self._sorted = Sorted(len(frames.key_places))

    async def take(self, piece: bytes) -> None:
        """Add what has come of the binary COPY."""
        self._sorted.add(
            LocalRow(self._frames.place(fields), frame, {}) for fields, frame in self._stream.rows(piece, self._frames)
        )

    async def unfit(self, row: Unfit) -> None:
        """Add a row that the shape cannot hold."""
        place = self._frames.place(row.fields) if row.exact else None
        self._sorted.add([LocalRow(place, self._frames.join(row.fields), row.defects, row.key)])

    def rows(self) -> Iterator[tuple[Place, Fields] | Unfit]:
        """Yield the rows in order, those first whose key the shape cannot hold."""
        for row in self._sorted:
            fields = self._frames.fields(row.frame)
            if row.defects:
                exact = row.place is not None
                yield Unfit(fields, row.defects, self._frames.key_text(fields) if exact else row.shown, exact)
            else:
                yield self._frames.place(fields), fields

    def close(self) -> None:
        """Forget the rows."""
        self._sorted.close()
