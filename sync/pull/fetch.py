"""Fetch: read from one state of production every row that changed since the cursor, or a whole table.

What changed is what the feed names for others' writes, and what undo names for promotions: all of those by other
replicas and of rollbacks, and of our own the rows that production merged otherwise than we sent them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

import asyncpg

from localstore.codec import ValueDefect
from localstore.postgres.quoting import quote_literal
from localstore.schema.tables import Kind
from localstore.schema.types import PRODUCTION_TYPES
from localstore.sqlite.threads import in_thread
from sync import cursor as cursors
from sync import ledger
from sync.cursor import Cursor
from sync.production import Registered
from sync.pull.incoming import Arrival, Incoming
from sync.pull.keys import Keys
from sync.staging import Staging
from sync.verify.frames import Stream
from sync.verify.production import copy_query, copy_rows, reading
from sync.verify.wider import Unfit, Wider, find_wider, narrowed

KEYS_AT_A_TIME: Final = 2_000


@dataclass(frozen=True, slots=True)
class Seen:
    """What else the state of production said: the new cursor, our batches' states, and the held changes' revision."""

    cursor: Cursor
    states: Mapping[UUID, str]
    held_revision: int | None


@dataclass(frozen=True, slots=True)
class Batches:
    """Promotions since the cursor: of others and of rollbacks, and our own."""

    others: tuple[UUID, ...]
    own: tuple[UUID, ...]


async def fetch(
    connection: asyncpg.Connection,
    company: str,
    replica: UUID,
    tables: Sequence[Registered],
    batches: Sequence[UUID],
    old: Cursor | None,
    target: str,
    incoming: Incoming,
) -> Seen:
    """Read what changed into `incoming`; without a cursor that production still reaches back to, whole tables."""
    async with reading(connection, company):
        now = await cursors.here(connection, target)
        if old is not None and not await cursors.reaches(connection, old, now):
            old = None
        since = None if old is None else await batches_since(connection, company, replica, target, old)
        for known in tables:
            keys = Keys(known.table, company)
            name = known.table.name
            if (
                old is None
                or since is None
                or old.tables.get(name) != known.table.fingerprint
                or await emptied(connection, company, known, old)
            ):
                await _whole(connection, known, company, keys, incoming)
            else:
                await rows_of(connection, known, company, keys, changed_keys(known, company, old, since), incoming)
        states = await ledger.states(connection, list(batches))
        revision = await connection.fetchval(
            "SELECT held_revision FROM localstore.replicas WHERE company_id = $1 AND replica = $2", company, replica
        )
        fingerprints = {known.table.name: known.table.fingerprint for known in tables}
        return Seen(replace(now, tables=fingerprints), states, revision)


async def batches_since(
    connection: asyncpg.Connection, company: str, replica: UUID, target: str, old: Cursor
) -> Batches:
    """Return the promotions that a cursor has not seen, those that `replica` sent apart from all others."""
    rows = await connection.fetch(
        "SELECT l.batch, l.kind = 'push' AND l.replica = $3 AS own FROM localstore.feed f "
        "JOIN localstore.ledger l ON l.batch = f.batch WHERE f.company_id = $1 AND f.target = $2 "
        "AND f.xid >= pg_snapshot_xmin($4::text::pg_snapshot) "
        "AND NOT pg_visible_in_snapshot(f.xid, $4::text::pg_snapshot)",
        company,
        target,
        replica,
        old.snapshot,
    )
    others = tuple(row["batch"] for row in rows if not row["own"])
    return Batches(others, tuple(row["batch"] for row in rows if row["own"]))


async def emptied(connection: asyncpg.Connection, company: str, known: Registered, old: Cursor) -> bool:
    """Return whether the table was truncated since, which names no rows."""
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM localstore.feed f WHERE f.company_id = $1 AND f.target = $2 AND f.tbl = $3 "
            "AND f.op = 't' AND f.xid >= pg_snapshot_xmin($4::text::pg_snapshot) "
            "AND NOT pg_visible_in_snapshot(f.xid, $4::text::pg_snapshot))",
            company,
            known.target,
            known.table.name,
            old.snapshot,
        )
    )


def changed_keys(known: Registered, company: str, old: Cursor, since: Batches) -> str:
    """Return the query of the keys that changed. A COPY takes no parameters, so everything is a literal."""
    name, snapshot = quote_literal(known.table.name), f"{quote_literal(old.snapshot)}::pg_snapshot"
    of_others = (
        f"SELECT f.key FROM localstore.feed f WHERE f.company_id = {quote_literal(company)} "
        f"AND f.target = {quote_literal(known.target)} AND f.tbl = {name} AND f.batch IS NULL AND f.key IS NOT NULL "
        f"AND f.xid >= pg_snapshot_xmin({snapshot}) AND NOT pg_visible_in_snapshot(f.xid, {snapshot})"
    )
    queries = [of_others]
    for batches, which in ((since.others, ""), (since.own, " AND u.merged")):
        if batches:
            ids = ", ".join(f"'{batch}'::uuid" for batch in batches)
            queries.append(f"SELECT u.key FROM localstore.undo u WHERE u.batch IN ({ids}) AND u.tbl = {name}{which}")
    again = old.again.get(known.table.name, ())
    if again:
        queries.append(named_keys(again))
    return " UNION ".join(queries)


def named_keys(keys: Iterable[Sequence[str]]) -> str:
    """Return the query of these keys, at least one, in production's text form."""
    arrays = ", ".join("(ARRAY[" + ", ".join(map(quote_literal, key)) + "]::text[])" for key in keys)
    return f"SELECT a.key FROM (VALUES {arrays}) AS a(key)"


def key_match(staging: Staging, company: str, wider: Wider) -> str:
    """Return the join of production's row `t` with a key in its text form, `k.key`."""
    parts = [f"t.{staging.company} = {quote_literal(company)}"]
    parts += [
        f"t.{staging.quoted(place)} = k.key[{at}]::"
        + (PRODUCTION_TYPES[wider[place]] if place in wider else staging.type(place))
        for at, place in enumerate(staging.key_places, start=1)
    ]
    return " AND ".join(parts)


async def rows_of(
    connection: asyncpg.Connection, known: Registered, company: str, keys: Keys, wanted: str, incoming: Incoming
) -> None:
    """Read into `incoming` what production has of the keys that the query `wanted` gives, within `reading`."""
    wider = await find_wider(connection, known)
    await _rows(connection, known, company, keys, wanted, incoming, wider)
    await _gone(connection, known, company, keys, wanted, incoming, wider)


async def _whole(
    connection: asyncpg.Connection, known: Registered, company: str, keys: Keys, incoming: Incoming
) -> None:
    await copy_rows(connection, known, company, _Taker(keys, incoming))
    incoming.whole.add(known.table.name)


async def _rows(
    connection: asyncpg.Connection,
    known: Registered,
    company: str,
    keys: Keys,
    changed: str,
    incoming: Incoming,
    wider: Wider,
) -> None:
    staging = Staging(known.table, known.staging)
    names = ", ".join(staging.read(place) for place in range(len(staging.columns)))
    query = f"SELECT {names} FROM ({changed}) k JOIN {known.relation} t ON {key_match(staging, company, wider)}"
    await copy_query(connection, query, narrowed(keys.frames, wider, _Taker(keys, incoming)))


async def _gone(
    connection: asyncpg.Connection,
    known: Registered,
    company: str,
    keys: Keys,
    changed: str,
    incoming: Incoming,
    wider: Wider,
) -> None:
    staging = Staging(known.table, known.staging)
    query = (
        f"SELECT {_shape_key(staging, wider)} AS key FROM ({changed}) k WHERE NOT EXISTS "
        f"(SELECT FROM {known.relation} t WHERE {key_match(staging, company, wider)})"
    )
    rows = await connection.cursor(query)
    while records := await rows.fetch(KEYS_AT_A_TIME):
        arrivals = []
        for record in records:
            ident = keys.of_texts(record["key"])
            # A key that the file cannot hold is none of its rows.
            if ident is not None:
                arrivals.append(Arrival(ident, tuple(record["key"]), None))
        incoming.add(known.table.name, arrivals)


def _shape_key(staging: Staging, wider: Wider) -> str:
    """Return `k.key` as the shape spells it: a whole number has no scale there."""
    if wider.keys().isdisjoint(staging.key_places):
        return "k.key"
    parts = [
        f"trim_scale(k.key[{at}]::numeric)::text" if wider.get(place) is Kind.NUMERIC else f"k.key[{at}]"
        for at, place in enumerate(staging.key_places, start=1)
    ]
    return f"ARRAY[{', '.join(parts)}]::text[]"


class _Taker:
    """Takes the pieces of a binary COPY apart."""

    def __init__(self, keys: Keys, incoming: Incoming) -> None:
        self._keys = keys
        self._incoming = incoming
        self._stream = Stream()

    async def take(self, piece: bytes) -> None:
        """Keep the rows that have come."""
        await in_thread(lambda: self._incoming.add(self._keys.table.name, self._cut(piece)))

    async def unfit(self, row: Unfit) -> None:
        """Keep a row that the shape cannot hold, to be left alone."""
        name, frames = self._keys.table.name, self._keys.frames
        why = row.reason(frames)
        if row.exact:
            arrival = Arrival(self._keys.of_fields(row.fields), row.key, frames.join(row.fields), why)
            await in_thread(lambda: self._incoming.add(name, [arrival]))
        else:
            self._incoming.unreadable.append((name, row.key, why))

    def _cut(self, piece: bytes) -> list[Arrival]:
        found: list[Arrival] = []
        frames = self._keys.frames
        for fields, frame in self._stream.rows(piece, frames):
            key = frames.key_text(fields)
            try:
                self._keys.stored(fields)
            except ValueDefect as defect:
                self._incoming.unreadable.append((self._keys.table.name, key, defect.message))
            else:
                found.append(Arrival(self._keys.of_fields(fields), key, frame))
        return found
