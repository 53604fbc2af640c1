"""Sequences of production: after rows came with numbers of their own, the next default lies beyond them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import asyncpg

from localstore.errors import MissingRights
from localstore.postgres.policies import PROMOTER
from localstore.postgres.quoting import quote_identifier
from localstore.schema.postgres import production_name
from localstore.schema.tables import Kind
from sync.merge import MINE
from sync.parts import Parts

DRAWN_MAX: Final = 10_000
"""Up to so many steps a sequence is drawn from rather than set: a draw never takes a number back from anybody."""

_MAY: Final = "SELECT has_sequence_privilege($1::regclass, 'USAGE') AND has_sequence_privilege($1::regclass, 'UPDATE')"

_ADVANCE: Final = """
    SELECT CASE
        WHEN steps.wanted <= $3 THEN (SELECT max(nextval($2::regclass)) FROM generate_series(1, steps.wanted::integer))
        ELSE setval($2::regclass, steps.top)
    END
    FROM (
        SELECT new.top, floor(
            (new.top::numeric - coalesce(pg_sequence_last_value(q.seqrelid), q.seqstart::numeric - q.seqincrement))
            / q.seqincrement
        ) AS wanted
        FROM pg_sequence q, LATERAL (
            SELECT CASE WHEN q.seqincrement > 0 THEN max({number}) ELSE min({number}) END AS top
            FROM {staging} s WHERE {mine} AND s.op = 'i'
        ) AS new
        WHERE q.seqrelid = $2::regclass AND new.top BETWEEN q.seqmin AND q.seqmax
    ) AS steps
    WHERE steps.wanted > 0
"""


async def advance(connection: asyncpg.Connection, parts: Parts, filled: Iterable[str], *, trial: bool) -> None:
    """Bring sequences beyond the numbers just inserted into the tables `filled`; a trial only checks that it may.

    What is drawn from a sequence is not given back by a ROLLBACK. Raises MissingRights, which says what to run.
    """
    for name in filled:
        staging, shape = parts.merges[name].staging, parts.shapes[name]
        for place, column in enumerate(staging.columns):
            sequence = shape.columns[production_name(column.name)].sequence
            if sequence is None or column.kind is not Kind.INTEGER:
                continue
            if not await connection.fetchval(_MAY, sequence):
                raise MissingRights(
                    f"the next default of column {quote_identifier(column.name)} of {name} would be a number that is "
                    f"taken: its sequence {sequence} may not be advanced; nothing was promoted",
                    hint=f"let its owner run: GRANT USAGE, UPDATE ON SEQUENCE {sequence} TO {PROMOTER};",
                    tenant=parts.batch.company_id,
                )
            if not trial:
                statement = _ADVANCE.format(number=f"s.n{place}", staging=staging.relation, mine=MINE)
                await connection.fetchval(statement, parts.batch.batch, sequence, DRAWN_MAX)
