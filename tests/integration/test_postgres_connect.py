"""Connecting to a real server: what arrives, what is refused, and in which words."""

from __future__ import annotations

from localstore.postgres.connect import Server, connection_to
from tests.conftest import Login


async def test_connection_speaks_utc_and_utf8(production: str) -> None:
    """A connection reads times in UTC and text in UTF-8, whatever the server's defaults are."""
    async with connection_to(Server.parse(production)) as connection:
        row = await connection.fetchrow(
            "SELECT current_setting('TimeZone') AS zone, current_setting('client_encoding') AS encoding"
        )
    assert row is not None
    assert row["zone"] == "UTC"
    assert row["encoding"] == "UTF8"


async def test_login_connects_as_itself(production: str, login: Login) -> None:
    """A login made for a test arrives under its own name with the roles it was given."""
    async with connection_to(Server.parse(login("pg_read_all_data"))) as connection:
        member = await connection.fetchval("SELECT pg_has_role(session_user, 'pg_read_all_data', 'MEMBER')")
        name = await connection.fetchval("SELECT session_user")
    assert member is True
    assert name.startswith("login_")
