"""Changes of a company's rows in production: applications' writes, promotions, rollbacks, whoever made them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from localstore.postgres.changes import STATES, UNCHANGED
from localstore.postgres.pool import Pool


class ProductionChanges:
    """The states of one company's tables in production, by the feed, which tells of every committed change.

    A value has to be made through the same pool. The states are asked for in a transaction on the primary, after which
    the pool reads from a replica only what has come as far: no value is then older than its state.
    """

    def __init__(self, pool: Pool, company_id: str, target: str) -> None:
        self._pool = pool
        self._company_id = company_id
        self._target = target

    async def states(self, tables: Collection[str]) -> dict[str, str]:
        """Return the state of each table that is followed."""
        async with self._pool.transaction(self._company_id) as connection:
            return {row["tbl"]: row["state"] for row in await connection.fetch(STATES, self._target, list(tables))}

    async def hold(self, made_from: Sequence[Mapping[str, str]]) -> list[bool]:
        """Return for each value whether the rows are as they were."""
        async with self._pool.transaction(self._company_id) as connection:
            return [
                bool(await connection.fetchval(UNCHANGED, self._target, list(states), list(states.values())))
                for states in made_from
            ]
