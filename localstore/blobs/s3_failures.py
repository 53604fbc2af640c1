"""What a failure of an object store means to us: the one place where the drivers' errors become ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Final

from localstore.errors import BlobError, ObjectStoreDenied, ObjectStoreUnavailable

_BUSY: Final = frozenset(
    {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "TooManyRequests"}
    | {"429", "500", "502", "503", "504"}
)
_DENIED: Final = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "401", "403", "AllAccessDisabled"}
)
_CERTAIN: Final[Mapping[str, frozenset[str]]] = {
    "list_objects_v2": frozenset({"IsTruncated"}),
    "head_object": frozenset({"ETag", "LastModified", "ContentLength"}),
    "get_object": frozenset({"ETag", "Body"}),
    "put_object": frozenset({"ETag"}),
    "upload_part": frozenset({"ETag"}),
    "create_multipart_upload": frozenset({"UploadId"}),
    "complete_multipart_upload": frozenset({"ETag"}),
}
"""What an object store's answer always tells. A network's page that asks for a login answers 200 as well."""


@contextmanager
def explained(where: str, seconds: float) -> Iterator[None]:
    """Turn what s3fs and botocore raise into our errors, which repeat no credentials.

    FileNotFoundError for an object that is not there is left to the caller.
    """
    try:
        yield
    except _failures() as error:
        code = code_of(error)
        if isinstance(error, FileNotFoundError) and code != "NoSuchBucket":
            raise
        raise _explained(error, code, where, seconds) from error


def check_answer(method: str, answer: Mapping[str, Any], where: str) -> None:
    """Raise ObjectStoreUnavailable for an answer that cannot be an object store's."""
    if not _CERTAIN.get(method, frozenset()) <= answer.keys():
        raise _stranger(where)


def is_silence(error: ObjectStoreUnavailable) -> bool:
    """Return whether a call was given up because nothing moved: what was waited for once is not waited for again."""
    return isinstance(error.__cause__, _silences())


def code_of(error: BaseException) -> str:
    """Return S3's word for what happened, or the kind of error; messages may repeat what a header held."""
    from botocore.exceptions import ClientError

    for found in (error, error.__cause__):
        if isinstance(found, ClientError):
            with suppress(KeyError, TypeError):
                return str(found.response["Error"]["Code"])
    return type(error.__cause__ or error).__name__


def _explained(error: Exception, code: str, where: str, seconds: float) -> BlobError:
    from aiohttp import ClientError as ConnectionBroken
    from botocore import exceptions as told
    from botocore.parsers import ResponseParserError

    if code == "NoSuchBucket":
        return BlobError(f"{where} does not exist", hint="make it, or correct S3_BUCKET_NAME")
    if isinstance(error, PermissionError) or code in _DENIED:
        return ObjectStoreDenied(
            f"{where} refused the request ({code})",
            hint="check S3_ACCESS_KEY, S3_SECRET_KEY and what they may do in the bucket",
        )
    if isinstance(error, told.NoCredentialsError | told.PartialCredentialsError | told.CredentialRetrievalError):
        return ObjectStoreDenied(f"there are no credentials for {where}", hint="set S3_ACCESS_KEY and S3_SECRET_KEY")
    if isinstance(error, _silences()):
        return ObjectStoreUnavailable(
            f"{where} has been silent for {seconds:g} seconds",
            hint="run the same call again; S3_ENDPOINT_URL says where it is",
        )
    if isinstance(error, told.ConnectionError | told.HTTPClientError | told.IncompleteReadError | TimeoutError) or (
        isinstance(error, ConnectionBroken) or code in _BUSY
    ):
        return ObjectStoreUnavailable(
            f"{where} does not answer ({code})", hint="run the same call again; S3_ENDPOINT_URL says where it is"
        )
    if isinstance(error, ResponseParserError):
        return _stranger(where)
    return BlobError(f"{where} could not do what was asked ({code})", hint="look at the object store's own log")


def _stranger(where: str) -> ObjectStoreUnavailable:
    return ObjectStoreUnavailable(
        f"what answers for {where} is no object store",
        hint="check S3_ENDPOINT_URL, and whether this network asks for a login in a browser first",
    )


@cache
def _silences() -> tuple[type[Exception], ...]:
    from aiohttp import ServerTimeoutError
    from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError

    return (ConnectTimeoutError, ReadTimeoutError, ServerTimeoutError)


@cache
def _failures() -> tuple[type[Exception], ...]:
    from aiohttp import ClientError as ConnectionBroken
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
    from botocore.parsers import ResponseParserError

    return (OSError, ClientError, BotoCoreError, HTTPClientError, ConnectionBroken, ResponseParserError)
