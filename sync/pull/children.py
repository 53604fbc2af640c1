"""Rows that would go, or be changed, unseen with a row that production deleted: SQLite's own foreign keys do that."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence

from localstore.postgres.quoting import quote_identifier
from sync.pull.rows import LocalTable, Stored, placeholder, read

ACTIONS = ("CASCADE", "SET NULL", "SET DEFAULT")


class Children:
    """Follows the foreign keys of a file that act on their own when a row is deleted."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        tables: Mapping[str, LocalTable],
        waits: Callable[[LocalTable, str], bool],
    ) -> None:
        self._connection = connection
        self._tables = {name.lower(): table for name, table in tables.items()}
        self._waits = waits
        self._links: dict[str, list[tuple[str, bool, tuple[str, ...], tuple[str, ...]]]] = {}
        for name in tables:
            links: dict[int, tuple[str, str, list[str], list[str | None]]] = {}
            for number, parent, column, to, action in connection.execute(
                'SELECT id, "table", "from", "to", on_delete FROM pragma_foreign_key_list(?) ORDER BY id, seq', (name,)
            ):
                link = links.setdefault(number, (parent, action, [], []))
                link[2].append(column)
                link[3].append(to)
            for parent, action, columns, named in links.values():
                if action in ACTIONS and parent.lower() in self._tables:
                    others = tuple(to for to in named if to is not None) or self._tables[parent.lower()].table.key
                    self._links.setdefault(parent.lower(), []).append(
                        (name.lower(), action == "CASCADE", tuple(columns), others)
                    )

    def waiting(self, table: LocalTable, row: Stored) -> str | None:
        """Return the name of a table with a pending row that deleting this one would take along or change."""
        if not self._links:
            return None
        seen: set[tuple[str, str]] = set()
        todo: list[tuple[LocalTable, Stored]] = [(table, row)]
        while todo:
            parent, values = todo.pop()
            for name, cascades, columns, referenced in self._links.get(parent.table.name.lower(), ()):
                child = self._tables[name]
                for below in self._below(child, columns, parent, values, referenced):
                    ident = child.keys.of_stored(child.key_of(below))
                    if ident is None or self._waits(child, ident):
                        return child.table.name
                    if cascades and (name, ident) not in seen:
                        seen.add((name, ident))
                        todo.append((child, below))
        return None

    def _below(
        self,
        child: LocalTable,
        columns: Sequence[str],
        parent: LocalTable,
        row: Stored,
        referenced: Sequence[str],
    ) -> list[Stored]:
        at = {column.name: place for place, column in enumerate(parent.columns)}
        if any(name not in at or row[at[name]] is None for name in referenced):
            return []
        holes, bound = zip(*(placeholder(row[at[name]]) for name in referenced), strict=True)
        tests = " AND ".join(f"{quote_identifier(name)} = {hole}" for name, hole in zip(columns, holes, strict=True))
        names = ", ".join(quote_identifier(column.name) for column in child.columns)
        return list(
            read(
                self._connection, f"SELECT {names} FROM main.{quote_identifier(child.table.name)} WHERE {tests}", bound
            )
        )
