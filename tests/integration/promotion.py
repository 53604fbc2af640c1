"""A tenant's file and a production with tables of a test's own, for tests that look at promotion from all sides."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg

from localstore import LocalStore
from localstore.schema.sqlite import table_from_sqlite
from localstore.schema.tables import Policy
from localstore.sqlite.capture import install
from localstore.sqlite.database import Database
from sync import SyncEngine
from sync.config import SyncSettings
from sync.listing import held_in_file
from sync.results import HeldItem, Result, TenantResult
from sync.verify.differences import Verified

COMPANY = "acme"

Keyed = dict[str, tuple[str, str | None]]


class Sides:
    """A tenant's file, its engine, and a superuser's connection to production that stands for an application."""

    def __init__(self, engine: SyncEngine, store: LocalStore, database: Database, app: asyncpg.Connection) -> None:
        self.engine = engine
        self.store = store
        self.database = database
        self.app = app

    async def track(self, *statements: str, policies: Mapping[str, Policy] | None = None) -> None:
        """Run the statements in the file and track every table that they make."""
        named = policies or {}

        def make(file: sqlite3.Connection) -> None:
            before = _names(file)
            for statement in statements:
                file.execute(statement)
            tables = [table for name in _names(file) - before if (table := table_from_sqlite(file, name)) is not None]
            install(
                file,
                [
                    replace(
                        table,
                        columns=tuple(
                            replace(column, policy=named.get(column.name, column.policy)) for column in table.columns
                        ),
                    )
                    for table in sorted(tables, key=lambda table: table.name)
                ],
            )

        await self.database.write(make)
        await self.database.refresh()

    async def local(self, statement: str, rows: Iterable[tuple[object, ...]] = ((),)) -> None:
        """Write to the file, as any tool would."""
        await self.database.write(lambda file: file.executemany(statement, rows))

    async def unchecked(self, *statements: str) -> None:
        """Write to the file through a connection of its own that has foreign keys off, as the shell has."""
        with sqlite3.connect(self.database.path, isolation_level=None) as shell:
            for statement in statements:
                shell.execute(statement)
        shell.close()

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Read from the file."""
        return await self.database.read(lambda file: file.execute(query).fetchall())

    async def theirs(self, *statements: str) -> None:
        """Write to production as an application, or change its tables as their owner."""
        for statement in statements:
            await self.app.execute(statement)

    async def production(self, query: str) -> list[tuple[Any, ...]]:
        """Read from production."""
        return [tuple(row) for row in await self.app.fetch(query)]

    async def push(self, exit_code: int = 0) -> TenantResult:
        """Push with promotion, and return the tenant's result, which must end with this exit code."""
        result = await self.engine.push([COMPANY], promote=True)
        held = [(item.address, item.reason, item.detail) for item in await self.engine.held()]
        assert result.exit_code == exit_code, (result.to_json(), held[:10])
        return result.tenants[0]

    async def held(self) -> Keyed:
        """Return what production holds, by address: reason and detail; the file must know the same."""
        items = await self.engine.held()
        tables = {table.name: table for table in self.database.tables}
        mirrored: list[HeldItem] = await self.database.read(lambda file: held_in_file(file, COMPANY, tables))
        assert sorted(map(repr, mirrored)) == sorted(map(repr, items))
        found = {item.address: (item.reason, item.detail) for item in items}
        assert len(found) == len(items)
        return found

    async def reasons(self) -> dict[str, str]:
        """Return what production holds, by address: the reason."""
        return {address: reason for address, (reason, _) in (await self.held()).items()}

    async def verified(self) -> Verified:
        """Compare both sides."""
        return (await self.engine.verify([COMPANY]))[0]

    async def assert_equal(self) -> None:
        """Both sides hold the same, and a push has nothing to move."""
        verified = await self.verified()
        assert verified.equal, {name: table.differences[:5] for name, table in verified.tables.items()}
        again = await self.push()
        assert again.state == "unchanged", again.to_json()


@asynccontextmanager
async def sides(folder: Path, production: str, settings: SyncSettings | None = None) -> AsyncIterator[Sides]:
    """Open an empty tenant and an engine to production."""
    app = await asyncpg.connect(production)
    try:
        async with (
            LocalStore(folder / "data", models=[]) as store,
            store.tenant(COMPANY) as tenant,
            SyncEngine(store, to=production, settings=settings) as engine,
        ):
            yield Sides(engine, store, tenant.database, app)
    finally:
        await app.close(timeout=5)


def counts(result: TenantResult | Result, table: str = "t") -> dict[str, int]:
    """Return a table's counts that are not zero."""
    tables = (result if isinstance(result, TenantResult) else result.tenants[0]).tables
    return {name: number for name, number in tables.get(table, {}).items() if number}


def _names(file: sqlite3.Connection) -> set[str]:
    rows = file.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'localstore_%' "
        "AND name NOT LIKE 'sqlite_%'"
    )
    return {row[0] for row in rows}
