"""Changes: how a cache learns that rows, from which a value was made, are not what they were any more."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from localstore.errors import ConfigurationError
from localstore.sqlite.database import Database
from localstore.sqlite.generations import Generations


class Changes(Protocol):
    """Tells in which state tables are."""

    async def states(self, tables: Collection[str]) -> dict[str, str]:
        """Return a text for each table that is another one after any committed change of its rows.

        A table whose changes nobody follows is left out.
        """
        ...

    async def hold(self, made_from: Sequence[Mapping[str, str]]) -> list[bool]:
        """Return for each value whether the tables that it was made from still are in the states that they had then."""
        ...


ABSENT: Final = "absent"
"""The state of the tables of a file that is not there; once it is, nothing is what it was."""


class FileChanges:
    """The states of the tables of one tenant's file, whoever writes to it: applications, the shell, pulls, restores."""

    def __init__(self, database: Callable[[], Awaitable[Database | None]]) -> None:
        self._database = database
        self._readers: list[Generations] = []

    async def states(self, tables: Collection[str]) -> dict[str, str]:
        """Return each table's generation."""
        database = await self._database()
        if database is None:
            return dict.fromkeys(tables, ABSENT)

        def read(connection: sqlite3.Connection) -> dict[str, str]:
            # What was read before belongs to one thread at a time; with several at once, the others begin anew.
            generations = self._readers.pop() if self._readers else Generations()
            states = generations.read(connection, tables)
            if not self._readers:
                self._readers.append(generations)
            return states

        return await database.read(read)

    async def hold(self, made_from: Sequence[Mapping[str, str]]) -> list[bool]:
        """Return for each value whether its states are those of now."""
        now = await self.states({table for states in made_from for table in states})
        return [all(now.get(table) == state for table, state in states.items()) for states in made_from]


def table_names(tables: Iterable[Any]) -> tuple[str, ...]:
    """Return the names of tables that are given as models or by name, sorted."""
    if isinstance(tables, str):
        raise ConfigurationError(f"tables={tables!a} is one text", hint=f"tables=({tables!a},)")
    names = {table if isinstance(table, str) else getattr(table, "__tablename__", None) for table in tables}
    if not all(isinstance(name, str) for name in names):
        raise ConfigurationError("something in tables= is neither a model nor a name", hint="tables=(Ticket,)")
    return tuple(sorted(str(name) for name in names))
