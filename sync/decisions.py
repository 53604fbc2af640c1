"""What a tenant decides about its held rows: `engine.conflicts` and `engine.quarantine`.

Every decision is a write to the tenant's file, so it works offline; the next push carries it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import orjson

from localstore.codec import Bindable, decode_text
from localstore.errors import ConfigurationError, InvalidRow, StoreError
from localstore.postgres.quoting import quote_identifier
from localstore.schema.tables import Table
from sync.keys import rows_of_key, rows_spelt
from sync.listing import CONFLICTS, QUARANTINE, held_in_file, of_reasons
from sync.releases import LOCAL, RETRY, release
from sync.results import HeldItem

if TYPE_CHECKING:
    from sync.access import Access

Side = Literal["local", "production"]
Work: TypeAlias = Callable[[sqlite3.Connection, HeldItem, Table], None]


class _Held:
    """The held rows of some reasons."""

    def __init__(self, engine: Access, reasons: Sequence[str]) -> None:
        self._engine = engine
        self._reasons = reasons

    async def list(self, tenants: Sequence[str] | None = None) -> list[HeldItem]:
        """Return the held rows, from production if the engine has one, else from the tenants' files."""
        return of_reasons(await self._engine.held(tenants), self._reasons)

    async def show(self, address: str, tenants: Sequence[str] | None = None) -> HeldItem:
        """Return one held row by its address; it must be one tenant's."""
        found = [item for item in await self.list(tenants) if item.address == address]
        self._one(address, [item.tenant for item in found])
        return found[0]

    def _one(self, address: str, tenants: Sequence[str]) -> str:
        """Return the one tenant that has the held row."""
        owners = sorted(set(tenants))
        if not owners:
            raise StoreError(f"no held row {address}", hint=self._list_command)
        if len(owners) > 1:
            raise ConfigurationError(
                f"{address} is held for several tenants: {', '.join(owners)}", hint=f"add --tenant {owners[0]}"
            )
        return owners[0]

    @property
    def _list_command(self) -> str:
        name = "conflicts" if tuple(self._reasons) == CONFLICTS else "quarantine"
        return f"localstore sync {name} list"

    async def _decide(self, address: str, tenants: Sequence[str] | None, work: Work) -> HeldItem:
        """Run `work` on the held row in the file of the one tenant that has it."""
        owners = await self._owners(address, tenants)
        if not owners and self._engine.has_production:
            # The promotion may have been another machine's, of which the files have not heard yet.
            await self._engine.ready(prepare=False)
            for tenant in await self._engine.tenants(tenants):
                await self._engine.learn(await self._engine.link_of(tenant), tenant)
            owners = await self._owners(address, tenants)
        tenant = self._one(address, owners)
        async with self._engine.database(tenant) as database:
            tables = {table.name: table for table in database.tables}

            def decide(connection: sqlite3.Connection) -> HeldItem:
                for item in self._held_in_file(connection, tenant, tables):
                    if item.address == address:
                        work(connection, item, tables[item.table])
                        return item
                raise StoreError(f"no held row {address}", hint=self._list_command)

            return await database.write(decide)

    async def _owners(self, address: str, tenants: Sequence[str] | None) -> Sequence[str]:
        """Return the tenants whose files know the row to be held."""
        owners = []
        for tenant in await self._engine.tenants(tenants):
            async with self._engine.database(tenant) as database:
                tables = {table.name: table for table in database.tables}
                items = await database.read(partial(self._held_in_file, tenant=tenant, tables=tables))
                owners += [tenant for item in items if item.address == address]
        return owners

    def _held_in_file(
        self, connection: sqlite3.Connection, tenant: str, tables: dict[str, Table]
    ) -> Sequence[HeldItem]:
        return of_reasons(held_in_file(connection, tenant, tables), self._reasons)


class Conflicts(_Held):
    """Rows that both sides changed."""

    def __init__(self, engine: Access) -> None:
        super().__init__(engine, CONFLICTS)

    async def resolve(self, address: str, use: Side, tenants: Sequence[str] | None = None) -> HeldItem:
        """Decide that our values or production's win, for the whole row; the next push carries it."""
        work = _use_local if use == "local" else _use_production
        return await self._decide(address, tenants, work)


class Quarantine(_Held):
    """Rows whose value or place production could not take."""

    def __init__(self, engine: Access) -> None:
        super().__init__(engine, (*QUARANTINE, "rolled_back"))

    async def fix(self, address: str, column: str, value: str | None, tenants: Sequence[str] | None = None) -> HeldItem:
        """Set a column of the held row; the next push tries the row again."""

        def work(connection: sqlite3.Connection, item: HeldItem, table: Table) -> None:
            if column not in table.by_name:
                raise ConfigurationError(
                    f"{table.name} has no column {column}", hint=f"one of: {', '.join(table.by_name)}"
                )
            _set(connection, item, table, {column: value})

        return await self._decide(address, tenants, work)

    async def retry(self, address: str, tenants: Sequence[str] | None = None) -> HeldItem:
        """Try the held row again, as it is, with the next push."""
        return await self._decide(address, tenants, _retry)

    async def discard(self, address: str, tenants: Sequence[str] | None = None) -> HeldItem:
        """Give up the held change: the local row becomes what production is known to have."""
        return await self._decide(address, tenants, _discard)


def _retry(connection: sqlite3.Connection, item: HeldItem, table: Table) -> None:
    _row_of(connection, item, table)
    release(connection, [_stored_key(item)], RETRY)


def _use_local(connection: sqlite3.Connection, item: HeldItem, table: Table) -> None:
    _row_of(connection, item, table)
    release(connection, [_stored_key(item)], LOCAL)


def _use_production(connection: sqlite3.Connection, item: HeldItem, table: Table) -> None:
    if item.production is None:
        _delete(connection, item, table)
    elif item.local is None:
        _bring_back(connection, item, table, {**(item.base or {}), **item.production})
    else:
        # Production's values are known of the columns in conflict; the others are taken to be as our change began.
        _set(connection, item, table, {**(item.base or {}), **item.production})
    release(connection, [_stored_key(item)], RETRY)


def _discard(connection: sqlite3.Connection, item: HeldItem, table: Table) -> None:
    if item.base is None:
        _delete(connection, item, table)
    elif item.local is None:
        _bring_back(connection, item, table, item.base)
    else:
        _set(connection, item, table, item.base)
    release(connection, [_stored_key(item)], RETRY)


def _stored_key(item: HeldItem) -> tuple[str, str]:
    return item.table, orjson.dumps(item.held_as).decode()


def _value(table: Table, name: str, text: str | None) -> Bindable | None:
    return None if text is None else decode_text(table.by_name[name].kind, text)


def _where(connection: sqlite3.Connection, item: HeldItem, table: Table) -> tuple[str, list[Bindable | None]]:
    """Return the test for the one row that the held change is of, and its values."""
    values = _row_of(connection, item, table)
    if values is None:
        # Then no row is found by this key either, in whatever spelling.
        values = [item.key.get(name, item.tenant) for name in table.key]
    tests = (f"{quote_identifier(name)} IS ? AND typeof({quote_identifier(name)}) = typeof(?)" for name in table.key)
    return " AND ".join(tests), [part for value in values for part in (value, value)]


def _row_of(connection: sqlite3.Connection, item: HeldItem, table: Table) -> list[Bindable | None] | None:
    """Return the key, as the file spells it, of the row that the held change is of; None if the file has no such row.

    Raises InvalidRow where several rows may be meant: to decide about the wrong one would lose it.
    """
    if item.spelt:
        rows = rows_spelt(connection, table, item.key)
    else:
        rows = rows_of_key(connection, table, item.tenant, item.key)
    if len(rows) > 1:
        named = ", ".join(" / ".join(str(part) for part in row) for row in rows)
        raise InvalidRow(
            f"{len(rows)} rows of {table.name} are {item.address} in production: {named}; nothing was decided",
            hint="delete or rename all but one of them with the sqlite3 shell or your application, then push again",
            tenant=item.tenant,
            row=item.address,
        )
    return rows[0] if rows else None


def _set(connection: sqlite3.Connection, item: HeldItem, table: Table, columns: Mapping[str, str | None]) -> None:
    where, key = _where(connection, item, table)
    sets = ", ".join(f"{quote_identifier(name)} = ?" for name in columns)
    values = [_value(table, name, text) for name, text in columns.items()]
    done = connection.execute(f"UPDATE {quote_identifier(table.name)} SET {sets} WHERE {where}", [*values, *key])
    if done.rowcount != 1:
        raise InvalidRow(
            f"the tenant's file has no row {item.address} by that key",
            hint="change the row with the sqlite3 shell or your application, then push again",
            tenant=item.tenant,
            row=item.address,
        )


def _bring_back(connection: sqlite3.Connection, item: HeldItem, table: Table, row: Mapping[str, str | None]) -> None:
    """Give a row that was deleted here its values back, whether or not its key was used again since."""
    where, key = _where(connection, item, table)
    name = quote_identifier(table.name)
    if connection.execute(f"SELECT 1 FROM {name} WHERE {where}", key).fetchone():
        fixed = {*table.key, table.company}
        _set(connection, item, table, {column: text for column, text in row.items() if column not in fixed})
        return
    columns = ", ".join(quote_identifier(column) for column in row)
    holes = ", ".join("?" for _ in row)
    values = [_value(table, column, text) for column, text in row.items()]
    connection.execute(f"INSERT INTO {name} ({columns}) VALUES ({holes})", values)


def _delete(connection: sqlite3.Connection, item: HeldItem, table: Table) -> None:
    where, key = _where(connection, item, table)
    connection.execute(f"DELETE FROM {quote_identifier(table.name)} WHERE {where}", key)
