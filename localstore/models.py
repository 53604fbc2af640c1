"""The base of all tenant models: who a row belongs to, what it is called and when it changed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID, uuid4

from sqlalchemy import DateTime, Numeric, event
from sqlmodel import Field, SQLModel

from localstore.columns import DecimalText, JSONText, RawJSON, UtcDateTime, as_text

__all__ = ["JSONText", "RawJSON", "TenantModel", "UtcDateTime", "as_text", "tenant_models", "utc_now"]


def utc_now() -> datetime:
    """Return the present moment, with its time zone."""
    return datetime.now(UTC)


class TenantModel(SQLModel):
    """A row of one tenant. Its key is `(company_id, id)` unless a subclass marks a natural key of its own.

    `company_id` may be left empty: the tenant that the row is written to fills it in. `created_at` and `updated_at`
    are kept up to date unless they are set by hand. Every datetime is a moment in UTC, every Decimal is exact.
    `__policies__` names what happens to a column that both sides changed (see `schema.tables.Policy`).
    """

    __policies__: ClassVar[dict[str, str]] = {"updated_at": "max", "created_at": "min"}

    company_id: str = Field(default="", primary_key=True)
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    platform: str = Field(default="", nullable=True)
    created_at: datetime = Field(
        default_factory=utc_now, nullable=True, sa_type=UtcDateTime, sa_column_kwargs={"default": utc_now}
    )
    updated_at: datetime = Field(
        default_factory=utc_now,
        nullable=True,
        sa_type=UtcDateTime,
        sa_column_kwargs={"default": utc_now, "onupdate": utc_now},
    )


@event.listens_for(TenantModel, "instrument_class", propagate=True)
def _keep_values_exact(mapper: Any, _model: type[Any]) -> None:
    """Give plain datetime and Decimal fields the column types that lose nothing.

    SQLAlchemy's own types drop a time zone and make floats of decimals on SQLite.
    """
    for column in mapper.local_table.columns:
        if type(column.type) is DateTime:
            column.type = UtcDateTime()
        elif type(column.type) is Numeric:
            column.type = DecimalText()


def tenant_models(base: type[SQLModel] = TenantModel) -> Iterator[type[SQLModel]]:
    """Yield every imported subclass of `base` that has a table, in the order of their definition."""
    for model in base.__subclasses__():
        if hasattr(model, "__table__"):
            yield model
        yield from tenant_models(model)
