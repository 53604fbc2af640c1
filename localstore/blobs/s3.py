"""A bucket of S3, or of what speaks its protocol, through s3fs on whichever event loop asks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.parse import urlsplit

import stamina
from pydantic import SecretStr

from localstore.blobs.patience import Patience, patience_of_call
from localstore.blobs.s3_failures import check_answer, code_of, explained, is_silence
from localstore.config import Settings
from localstore.errors import ConfigurationError, ObjectStoreUnavailable
from localstore.identifiers import preview
from localstore.sqlite.threads import in_thread

if TYPE_CHECKING:
    # botocore tries its network when it is imported, so that happens with the first call only.
    from s3fs import S3FileSystem

T = TypeVar("T")

CONNECTIONS_MAX: Final = 16
SILENT_SECONDS: Final = 20.0
"""A server is given up when nothing has moved for so long; what is slow and moves is waited for."""

ATTEMPTS_MAX: Final = 5
"""Of a call that was answered with a request for patience (SlowDown), or whose connection was refused or broke."""

REST_SECONDS: Final = 2.0
"""So long calls fail at once after one that waited in vain: many tenants must not wait for a dead server one by one."""

_REGION_DEFAULT: Final = "us-east-1"
"""What servers other than Amazon's expect in a signature."""

_SIGNATURE: Final = "s3v4"
"""For links, too, which the driver else signs as many servers no longer accept."""

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class _Client:
    """One event loop's way to the bucket; who waits for a turn does not count as waiting for the server."""

    files: S3FileSystem
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONNECTIONS_MAX))


class Bucket:
    """One bucket, as one set of credentials reaches it. All companies of a process share it, each below its own prefix.

    Nothing is opened before the first call. Each event loop has a client of its own; `close` gives back that of the
    running one, and a later call opens it again. Calls that may succeed the next time are made again here and nowhere
    else, and all attempts of a call share its `seconds` in which nothing moves.
    """

    def __init__(
        self,
        name: str,
        *,
        endpoint_url: str | None = None,
        access_key: str | None = None,
        secret_key: SecretStr | None = None,
        region: str | None = None,
        seconds: float = SILENT_SECONDS,
    ) -> None:
        if not _BUCKET.fullmatch(name):
            raise ConfigurationError(f"{preview(name)} is no name of a bucket", hint="correct S3_BUCKET_NAME")
        self.name = name
        self.endpoint_url = None if endpoint_url is None else _checked_endpoint(endpoint_url)
        self._access_key = access_key
        self._secret_key = secret_key
        self._region = region
        self._seconds = seconds
        self._clients: dict[asyncio.AbstractEventLoop, _Client] = {}
        self._where = f"the bucket {name} at {self.endpoint_url or 'Amazon S3'}"
        self._heard_at = 0.0
        self._resting: tuple[float, ObjectStoreUnavailable] | None = None

    @classmethod
    def from_settings(cls, settings: Settings, *, seconds: float = SILENT_SECONDS) -> Self:
        """Return the bucket that `S3_*` name."""
        if not settings.s3_bucket_name:
            raise ConfigurationError("no bucket is named", hint="set S3_BUCKET_NAME (and S3_ENDPOINT_URL)")
        return cls(
            settings.s3_bucket_name,
            endpoint_url=settings.s3_endpoint_url,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key,
            region=settings.s3_region,
            seconds=seconds,
        )

    def __repr__(self) -> str:
        return f"<Bucket {self.name} at {self.endpoint_url or 'Amazon S3'}>"

    async def __aenter__(self) -> Self:
        """Return the bucket; it opens when it is used."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bucket."""
        await self.close()

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Make one call of S3's protocol on the bucket; raises FileNotFoundError for an object that is not there."""

        async def ask(files: S3FileSystem) -> dict[str, Any]:
            # fsspec gives its coroutines a leading underscore; on an asynchronous file system they are its interface.
            answer: dict[str, Any] = await files._call_s3(method, Bucket=self.name, **parameters)  # noqa: SLF001
            check_answer(method, answer, self._where)
            return answer

        return await self._attempt(ask)

    async def read(self, key: str, start: int, end: int) -> bytes:
        """Return a range of an object's bytes, none behind its end; raises FileNotFoundError."""
        if end <= start:
            return b""

        async def fetch(files: S3FileSystem) -> bytes:
            try:
                answer = await files._call_s3("get_object", Bucket=self.name, Key=key, Range=f"bytes={start}-{end - 1}")  # noqa: SLF001
            except OSError as error:
                if code_of(error) != "InvalidRange":
                    raise
                return b""
            check_answer("get_object", answer, self._where)
            try:
                data: bytes = await answer["Body"].read()
            finally:
                answer["Body"].close()
            return data

        return await self._attempt(fetch)

    async def link(self, key: str, seconds: int, **parameters: Any) -> str:
        """Return a presigned link to GET one object."""
        with explained(self._where, self._seconds):
            files = (await self._client()).files
            url: str = await files._url(f"{self.name}/{key}", expires=seconds, **parameters)  # noqa: SLF001
            return url

    async def close(self) -> None:
        """Close the running loop's client; those of loops that are gone are forgotten, since nothing runs on them."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None and client.files._s3 is not None:  # noqa: SLF001 - what set_session would open anew
            await client.files._s3.close()  # noqa: SLF001

    async def _attempt(self, work: Callable[[S3FileSystem], Awaitable[T]]) -> T:
        """Do the work, again where the server had no time or a connection broke, and never after it fell silent."""
        if self._resting is not None and monotonic() < self._resting[0]:
            known = self._resting[1]
            raise ObjectStoreUnavailable(known.message, hint=known.hint) from known
        patience, began = Patience(self._seconds), monotonic()
        try:
            async for attempt in stamina.retry_context(on=_is_worth_another, attempts=ATTEMPTS_MAX, timeout=None):
                with attempt:
                    client = await self._client()
                    async with client.turns:
                        patience_of_call.set(patience)
                        with explained(self._where, self._seconds):
                            return await work(client.files)
        except ObjectStoreUnavailable as error:
            if is_silence(error) and self._heard_at < began:
                self._resting = (monotonic() + REST_SECONDS, error)
            raise
        finally:
            if patience.has_heard:
                self._heard_at = monotonic()
        raise AssertionError("the last attempt returns or raises")

    async def _client(self) -> _Client:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            # Importing it takes a second, for which no event loop should stand still.
            await in_thread(partial(import_module, "s3fs"))
        if loop not in self._clients:
            self._clients = {other: known for other, known in self._clients.items() if not other.is_closed()}
            self._clients[loop] = self._connect(loop)
        return self._clients[loop]

    def _connect(self, loop: asyncio.AbstractEventLoop) -> _Client:
        from s3fs import S3FileSystem

        from localstore.blobs.s3_session import PatientSession, new_socket

        elsewhere = self.endpoint_url is not None
        region = self._region or (_REGION_DEFAULT if elsewhere else None)
        files = S3FileSystem(
            key=self._access_key,
            secret=self._secret_key.get_secret_value() if self._secret_key else None,
            endpoint_url=self.endpoint_url,
            client_kwargs={"region_name": region} if region else {},
            config_kwargs={
                "connect_timeout": self._seconds,
                "read_timeout": self._seconds,
                "max_pool_connections": CONNECTIONS_MAX,
                "retries": {"mode": "standard", "total_max_attempts": 1},
                "http_session_cls": PatientSession,
                "connector_args": {"socket_factory": new_socket},
                "signature_version": _SIGNATURE,
                "s3": {"addressing_style": "path" if elsewhere else "auto"},
                # Every body carries an MD5, which all servers check; newer checksums some of them refuse.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            },
            asynchronous=True,
            loop=loop,
            # Instances are cached by their arguments, credentials included, and listings outlive what they list.
            skip_instance_cache=True,
            use_listings_cache=False,
        )
        files.retries = 1
        return _Client(files)


def _is_worth_another(error: Exception) -> bool:
    return isinstance(error, ObjectStoreUnavailable) and not is_silence(error)


def _checked_endpoint(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        valid = valid and not (parts.username or parts.password or parts.query or parts.fragment)
    except ValueError:
        valid = False
    # A chained URL would put another file system between the two, and credentials in a URL end up in messages.
    if (
        not valid
        or "::" in url.replace("[::", "[")
        or parts.username
        or parts.password
        or parts.query
        or parts.fragment
    ):
        raise ConfigurationError(
            "S3_ENDPOINT_URL is no address of an object store",
            hint="give http(s)://HOST[:PORT]; credentials belong in S3_ACCESS_KEY and S3_SECRET_KEY",
        )
    return url
