"""What a list of tickets can be narrowed by, and where a page of it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from localstore.errors import ConfigurationError
from localstore.helpdesk.models import Ticket
from localstore.identifiers import preview

NAMES: Final = ("status", "priority", "assignee_email", "is_processed", "date_range")

Choice = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class TicketFilters:
    """The conditions that a ticket has to meet, all of them; None is no condition.

    A ticket meets a choice when its value is one of those named, None among them meaning that there is no value; an
    empty choice is met by no ticket. Both ends of the range of `created_at` belong to it.
    """

    status: Choice | None = None
    priority: Choice | None = None
    assignee_email: Choice | None = None
    is_processed: bool | None = None
    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def read(cls, given: Mapping[str, Any] | TicketFilters | None) -> TicketFilters:
        """Read filters as `get_tickets` takes them; raises ConfigurationError for one that is not known."""
        if isinstance(given, TicketFilters):
            return given
        given = given or {}
        unknown = sorted(str(name) for name in given if name not in NAMES)
        if unknown:
            raise ConfigurationError(
                f"tickets cannot be filtered by {preview(unknown[0])}", hint=f"filter by any of {', '.join(NAMES)}"
            )
        processed = given.get("is_processed")
        if processed is not None and not isinstance(processed, bool):
            raise ConfigurationError(f"is_processed cannot be {preview(processed)}", hint="give True or False")
        since, until = _range(given.get("date_range"))
        return cls(
            status=_choice("status", given.get("status")),
            priority=_choice("priority", given.get("priority")),
            assignee_email=_choice("assignee_email", given.get("assignee_email")),
            is_processed=processed,
            since=since,
            until=until,
        )


@dataclass(frozen=True, slots=True)
class After:
    """The last ticket of the page before, by what the list is ordered by."""

    created_at: datetime | None
    ticket_id: str

    @classmethod
    def read(cls, given: After | Ticket | None) -> After | None:
        """Return where the page after a ticket begins."""
        if isinstance(given, Ticket):
            return cls(given.created_at, given.ticket_id)
        return given


def moment(value: datetime | str) -> datetime:
    """Return a moment in UTC; one without a time zone is taken as UTC. Raises ValueError for what is none."""
    read = datetime.fromisoformat(value) if isinstance(value, str) else value
    return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)


def is_unicode(text: str) -> bool:
    """Return whether the text can be written as UTF-8; no row has one that holds a lone surrogate."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _choice(name: str, given: Any) -> Choice | None:
    if given is None:
        return None
    named = (given,) if isinstance(given, str) else tuple(given)
    wrong = [value for value in named if not isinstance(value, str | None)]
    if wrong:
        raise ConfigurationError(
            f"{name} cannot be {preview(wrong[0])}", hint=f"give the texts of {name} to choose, or one"
        )
    return tuple(value for value in dict.fromkeys(named) if value is None or is_unicode(value))


def _range(given: Any) -> tuple[datetime | None, datetime | None]:
    if given is None:
        return None, None
    hint = "give a mapping with 'start' and 'end', or one of them, as datetimes or in ISO 8601"
    if not isinstance(given, Mapping) or not given.keys() <= {"start", "end"}:
        raise ConfigurationError(f"date_range cannot be {preview(given)}", hint=hint)
    ends = []
    for value in (given.get("start"), given.get("end")):
        try:
            ends.append(None if value is None else moment(value))
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise ConfigurationError(f"date_range cannot hold {preview(value)}", hint=hint) from error
    return ends[0], ends[1]
