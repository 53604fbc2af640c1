"""A bucket of S3, or of what speaks its protocol, through s3fs on whichever event loop asks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import SecretStr

from localstore.config import Settings
from localstore.errors import BlobError, ConfigurationError, ObjectStoreDenied, ObjectStoreUnavailable
from localstore.identifiers import preview
from localstore.sqlite.threads import in_thread

if TYPE_CHECKING:
    # botocore tries its network when it is imported, so that happens with the first call only.
    from s3fs import S3FileSystem

CONNECTIONS_MAX: Final = 16
CONNECT_SECONDS: Final = 10
READ_SECONDS: Final = 60
ATTEMPTS_MAX: Final = 3
"""Of the driver; s3fs tries again besides where a server asks for patience (SlowDown) or a connection breaks."""

_REGION_DEFAULT: Final = "us-east-1"
"""What servers other than Amazon's expect in a signature."""

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_BUSY: Final = frozenset({"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "503", "500"})
_DENIED: Final = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "401", "403", "AllAccessDisabled"}
)


class Bucket:
    """One bucket, as one set of credentials reaches it. All companies of a process share it, each below its own prefix.

    Nothing is opened before the first call. Each event loop has a client of its own; `close` gives back that of the
    running one, and a later call opens it again.
    """

    def __init__(
        self,
        name: str,
        *,
        endpoint_url: str | None = None,
        access_key: str | None = None,
        secret_key: SecretStr | None = None,
        region: str | None = None,
    ) -> None:
        if not _BUCKET.fullmatch(name):
            raise ConfigurationError(f"{preview(name)} is no name of a bucket", hint="correct S3_BUCKET_NAME")
        self.name = name
        self.endpoint_url = None if endpoint_url is None else _checked_endpoint(endpoint_url)
        self._access_key = access_key
        self._secret_key = secret_key
        self._region = region
        self._clients: dict[asyncio.AbstractEventLoop, S3FileSystem] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the bucket that `S3_*` name."""
        if not settings.s3_bucket_name:
            raise ConfigurationError("no bucket is named", hint="set S3_BUCKET_NAME (and S3_ENDPOINT_URL)")
        return cls(
            settings.s3_bucket_name,
            endpoint_url=settings.s3_endpoint_url,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key,
            region=settings.s3_region,
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
        with self._explained():
            # fsspec gives its coroutines a leading underscore; on an asynchronous file system they are its interface.
            answer: dict[str, Any] = await (await self._client())._call_s3(method, Bucket=self.name, **parameters)  # noqa: SLF001
            return answer

    async def read(self, key: str, start: int, end: int) -> bytes:
        """Return a range of an object's bytes, none behind its end; raises FileNotFoundError."""
        with self._explained():
            try:
                data: bytes = await (await self._client())._cat_file(f"{self.name}/{key}", start=start, end=end)  # noqa: SLF001
            except OSError as error:
                if _code(error) != "InvalidRange":
                    raise
                return b""
            return data

    async def link(self, key: str, seconds: int, **parameters: Any) -> str:
        """Return a presigned link to GET one object."""
        with self._explained():
            url: str = await (await self._client())._url(f"{self.name}/{key}", expires=seconds, **parameters)  # noqa: SLF001
            return url

    async def close(self) -> None:
        """Close the running loop's client; those of loops that are gone are forgotten, since nothing runs on them."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None and client._s3 is not None:  # noqa: SLF001 - what set_session would open anew
            await client._s3.close()  # noqa: SLF001

    async def _client(self) -> S3FileSystem:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            # Importing it takes a second, for which no event loop should stand still.
            await in_thread(partial(import_module, "s3fs"))
        if loop not in self._clients:
            self._clients = {other: known for other, known in self._clients.items() if not other.is_closed()}
            self._clients[loop] = self._connect(loop)
        return self._clients[loop]

    def _connect(self, loop: asyncio.AbstractEventLoop) -> S3FileSystem:
        from s3fs import S3FileSystem

        elsewhere = self.endpoint_url is not None
        region = self._region or (_REGION_DEFAULT if elsewhere else None)
        return S3FileSystem(
            key=self._access_key,
            secret=self._secret_key.get_secret_value() if self._secret_key else None,
            endpoint_url=self.endpoint_url,
            client_kwargs={"region_name": region} if region else {},
            config_kwargs={
                "connect_timeout": CONNECT_SECONDS,
                "read_timeout": READ_SECONDS,
                "max_pool_connections": CONNECTIONS_MAX,
                "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS_MAX},
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

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what s3fs and botocore raise into our errors, which repeat no credentials."""
        try:
            yield
        except _failures() as error:
            code = _code(error)
            if isinstance(error, FileNotFoundError) and code != "NoSuchBucket":
                raise
            raise self._error(error, code) from error

    def _error(self, error: Exception, code: str) -> BlobError:
        from botocore import exceptions as told

        where = f"the bucket {self.name} at {self.endpoint_url or 'Amazon S3'}"
        if code == "NoSuchBucket":
            return BlobError(f"{where} does not exist", hint="make it, or correct S3_BUCKET_NAME")
        if isinstance(error, PermissionError) or code in _DENIED:
            return ObjectStoreDenied(
                f"{where} refused the request ({code})",
                hint="check S3_ACCESS_KEY, S3_SECRET_KEY and what they may do in the bucket",
            )
        if isinstance(error, told.NoCredentialsError | told.PartialCredentialsError | told.CredentialRetrievalError):
            return ObjectStoreDenied(
                f"there are no credentials for {where}", hint="set S3_ACCESS_KEY and S3_SECRET_KEY"
            )
        if isinstance(error, told.ConnectionError | told.HTTPClientError | TimeoutError) or code in _BUSY:
            return ObjectStoreUnavailable(
                f"{where} does not answer ({code})", hint="run the same call again; S3_ENDPOINT_URL says where it is"
            )
        return BlobError(f"{where} could not do what was asked ({code})", hint="look at the object store's own log")


@cache
def _failures() -> tuple[type[Exception], ...]:
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

    return (OSError, ClientError, BotoCoreError, HTTPClientError)


def _code(error: BaseException) -> str:
    """Return S3's word for what happened, or the kind of error; messages may repeat what a header held."""
    from botocore.exceptions import ClientError

    for found in (error, error.__cause__):
        if isinstance(found, ClientError):
            with suppress(KeyError, TypeError):
                return str(found.response["Error"]["Code"])
    return type(error.__cause__ or error).__name__


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
