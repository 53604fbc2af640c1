"""A blob's row: what is known of it, in a tracked table of the tenant that syncs like any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import Column, Index, UniqueConstraint
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from localstore.blobs.table import TABLE
from localstore.columns import JSONText, UtcDateTime
from localstore.models import utc_now


class _Apart(SQLModel, registry=registry()):
    """Keeps the table out of `SQLModel.metadata`: a store without blobs has none, an application may have its own."""


class Blob(_Apart, table=True):
    """The row of one blob. The object that holds its bytes is named by `hash`.

    `folded` is the key without case and normal form: two boxes that add keys which collide learn of it in production.
    """

    __tablename__: ClassVar[Any] = TABLE
    __table_args__ = (
        UniqueConstraint("company_id", "folded", name="uq_blobs_folded"),
        # Covers both questions that touch every blob: which objects are named, and how many bytes a tenant keeps.
        Index("ix_blobs_hash", "company_id", "hash", "size"),
    )

    company_id: str = Field(default="", primary_key=True)
    key: str = Field(primary_key=True)
    size: int | None = None
    hash: str | None = None
    content_type: str | None = None
    # `metadata` is what SQLAlchemy calls something else on every model.
    details: Any = Field(default=None, sa_column=Column("metadata", JSONText, nullable=True))
    created_at: datetime = Field(
        default_factory=utc_now, nullable=True, sa_type=UtcDateTime, sa_column_kwargs={"default": utc_now}
    )
    updated_at: datetime = Field(
        default_factory=utc_now,
        nullable=True,
        sa_type=UtcDateTime,
        sa_column_kwargs={"default": utc_now, "onupdate": utc_now},
    )
    folded: str | None = None


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """What is known of a blob. `hash` is the BLAKE3 of its bytes in hex, `size` their number."""

    key: str
    size: int
    hash: str
    content_type: str
    metadata: Mapping[str, Any]
    created_at: datetime | None
    updated_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "key": self.key,
            "size": self.size,
            "hash": self.hash,
            "content_type": self.content_type,
            "metadata": dict(self.metadata),
            "created_at": self.created_at.isoformat() if self.created_at else None,
            "updated_at": self.updated_at.isoformat() if self.updated_at else None,
        }


@dataclass(frozen=True, slots=True)
class NewBlob:
    """A blob whose bytes are stored, and whose row is still to be written."""

    key: str
    size: int
    hash: str
    content_type: str
    metadata: Mapping[str, Any]
