"""SQLAlchemy Core on a connection that somebody else holds: it compiles and converts, the holder commits."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import local
from typing import TYPE_CHECKING, Any

from localstore.moments import MOMENT, moment_text

if TYPE_CHECKING:
    import sqlalchemy

_here = local()


class _Borrowed:
    """A connection seen by SQLAlchemy, whose transaction and whose end are not SQLAlchemy's business."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def create_function(self, *_arguments: Any, **_options: Any) -> None:
        """Leave the functions as they are: every connection of ours has them already."""

    def commit(self) -> None:
        """Leave the commit to the holder."""

    def rollback(self) -> None:
        """Leave the rollback to the holder."""

    def close(self) -> None:
        """Leave the connection to the holder."""


@cache
def _engine() -> sqlalchemy.Engine:
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    # One engine for all tenants, so that a statement is compiled once however many tenants run it.
    return sqlalchemy.create_engine("sqlite+pysqlite://", creator=lambda: _here.connection, poolclass=NullPool)


@contextmanager
def borrowed(connection: sqlite3.Connection) -> Iterator[sqlalchemy.Connection]:
    """Lend `connection`, in the transaction that it is in, to SQLAlchemy."""
    _here.connection = _Borrowed(connection)
    try:
        with _engine().connect() as borrower:
            yield borrower
    finally:
        del _here.connection


def matches(pattern: str, text: str | None) -> bool | None:
    """Return whether `text` holds the pattern: SQL's REGEXP as SQLAlchemy's `regexp_match` expects it."""
    return None if text is None else re.search(pattern, str(text)) is not None


def add_functions(connection: sqlite3.Connection) -> None:
    """Give a connection the function that SQLAlchemy's SQLite dialect relies on, and ours that orders times."""
    connection.create_function("regexp", 2, matches, deterministic=True)
    connection.create_function(MOMENT, 1, moment_text, deterministic=True)
