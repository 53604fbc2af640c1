"""Bring a tenant's file in step with the models: make missing tables, refuse changed ones, keep capture complete."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from localstore.errors import ConfigurationError, StoreError
from localstore.postgres.quoting import quote_identifier
from localstore.schema.tables import Table
from localstore.sqlite import capture

_PREPARED = "prepared"
"""The name of the fact which says for which schema and which models a file was looked at last."""


@dataclass(frozen=True)
class Models:
    """The models that a store was given, with their tables as values."""

    models: tuple[type[Any], ...] = ()

    def __post_init__(self) -> None:
        """Refuse two models of one table: the file could only hold one of them."""
        names = [table.name.lower() for table in self.tables]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigurationError(
                f"two models have the table {twice[0]}", hint="pass only one of them: LocalStore(root, models=[…])"
            )

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """Return the models' tables."""
        if not self.models:
            return ()
        from localstore.schema.reflect import table_from_model

        return tuple(table_from_model(model) for model in self.models)

    @cached_property
    def shapes(self) -> frozenset[str]:
        """Return each table's name and fingerprint."""
        return frozenset(f"{table.name} {table.fingerprint}" for table in self.tables)


def is_prepared(connection: sqlite3.Connection, models: Models) -> bool:
    """Return whether the file is as `prepare` left it for these models; costs two small reads."""
    version, shapes = _last_prepared(connection)
    return version == _schema_version(connection) and models.shapes <= shapes


def prepare(connection: sqlite3.Connection, models: Models) -> None:
    """Make the models' tables and the triggers of everything tracked, in the caller's transaction.

    A table that lacks a column of its model is a StoreError: columns are added by `localstore schema apply` only.
    """
    version, shapes = _last_prepared(connection)
    if version != _schema_version(connection):
        shapes = frozenset()
    missing = []
    for model, table in zip(models.models, models.tables, strict=True):
        present = _columns(connection, table.name)
        if not present:
            missing.append(model.__table__)
            continue
        lacking = [column.name for column in table.columns if column.name.lower() not in present]
        if lacking:
            raise StoreError(
                f"the table {table.name} in the file lacks what its model has: {', '.join(lacking)}",
                hint="localstore schema apply --models MODULE",
            )
    _create(connection, missing)
    _create_partial_indexes(connection, models)
    capture.install(connection, models.tables)
    fact = {"schema": _schema_version(connection), "tables": sorted(shapes | models.shapes)}
    connection.execute(
        "INSERT OR REPLACE INTO localstore_state (name, value) VALUES (?, ?)", (_PREPARED, json.dumps(fact))
    )


def _last_prepared(connection: sqlite3.Connection) -> tuple[int | None, frozenset[str]]:
    row = connection.execute("SELECT value FROM localstore_state WHERE name = ?", (_PREPARED,)).fetchone()
    if row is None:
        return None, frozenset()
    fact = json.loads(row[0])
    return fact["schema"], frozenset(fact["tables"])


def _create(connection: sqlite3.Connection, tables: Iterable[Any]) -> None:
    by_metadata: dict[Any, list[Any]] = {}
    for table in tables:
        by_metadata.setdefault(table.metadata, []).append(table)
    if not by_metadata:
        return
    from localstore.sqlite.alchemy import borrowed

    with borrowed(connection) as borrower:
        for metadata, those in by_metadata.items():
            metadata.create_all(borrower, tables=those, checkfirst=False)


def _create_partial_indexes(connection: sqlite3.Connection, models: Models) -> None:
    """Make the models' partial indexes: they are a file's alone, so a table that came from production lacks them."""
    if not models.models:
        return
    from sqlalchemy.dialects import sqlite
    from sqlalchemy.schema import CreateIndex

    for model in models.models:
        for index in model.__table__.indexes:
            if index.dialect_options["sqlite"]["where"] is not None and not index.unique:
                statement = CreateIndex(index, if_not_exists=True).compile(dialect=sqlite.dialect())
                connection.execute(str(statement))


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    rows = connection.execute(f"PRAGMA table_xinfo({quote_identifier(table)})")
    return {row[1].lower() for row in rows}


def _schema_version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA schema_version").fetchone()[0]
    return version
