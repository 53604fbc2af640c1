"""FileStorageManager: files by company, platform and path, as `{company_id}/{platform}/{path}`."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from pydantic import SecretStr

from localstore.blobs.model import BlobInfo
from localstore.blobs.store import Blobs
from localstore.config import Settings
from localstore.errors import TenantNotFound
from localstore.identifiers import check_platform
from localstore.storage.places import BlobPlaces


class FileStorageManager:
    """Files of many companies and platforms: each is a blob of its company's tenant with the key `{platform}/{path}`.

    What is not given is taken from `S3_ENDPOINT_URL`, `S3_ACCESS_KEY`, `S3_SECRET_KEY` and `S3_BUCKET_NAME`. With
    STORAGE_TYPE `postgresql` the bucket is used directly; with `file` and `hybrid` the files are beside the tenant's
    database, and the bucket is where sync carries them. None and False mean that something is not there; what fails
    raises. Nothing is opened, and the environment is not read, before the first call.
    """

    def __init__(
        self,
        endpoint_url: str | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        bucket_name: str | None = None,
        *,
        settings: Settings | None = None,
    ) -> None:
        given: dict[str, Any] = {
            "s3_endpoint_url": endpoint_url,
            "s3_access_key": access_key,
            "s3_secret_key": None if secret_key is None else SecretStr(secret_key),
            "s3_bucket_name": bucket_name,
        }
        self._given = {name: value for name, value in given.items() if value is not None}
        self._settings = settings
        self._places: BlobPlaces | None = None

    def __repr__(self) -> str:
        return "<FileStorageManager>"

    async def upload_file(
        self, company_id: str, platform: str, file_path: str, file_content: bytes, content_type: str | None = None
    ) -> dict[str, Any]:
        """Keep a file in place of what was there; return `success`, `file_key`, `file_path`, `size`, `content_type`.

        The content type is guessed from the name, else from the content. Raises InvalidIdentifier and BlobRefused.
        """
        key = _key(platform, file_path)
        blobs = await self._opened().of(company_id)
        info = await blobs.put(key, file_content, content_type=content_type)
        return {
            "success": True,
            "file_key": f"{company_id}/{key}",
            "file_path": file_path,
            "size": info.size,
            "content_type": info.content_type,
        }

    async def download_file(self, company_id: str, platform: str, file_path: str) -> bytes | None:
        """Return a file's content, or None where there is no such file."""
        key = _key(platform, file_path)
        blobs = await self._blobs(company_id)
        return None if blobs is None else await blobs.get(key)

    async def delete_file(self, company_id: str, platform: str, file_path: str) -> bool:
        """Delete a file; return whether there was one."""
        key = _key(platform, file_path)
        blobs = await self._blobs(company_id)
        return blobs is not None and await blobs.delete(key)

    async def list_files(self, company_id: str, platform: str, prefix: str = "") -> list[dict[str, Any]]:
        """Return `key`, `size`, `last_modified` and `etag` of all files whose paths begin with `prefix`, by key."""
        beginning = _key(platform, prefix)
        blobs = await self._blobs(company_id)
        return [] if blobs is None else [_entry(company_id, blob) async for blob in blobs.walk(beginning)]

    async def close(self) -> None:
        """Close what was opened; a later call opens it again, by the environment as it is then."""
        places, self._places = self._places, None
        if places is not None:
            await places.close()

    async def __aenter__(self) -> Self:
        """Return the manager; it opens by itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the manager."""
        await self.close()

    async def _blobs(self, company_id: str) -> Blobs | None:
        try:
            return await self._opened().of(company_id, create=False)
        except TenantNotFound:
            return None

    def _opened(self) -> BlobPlaces:
        if self._places is None:
            settings = self._settings or Settings.from_environment()
            self._places = BlobPlaces(settings.model_copy(update=self._given))
        return self._places


file_storage = FileStorageManager()
"""The process's manager, by the environment."""


def _key(platform: str, path: str) -> str:
    return f"{check_platform(platform)}/{path}"


def _entry(company_id: str, blob: BlobInfo) -> dict[str, Any]:
    # An etag stands in quotes, and changes with the content and with nothing else.
    return {
        "key": f"{company_id}/{blob.key}",
        "size": blob.size,
        "last_modified": blob.updated_at,
        "etag": f'"{blob.hash}"',
    }
