"""A database URL is read in every spelling, and never shown in full."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localstore.errors import ConfigurationError
from localstore.postgres.server import Server

SECRET = "hunter2"
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg", "POSTGRES"])
def test_every_scheme_of_postgres_is_read(scheme: str) -> None:
    """The three schemes that users write mean the same server."""
    server = Server.parse(f"{scheme}://zoe:{SECRET}@db.example.com:6543/prod")
    assert (server.hosts, server.ports) == (("db.example.com",), (6543,))
    assert (server.user, server.password, server.database) == ("zoe", SECRET, "prod")


@pytest.mark.parametrize(
    ("url", "hosts", "ports"),
    [
        ("postgresql:///prod?host=/run/pg", ("/run/pg",), (5432,)),
        ("postgresql://zoe@/prod?host=/run/pg&port=5433", ("/run/pg",), (5433,)),
        ("postgresql://zoe@%2Frun%2Fpg/prod", ("/run/pg",), (5432,)),
        ("postgresql://zoe@[::1]:5433/prod", ("::1",), (5433,)),
        ("postgresql://zoe@a:1,b:2/prod", ("a", "b"), (1, 2)),
        ("postgresql://localhost", ("localhost",), (5432,)),
    ],
)
def test_hosts_and_sockets(url: str, hosts: tuple[str, ...], ports: tuple[int, ...]) -> None:
    """Sockets, IPv6 addresses and several hosts are all read."""
    server = Server.parse(url)
    assert (server.hosts, server.ports) == (hosts, ports)


@given(user=TEXT, password=TEXT, database=TEXT)
def test_url_round_trips_and_redacted_has_no_password(user: str, password: str, database: str) -> None:
    """Any text can be a user, a password and a database; what is shown is the same whatever the password is."""
    server = Server(("db",), (5432,), user, password, database)
    assert Server.parse(server.url) == server
    assert server.redacted == Server(("db",), (5432,), user, None, database).redacted
    assert str(server) == server.redacted
    assert repr(server) == f"Server({server.redacted!r})"


def test_options_and_password_are_not_shown() -> None:
    """No text form of a server shows its password or an option's value."""
    server = Server.parse(f"postgres://zoe:{SECRET}@db/prod?sslmode=require&sslpassword={SECRET}")
    assert server.tls_options == {"sslmode": "require", "sslpassword": SECRET}
    for shown in (str(server), repr(server), f"{server}", server.redacted):
        assert SECRET not in shown
        assert "db:5432/prod" in shown


@pytest.mark.parametrize(
    "url",
    [
        f"postgres://zoe:{SECRET}/x@db/prod",
        f"postgres://zoe:{SECRET}?x@db/prod",
        f"postgres://zoe:{SECRET}#x@db/prod",
        f"postgres://zoe:12/{SECRET}@db/prod",
        f"postgres://zoe:12?{SECRET}@db/prod",
        f"postgres://zoe:12?{SECRET}=1@db/prod",
        f"postgres://zoe:12#{SECRET}@db/prod",
        f"postgres://zoe:{SECRET}%zz@db/prod",
        f"postgres://zoe:{SECRET}%ff@db/prod",
        f"postgres://zoe:{SECRET}%00@db/prod",
        f"postgres://zoe:{SECRET}@db:port/prod",
        f"postgres://zoe:{SECRET}@db:99999/prod",
        f"postgres://zoe:{SECRET}@[::1/prod",
        f"postgres://zoe:{SECRET}@db/prod/more",
        f"postgres://zoe:{SECRET}@db/prod?{SECRET}=1",
        f"postgres://zoe:{SECRET}@db/prod?sslmode={SECRET}",
        f"mysql://zoe:{SECRET}@db/prod",
        f"zoe:{SECRET}@db/prod",
        f"host=db password={SECRET}",
        f"postgres:zoe:{SECRET}@db",
        f"postgres://zoe:{SECRET}@db\n/prod\nx",
        SECRET,
        "",
    ],
)
def test_S5_url_that_does_not_parse_shows_its_scheme_only(url: str) -> None:
    """Whatever is wrong with a URL, the error and its traceback's messages hold its scheme and nothing else of it."""
    with pytest.raises(ConfigurationError) as caught:
        Server.parse(url)
    error = caught.value
    shown = "".join(traceback.format_exception_only(error)) + error.hint + str(error.__cause__)
    assert SECRET not in shown
    assert "zoe" not in shown
    assert error.hint


def test_password_may_hold_an_unescaped_at_sign() -> None:
    """The last @ ends the login, for that is the only reading that makes sense."""
    assert Server.parse("postgres://zoe:p@ss@db/prod").password == "p@ss"


@pytest.mark.parametrize("option", ["channel_binding=require", "connect_timeout=5", "sslsni=1", "ssl=require"])
def test_options_of_hosting_services_do_no_harm(option: str) -> None:
    """URLs are pasted from hosting services and other libraries, with options that mean nothing here."""
    assert Server.parse(f"postgres://db/prod?{option}").database == "prod"


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("[::1]", True),
        ("%2Frun", True),
        ("db", False),
        ("10.0.0.1", False),
        ("127.0.0.1.example.com", False),
        ("localhost,db", False),
    ],
)
def test_S6_only_loopback_and_sockets_are_local(host: str, local: bool) -> None:
    """A server is local when every host of its URL is this machine."""
    assert Server.parse(f"postgres://{host}/prod").is_local is local
