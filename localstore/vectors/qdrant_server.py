"""Where Qdrant is: a URL as a client of it, and Qdrant's errors as ours."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from localstore.errors import ConfigurationError, VectorsUnavailable

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient

PORT: Final = 6333
TIMEOUT_SECONDS: Final = 20
"""A server that does not answer is given up after this."""

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_HINT: Final = "use http://HOST:6333, https://:API_KEY@HOST:6333, or file:///FOLDER for the engine inside the client"


@dataclass(frozen=True, slots=True)
class Qdrant:
    """A connection to Qdrant; `in_process` is the engine that its client brings along, for trials and tests."""

    client: AsyncQdrantClient
    in_process: bool
    shown: str

    def __repr__(self) -> str:
        return f"<Qdrant {self.shown}>"

    async def __aenter__(self) -> Self:
        """Return the connection; nothing is sent before the first call."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.client.close()


def connect(url: str | SecretStr) -> Qdrant:
    """Return a connection to where the URL points; nothing is sent yet.

    The API key is the URL's password and travels over TLS only, except on this machine. `file:///FOLDER` and `memory:`
    are the engine inside the client. Raises ConfigurationError without repeating the URL.
    """
    try:
        from qdrant_client import AsyncQdrantClient
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "QDRANT_URL needs the Qdrant client", hint="pip install 'localstore[vectors,qdrant]'"
        ) from error
    text = url.get_secret_value() if isinstance(url, SecretStr) else url
    try:
        parts = urlsplit(text)
        port = parts.port or PORT
    except ValueError:
        raise ConfigurationError("QDRANT_URL is no URL", hint=_HINT) from None
    if parts.scheme == "memory":
        return Qdrant(AsyncQdrantClient(location=":memory:"), in_process=True, shown="in memory")
    if parts.scheme == "file" and parts.path and not parts.netloc:
        return _in_folder(unquote(parts.path))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"QDRANT_URL cannot be a {parts.scheme or 'bare'} URL", hint=_HINT)
    key = parts.password or parts.username
    if key and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ConfigurationError("QDRANT_URL would send its API key unencrypted", hint="use https://")
    with warnings.catch_warnings():
        # A key without TLS got this far only where it does not leave the machine.
        warnings.filterwarnings("ignore", "Api key is used with an insecure connection")
        client = AsyncQdrantClient(
            host=parts.hostname,
            port=port,
            https=parts.scheme == "https",
            prefix=parts.path.strip("/") or None,
            api_key=unquote(key) if key else None,
            timeout=TIMEOUT_SECONDS,
            # It would ask the server while the client is made, and on the event loop.
            check_compatibility=False,
        )
    return Qdrant(client, in_process=False, shown=f"at {parts.scheme}://{parts.hostname}:{port}")


def _in_folder(folder: str) -> Qdrant:
    """Return the engine over a folder, which one client at a time has open."""
    from qdrant_client import AsyncQdrantClient

    with warnings.catch_warnings():
        # The client leaves the file open that it could not lock; it is closed here, with all that failed.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            return Qdrant(AsyncQdrantClient(path=folder), in_process=True, shown=f"in {folder}")
        except RuntimeError:
            what = f"another process, or another client in this one, has Qdrant's folder {folder} open"
            hint = "let it end and run the command again, or run a server and set QDRANT_URL=http://HOST:6333"
        except OSError as error:
            what = f"Qdrant's folder {folder} cannot be used: {error.strerror or type(error).__name__}"
            hint = "let QDRANT_URL=file:///FOLDER name a folder that this user may write to"
    raise VectorsUnavailable(what, hint=hint)


@contextmanager
def translated(qdrant: Qdrant) -> Iterator[None]:
    """Turn the client's errors into ours; what a server says of itself is kept, what was sent is not."""
    from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

    try:
        yield
    except UnexpectedResponse as error:
        raise VectorsUnavailable(
            f"Qdrant {qdrant.shown} refused: {error.status_code} {error.reason_phrase}",
            hint="look at QDRANT_URL and at Qdrant's own log; Qdrant 1.18 or newer is needed",
        ) from error
    except (ApiException, OSError) as error:
        raise VectorsUnavailable(
            f"Qdrant {qdrant.shown} does not answer", hint="look at QDRANT_URL, and run the command again"
        ) from error
