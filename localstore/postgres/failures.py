"""What a failure of the driver or the network means to us: the one place where foreign errors become ours."""

from __future__ import annotations

import re
import ssl

import asyncpg

from localstore.errors import (
    ConfigurationError,
    LocalStoreError,
    MissingRights,
    PostgresDenied,
    PostgresError,
    PostgresUnavailable,
)
from localstore.postgres.server import Server

# Each of these says that the same transaction may well succeed when it is run again from its beginning.
RETRYABLE_STATES = frozenset(
    {
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "55P03",  # lock_not_available
        "57P01",  # admin_shutdown
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now
    }
)
RETRYABLE_CLASSES = frozenset({"08", "53"})  # connection exceptions, insufficient resources

_IN_THE_WAY = frozenset({"40001", "40P01", "55P03"})
_AGAIN = "run the same command again; if it fails the same way, the server's own log has the details"

_LOST = re.compile(r"\bclosed\b|connection lost|released back to the pool", re.IGNORECASE)
_MESSAGE_CHARS_MAX = 300


def sqlstate(error: BaseException) -> str | None:
    """Return the five characters by which Postgres names an error, or None where the error is not from Postgres."""
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else None


def is_connection_error(error: BaseException) -> bool:
    """Return whether the connection was lost, so that the outcome of a COMMIT sent on it is not known."""
    state = sqlstate(error)
    if state is not None:
        return state[:2] == "08" or state in {"57P01", "57P02", "57P03"}
    if isinstance(error, asyncpg.InterfaceError):
        return _LOST.search(str(error)) is not None
    return isinstance(error, OSError | TimeoutError | EOFError)


def is_retryable(error: BaseException) -> bool:
    """Return whether the same transaction may succeed when it is run again from its beginning, on a new connection."""
    state = sqlstate(error)
    if state is not None:
        return state in RETRYABLE_STATES or state[:2] in RETRYABLE_CLASSES
    if isinstance(error, LocalStoreError):
        return error.retryable or (error.__cause__ is not None and is_retryable(error.__cause__))
    if isinstance(error, ssl.SSLCertVerificationError):
        return False
    return is_connection_error(error)


def translate(error: BaseException, server: Server) -> LocalStoreError:
    """Return `error`, raised by the driver or the system, as one of ours; the caller raises it `from error`.

    Of what Postgres says only the first line of its message is kept: DETAIL, CONTEXT and the statement may hold
    values of other rows.
    """
    if isinstance(error, LocalStoreError):
        return error
    where = server.redacted
    state = sqlstate(error)
    if state is not None:
        return _of_postgres(state, _first_line(error), where)
    if isinstance(error, ssl.SSLError) or "SSL upgrade" in str(error):
        return _of_tls(error, where)
    if isinstance(error, asyncpg.InterfaceError) and not is_connection_error(error):
        # The driver refuses its own arguments; a URL's certificate file that is missing comes this way, too.
        kind = ConfigurationError if isinstance(error, asyncpg.exceptions.ClientConfigurationError) else PostgresError
        return kind(f"{where}: {_first_line(error)}", hint="check the options of the database URL")
    if isinstance(error, TimeoutError):
        return PostgresUnavailable(f"{where} did not answer in time", hint=_hint_reach(where))
    if isinstance(error, OSError | EOFError | asyncpg.InterfaceError):
        return PostgresUnavailable(f"{where} cannot be reached: {_reason(error)}", hint=_hint_reach(where))
    return PostgresError(f"{where}: {type(error).__name__}: {_first_line(error)}", hint=_AGAIN)


def _of_postgres(state: str, message: str, where: str) -> LocalStoreError:
    if state in {"28P01", "28000"}:
        return PostgresDenied(
            f"{where} refused the login: {message}",
            hint="give the right user in the URL and its password in PGPASSWORD or ~/.pgpass",
        )
    if state == "3D000":
        return PostgresDenied(
            f"{where} refused the login: {message}", hint="create the database first, or name one that exists"
        )
    if state == "42501":
        return MissingRights(f"{where}: {message}", hint="ask an owner of the database to run: localstore sync init")
    if state in {"57P01", "57P02", "57P03"} or state[:2] == "08":
        return PostgresUnavailable(f"{where} went away: {message}", hint="run the same command again")
    if state[:2] == "53":
        return PostgresUnavailable(
            f"{where} has run out of something: {message}", hint="run the same command again when there is room"
        )
    if state == "57014":
        return PostgresUnavailable(f"{where} gave up: {message}", hint="run the same command with a longer --timeout")
    if state in _IN_THE_WAY:
        return PostgresError(
            f"{where}: another transaction was in the way for too long, and ours was undone: {message}",
            hint="run the same command again when that transaction has ended; pg_stat_activity shows it",
        )
    return PostgresError(f"{where}: {message} ({state})", hint=_AGAIN)


def _of_tls(error: BaseException, where: str) -> LocalStoreError:
    # libpq's default takes any certificate or none; a password would then go to whoever answers.
    return PostgresUnavailable(
        f"{where} could not be reached over verified TLS: {_reason(error)}",
        hint="add ?sslrootcert=FILE with the server's authority to the URL, or choose less with ?sslmode=require",
    )


def _hint_reach(where: str) -> str:
    return f"check that the server runs and can be reached: pg_isready -d {where}"


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message or "its certificate is not trusted"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return _first_line(error) or type(error).__name__


def _first_line(error: BaseException) -> str:
    message = getattr(error, "message", None) if sqlstate(error) else None
    text = message if isinstance(message, str) else str(error)
    line = text.strip().split("\n", 1)[0]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return shown if len(shown) <= _MESSAGE_CHARS_MAX else shown[: _MESSAGE_CHARS_MAX - 1] + "…"
