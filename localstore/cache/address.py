"""Where REDIS_URL leads: checked once, before anything is asked, and shown without its credentials."""

from __future__ import annotations

from typing import Any, Final, NoReturn
from urllib.parse import SplitResult, parse_qsl, urlsplit

from localstore.errors import ConfigurationError

ANSWER_SECONDS: Final = 2.0
"""A cache that needs longer than this costs more than it saves."""

_SCHEMES: Final = ("redis", "rediss", "unix")

_OPTIONS: Final = frozenset({"db", "client_name", "health_check_interval", "socket_keepalive"})
_TLS_OPTIONS: Final = frozenset(
    f"ssl_{name}"
    for name in (
        *("keyfile", "certfile", "password", "cert_reqs", "ca_certs", "ca_path", "ca_data"),
        *("check_hostname", "min_version", "ciphers"),
    )
)
"""What a URL may say of the connection. The driver's other options would change what the cache relies on: its times,
the form of the answers, the host that is shown."""


def check_address(url: str) -> str:
    """Return the URL without its credentials; raises ConfigurationError, which repeats none of it, for what is none."""
    try:
        parts = urlsplit(url)
        port = parts.port
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else []
    except ValueError:
        _refuse("is not a URL of a Redis server")
    if parts.scheme not in _SCHEMES or parts.fragment:
        _refuse("is not a URL of a Redis server")
    _check_options(parts.scheme, options)
    if parts.scheme == "unix":
        # A password with a slash that is not encoded ends early, and its rest would be shown as the path.
        if not parts.path.strip("/") or parts.hostname or port is not None:
            _refuse("does not say where the server's socket is")
        shown = f"unix://{parts.path}"
    else:
        database = parts.path.strip("/")
        if database and not _is_number(database):
            _refuse("has something else than the number of a database after its host")
        shown = f"{parts.scheme}://{parts.hostname or 'localhost'}:{port or 6379}{f'/{database}' if database else ''}"
    _check_with_driver(url, parts)
    return shown


def client_of(url: str) -> Any:
    """Return the driver's client of a URL; nothing is opened."""
    redis = redis_package()
    return redis.asyncio.Redis.from_url(
        url,
        protocol=2,
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
        # The driver would ask again without knowing what may be carried out twice.
        retry=redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0),
    )


def redis_package() -> Any:
    """Return the package redis; raises ConfigurationError where it is not installed."""
    try:
        import redis.asyncio.retry
        import redis.backoff
    except ImportError as error:
        raise ConfigurationError(
            "REDIS_URL is set, but the package redis is not installed", hint="pip install 'localstore[redis]'"
        ) from error
    return redis


def _check_options(scheme: str, options: list[tuple[str, str]]) -> None:
    allowed = _OPTIONS | _TLS_OPTIONS if scheme == "rediss" else _OPTIONS
    names = [name for name, _ in options]
    # The name is not repeated: a password with a question mark that is not encoded ends up here.
    if len(set(names)) < len(names) or not allowed.issuperset(names):
        _refuse("has an option that a cache does not take, or one twice")
    if any(name == "db" and not _is_number(value) for name, value in options):
        _refuse("has a db that is no number")


def _check_with_driver(url: str, parts: SplitResult) -> None:
    """Let the driver make a connection, without opening it: it reads the options only then."""
    redis = redis_package()
    try:
        client_of(url).connection_pool.make_connection()
    except (TypeError, ValueError, redis.exceptions.RedisError):
        # What the driver says repeats the value.
        _refuse(f"has an option that the driver does not take for {parts.scheme}://")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _refuse(why: str) -> NoReturn:
    raise ConfigurationError(
        f"REDIS_URL {why}",
        hint="redis://[[user]:password@]host[:port][/db], rediss://… or unix://[[user]:password@]/path[?db=N]; "
        f"options are {', '.join(sorted(_OPTIONS))}, and ssl_… with rediss; in a password write /, ?, # and @ as %2F…",
    ) from None
