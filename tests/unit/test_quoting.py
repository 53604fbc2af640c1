"""Identifiers and literals keep their meaning inside SQL text."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localstore.errors import InvalidIdentifier
from localstore.postgres.quoting import quote_identifier, quote_literal

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(NAMES)
def test_N6_any_name_survives_as_an_identifier(name: str) -> None:
    """A quoted name comes back from SQLite exactly as it was, quotes, semicolons and dots included."""
    connection = sqlite3.connect(":memory:")
    try:
        cursor = connection.execute(f"SELECT 1 AS {quote_identifier(name)}")
        assert cursor.description[0][0] == name
    finally:
        connection.close()


def test_quotes_are_doubled() -> None:
    """A quote in a name or a literal is doubled, so nothing ends early."""
    assert quote_identifier('a"b') == '"a""b"'
    assert quote_literal("it's") == "'it''s'"


def test_backslash_does_not_hang_on_a_setting() -> None:
    """A literal with a backslash says by itself that it is escaped."""
    assert quote_literal("a\\'b") == "E'a\\\\''b'"


@pytest.mark.parametrize("quote", [quote_identifier, quote_literal])
def test_nul_is_refused(quote: object) -> None:
    """Neither database takes a NUL in a name, so quoting refuses it."""
    assert callable(quote)
    with pytest.raises(InvalidIdentifier):
        quote("a\0b")
