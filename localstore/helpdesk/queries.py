"""The queries of the help desk, written once for SQLite and Postgres; each is led by company and platform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, CompoundSelect, Select, case, collate, func, literal_column, or_, union_all
from sqlmodel import select

from localstore.helpdesk.filters import After, Choice, TicketFilters
from localstore.helpdesk.models import Conversation, Ticket

TICKETS: Final = Ticket.metadata.tables["tickets"].c
CONVERSATIONS: Final = Conversation.metadata.tables["conversations"].c

STATUS: Final = "status"
PRIORITY: Final = "priority"
PROCESSED: Final = "processed"
YES: Final = "yes"


@dataclass(frozen=True, slots=True)
class Place:
    """Where to look: a company's platform, in a database that calls comparison by bytes `collation`."""

    company_id: str
    platform: str
    collation: str

    def holds(self, columns: Any) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        """Return the conditions under which a row is here; every index of ours begins with these columns."""
        return columns.company_id == self.company_id, columns.platform == self.platform

    def by_bytes(self, column: Any) -> ColumnElement[Any]:
        """Return a text column ordered by its bytes, as SQLite does and Postgres does not in every locale."""
        return collate(column, self.collation)


def page(place: Place, filters: TicketFilters, *, limit: int | None, offset: int, after: After | None) -> Select[Any]:
    """Return the query of one page of tickets: the newest first, those without a date before them.

    Postgres keeps absent values last in an index, so they come first where it is read backwards; that order is the
    one which both databases take straight from the index.
    """
    statement = select(Ticket).where(*place.holds(TICKETS), *_conditions(filters))
    if after is not None:
        statement = statement.where(*_following(place, after))
    statement = statement.order_by(TICKETS.created_at.desc().nulls_first(), place.by_bytes(TICKETS.ticket_id))
    if limit is not None:
        statement = statement.limit(limit)
    return statement.offset(offset) if offset else statement


def ticket(place: Place, ticket_id: str) -> Select[Any]:
    """Return the query of the ticket with this id."""
    return select(Ticket).where(*place.holds(TICKETS), TICKETS.ticket_id == ticket_id)


def conversations(place: Place, ticket_ids: Sequence[str]) -> Select[Any]:
    """Return the query of all messages of these tickets, the oldest first."""
    order = (CONVERSATIONS.created_at.asc().nulls_first(), place.by_bytes(CONVERSATIONS.conversation_id))
    return (
        select(Conversation)
        .where(*place.holds(CONVERSATIONS), CONVERSATIONS.ticket_id.in_(ticket_ids))
        .order_by(*order)
    )


def statistics(place: Place) -> CompoundSelect[Any]:
    """Return the one query of how many tickets there are by status, by priority and by being processed.

    Three counts over three indexes read nothing else; one pass over the table would read every ticket's texts.
    """
    processed = case((TICKETS.is_processed, literal_column(f"'{YES}'")), else_=literal_column("'no'"))
    counted = (
        (STATUS, TICKETS.status, TICKETS.status),
        (PRIORITY, TICKETS.priority, TICKETS.priority),
        (PROCESSED, processed, TICKETS.is_processed),
    )
    return union_all(
        *(
            select(literal_column(f"'{name}'").label("name"), value.label("value"), func.count().label("tickets"))
            .where(*place.holds(TICKETS))
            .group_by(column)
            for name, value, column in counted
        )
    )


def _conditions(filters: TicketFilters) -> list[ColumnElement[bool]]:
    conditions = [
        _is_one_of(column, choice)
        for column, choice in (
            (TICKETS.status, filters.status),
            (TICKETS.priority, filters.priority),
            (TICKETS.assignee_email, filters.assignee_email),
        )
        if choice is not None
    ]
    if filters.is_processed is not None:
        # Written as equality, since that is what both databases look up in an index.
        conditions.append(
            TICKETS.is_processed == literal_column("true")
            if filters.is_processed
            else or_(TICKETS.is_processed == literal_column("false"), TICKETS.is_processed.is_(None))
        )
    if filters.since is not None:
        conditions.append(TICKETS.created_at >= filters.since)
    if filters.until is not None:
        conditions.append(TICKETS.created_at <= filters.until)
    return conditions


def _is_one_of(column: Any, choice: Choice) -> ColumnElement[bool]:
    present: ColumnElement[bool] = column.in_([value for value in choice if value is not None])
    return or_(present, column.is_(None)) if None in choice else present


def _following(place: Place, after: After) -> tuple[ColumnElement[bool], ...]:
    later_id = place.by_bytes(TICKETS.ticket_id) > after.ticket_id
    if after.created_at is None:
        return (or_(TICKETS.created_at.is_not(None), later_id),)
    # The first condition says nothing that the second does not, but only the first is one that an index understands.
    return TICKETS.created_at <= after.created_at, or_(TICKETS.created_at < after.created_at, later_id)
