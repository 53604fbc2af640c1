"""What production remembers of single rows: who holds them, who wrote them, and what this replica wrote last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from sync.production import Registered
from sync.pull.keys import Keys
from sync.staging import Staging


@dataclass(frozen=True, slots=True)
class Held:
    """A held change of this replica; `columns` is None where it is about the whole row."""

    reason: str
    detail: str
    columns: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Written:
    """A write in production. Of two writes of one row the later has the higher number.

    The feed's numbers are drawn while the row is locked, or after: they follow the order of the writes themselves.
    """

    number: int
    who: str
    at: datetime | None


@dataclass(frozen=True, slots=True)
class _Batches:
    ids: list[UUID]
    numbers: list[int]
    who: list[str]
    at: list[datetime | None]

    def __bool__(self) -> bool:
        return bool(self.ids)


class History:
    """Look-ups of one table's rows by key; what a table has nothing of is not asked for again."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        company: str,
        replica: UUID,
        known: Registered,
        registered: dict[tuple[str, str], Registered],
    ) -> None:
        self._connection = connection
        self._replica = replica
        self._known = known
        self._registered = registered
        self._staging = Staging(known.table, known.staging)
        self._scope = (company, known.target, known.table.name)
        self._identities = Keys(known.table, company)
        self._spelt: dict[str, list[Held]] = {}
        self._any_held = False
        self._any_foreign = False
        self._others = _Batches([], [], [], [])
        self._own = _Batches([], [], [], [])
        self.truncated: Written | None = None

    async def open(self) -> None:
        """Find out what there is to look up at all."""
        row = await self._connection.fetchrow(
            """
            SELECT EXISTS (SELECT FROM localstore.held h WHERE h.company_id = $1 AND h.target = $2 AND h.tbl = $3
                    AND h.replica = $4) AS held,
                EXISTS (SELECT FROM localstore.feed f WHERE f.company_id = $1 AND f.target = $2 AND f.tbl = $3
                    AND f.batch IS NULL AND f.key IS NOT NULL) AS foreign_edits
            """,
            *self._scope,
            self._replica,
        )
        self._any_held, self._any_foreign = row["held"], row["foreign_edits"]
        if self._any_held and self._staging.many_spellings:
            await self._read_spelt()
        self._others = await self._batches("coalesce(l.replica, undone.replica) IS DISTINCT FROM $4")
        emptied = await self._connection.fetchrow(
            "SELECT id, origin, at FROM localstore.feed WHERE company_id = $1 AND target = $2 AND tbl = $3 "
            "AND batch IS NULL AND key IS NULL ORDER BY id DESC LIMIT 1",
            *self._scope,
        )
        self.truncated = None if emptied is None else Written(emptied["id"], emptied["origin"] or "", emptied["at"])
        if self._any_foreign or self._others or self.truncated:
            self._own = await self._batches("l.kind = 'push' AND l.replica = $4")

    async def _read_spelt(self) -> None:
        """Read what is held under the file's spelling of a key that production can have: two rows there have it."""
        rows = await self._connection.fetch(
            "SELECT key, reason, coalesce(detail, '') AS detail FROM localstore.held WHERE company_id = $1 "
            "AND target = $2 AND tbl = $3 AND replica = $4 AND cardinality(key) > $5",
            *self._scope,
            self._replica,
            len(self._staging.key_places),
        )
        for row in rows:
            identity = self._identities.of_texts(row["key"][: len(self._staging.key_places)])
            if identity is not None:
                self._spelt.setdefault(identity, []).append(Held(row["reason"], row["detail"], None))

    async def held(self, keys: Sequence[tuple[str, ...]], *, exact: bool) -> dict[int, list[Held]]:
        """Return the held changes of rows, by their place in `keys`; `exact` keys are in production's text form."""
        if not self._any_held or not keys:
            return {}
        # A key that production cannot hold is kept with one part more, so that it is never taken for a real one.
        same = "h.key = q.key" if exact else "trim_array(h.key, 1) = q.key"
        rows = await self._connection.fetch(
            f"""
            WITH q AS ({self._keys(exact=exact)})
            SELECT q.at, h.op, h.reason, coalesce(h.detail, '') AS detail,
                ARRAY(SELECT jsonb_object_keys(coalesce(h.value, '{{}}') || coalesce(h.base, '{{}}')
                    || coalesce(h.defects -> 'n', '{{}}'))) AS columns
            FROM q JOIN localstore.held h ON {same}
            WHERE h.company_id = $1 AND h.target = $2 AND h.tbl = $3 AND h.replica = $4
            """,
            *self._scope,
            self._replica,
            *self._arrays(keys),
        )
        found: dict[int, list[Held]] = {}
        for row in rows:
            columns = frozenset(row["columns"]) if row["op"] == b"u" else None
            found.setdefault(row["at"], []).append(Held(row["reason"], row["detail"], columns))
        if exact and self._spelt:
            for at, key in enumerate(keys):
                found.setdefault(at, []).extend(self._spelt.get(self._identities.of_texts(key) or "", ()))
        return found

    async def foreign(self, keys: Sequence[tuple[str, ...]]) -> dict[int, Written]:
        """Return the last write of each row by anybody but this replica, by the row's place in `keys`."""
        found: dict[int, Written] = {}
        if keys and self._any_foreign:
            found = await self._edits(keys)
        if keys and self._others:
            for at, written in (await self._promoted_by_others(keys)).items():
                if at not in found or found[at].number < written.number:
                    found[at] = written
        return found

    async def _edits(self, keys: Sequence[tuple[str, ...]]) -> dict[int, Written]:
        # Row by row through the feed's index: joined as a whole, the feed would be read whole for every few rows.
        rows = await self._connection.fetch(
            f"""
            WITH q AS ({self._keys(exact=True)})
            SELECT q.at, w.id, w.origin, w.at AS written
            FROM q CROSS JOIN LATERAL (
                SELECT f.id, coalesce(f.origin, '') AS origin, f.at FROM localstore.feed f
                WHERE f.company_id = $1 AND f.target = $2 AND f.tbl = $3 AND f.key = q.key AND f.batch IS NULL
                ORDER BY f.id DESC LIMIT 1
            ) w
            WHERE $4::uuid IS NOT NULL
            """,
            *self._scope,
            self._replica,
            *self._arrays(keys),
        )
        return {row["at"]: Written(row["id"], row["origin"], row["written"]) for row in rows}

    async def _promoted_by_others(self, keys: Sequence[tuple[str, ...]]) -> dict[int, Written]:
        rows = await self._connection.fetch(
            f"""
            WITH q AS ({self._keys(exact=True)}),
                others AS (SELECT * FROM unnest({self._parameters(4)}::uuid[], {self._parameters(5)}::bigint[],
                    {self._parameters(6)}::text[], {self._parameters(7)}::timestamptz[]) AS o(batch, id, who, at))
            SELECT DISTINCT ON (q.at) q.at, o.id, o.who, o.at AS written
            FROM q JOIN localstore.undo u ON u.key = q.key JOIN others o ON o.batch = u.batch
            WHERE u.company_id = $1 AND u.tbl = $3 AND $2::text IS NOT NULL AND $4::uuid IS NOT NULL
            ORDER BY q.at, o.id DESC
            """,
            *self._scope,
            self._replica,
            *self._arrays(keys),
            self._others.ids,
            self._others.numbers,
            self._others.who,
            self._others.at,
        )
        return {row["at"]: Written(row["id"], row["who"], row["written"]) for row in rows}

    async def own(self, keys: Sequence[tuple[str, ...]]) -> dict[int, dict[str | None, int]]:
        """Return for each row the numbers of this replica's last writes, by column; None stands for the whole row.

        What a promotion wrote was what the file held, so that no earlier write of others explains a difference there.
        """
        if not keys or not self._own:
            return {}
        rows = await self._connection.fetch(
            f"""
            WITH q AS ({self._keys(exact=True)}),
                own AS (SELECT * FROM unnest({self._parameters(4)}::uuid[], {self._parameters(5)}::bigint[])
                    AS o(batch, id))
            SELECT q.at, o.id, u.op, u.changed::text AS changed, u.fingerprint
            FROM q JOIN localstore.undo u ON u.key = q.key JOIN own o ON o.batch = u.batch
            WHERE u.company_id = $1 AND u.tbl = $3 AND $2::text IS NOT NULL AND $4::uuid IS NOT NULL
            """,
            *self._scope,
            self._replica,
            *self._arrays(keys),
            self._own.ids,
            self._own.numbers,
        )
        found: dict[int, dict[str | None, int]] = {}
        for row in rows:
            last = found.setdefault(row["at"], {})
            for column in self._written(row):
                last[column] = max(last.get(column, 0), row["id"])
        return found

    def _written(self, undo: asyncpg.Record) -> list[str | None]:
        shape = self._registered.get((self._known.table.name, undo["fingerprint"]))
        if shape is None:
            return []
        names = [column.name for column in shape.table.sent]
        if undo["op"] != b"u":
            return [None, *names]
        return [name for name, bit in zip(names, undo["changed"] or "", strict=False) if bit == "1"]

    async def _batches(self, whose: str) -> _Batches:
        rows = await self._connection.fetch(
            f"""
            SELECT l.batch, coalesce(f.id, 0) AS number, coalesce(l.replica, undone.replica)::text AS who, f.at
            FROM localstore.ledger l LEFT JOIN localstore.ledger undone ON undone.batch = l.undoes
            LEFT JOIN localstore.feed f ON f.batch = l.batch AND f.company_id = l.company_id
            WHERE l.company_id = $1 AND l.target = $2 AND l.state IN ('promoted', 'rolled_back') AND {whose}
                AND EXISTS (SELECT FROM localstore.undo u WHERE u.batch = l.batch AND u.tbl = $3)
            """,
            *self._scope,
            self._replica,
        )
        return _Batches(
            [row["batch"] for row in rows],
            [row["number"] for row in rows],
            ["replica " + (row["who"] or "unknown") for row in rows],
            [row["at"] for row in rows],
        )

    def _keys(self, *, exact: bool) -> str:
        """Return the query of the keys looked for; a cast to the column's type and back gives production's own text."""
        places = self._staging.key_places
        parts = [
            f"p{part}" + (f"::{self._staging.type(place)}::text" if exact else "") for part, place in enumerate(places)
        ]
        arrays = ", ".join(["$5::bigint[]", *(f"${6 + part}::text[]" for part in range(len(places)))])
        names = ", ".join(["at", *(f"p{part}" for part in range(len(places)))])
        return f"SELECT k.at, ARRAY[{', '.join(parts)}]::text[] AS key FROM unnest({arrays}) AS k({names})"

    def _parameters(self, after_keys: int) -> str:
        """Return the parameter that stands `after_keys` places behind the scope's, the keys' own left out."""
        return f"${after_keys + 2 + len(self._staging.key_places)}"

    @staticmethod
    def _arrays(keys: Sequence[tuple[str, ...]]) -> tuple[Any, ...]:
        return (list(range(len(keys))), *map(list, zip(*keys, strict=True)))
