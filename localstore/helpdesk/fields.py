"""What may be written to a ticket's columns: the same on every backend, judged before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Boolean

from localstore.columns import JSONText, UtcDateTime, dump_json
from localstore.errors import InvalidRow, WrongTenant
from localstore.helpdesk.filters import moment
from localstore.helpdesk.models import Ticket
from localstore.identifiers import preview
from localstore.schema.tables import address

COLUMNS: Final = {column.name: column for column in Ticket.metadata.tables["tickets"].columns}
KEY: Final = ("company_id", "platform", "ticket_id")


def values_of(data: Mapping[str, Any], key: Mapping[str, str]) -> dict[str, Any]:
    """Return the columns to write, without those of the key.

    Raises InvalidRow for a column that tickets do not have or a value that it cannot hold, and WrongTenant for data
    that names another company.
    """
    values = {}
    for name, value in data.items():
        if name in KEY:
            _refuse_other_key(name, value, key)
        elif name not in COLUMNS or name == "id":
            raise _invalid(key, f"tickets have no column {preview(name)} to write")
        else:
            values[name] = _value(name, value, key)
    return values


def taken(platform: str, ticket_id: str, company_id: str) -> InvalidRow:
    """Return the error that the ticket is there already."""
    row = address("tickets", (platform, ticket_id))
    return InvalidRow(f"{row} is there already", hint="update it instead", tenant=company_id, row=row)


def invalid(platform: str, ticket_id: str, reason: str) -> InvalidRow:
    """Return the error that a ticket cannot be written."""
    row = address("tickets", (platform, ticket_id))
    return InvalidRow(f"{row} cannot be written: {reason}", hint="correct the data and write it again", row=row)


def _value(name: str, value: Any, key: Mapping[str, str]) -> Any:
    kind = COLUMNS[name].type
    if value is None:
        return None
    try:
        if isinstance(kind, JSONText):
            dump_json(value)
            return value
        if isinstance(kind, UtcDateTime):
            return moment(value)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise _invalid(key, f"{name} cannot be {preview(value)}") from error
    if not isinstance(value, bool if isinstance(kind, Boolean) else str):
        raise _invalid(key, f"{name} cannot be {preview(value)}")
    return value


def _refuse_other_key(name: str, value: Any, key: Mapping[str, str]) -> None:
    if value == key[name]:
        return
    if name == "company_id":
        raise WrongTenant(
            f"the ticket's data name company {preview(value)}, not {key[name]}",
            hint="leave the company out of the data",
            tenant=key[name],
        )
    raise _invalid(key, f"{name} cannot become {preview(value)}, since it names the ticket")


def _invalid(key: Mapping[str, str], reason: str) -> InvalidRow:
    return invalid(key["platform"], key["ticket_id"], reason)
