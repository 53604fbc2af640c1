"""Single values of a payload, read with care: text, numbers, times, people."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from localstore.moments import read_time

_SURROGATE = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody named in a payload."""

    name: str | None = None
    email: str | None = None


NOBODY = Person()


def storable(text: str) -> str:
    """Return the text with U+FFFD for each lone surrogate, which no UTF-8 file can hold."""
    return text if text.isascii() else _SURROGATE.sub(REPLACEMENT, text)


def storable_json(value: Any) -> Any:
    """Return a JSON value with `storable` done to every text in it."""
    match value:
        case str():
            return storable(value)
        case list():
            return [storable_json(item) for item in value]
        case dict():
            return {storable(name): storable_json(item) for name, item in value.items()}
        case _:
            return value


def text_of(value: Any) -> str | None:
    """Return a text, or None for anything else."""
    return storable(value) if isinstance(value, str) else None


def word_of(value: Any) -> str | None:
    """Return a short text; a whole number is written out, anything else is None."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_of(value)


def first_text(payload: Mapping[str, Any], *names: str) -> str | None:
    """Return the first of these members that is a text."""
    for name in names:
        if (text := text_of(payload.get(name))) is not None:
            return text
    return None


def object_of(value: Any) -> dict[str, Any]:
    """Return an object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def time_of(value: Any) -> datetime | None:
    """Return an ISO 8601 time in UTC; without an offset it is taken as UTC. Anything else is None."""
    if isinstance(value, datetime):
        moment = value
    else:
        return read_time(value) if isinstance(value, str) else None
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        return None


def time_text(moment: datetime) -> str:
    """Return a time as ISO 8601 in UTC."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def person_of(value: Any, people: Mapping[str, Mapping[str, Any]] | None = None) -> Person:
    """Return who a payload names: by an object, by `Name <mail>`, or by a number found in `people`."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = (people or {}).get(str(value))
    if isinstance(value, str):
        return _person_of_text(storable(value.strip()))
    if not isinstance(value, Mapping):
        return NOBODY
    return Person(
        first_text(value, "displayName", "display_name", "name", "full_name"),
        first_text(value, "email", "emailAddress", "email_address"),
    )


def _person_of_text(text: str) -> Person:
    name, email = "", text
    if text.endswith(">"):
        name, _, email = text[:-1].rpartition("<")
    if "@" in email and len(email.split()) == 1:
        return Person(name.strip(' "') or None, email.strip())
    return Person(text or None)


def people_by_id(people: Any) -> dict[str, Mapping[str, Any]]:
    """Return a payload's list of people by their id."""
    if not isinstance(people, Sequence) or isinstance(people, str):
        return {}
    return {str(person["id"]): person for person in people if isinstance(person, dict) and "id" in person}
