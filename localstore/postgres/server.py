"""A Postgres server and database as a value, read from a URL that never shows up again in full."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from localstore.errors import ConfigurationError

DEFAULT_PORT = 5432
SCHEMES = ("postgres", "postgresql", "postgresql+asyncpg")
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

# Where a local server is looked for when the URL names no host: the places that distributions use, then loopback.
LOCAL_HOSTS = ("/run/postgresql", "/var/run/postgresql", "/tmp", "localhost")  # noqa: S108

_TLS_OPTIONS = frozenset(
    "sslmode sslrootcert sslcert sslkey sslpassword sslcrl sslnegotiation ssl_min_protocol_version "
    "ssl_max_protocol_version".split()
)
_OTHER_OPTIONS = frozenset(("passfile", "target_session_attrs", "application_name", "options"))
# Options that other clients understand and hosting services put into their URLs; they say nothing to us.
_FOREIGN_OPTIONS = frozenset(
    "channel_binding client_encoding connect_timeout gssencmode keepalives keepalives_count keepalives_idle "
    "keepalives_interval pgbouncer prepared_statement_cache_size sslcompression sslsni statement_cache_size "
    "tcp_user_timeout".split()
)

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<place>[^/?#]*)(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?")
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]]*))(?::(?P<port>\d{1,5})?)?")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")

_HINT = (
    "write postgresql://USER@HOST:PORT/DATABASE; in a password % is written %25, @ %40, / %2F, : %3A, # %23 and ? %3F, "
    "or leave it out and set PGPASSWORD"
)


@dataclass(frozen=True, slots=True, repr=False)
class Server:
    """Where production is and who logs in. Text forms leave out the password and every option."""

    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: str | None = None
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def parse(cls, url: str) -> Server:
        """Read a `postgres://`, `postgresql://` or `postgresql+asyncpg://` URL.

        A host that begins with `/` (percent-encoded, or as `?host=/path`) is the folder of a unix socket. A URL that
        cannot be read raises `ConfigurationError`, which shows the scheme and nothing else of it.
        """
        match = _URL.fullmatch(url.strip())
        if match is None:
            shown = re.match(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)", url.strip())
            raise _unreadable(shown.group() if shown else "", "it does not parse")
        scheme = match["scheme"].lower()
        if scheme not in SCHEMES:
            raise _unreadable(scheme, "that is not a scheme of Postgres")
        login, _, place = match["place"].rpartition("@")
        user, _, password = login.partition(":")
        path = (match["path"] or "")[1:]
        # A password with an unescaped character spills over into what follows: refuse, for it would be shown.
        if "/" in path or "@" in path:
            raise _unreadable(scheme, "it does not parse")
        options = _options(scheme, (match["query"] or "")[1:])
        hosts, ports = _hosts(scheme, place, options)
        return cls(
            hosts=hosts,
            ports=ports,
            user=_decoded(scheme, user) or options.pop("user", None),
            password=_decoded(scheme, password) or options.pop("password", None),
            database=_decoded(scheme, path) or options.pop("dbname", None),
            options=tuple(options.items()),
        )

    @property
    def redacted(self) -> str:
        """The server as a URL without password and options, fit for every message and log."""
        return self._url(secret=False)

    @property
    def url(self) -> str:
        """The whole URL with its password, for handing to another program's environment, never for showing."""
        return self._url(secret=True)

    @property
    def is_local(self) -> bool:
        """Whether every host is this machine: a socket or a loopback address."""
        return all(_is_local(host) for host in self.hosts)

    @property
    def ssl_mode(self) -> str | None:
        """The `sslmode` that the URL names, if any."""
        return dict(self.options).get("sslmode")

    @property
    def tls_options(self) -> dict[str, str]:
        """The options that say how the connection is encrypted."""
        return {name: value for name, value in self.options if name in _TLS_OPTIONS}

    def with_database(self, database: str) -> Server:
        """Return the same server and login with another database."""
        return Server(self.hosts, self.ports, self.user, self.password, database, self.options)

    def with_login(self, user: str, password: str | None) -> Server:
        """Return the same server and database with another login."""
        return Server(self.hosts, self.ports, user, password, self.database, self.options)

    def _url(self, *, secret: bool) -> str:
        login = quote(self.user, safe="") if self.user else ""
        if secret and self.password is not None:
            login += ":" + quote(self.password, safe="")
        sockets = all(host.startswith("/") for host in self.hosts)
        default = self.hosts == LOCAL_HOSTS
        place = "" if sockets or default else ",".join(map(_place, self.hosts, self.ports))
        options = [("host", ",".join(self.hosts))] if sockets else []
        if sockets and set(self.ports) != {DEFAULT_PORT}:
            options.append(("port", ",".join(map(str, self.ports))))
        options += self.options if secret else ()
        query = "&".join(f"{name}={quote(value, safe='/,')}" for name, value in options)
        return (
            f"postgresql://{login}{'@' if login else ''}{place}/{quote(self.database or '', safe='')}"
            f"{'?' if query else ''}{query}"
        )

    def __str__(self) -> str:
        return self.redacted

    def __repr__(self) -> str:
        return f"Server({self.redacted!r})"


def _unreadable(scheme: str, why: str) -> ConfigurationError:
    shown = f"the database URL {scheme}://…" if scheme else "the database URL"
    return ConfigurationError(f"{shown} cannot be used: {why}", hint=_HINT)


def _decoded(scheme: str, text: str) -> str:
    if _BAD_ESCAPE.search(text):
        raise _unreadable(scheme, "a % is not followed by two hexadecimal digits")
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        decoded = "\0"
    if "\0" in decoded:
        # The text itself stays out of the error's chain, hence no `from`.
        raise _unreadable(scheme, "an escaped part of it is not UTF-8 text")
    return decoded


def _options(scheme: str, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, equals, value = part.partition("=")
        if not equals or "@" in name:
            raise _unreadable(scheme, "its options are not written as name=value")
        name = {"ssl": "sslmode", "database": "dbname"}.get(name, name)
        if name in _FOREIGN_OPTIONS:
            continue
        if name not in _TLS_OPTIONS | _OTHER_OPTIONS | {"host", "port", "user", "password", "dbname"}:
            # A misplaced piece of a password could look like an option, so the name is not shown either.
            raise _unreadable(scheme, "it holds an option that is not known here")
        options[name] = _decoded(scheme, value)
    mode = options.get("sslmode")
    if mode is not None:
        mode = {"true": "require", "false": "disable"}.get(mode.lower(), mode)
        if mode not in SSL_MODES:
            raise _unreadable(scheme, f"its sslmode is none of {', '.join(SSL_MODES)}")
        options["sslmode"] = mode
    return options


def _hosts(scheme: str, place: str, options: dict[str, str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    hosts: list[str] = []
    ports: list[int] = []
    named = options.pop("host", "")
    named_ports = [part for part in options.pop("port", "").split(",") if part]
    if place in ("", ":") and not named:
        hosts, texts = list(LOCAL_HOSTS), [""] * len(LOCAL_HOSTS)
    elif named:
        if place:
            raise _unreadable(scheme, "it names a host twice")
        hosts = named.split(",")
        texts = [""] * len(hosts)
    else:
        texts = []
        for part in place.split(","):
            match = _HOST.fullmatch(part)
            if match is None:
                raise _unreadable(scheme, "its host or port does not parse")
            hosts.append(match["v6"] or _decoded(scheme, match["name"]))
            texts.append(match["port"] or "")
    if named_ports:
        texts = named_ports * len(hosts) if len(named_ports) == 1 else named_ports
    for text in texts:
        if not (text.isdecimal() or text == "") or not 0 < int(text or DEFAULT_PORT) < 65_536:
            raise _unreadable(scheme, "its port is not a number from 1 to 65535")
        ports.append(int(text or DEFAULT_PORT))
    if len(ports) != len(hosts) or not all(host and host.isprintable() for host in hosts):
        raise _unreadable(scheme, "its hosts and ports do not parse")
    return tuple(hosts), tuple(ports)


def _place(host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else quote(host, safe="")
    return f"{shown}:{port}"


def _is_local(host: str) -> bool:
    if host.startswith("/") or host.lower() in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
