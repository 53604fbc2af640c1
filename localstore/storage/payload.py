"""Payloads on their way in: what every backend can hold, checked before any of them is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from localstore.columns import dump_json, parse_json
from localstore.errors import ConfigurationError, InvalidRow
from localstore.identifiers import preview
from localstore.interchange.items import ItemKind
from localstore.interchange.layout import DOCUMENT_BYTES_MAX
from localstore.interchange.mapping import ID_CHARACTERS_MAX, BadIdentifier, Columns, MappedTicket
from localstore.schema.tables import address

INDEXED_BYTES_MAX = 1024
"""An entry of a Postgres index holds 2,704 bytes, of which company, platform and overhead take a part."""

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

# Postgres keeps a number's digits but not its exponent, so that 1e16 would come back as an integer.
_LARGE = re.compile(r"[0-9][eE]\+?[0-9]")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?[eE]\+?[0-9]+')


@dataclass(frozen=True, slots=True)
class Incoming:
    """A payload that every backend can hold: its id, its text, and what that means for the columns."""

    item_id: str
    text: str = field(repr=False)
    payload: dict[str, Any] = field(repr=False)
    mapped: MappedTicket = field(repr=False)


def read_payload(kind: ItemKind, platform: str, payload: Mapping[str, Any]) -> Incoming:
    """Return what is to be stored for a payload; raises InvalidRow for what cannot be."""
    what = kind.rows.table.name
    if not isinstance(payload, Mapping):
        raise InvalidRow(f"a payload for {what} is a {type(payload).__name__}, not an object", hint="pass a dict")
    text = write_json(dict(payload), what)
    parsed = parse_json(text)
    item_id = _identify(kind, parsed) if kind.has_id else platform
    row = address(what, (platform, item_id))
    mapped = kind.map(parsed, platform)
    for columns in (mapped.columns, *mapped.conversations.values()):
        check_indexed(columns, row)
    return Incoming(item_id, text, parsed, mapped)


def write_json(value: Any, what: str) -> str:
    """Return a value as JSON text that SQLite and jsonb both keep; `what` names it in errors."""
    try:
        text = dump_json(value)
        # The parser that is strict about surrogates; the writer escapes lone ones.
        orjson.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise _refused(what, f"is not JSON that can be stored ({_reason(error)})") from error
    if _NUL.search(text):
        raise _refused(what, "holds U+0000, which production cannot hold")
    if len(text) > DOCUMENT_BYTES_MAX // 4 and len(text.encode()) >= DOCUMENT_BYTES_MAX:
        raise _refused(what, f"is larger than {DOCUMENT_BYTES_MAX >> 20} MiB")
    return _TOKEN.sub(_written_out, text) if _LARGE.search(text) else text


def normal(value: Any, what: str) -> Any:
    """Return a JSON value as it is read back; raises InvalidRow for one that cannot be stored."""
    return None if value is None else parse_json(write_json(value, what))


def check_status(status: object) -> str:
    """Return a processing status that can be stored, or raise InvalidRow."""
    if not isinstance(status, str) or not is_storable(status):
        raise InvalidRow(
            f"the processing status cannot be {preview(status)}", hint="use a short word such as completed"
        )
    check_indexed({"processing_status": status}, "tickets")
    return status


def check_page(limit: int | None, offset: int) -> None:
    """Raise ConfigurationError for a page that cannot be."""
    for name, value in (("limit", limit), ("offset", offset)):
        if value is not None and not 0 <= value < 2**62:
            raise ConfigurationError(f"{name} cannot be {preview(value)}", hint=f"give a {name} of 0 or more")


def key_of(item_id: object) -> str | None:
    """Return an id as it is stored (numbers as their digits), or None where no row can have it."""
    if isinstance(item_id, int) and not isinstance(item_id, bool):
        return str(item_id)
    fits = isinstance(item_id, str) and item_id.strip() and item_id.isprintable() and len(item_id) <= ID_CHARACTERS_MAX
    return str(item_id) if fits else None


def is_storable(text: str) -> bool:
    """Return whether a column can hold the text at all; one that none can hold is found nowhere."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_indexed(columns: Columns, row: str) -> None:
    """Raise InvalidRow for a text that is too long for the index over its column."""
    for name in _INDEXED & columns.keys():
        value = columns[name]
        if isinstance(value, str) and len(value.encode()) > INDEXED_BYTES_MAX:
            raise _refused(row, f"has a {name} of more than {INDEXED_BYTES_MAX} bytes")


_INDEXED = frozenset({"status", "priority", "assignee_email", "processing_status", "author_email"})


def _identify(kind: ItemKind, payload: Mapping[str, Any]) -> str:
    names = (kind.id_column, "key", "id")
    what = kind.rows.table.name
    if not any(_says_something(payload.get(name)) for name in names):
        raise _refused(what, f"names no id: it has neither {', '.join(names[:-1])} nor {names[-1]}")
    try:
        return kind.identify(payload, "")
    except BadIdentifier as error:
        raise _refused(what, f"names no usable id: {error}") from error


def _says_something(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value != "")


def _refused(what: str, why: str) -> InvalidRow:
    return InvalidRow(f"the payload for {what} {why}", hint="correct the payload and save it again", row=what)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error).split("\n", 1)[0][:200]


def _written_out(token: re.Match[str]) -> str:
    text = token.group()
    if text[0] == '"':
        return text
    number = float(text)
    return f"{int(number)}.0" if number.is_integer() else text
