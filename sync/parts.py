"""The parts of a batch: each of its tables with the statements that merge it and those that check it."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from localstore.schema.tables import Table, parents_first
from sync import ledger
from sync.checks import Checks
from sync.errors import PromotionFailed, UnknownSchema
from sync.merge import Merge
from sync.production import ProductionTable, Registered, describe_all
from sync.production.compare import differences, remedy
from sync.staging import Staging

Known = dict[tuple[str, str], Registered]


@dataclass(frozen=True, slots=True)
class Parts:
    """A batch's tables, parents first, with what was made for each by its name."""

    batch: ledger.Entry
    order: tuple[Table, ...]
    merges: dict[str, Merge]
    checks: dict[str, Checks]
    shapes: dict[str, ProductionTable]

    def refuse_other_shapes(self, error: asyncpg.PostgresError) -> None:
        """Raise UnknownSchema if production's tables have become such that our statements do not fit them."""
        if not str(error.sqlstate).startswith("42"):
            return
        found = {table.name: differences(table, self.shapes[table.name]) for table in self.order}
        named = [f"table {name}: {', '.join(every)}" for name, every in found.items() if every]
        if named:
            raise UnknownSchema(
                "production's tables have another shape by now; " + "; ".join(named),
                hint=remedy((table, self.shapes[table.name]) for table in self.order if found[table.name]),
                tenant=self.batch.company_id,
            ) from error


async def parts_of(connection: asyncpg.Connection, batch: ledger.Entry, known: Known) -> Parts:
    """Return the batch's parts; raises UnknownSchema for a shape or table that production does not have.

    Raises PromotionFailed when staging does not hold what the batch's manifest says.
    """
    fingerprints: dict[str, str] = batch.manifest["fingerprints"]
    tables = [_known(batch, known, name, fingerprint) for name, fingerprint in fingerprints.items()]
    tables += await _tables_that_wait(connection, batch, known)
    order = parents_first(tuple(tables))
    shapes = await describe_all(connection, batch.target, [table.name for table in order])
    merges: dict[str, Merge] = {}
    for table in order:
        if table.name not in shapes:
            raise UnknownSchema(
                f"production has lost the table {table.name}",
                hint="localstore sync init makes it again",
                tenant=batch.company_id,
            )
        found = known[(table.name, table.fingerprint)]
        merges[table.name] = Merge(Staging(table, found.staging), found.relation, batch.target)
    by_relation = {merge.relation: merge for merge in merges.values()}
    checks = {name: Checks(merge, shapes[name], by_relation) for name, merge in merges.items()}
    for name in fingerprints:
        await _compare_with_manifest(connection, batch, merges[name])
    return Parts(batch, order, merges, checks, shapes)


def _known(batch: ledger.Entry, known: Known, name: str, fingerprint: str) -> Table:
    found = known.get((name, fingerprint))
    if found is None:
        raise UnknownSchema(
            f"production does not know this shape of the table {name}",
            hint="localstore sync schema apply",
            tenant=batch.company_id,
        )
    return found.table


async def _tables_that_wait(connection: asyncpg.Connection, batch: ledger.Entry, known: Known) -> list[Table]:
    """Return tables that are not in the batch but have rows waiting for one of its rows."""
    if batch.replica is None:
        return []
    rows = await connection.fetch(
        "SELECT DISTINCT tbl, fingerprint FROM localstore.held WHERE company_id = $1 AND replica = $2 "
        "AND target = $3 AND reason = 'waits' AND tbl <> ALL ($4)",
        batch.company_id,
        batch.replica,
        batch.target,
        list(batch.manifest["fingerprints"]),
    )
    shapes = {row["tbl"]: row["fingerprint"] for row in rows}.items()
    return [known[shape].table for shape in shapes if shape in known]


async def _compare_with_manifest(connection: asyncpg.Connection, batch: ledger.Entry, merge: Merge) -> None:
    name = merge.staging.table.name
    expected = sum(batch.manifest["counts"][name].values())
    staged = await connection.fetchval(f"SELECT count(*) FROM {merge.staging.relation} WHERE batch = $1", batch.batch)
    if staged != expected:
        raise PromotionFailed(
            f"batch {batch.batch}: {staged} of {expected} rows of {name} are in staging",
            hint=f"localstore sync withdraw {batch.batch}",
            tenant=batch.company_id,
        )
