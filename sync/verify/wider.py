"""Columns that production holds in a wider type than a tenant's shape, and its rows read as that shape has them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, Protocol, TypeAlias

import asyncpg

from localstore.codec import ValueDefect
from localstore.codec.narrow import NARROWERS
from localstore.schema.tables import Kind
from localstore.schema.types import PRODUCTION_TYPES
from sync.errors import UnknownSchema
from sync.production import Registered
from sync.production.compare import remedy_for
from sync.staging import Staging
from sync.verify.frames import HEADER, Defects, Fields, Frames, Stream

Wider: TypeAlias = Mapping[int, Kind]
"""The kind of production's column by the place of the shape's; most tables have none."""

_KINDS: Final = {name: kind for kind, name in PRODUCTION_TYPES.items()}

_READ_ALIKE: Final = {("text", "character varying")}
"""Types, wanted and there, that differ only in what they take: their values are the same bytes."""


class Unfit(NamedTuple):
    """A row of production that the shape cannot hold: values with a defect are NULL in `fields`.

    `key` is its key as production writes it; `exact` says that the shape can hold the key.
    """

    fields: Fields
    defects: Defects
    key: tuple[str, ...]
    exact: bool

    def reason(self, frames: Frames) -> str:
        """Return which columns cannot be held, and why."""
        return "; ".join(f"{frames.columns[at].name}: {self.defects[at][1]}" for at in sorted(self.defects))


class Taker(Protocol):
    """Takes production's rows in the order in which they come."""

    async def take(self, piece: bytes) -> None:
        """Take a piece of a binary COPY."""

    async def unfit(self, row: Unfit) -> None:
        """Take a row that is in no piece."""


async def find_wider(connection: asyncpg.Connection, known: Registered) -> Wider:
    """Return the columns that have been widened since the shape was registered; raises UnknownSchema for any others.

    The query looks at no row. It keeps the table from being altered until the transaction ends.
    """
    staging = Staging(known.table, known.staging)
    places = range(len(staging.columns))
    types = ", ".join(f"pg_typeof({staging.read(place)})::text" for place in places)
    row = await connection.fetchrow(f"SELECT {types} FROM (SELECT) AS one LEFT JOIN {known.relation} AS t ON false")
    wider: dict[int, Kind] = {}
    other = []
    for place, there in zip(places, row, strict=True):
        wanted, column = staging.type(place), staging.columns[place]
        if there == wanted or (wanted, there) in _READ_ALIKE:
            continue
        kind = _KINDS.get(there)
        if kind is None or (column.kind, kind) not in NARROWERS:
            other.append((staging.quoted(place), wanted, there))
        else:
            wider[place] = kind
    if other:
        named = ", ".join(f"column {name} is {there}, not {wanted}" for name, wanted, there in other)
        raise UnknownSchema(
            f"production's table has another shape; table {known.relation}: {named}",
            hint=remedy_for((wanted, there) for _, wanted, there in other),
        )
    return wider


def narrowed(frames: Frames, wider: Wider, taker: Taker) -> Callable[[bytes], Awaitable[None]]:
    """Return what takes the pieces of a COPY of such a table and hands its rows to `taker` as the shape has them."""
    return Narrowing(frames, wider, taker).take if wider else taker.take


class Narrowing:
    """Cuts a COPY into rows, and joins those that fit again."""

    def __init__(self, frames: Frames, wider: Wider, taker: Taker) -> None:
        self._frames = frames
        self._narrowers = {place: NARROWERS[frames.columns[place].kind, kind] for place, kind in wider.items()}
        self._taker = taker
        self._stream = Stream()
        self._fit: list[bytes] = [HEADER]

    async def take(self, piece: bytes) -> None:
        """Hand on what has come."""
        for fields, _ in self._stream.rows(piece, self._frames):
            unfit = self._narrow(fields)
            if unfit is None:
                self._fit.append(self._frames.join(fields))
            else:
                await self._flush()
                await self._taker.unfit(unfit)
        await self._flush()

    async def _flush(self) -> None:
        if self._fit:
            data, self._fit = b"".join(self._fit), []
            await self._taker.take(data)

    def _narrow(self, fields: Fields) -> Unfit | None:
        """Write the row's wide values as narrow ones; return what is left of a row that cannot be held."""
        defects: Defects = {}
        for place, narrow in self._narrowers.items():
            data = fields[place]
            if data is None:
                continue
            try:
                fields[place] = narrow(data)
            except ValueDefect as defect:
                defects[place] = (defect.preview, defect.message)
                fields[place] = None
        if not defects:
            return None
        key = list(self._frames.key_text(fields))
        for part, place in enumerate(self._frames.key_places):
            if place in defects:
                key[part] = defects[place][0]
        return Unfit(fields, defects, tuple(key), defects.keys().isdisjoint(self._frames.key_places))
