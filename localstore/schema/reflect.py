"""Read a table from a SQLModel or SQLAlchemy model."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    JSON,
    Boolean,
    Date,
    DateTime,
    Enum,
    Float,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    Numeric,
    String,
    Time,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy import Column as ModelColumn
from sqlalchemy import Table as ModelTable
from sqlalchemy.dialects import sqlite
from sqlalchemy.types import TypeDecorator, TypeEngine

from localstore.errors import ConfigurationError
from localstore.schema.tables import COMPANY_COLUMN, Column, ForeignKey, Index, Kind, Policy, Table

# Times that only ever move one way merge by themselves; a conflict about them would tell nobody anything.
DEFAULT_POLICIES: Final = {"updated_at": Policy.MAX, "created_at": Policy.MIN}

# The first match counts, so a type stands before the one that it is derived from.
_KINDS: Final[tuple[tuple[type[TypeEngine[Any]], Kind], ...]] = (
    (Enum, Kind.TEXT),
    (String, Kind.TEXT),
    (Boolean, Kind.BOOLEAN),
    (Integer, Kind.INTEGER),
    (Float, Kind.REAL),
    (Numeric, Kind.NUMERIC),
    (DateTime, Kind.TIMESTAMP),
    (Date, Kind.DATE),
    (Time, Kind.TIME),
    (Uuid, Kind.UUID),
    (JSON, Kind.JSON),
    (LargeBinary, Kind.BLOB),
)


def table_from_model(model: type[Any]) -> Table:
    """Return the table behind a mapped class; a type without a production counterpart is a ConfigurationError."""
    source: ModelTable = model.__table__
    policies = {**DEFAULT_POLICIES, **{name: Policy(word) for name, word in _declared_policies(model, source).items()}}
    key = _company_first(column.name for column in source.primary_key.columns)
    return Table(
        name=source.name,
        columns=tuple(
            Column(
                name=column.name,
                kind=_kind(source, column),
                nullable=bool(column.nullable) and column.name not in key,
                policy=policies.get(column.name, Policy.MANUAL),
                computed=column.computed is not None,
                declared=column.type.compile(dialect=sqlite.dialect()),
            )
            for column in source.columns
        ),
        key=key,
        uniques=_uniques(source, key),
        foreign_keys=_foreign_keys(source),
        indexes=tuple(
            Index(str(index.name), tuple(column.name for column in index.columns))
            for index in sorted(source.indexes, key=lambda index: str(index.name))
            if not index.unique and _is_plain(index)
        ),
        has_company=COMPANY_COLUMN in source.columns,
    )


def _declared_policies(model: type[Any], source: ModelTable) -> dict[str, str]:
    declared: dict[str, str] = dict(getattr(model, "__policies__", {}))
    for name, word in declared.items():
        if name not in source.columns or word not in set(Policy):
            raise ConfigurationError(
                f"Model {model.__name__} declares the merge policy {word!r} for {name!r}.",
                hint=f"Name a column of {source.name} and one of {', '.join(Policy)} in __policies__.",
            )
    return declared


def _kind(source: ModelTable, column: ModelColumn[Any]) -> Kind:
    found: TypeEngine[Any] = column.type
    while True:
        marked = getattr(found, "localstore_kind", None)
        if marked is not None:
            return Kind(marked)
        for candidate, kind in _KINDS:
            if isinstance(found, candidate):
                return kind
        if not isinstance(found, TypeDecorator):
            raise ConfigurationError(
                f"Column {column.name} of {source.name} has the type {column.type!r}, which production lacks.",
                hint="Use a type of text, number, time, UUID, JSON or bytes, or keep the value as JSON.",
            )
        found = found.impl_instance


def _company_first(names: Any) -> tuple[str, ...]:
    listed = tuple(names)
    return tuple(sorted(listed, key=lambda name: name != COMPANY_COLUMN))


def _is_plain(index: Any) -> bool:
    whole = index.dialect_options["sqlite"]["where"] is None
    return whole and all(isinstance(part, ModelColumn) for part in index.expressions)


def _uniques(source: ModelTable, key: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    found = {
        _company_first(column.name for column in constraint.columns)
        for constraint in source.constraints
        if isinstance(constraint, UniqueConstraint)
    }
    found |= {
        _company_first(column.name for column in index.columns)
        for index in source.indexes
        if index.unique and _is_plain(index)
    }
    return tuple(sorted(columns for columns in found if set(columns) != set(key)))


def _foreign_keys(source: ModelTable) -> tuple[ForeignKey, ...]:
    found = [
        ForeignKey(
            columns=tuple(constraint.column_keys),
            parent=constraint.referred_table.name,
            parent_columns=tuple(element.column.name for element in constraint.elements),
            on_delete=(constraint.ondelete or "NO ACTION").upper(),
        )
        for constraint in source.constraints
        if isinstance(constraint, ForeignKeyConstraint)
    ]
    return tuple(sorted(found, key=lambda key: (key.columns, key.parent)))
