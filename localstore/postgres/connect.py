"""Open and close connections to Postgres: TLS by default, settings that survive a pooler, a limit on every wait."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import asyncpg

from localstore.errors import ConfigurationError
from localstore.postgres.failures import is_connection_error, is_retryable, sqlstate, translate
from localstore.postgres.server import Server

__all__ = [
    "Server",
    "close",
    "connect",
    "connection_to",
    "is_connection_error",
    "is_retryable",
    "session_settings",
    "sqlstate",
    "translate",
]

CONNECT_SECONDS = 20.0  # A server that does not answer is given up after this; only `watch` waits on.
CLOSE_SECONDS = 2.0  # A half-open connection never answers a goodbye.
KEEPALIVE_SECONDS = 20  # A peer that vanished during a long statement is noticed after about twice this.

# Sent at login. These are the settings that PgBouncer knows by itself; any other would make it refuse the login.
_STARTUP_SETTINGS = {"TimeZone": "UTC", "DateStyle": "ISO, YMD"}

# What the text form of values depends on. Set for one transaction only, so nothing leaks to a pooler's next client.
_SESSION_SETTINGS = """
SELECT set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO, YMD', true),
       set_config('IntervalStyle', 'iso_8601', true), set_config('extra_float_digits', '1', true),
       set_config('bytea_output', 'hex', true), set_config('standard_conforming_strings', 'on', true)
"""


async def connect(
    server: Server,
    *,
    timeout: float = CONNECT_SECONDS,
    application_name: str = "localstore",
    statement_cache_size: int = 0,
) -> asyncpg.Connection:
    """Open a connection, or raise what `translate` makes of the failure.

    A host other than this machine must prove itself by a certificate (`verify-full`, by the system's authorities or
    the URL's `sslrootcert`) unless the URL names another `sslmode`. Prepared statements are unnamed, so that a pooler
    that hands each transaction to another server process is no trouble; whoever owns its connection may cache them.
    """
    options = dict(server.options)
    settings = _STARTUP_SETTINGS | {"application_name": options.get("application_name", application_name)}
    if "options" in options:
        settings["options"] = options["options"]
    try:
        async with asyncio.timeout(timeout):
            context = await asyncio.to_thread(_verifying_context, server)
            connection = await asyncpg.connect(
                dsn=_tls_dsn(server) if context is None else None,
                host=list(server.hosts),
                port=list(server.ports),
                user=server.user,
                password=server.password,
                passfile=options.get("passfile"),
                database=server.database,
                ssl=context,
                target_session_attrs=options.get("target_session_attrs"),
                timeout=timeout,
                server_settings=settings,
                statement_cache_size=statement_cache_size,
            )
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, EOFError) as error:
        raise translate(error, server) from error
    _watch_peer(connection)
    return connection


@asynccontextmanager
async def connection_to(
    server: Server,
    *,
    timeout: float = CONNECT_SECONDS,
    application_name: str = "localstore",
    statement_cache_size: int = 0,
) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection for a block and close it after, however the block ends; driver errors come out as ours."""
    connection = await connect(
        server, timeout=timeout, application_name=application_name, statement_cache_size=statement_cache_size
    )
    try:
        yield connection
    except (asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError, TimeoutError) as error:
        raise translate(error, server) from error
    finally:
        await close(connection)


async def session_settings(connection: asyncpg.Connection) -> None:
    """Fix, for the running transaction, every setting that the text form of a value depends on.

    Call it first in each transaction that reads or writes values as text: behind a transaction pooler the settings
    given at login may be another client's.
    """
    await connection.execute(_SESSION_SETTINGS)


async def close(connection: asyncpg.Connection, *, timeout: float = CLOSE_SECONDS) -> None:
    """Say goodbye, and cut the connection where the server does not answer in time (asyncpg's own close can hang)."""
    try:
        await connection.close(timeout=timeout)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        connection.terminate()
    except asyncio.CancelledError:
        connection.terminate()
        raise


def _tls_dsn(server: Server) -> str | None:
    """Return a URL of nothing but the TLS options, which the driver takes in no other form."""
    options = server.tls_options
    if not options:
        return None
    return "postgresql://?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in options.items())


def _verifying_context(server: Server) -> ssl.SSLContext | None:
    """Return what checks the server's certificate and name, or None where the URL or the place asks for less."""
    _check_certificate_files(server)
    mode = server.ssl_mode or ("prefer" if server.is_local else "verify-full")
    if mode != "verify-full" or all(host.startswith("/") for host in server.hosts):
        return None
    options = server.tls_options
    authority = options.get("sslrootcert")
    context = ssl.create_default_context(cafile=None if authority in (None, "system") else authority)
    own = Path("~/.postgresql/root.crt")
    if authority is None:
        # Without a home folder there is no such file, and expanding the path says so by RuntimeError.
        with suppress(RuntimeError, FileNotFoundError, NotADirectoryError, PermissionError):
            context.load_verify_locations(cafile=own.expanduser())
    if "sslcert" in options:
        context.load_cert_chain(options["sslcert"], options.get("sslkey"), options.get("sslpassword"))
    if "sslcrl" in options:
        context.load_verify_locations(cafile=options["sslcrl"])
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    return context


def _check_certificate_files(server: Server) -> None:
    """Name a certificate file that cannot be read; the driver's error looks like that of a missing socket."""
    for name, value in server.tls_options.items():
        if (
            name in ("sslrootcert", "sslcert", "sslkey", "sslcrl")
            and value != "system"
            and not os.access(value, os.R_OK)
        ):
            raise ConfigurationError(
                f"{server.redacted}: the certificate file of {name} cannot be read: {value}",
                hint=f"correct {name} in the database URL",
            )


def _watch_peer(connection: asyncpg.Connection) -> None:
    """Have the kernel notice a peer that vanished, so that no statement waits for an answer for ever."""
    transport = getattr(connection, "_transport", None)
    peer = transport.get_extra_info("socket") if transport is not None else None
    if peer is None or peer.family not in (socket.AF_INET, socket.AF_INET6):
        return
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS // 4)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2 * KEEPALIVE_SECONDS * 1000)
