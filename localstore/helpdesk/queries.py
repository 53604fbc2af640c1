"""The queries of the help desk, written once for SQLite and Postgres; each is led by company and platform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import ColumnElement, CompoundSelect, Select, case, collate, func, literal_column, or_, union_all
from sqlalchemy import select as select_columns
from sqlalchemy.orm import aliased
from sqlmodel import select

from localstore.helpdesk.filters import After, Choice, TicketFilters
from localstore.helpdesk.models import Conversation, Ticket

TICKETS: Final = Ticket.metadata.tables["tickets"].c
CONVERSATIONS: Final = Conversation.metadata.tables["conversations"].c

STATUS: Final = "status"
PRIORITY: Final = "priority"
ASSIGNEE: Final = "assignee_email"
PROCESSED: Final = "processed"
YES: Final = "yes"

ALTERNATIVES_MAX: Final = 16
"""Of more values than these most pages hold none, and each costs a search."""

OFFSET_MAX: Final = 10_000
"""Further on, a page of each of several values would hold more tickets than one walk over all of them reads."""

# Written as equality, since that is what both databases look up in an index.
_PROCESSED: Final = TICKETS.is_processed == literal_column("true")
_UNPROCESSED: Final = (TICKETS.is_processed == literal_column("false"), TICKETS.is_processed.is_(None))


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
    here = (*place.holds(TICKETS), *(() if after is None else _following(place, after)))
    kinds, rest = _alternatives(filters)
    if limit is None or offset > OFFSET_MAX or not 1 < len(kinds) <= ALTERNATIVES_MAX:
        return _ordered(place, select(Ticket).where(*here, *_conditions(filters)), TICKETS, limit, offset)
    # An index has the tickets of one status in their order, but not those of two: each gives a page of its own.
    wanted = [select_columns(*TICKETS).where(*here, kind, *_conditions(rest)) for kind in kinds]
    pages = [_ordered(place, tickets, TICKETS, limit + offset).subquery() for tickets in wanted]
    found = union_all(*map(select_columns, pages)).subquery()
    return _ordered(place, select(aliased(Ticket, found)), found.c, limit, offset)


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


def _ordered(place: Place, statement: Select[Any], columns: Any, limit: int | None, offset: int = 0) -> Select[Any]:
    statement = statement.order_by(columns.created_at.desc().nulls_first(), place.by_bytes(columns.ticket_id))
    if limit is not None:
        statement = statement.limit(limit)
    return statement.offset(offset) if offset else statement


def _alternatives(filters: TicketFilters) -> tuple[Sequence[ColumnElement[bool]], TicketFilters]:
    """Return what one filter lets through as conditions of which a ticket meets at most one, and the other filters.

    Of several filters it is the one that tells most tickets apart.
    """
    for name in (ASSIGNEE, STATUS, PRIORITY):
        choice: Choice = getattr(filters, name) or ()
        if len(choice) > 1:
            return [_is_one_of(TICKETS[name], (value,)) for value in choice], replace(filters, **{name: None})
    if filters.is_processed is False:
        return _UNPROCESSED, replace(filters, is_processed=None)
    return (), filters


def _conditions(filters: TicketFilters) -> list[ColumnElement[bool]]:
    choices = ((name, getattr(filters, name)) for name in (STATUS, PRIORITY, ASSIGNEE))
    conditions = [_is_one_of(TICKETS[name], choice) for name, choice in choices if choice is not None]
    if filters.is_processed is not None:
        conditions.append(_PROCESSED if filters.is_processed else or_(*_UNPROCESSED))
    if filters.since is not None:
        conditions.append(TICKETS.created_at >= filters.since)
    if filters.until is not None:
        conditions.append(TICKETS.created_at <= filters.until)
    return conditions


def _is_one_of(column: Any, choice: Choice) -> ColumnElement[bool]:
    if choice == (None,):
        absent: ColumnElement[bool] = column.is_(None)
        return absent
    present: ColumnElement[bool] = column.in_([value for value in choice if value is not None])
    return or_(present, column.is_(None)) if None in choice else present


def _following(place: Place, after: After) -> tuple[ColumnElement[bool], ...]:
    later_id = place.by_bytes(TICKETS.ticket_id) > after.ticket_id
    if after.created_at is None:
        return (or_(TICKETS.created_at.is_not(None), later_id),)
    # The first condition says nothing that the second does not, but only the first is one that an index understands.
    return TICKETS.created_at <= after.created_at, or_(TICKETS.created_at < after.created_at, later_id)
