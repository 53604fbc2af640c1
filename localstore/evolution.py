"""Schema changes of a whole store: every tenant's file compared with the models, and brought to their shape."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any, Final, Literal, TypeAlias, get_args

from localstore.errors import LocalStoreError
from localstore.schema.compare import Move
from localstore.schema.steps import Step
from localstore.sqlite import capture
from localstore.sqlite.alter import alter, altering, differences, is_current, shape_key
from localstore.sqlite.backup import back_up, prune_backups
from localstore.sqlite.connection import Options
from localstore.sqlite.database import Database
from localstore.sqlite.failures import translate
from localstore.sqlite.permissions import tighten_tenant
from localstore.sqlite.prepare import Models
from localstore.sqlite.registry import registry
from localstore.sqlite.template import FILE_NAME
from localstore.sqlite.threads import acquire, in_thread
from localstore.store import LocalStore
from localstore.unexpected import ours

CONCURRENCY_DEFAULT: Final = 4
"""Files changed at once: the work is the disk's, and more would only take turns at it."""

EXIT_FAILED: Final = 1
EXIT_REFUSED: Final = 6

State = Literal["current", "planned", "changed", "refused", "unknown", "failed"]
Before: TypeAlias = Callable[[Database], Awaitable[None]]
"""What is done to a file before it is changed, such as sealing what was written under the old shape."""


@dataclass(frozen=True, slots=True)
class TenantChange:
    """What a plan or an application came to for one tenant.

    `current`: nothing to do. `unknown`: the models are not this tenant's. `refused`: some steps were left undone, by
    name; the others are done. `failed`: the file is as it was. `backup` is the copy that was made first.
    """

    tenant: str
    state: State
    steps: tuple[Step, ...] = ()
    backup: Path | None = None
    seconds: float = 0.0
    error: LocalStoreError | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the tenant's entry."""
        entry: dict[str, Any] = {
            "tenant": self.tenant,
            "state": self.state,
            "steps": [step.to_json() for step in self.steps],
            "backup": None if self.backup is None else str(self.backup),
            "seconds": round(self.seconds, 3),
        }
        return entry if self.error is None else {**entry, "error": self.error.to_json()}


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """What a plan or an application came to, tenant by tenant, in the order in which they were asked for."""

    tenants: tuple[TenantChange, ...]
    applied: bool

    @property
    def exit_code(self) -> int:
        """Return the command's exit code: a failure counts for more than what was refused; a plan refuses nothing."""
        states = {tenant.state for tenant in self.tenants}
        if "failed" in states:
            return EXIT_FAILED
        return EXIT_REFUSED if "refused" in states else 0

    def to_json(self) -> dict[str, Any]:
        """Return the command's JSON."""
        totals = {state: sum(tenant.state == state for tenant in self.tenants) for state in get_args(State)}
        return {
            "version": 1,
            "tenants": [tenant.to_json() for tenant in self.tenants],
            "totals": totals,
            "exit": self.exit_code,
        }


@dataclass(frozen=True)
class Evolution:
    """The schema of a store's tenants against some models.

    `before` runs on a file that is about to change. With `only_known` tenants that have none of the models' tables
    are left alone; else they get them. The store must not be given the models itself: it would refuse to
    open files that lack their columns.
    """

    store: LocalStore
    models: Models
    concurrency: int = CONCURRENCY_DEFAULT
    before: Sequence[Before] = ()
    only_known: bool = False
    _seen: dict[str, tuple[Move, ...]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    async def plan(self, tenants: Sequence[str] | None = None) -> SchemaChange:
        """Return what `apply` would do; nothing is written."""
        return await self._each(tenants, self._plan, applied=False)

    async def apply(self, tenants: Sequence[str] | None = None, *, destructive: bool = False) -> SchemaChange:
        """Bring tenants' files to the models' shape, several at once; one that fails does not stop the others.

        Each file changes in one transaction, after a backup: killed at any point, it is old or new. Files that are
        up to date are left at once. Steps that lose something are done only with `destructive`.
        """
        return await self._each(tenants, partial(self._apply, destructive=destructive), applied=True)

    async def _plan(self, tenant: str, database: Database) -> TenantChange:
        moves = await database.read(self._differences)
        steps = tuple(move.step for move in moves)
        return TenantChange(tenant, "planned" if steps else "current", steps)

    async def _apply(self, tenant: str, database: Database, *, destructive: bool) -> TenantChange:
        moves = await database.read(self._differences)
        if moves and not any(move.step.allowed(destructive=destructive) for move in moves):
            return TenantChange(tenant, "refused", tuple(move.step for move in moves))
        if not moves and await database.read(partial(is_current, models=self.models)):
            return TenantChange(tenant, "current")
        backup = None
        gaps = await database.read(capture.check)
        if moves and not gaps:
            # Nothing is sealed across a gap: the table concerned travels whole, as the file is after the change.
            for prepare in self.before:
                await prepare(database)
        if moves or gaps:
            backup = await back_up(database, reason="schema")
        moves = await self._alter(database, destructive=destructive)
        await database.refresh()
        await prune_backups(database.path.parent)
        steps = tuple(move.step for move in moves)
        undone = any(not step.allowed(destructive=destructive) for step in steps)
        state: State = "refused" if undone else "changed" if steps or gaps else "current"
        return TenantChange(tenant, state, steps, None if backup is None else backup.path)

    async def _alter(self, database: Database, *, destructive: bool) -> tuple[Move, ...]:
        def work(connection: Any) -> tuple[Move, ...]:
            # Looked at again, since others may have written between the plan and this transaction.
            moves = self._differences(connection)
            alter(connection, self.models, moves, destructive=destructive)
            return moves

        turn = await database.turn()
        try:
            return await in_thread(partial(altering, turn, work))
        except Exception as error:
            raise translate(error, database.company_id) from error
        finally:
            await in_thread(turn.release)

    def _differences(self, connection: Any) -> tuple[Move, ...]:
        """Return the moves for a file; files that look alike are compared once."""
        if is_current(connection, self.models):
            return ()
        key = shape_key(connection)
        with self._lock:
            known = self._seen.get(key)
        if known is None:
            known = differences(connection, self.models)
            with self._lock:
                self._seen[key] = known
        return known

    @asynccontextmanager
    async def _file(self, tenant: str) -> AsyncIterator[Database]:
        """Open a tenant's file as it is; a store would refuse one that lost a tracked column, which this mends."""
        # Raises where there is no such tenant.
        folder = self.store.tenant(tenant, create=False).folder
        settings = self.store.settings
        options = Options(settings.localstore_busy_timeout, settings.localstore_synchronous)

        def take() -> Database:
            tighten_tenant(folder)
            return registry().acquire(folder / FILE_NAME, tenant, options)

        database = await acquire(take, registry().release)
        try:
            yield database
        finally:
            if registry().release(database):
                await database.close()

    async def _each(
        self, tenants: Sequence[str] | None, work: Callable[[str, Database], Awaitable[TenantChange]], *, applied: bool
    ) -> SchemaChange:
        turn = asyncio.Semaphore(self.concurrency)
        names_known = {table.name for table in self.models.tables}

        async def one(name: str) -> TenantChange:
            began = monotonic()
            async with turn:
                try:
                    async with self._file(name) as database:
                        if self.only_known and names_known.isdisjoint(database.table_ids):
                            return TenantChange(name, "unknown")
                        done = await work(name, database)
                except Exception as error:  # noqa: BLE001 (what one tenant meets is its result, whatever it is)
                    return TenantChange(name, "failed", seconds=monotonic() - began, error=ours(error))
            return TenantChange(name, done.state, done.steps, done.backup, monotonic() - began)

        names = await self.store.tenants() if tenants is None else list(tenants)
        return SchemaChange(tuple(await asyncio.gather(*(one(name) for name in names))), applied)
