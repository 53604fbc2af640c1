"""`engine.schema`: what production lacks of the tenants' tables, and the one transaction that gives it to it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import asyncpg

from localstore.errors import MissingRights
from localstore.schema.postgres import production_columns
from localstore.schema.steps import Action, Step, widens
from localstore.schema.tables import Table
from localstore.schema.types import production_type
from sync.errors import SyncRefused
from sync.link import Link
from sync.production import ProductionTable, describe_all, differences, register, registered
from sync.production.register import LOCK_TIMEOUT
from sync.production.rights import as_owner
from sync.schema.known import Known
from sync.schema.wanted import KINDS, WantedTable, merge

if TYPE_CHECKING:
    from sync.engine import SyncEngine

EXIT_REFUSED = 6


@dataclass(frozen=True, slots=True)
class TargetChange:
    """What a plan or an application came to for one schema of production; `mapping` is how columns become its types."""

    target: str
    steps: tuple[Step, ...]
    mapping: tuple[tuple[str, str, str, str], ...]
    registered: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the schema's entry."""
        return {
            "schema": self.target,
            "steps": [step.to_json() for step in self.steps],
            "mapping": [
                {"table": table, "column": column, "declared": declared, "type": kind}
                for table, column, declared, kind in self.mapping
            ],
            "registered": list(self.registered),
        }


@dataclass(frozen=True, slots=True)
class ProductionChange:
    """What a plan or an application came to."""

    targets: tuple[TargetChange, ...]
    applied: bool
    destructive: bool = False

    @property
    def undone(self) -> tuple[Step, ...]:
        """Return the steps that were not done, or would not be."""
        return tuple(
            step for target in self.targets for step in target.steps if not step.allowed(destructive=self.destructive)
        )

    @property
    def exit_code(self) -> int:
        """Return the command's exit code: 6 if an application left something undone."""
        return EXIT_REFUSED if self.applied and self.undone else 0

    def to_json(self) -> dict[str, Any]:
        """Return the command's JSON."""
        return {
            "version": 1,
            "schemas": [target.to_json() for target in self.targets],
            "applied": self.applied,
            "undone": len(self.undone),
            "exit": self.exit_code,
        }


class Schema:
    """The schema changes of an engine's production."""

    def __init__(self, engine: SyncEngine) -> None:
        self._engine = engine

    async def plan(self, tenants: Sequence[str] | None = None) -> ProductionChange:
        """Return what production lacks of the tenants' tables, as SQL; nothing is changed."""
        await self._engine.ready(prepare=False)
        found = []
        for target, tables in (await self._tables(tenants)).items():
            link = await self._engine.link(target)

            async def look(
                connection: asyncpg.Connection, link: Link = link, tables: Sequence[Table] = tuple(tables)
            ) -> TargetChange:
                wanted = merge(tables)
                return TargetChange(link.target, await _steps(connection, link, wanted), _mapping(wanted))

            found.append(await link.run(look))
        return ProductionChange(tuple(found), applied=False)

    async def apply(self, tenants: Sequence[str] | None = None, *, destructive: bool = False) -> ProductionChange:
        """Bring production to the tenants' tables and register their shapes: one transaction for each schema.

        Only additions are made unless `destructive`. Older shapes stay registered, so tenants that have them go on
        pushing, as long as nothing that they send is taken away. Running it again does nothing.
        """
        await self._engine.ready(prepare=True)
        found = []
        for target, tables in (await self._tables(tenants)).items():
            link = await self._engine.link(target)

            async def change(
                connection: asyncpg.Connection, link: Link = link, tables: Sequence[Table] = tuple(tables)
            ) -> TargetChange:
                return await _apply(connection, link, merge(tables), destructive=destructive)

            found.append(await link.run(change))
        return ProductionChange(tuple(found), applied=True, destructive=destructive)

    async def _tables(self, tenants: Sequence[str] | None) -> dict[str, list[Table]]:
        """Return the tenants' tables by the schema of production that each tenant goes to."""
        found: dict[str, list[Table]] = {}
        for tenant in await self._engine.tenants(tenants):
            async with self._engine.database(tenant) as database:
                found.setdefault(await self._engine.target(database), []).extend(database.tables)
        return found


async def _steps(connection: asyncpg.Connection, link: Link, wanted: Mapping[str, WantedTable]) -> tuple[Step, ...]:
    known = Known(
        link.target, await describe_all(connection, link.target, wanted), await registered(connection, link.target)
    )
    # Alembic takes as long to import as all of ours together, and no other command needs it.
    comparing = await asyncio.to_thread(import_module, "sync.schema.compare")
    steps: tuple[Step, ...] = await comparing.compare(link.server, link.timeout, known, wanted)
    return steps


async def _apply(
    connection: asyncpg.Connection, link: Link, wanted: Mapping[str, WantedTable], *, destructive: bool
) -> TargetChange:
    async with connection.transaction():
        # The lock that `register` takes, too: nobody else makes or changes tables until this has ended.
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('localstore:register', 0))")
        steps = await _steps(connection, link, wanted)
        doing = [step for step in steps if step.allowed(destructive=destructive)]
        altering = [step for step in doing if step.action is not Action.CREATE_TABLE]
        await _run(connection, altering)
        if any(step.destructive for step in altering):
            await _forget_unfit(connection, link.target, {step.table for step in altering if step.destructive})
        fitting = await _fitting(connection, link.target, wanted)
        await register(connection, link.target, fitting)
    names = tuple(f"{table.name} {table.fingerprint}" for table in fitting)
    return TargetChange(link.target, steps, _mapping(wanted), names)


async def _run(connection: asyncpg.Connection, steps: Sequence[Step]) -> None:
    statements = [statement for step in steps for statement in step.sql]
    if not statements:
        return
    try:
        async with as_owner(connection, LOCK_TIMEOUT):
            for statement in statements:
                await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError as error:
        raise MissingRights(
            f"this login may not change production's tables: {error.message}",
            hint=f"let their owner run: {'; '.join(statements)};",
        ) from error


async def _forget_unfit(connection: asyncpg.Connection, target: str, tables: set[str]) -> None:
    """Take from the registry the shapes that these tables no longer fit, so that a push of them is refused by name.

    Raises SyncRefused while a batch of such a shape is staged: it could never be promoted.
    """
    present = await describe_all(connection, target, tables)
    for (name, fingerprint), entry in (await registered(connection, target)).items():
        if name not in present or _takes(present[name], entry.table):
            continue
        batch = await connection.fetchval(
            "SELECT batch FROM localstore.ledger WHERE target = $1 AND state IN ('staging', 'staged') "
            "AND manifest -> 'fingerprints' ->> $2 = $3 LIMIT 1",
            target,
            name,
            fingerprint,
        )
        if batch is not None:
            raise SyncRefused(
                f"batch {batch} is staged with the shape of {name} that this would take away; nothing was changed",
                hint=f"localstore sync promote {batch}, or localstore sync withdraw {batch}",
            )
        async with as_owner(connection, LOCK_TIMEOUT):
            await connection.execute(
                "DELETE FROM localstore.tables WHERE target = $1 AND name = $2 AND fingerprint = $3",
                target,
                name,
                fingerprint,
            )


def _takes(production: ProductionTable, shape: Table) -> bool:
    """Return whether rows of a registered shape can be promoted: a wider column takes what a narrower one took."""
    found = {name: KINDS.get(column.type) for name, column in production.columns.items()}
    kinds = [(found.get(name), KINDS[kind]) for name, kind, _ in production_columns(shape)]
    return all(there is not None and widens(sent, there) for there, sent in kinds)


async def _fitting(connection: asyncpg.Connection, target: str, wanted: Mapping[str, WantedTable]) -> tuple[Table, ...]:
    """Return the shapes that production can take by now; the others are named among the steps that were not done."""
    present = await describe_all(connection, target, wanted)
    return tuple(
        shape
        for name, table in wanted.items()
        if not table.unsupported
        for shape in table.shapes
        if name not in present or not differences(shape, present[name])
    )


def _mapping(wanted: Mapping[str, WantedTable]) -> tuple[tuple[str, str, str, str], ...]:
    found: dict[tuple[str, str, str, str], None] = {}
    for table in wanted.values():
        for shape in table.shapes:
            if not shape.has_company:
                name, kind, _ = production_columns(shape)[0]
                found[table.name, name, "", kind] = None
            for column in shape.sent:
                found[table.name, column.name, column.declared, production_type(column.kind)] = None
    return tuple(found)
