"""Quote identifiers and literals for SQL text, in the one way that SQLite and Postgres share."""

from __future__ import annotations

from localstore.errors import InvalidIdentifier


def quote_identifier(name: str) -> str:
    """Return `name` as a quoted identifier, for SQLite and Postgres alike.

    A name may hold anything but NUL, which neither can take; quotes are doubled. Postgres cuts names after 63 bytes:
    who makes a name sees to its length. Several parts are joined by the caller: `f"{quote_identifier(schema)}.{…}"`.
    """
    if "\0" in name:
        raise InvalidIdentifier("a name holds a NUL character", hint="rename it; no database takes such a name")
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Return `text` as a string literal, for the few statements that cannot bind a value, such as CREATE ROLE.

    A text with a backslash becomes an `E''` string, which only Postgres reads, so that its meaning does not hang on
    `standard_conforming_strings`.
    """
    if "\0" in text:
        raise InvalidIdentifier("a literal holds a NUL character", hint="remove it; Postgres takes no such text")
    quoted = "'" + text.replace("'", "''").replace("\\", "\\\\") + "'"
    return f"E{quoted}" if "\\" in text else quoted
