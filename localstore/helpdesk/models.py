"""The tables of the help desk: tickets, their conversations, the knowledge base, processing progress."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID, uuid5

from sqlalchemy import DDL, ForeignKeyConstraint, Index, event, text
from sqlmodel import Field

from localstore.columns import JSONText, UtcDateTime
from localstore.models import TenantModel
from localstore.moments import otherwise

# Names below this one are the natural keys of help-desk rows; it must never change, or ids would.
_NAMESPACE = UUID("8f0c1d6e-5a3b-4b7e-9c43-2f6a7d1e90b5")

PENDING = "pending"


def natural_id(table: str, *key: str) -> UUID:
    """Return the id of a row by its table and natural key, the same on every box."""
    return uuid5(_NAMESPACE, "\0".join((table, *key)))


class NaturalModel(TenantModel):
    """A row with a natural key, `__key__`: its `id` follows from it as soon as the last part is known."""

    __key__: ClassVar[tuple[str, ...]] = ()

    id: UUID = Field(default=None, nullable=True)
    platform: str = Field(primary_key=True)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set the attribute, and with a part of the key the id too."""
        if name == "id" and value is None:
            value = self._natural_id()
        super().__setattr__(name, value)
        if name in self.__key__ and (natural := self._natural_id()) is not None:
            super().__setattr__("id", natural)

    def _natural_id(self) -> UUID | None:
        parts = [getattr(self, name, None) for name in self.__key__]
        return natural_id(str(self.__tablename__), *map(str, parts)) if all(parts) else None


class Ticket(NaturalModel, table=True):
    """A ticket. `raw_data` is the help desk's payload unaltered, `raw_summary` the same for an imported summary."""

    __key__: ClassVar[tuple[str, ...]] = ("company_id", "platform", "ticket_id")
    __tablename__: ClassVar[Any] = "tickets"
    __table_args__ = (
        Index("ix_tickets_status", "company_id", "platform", "status", "created_at"),
        Index("ix_tickets_priority", "company_id", "platform", "priority", "created_at"),
        Index("ix_tickets_assignee", "company_id", "platform", "assignee_email", "created_at"),
        Index("ix_tickets_processed", "company_id", "platform", "is_processed", "created_at"),
        Index("ix_tickets_processing_status", "company_id", "platform", "processing_status", "created_at"),
        Index("ix_tickets_created_at", "company_id", "platform", "created_at"),
        # Of a file alone, and nearly always empty: it finds the times that the other indexes do not have in order.
        Index(
            "ix_tickets_otherwise",
            "company_id",
            "platform",
            "created_at",
            "ticket_id",
            sqlite_where=text(otherwise("created_at")),
        ),
    )

    ticket_id: str = Field(primary_key=True)
    title: str | None = None
    description: str | None = None
    status: str | None = None
    priority: str | None = None
    requester_name: str | None = None
    requester_email: str | None = None
    assignee_name: str | None = None
    assignee_email: str | None = None
    tags: Any = Field(default=None, nullable=True, sa_type=JSONText)
    custom_fields: Any = Field(default=None, nullable=True, sa_type=JSONText)
    summary: Any = Field(default=None, nullable=True, sa_type=JSONText)
    is_processed: bool | None = Field(default=False)
    raw_data: Any = Field(default=None, nullable=True, sa_type=JSONText)
    processed_data: Any = Field(default=None, nullable=True, sa_type=JSONText)
    processing_status: str | None = Field(default=PENDING)
    raw_summary: Any = Field(default=None, nullable=True, sa_type=JSONText)


class Conversation(NaturalModel, table=True):
    """One message of a ticket: `message_type` is public, private or note, `author_type` agent, customer or system."""

    __key__: ClassVar[tuple[str, ...]] = ("company_id", "platform", "ticket_id", "conversation_id")
    __tablename__: ClassVar[Any] = "conversations"
    __table_args__ = (
        ForeignKeyConstraint(
            ("company_id", "platform", "ticket_id"),
            ("tickets.company_id", "tickets.platform", "tickets.ticket_id"),
            name="fk_conversations_ticket",
            ondelete="CASCADE",
        ),
        Index("ix_conversations_type", "company_id", "platform", "message_type"),
        Index("ix_conversations_author", "company_id", "platform", "author_email"),
    )

    ticket_id: str = Field(primary_key=True)
    conversation_id: str = Field(primary_key=True)
    content: str | None = None
    message_type: str | None = None
    author_name: str | None = None
    author_email: str | None = None
    author_type: str | None = None
    attachments: Any = Field(default=None, nullable=True, sa_type=JSONText)


class KnowledgeArticle(NaturalModel, table=True):
    """An article of the knowledge base."""

    __key__: ClassVar[tuple[str, ...]] = ("company_id", "platform", "article_id")
    __tablename__: ClassVar[Any] = "knowledge_base"
    __table_args__ = (Index("ix_knowledge_base_created_at", "company_id", "platform", "created_at"),)

    article_id: str = Field(primary_key=True)
    title: str | None = None
    content: str | None = None
    summary: Any = Field(default=None, nullable=True, sa_type=JSONText)
    raw_data: Any = Field(default=None, nullable=True, sa_type=JSONText)
    raw_summary: Any = Field(default=None, nullable=True, sa_type=JSONText)


class ProcessingProgress(NaturalModel, table=True):
    """How far the processing of a platform's items has come."""

    __key__: ClassVar[tuple[str, ...]] = ("company_id", "platform")
    __tablename__: ClassVar[Any] = "processing_progress"

    total_items: int | None = Field(default=0)
    processed_items: int | None = Field(default=0)
    failed_items: int | None = Field(default=0)
    progress_percentage: float | None = Field(default=0.0)
    last_updated: datetime | None = Field(default=None, sa_type=UtcDateTime)
    raw_data: Any = Field(default=None, nullable=True, sa_type=JSONText)


# A shell that has foreign keys off (its default) would leave the messages of a deleted ticket behind.
event.listen(
    Conversation.metadata.tables["conversations"],
    "after_create",
    DDL(  # type: ignore[no-untyped-call]
        "CREATE TRIGGER IF NOT EXISTS tickets_delete_conversations AFTER DELETE ON tickets BEGIN "
        "DELETE FROM conversations WHERE company_id = OLD.company_id AND platform = OLD.platform "
        "AND ticket_id = OLD.ticket_id; END"
    ).execute_if(dialect="sqlite"),
)
