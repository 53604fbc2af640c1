"""The queries of the help desk, written once for SQLite and Postgres; each is led by company and platform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Select,
    and_,
    case,
    collate,
    func,
    literal_column,
    or_,
    text,
    true,
    union_all,
)
from sqlalchemy import select as select_columns
from sqlalchemy.orm import aliased
from sqlmodel import select

from localstore.columns import UtcDateTime
from localstore.helpdesk.filters import After, Choice, TicketFilters
from localstore.helpdesk.models import Conversation, Ticket
from localstore.moments import moment_of, ordered, otherwise

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

_TIME: Final = "created_at"
_MOMENT: Final = "moment"
# As text, since SQLAlchemy would have SQLite compare a condition with 1, and not find the index that has it.
_OTHERWISE: Final = text(otherwise(_TIME))
_IN_ORDER: Final = text(f"NOT ({otherwise(_TIME)})")
_ALL_OF_THEM: Final = -1
"""As a limit it keeps SQLite from seeking by what is asked of these rows: they are few, whatever that is."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where to look: a company's platform, in a database that calls comparison by bytes `collation`.

    `spelled` says that times are texts there, which other tools may have spelled otherwise than we do.
    """

    company_id: str
    platform: str
    collation: str
    spelled: bool

    def holds(self, columns: Any) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        """Return the conditions under which a row is here; every index of ours begins with these columns."""
        return columns.company_id == self.company_id, columns.platform == self.platform

    def by_bytes(self, column: Any) -> ColumnElement[Any]:
        """Return a text column ordered by its bytes, as SQLite does and Postgres does not in every locale."""
        return collate(column, self.collation)


def spelled_otherwise(place: Place) -> Select[Any]:
    """Return the query of whether a ticket's time is none of those that an index has in order; it gives a row or none.

    Only the index of such tickets has all that it asks for.
    """
    return select_columns(TICKETS.ticket_id).where(*place.holds(TICKETS), _OTHERWISE).limit(1)


def page(
    place: Place, filters: TicketFilters, *, limit: int | None, offset: int, after: After | None, mixed: bool
) -> Select[Any]:
    """Return the query of one page of tickets: the newest first, those without a date before them.

    Postgres keeps absent values last in an index, so they come first where it is read backwards; that order is the
    one which both databases take straight from the index. `mixed` says that some times are not in the index's order.
    """
    kinds, rest = _alternatives(filters)
    if limit is None or offset > OFFSET_MAX or not 1 < len(kinds) <= ALTERNATIVES_MAX:
        kinds, rest = (), filters
    here = (*place.holds(TICKETS), *_wanted(place, TICKETS, TICKETS.created_at, rest, after))
    if not kinds and not mixed:
        return _ordered(place, select(Ticket).where(*here), TICKETS, TICKETS.created_at, limit, offset)
    # An index has the tickets of one status in their order, but not those of two: each gives a page of its own.
    end = None if limit is None else limit + offset
    # Written out, since a label of the column itself would be taken for the column that a ticket is read from.
    moments = literal_column(_TIME, UtcDateTime()).label(_MOMENT)
    tickets = select_columns(*TICKETS, moments).where(*here, *([_IN_ORDER] if mixed else ()))
    pages = [
        _ordered(place, tickets.where(kind), TICKETS, TICKETS.created_at, end).subquery() for kind in kinds or (true(),)
    ]
    parts = [select_columns(part) for part in pages]
    if mixed:
        parts.append(_spelled_otherwise(place, filters, after))
    found = union_all(*parts).subquery()
    return _ordered(place, select(aliased(Ticket, found)), found.c, found.c[_MOMENT], limit, offset)


def ticket(place: Place, ticket_id: str) -> Select[Any]:
    """Return the query of the ticket with this id."""
    return select(Ticket).where(*place.holds(TICKETS), TICKETS.ticket_id == ticket_id)


def conversations(place: Place, ticket_ids: Sequence[str]) -> Select[Any]:
    """Return the query of all messages of these tickets, the oldest first."""
    # A ticket's messages are sorted in any case, so that each may be asked for its moment.
    moment = literal_column(ordered("conversations.created_at")) if place.spelled else CONVERSATIONS.created_at
    order = (moment.asc().nulls_first(), place.by_bytes(CONVERSATIONS.conversation_id))
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


def _spelled_otherwise(place: Place, filters: TicketFilters, after: After | None) -> Select[Any]:
    """Return the query of the tickets whose times no index has in order, each with its moment."""
    moments = literal_column(moment_of(_TIME), UtcDateTime()).label(_MOMENT)
    # Found by their ids alone, which only the index of such tickets has beside their times, and joined so that SQLite
    # cannot begin with any other index.
    ids = select_columns(TICKETS.ticket_id.label("other_id")).where(*place.holds(TICKETS), _OTHERWISE).subquery()
    joined = ids.outerjoin(
        Ticket.metadata.tables["tickets"], and_(*place.holds(TICKETS), TICKETS.ticket_id == ids.c[0])
    )
    tickets = select_columns(*TICKETS, moments).select_from(joined).limit(_ALL_OF_THEM).subquery()
    return select_columns(tickets).where(*_wanted(place, tickets.c, tickets.c[_MOMENT], filters, after))


def _ordered(
    place: Place, statement: Select[Any], columns: Any, moment: Any, limit: int | None, offset: int = 0
) -> Select[Any]:
    statement = statement.order_by(moment.desc().nulls_first(), place.by_bytes(columns.ticket_id))
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
        return _unprocessed(TICKETS), replace(filters, is_processed=None)
    return (), filters


def _wanted(
    place: Place, columns: Any, moment: Any, filters: TicketFilters, after: After | None
) -> list[ColumnElement[bool]]:
    conditions = [] if after is None else list(_following(place, columns, moment, after))
    choices = ((name, getattr(filters, name)) for name in (STATUS, PRIORITY, ASSIGNEE))
    conditions += [_is_one_of(columns[name], choice) for name, choice in choices if choice is not None]
    if filters.is_processed is not None:
        conditions.append(_processed(columns) if filters.is_processed else or_(*_unprocessed(columns)))
    if filters.since is not None:
        conditions.append(moment >= filters.since)
    if filters.until is not None:
        conditions.append(moment <= filters.until)
    return conditions


# Written as equality, since that is what both databases look up in an index.
def _processed(columns: Any) -> ColumnElement[bool]:
    processed: ColumnElement[bool] = columns.is_processed == literal_column("true")
    return processed


def _unprocessed(columns: Any) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return columns.is_processed == literal_column("false"), columns.is_processed.is_(None)


def _is_one_of(column: Any, choice: Choice) -> ColumnElement[bool]:
    if choice == (None,):
        absent: ColumnElement[bool] = column.is_(None)
        return absent
    present: ColumnElement[bool] = column.in_([value for value in choice if value is not None])
    return or_(present, column.is_(None)) if None in choice else present


def _following(place: Place, columns: Any, moment: Any, after: After) -> tuple[ColumnElement[bool], ...]:
    later_id = place.by_bytes(columns.ticket_id) > after.ticket_id
    if after.created_at is None:
        return (or_(moment.is_not(None), later_id),)
    # The first condition says nothing that the second does not, but only the first is one that an index understands.
    return moment <= after.created_at, or_(moment < after.created_at, later_id)
