"""Claims about tables read from models."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase
from sqlmodel import Field, SQLModel

from localstore.errors import ConfigurationError
from localstore.schema.reflect import table_from_model
from localstore.schema.tables import Column, ForeignKey, Index, Kind, Policy, Table


class Colour(Enum):
    """A closed set of words."""

    RED = "red"


class Everything(SQLModel, table=True):
    """One column of every type."""

    __tablename__ = "reflect_everything"
    __policies__: ClassVar[dict[str, str]] = {"count": "local"}
    name: str = Field(primary_key=True)
    company_id: str = Field(primary_key=True)
    count: int | None = None
    ratio: float = 0.0
    price: Decimal = Decimal(0)
    done: bool = False
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    updated_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    day: date
    hour: time
    token: UUID = Field(default_factory=uuid4, unique=True)
    colour: Colour
    data: bytes
    payload: dict[str, Any] = Field(sa_column=sa.Column(sa.JSON))
    doubled: int = Field(sa_column=sa.Column(sa.Integer, sa.Computed("count * 2")))


class Base(DeclarativeBase):
    """The base of the plain SQLAlchemy models."""


class Marked(sa.types.TypeDecorator[Any]):
    """A type that says itself what it means."""

    impl = sa.Text
    cache_ok = True
    localstore_kind = "json"


class Wrapped(sa.types.TypeDecorator[Any]):
    """A type that means what it wraps."""

    impl = sa.BigInteger
    cache_ok = True


class Parent(Base):
    """A table that another one refers to."""

    __tablename__ = "reflect_parent"
    company_id = sa.Column(sa.Text, primary_key=True)
    code = sa.Column(sa.Text, primary_key=True)


class Child(Base):
    """A table with every constraint and index."""

    __tablename__ = "reflect_child"
    id = sa.Column(sa.Integer, primary_key=True)
    company_id = sa.Column(sa.Text)
    code = sa.Column(sa.Text)
    body = sa.Column(Marked)
    size = sa.Column(Wrapped)
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["company_id", "code"], ["reflect_parent.company_id", "reflect_parent.code"], ondelete="cascade"
        ),
        sa.UniqueConstraint("code", "company_id"),
        sa.Index("reflect_child_body", "body"),
        sa.Index("reflect_child_size", "size", unique=True),
        sa.Index("reflect_child_part", "size", unique=True, sqlite_where=sa.text("size > 0")),
        sa.Index("reflect_child_lower", sa.func.lower(code)),
    )


class Without(Base):
    """A table without a company."""

    __tablename__ = "reflect_without"
    id = sa.Column(sa.Integer, primary_key=True)


class Unmapped(Base):
    """A table with a type that production lacks."""

    __tablename__ = "reflect_unmapped"
    id = sa.Column(sa.Integer, primary_key=True)
    span = sa.Column(sa.types.NullType)


def test_every_type_gets_its_kind() -> None:
    """Each type a model may use has the one kind that means it."""
    kinds = {column.name: column.kind for column in table_from_model(Everything).columns}
    assert kinds == {
        "name": Kind.TEXT,
        "company_id": Kind.TEXT,
        "count": Kind.INTEGER,
        "ratio": Kind.REAL,
        "price": Kind.NUMERIC,
        "done": Kind.BOOLEAN,
        "created_at": Kind.TIMESTAMP,
        "updated_at": Kind.TIMESTAMP,
        "day": Kind.DATE,
        "hour": Kind.TIME,
        "token": Kind.UUID,
        "colour": Kind.TEXT,
        "data": Kind.BLOB,
        "payload": Kind.JSON,
        "doubled": Kind.INTEGER,
    }


def test_the_company_leads_the_key() -> None:
    """The key begins with the company, wherever the model put it."""
    table = table_from_model(Everything)
    assert table.key == ("company_id", "name")
    assert table.has_company
    assert not table.by_name["name"].nullable


def test_policies_come_from_the_model_over_the_defaults() -> None:
    """A declared policy counts, and the two times merge by themselves."""
    columns = table_from_model(Everything).by_name
    assert columns["count"].policy is Policy.LOCAL
    assert columns["updated_at"].policy is Policy.MAX
    assert columns["created_at"].policy is Policy.MIN
    assert columns["ratio"].policy is Policy.MANUAL


def test_computed_columns_are_not_sent() -> None:
    """A computed column is known, but does not travel."""
    table = table_from_model(Everything)
    assert table.by_name["doubled"].computed
    assert "doubled" not in {column.name for column in table.sent}


def test_constraints_and_indexes_are_read() -> None:
    """Unique constraints, unique indexes, foreign keys and plain indexes arrive; partial and computed ones do not."""
    table = table_from_model(Child)
    assert table.key == ("id",)
    assert table.uniques == (("company_id", "code"), ("size",))
    assert table.foreign_keys == (
        ForeignKey(("company_id", "code"), "reflect_parent", ("company_id", "code"), "CASCADE"),
    )
    assert table.indexes == (Index("reflect_child_body", ("body",)),)
    assert table.by_name["body"] == Column("body", Kind.JSON, declared="TEXT")
    assert table.by_name["size"].kind is Kind.INTEGER
    assert table_from_model(Everything).uniques == (("token",),)


def test_a_table_without_company_is_told_apart() -> None:
    """A table that has no company column says so."""
    assert not table_from_model(Without).has_company


def test_reflection_survives_json() -> None:
    """What is read from a model equals itself after a trip through the catalogue."""
    for model in (Everything, Child, Parent, Without):
        table = table_from_model(model)
        assert Table.from_json(table.to_json()) == table


def test_a_type_without_counterpart_is_refused() -> None:
    """A type that production has no counterpart of is an error that names the column."""
    with pytest.raises(ConfigurationError, match="span of reflect_unmapped"):
        table_from_model(Unmapped)


def test_a_policy_for_nothing_is_refused() -> None:
    """A policy that names no column, or is none, is an error."""
    for policies in ({"nothing": "max"}, {"id": "sometimes"}):
        wrong = type("Wrong", (), {"__policies__": policies, "__table__": Without.__table__})
        with pytest.raises(ConfigurationError, match="merge policy"):
            table_from_model(wrong)
