"""The settings, read from the environment here and nowhere else."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from localstore.errors import ConfigurationError

DATA_PATH_DEFAULT = Path("data")
"""Relative to the working directory, so that trying the product leaves nothing elsewhere."""

BUSY_TIMEOUT_SECONDS = 10.0
"""Long enough for another process to commit a large import, short enough to notice a stuck one."""

POOL_MIN = 0
"""Connections are opened when they are needed, so that a program that only starts up costs the server nothing."""

POOL_MAX = 10
"""A process rarely keeps more transactions going than this; a hundred of them still fit a server behind a pooler."""


BLOB_SIZE_MAX = 5 * 1024**3
"""The largest object that S3 copies in one call, and so the largest that every backend treats alike."""

BLOBS_GRACE_SECONDS = 7 * 86400.0
"""An object that no row names stays this long: far longer than any upload takes, and than a mistake stays unnoticed."""

CACHE_BYTES_MAX = 64 * 1024 * 1024
"""What a company's cache folder may take: room for some ten thousand tickets, and no burden on a laptop's disk."""


class StorageType(StrEnum):
    """Where a storage keeps its truth."""

    FILE = "file"
    HYBRID = "hybrid"
    POSTGRESQL = "postgresql"

    @classmethod
    def _missing_(cls, value: object) -> StorageType | None:
        return next((member for member in cls if member.value == str(value).strip().lower()), None)


class Settings(BaseSettings):
    """Every setting. Fields have the names of their environment variables, in lower case.

    `localstore_descriptors_max` bounds the file descriptors that open tenants use; by default half of what the
    process may have. `localstore_pool_min` and `localstore_pool_max` bound the connections to production of a process,
    and `localstore_statement_cache` the prepared statements of each, which a transaction pooler does not stand (0).
    `localstore_blob_size_max` and `localstore_blobs_quota` bound one blob and all of a tenant's in bytes,
    `localstore_blobs_types` lists the content types that are taken (`image/*, application/pdf`; all by default), and
    objects that no row names are kept for `localstore_blobs_grace` seconds.
    `localstore_cache_bytes_max` bounds each company's cache folder. Secrets are `SecretStr` and never shown.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    storage_type: StorageType = StorageType.FILE
    data_path: Path = DATA_PATH_DEFAULT
    database_url: SecretStr | None = None
    database_replica_url: SecretStr | None = None
    hybrid_use_postgres: bool = False
    redis_url: SecretStr | None = None
    s3_endpoint_url: str | None = None
    s3_access_key: str | None = None
    s3_secret_key: SecretStr | None = None
    s3_bucket_name: str | None = None
    s3_region: str | None = None
    qdrant_url: SecretStr | None = None
    localstore_synchronous: Literal["FULL", "NORMAL"] = "FULL"
    localstore_busy_timeout: float = Field(default=BUSY_TIMEOUT_SECONDS, ge=0, le=3600)
    localstore_descriptors_max: int | None = Field(default=None, ge=3)
    localstore_pool_min: int = Field(default=POOL_MIN, ge=0, le=1000)
    localstore_pool_max: int = Field(default=POOL_MAX, ge=1, le=1000)
    localstore_blob_size_max: int = Field(default=BLOB_SIZE_MAX, ge=1, le=BLOB_SIZE_MAX)
    localstore_blobs_quota: int | None = Field(default=None, ge=0)
    localstore_blobs_types: str | None = None
    localstore_blobs_grace: float = Field(default=BLOBS_GRACE_SECONDS, ge=0)
    localstore_statement_cache: int = Field(default=0, ge=0, le=10_000)
    localstore_cache_bytes_max: int = Field(default=CACHE_BYTES_MAX, ge=1024 * 1024)

    @classmethod
    def from_environment(cls, **overrides: Any) -> Settings:
        """Read the environment; `overrides` win over it. Raises ConfigurationError without repeating a value."""
        try:
            return cls(**overrides)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            name = ".".join(str(part) for part in first["loc"]).upper()
            raise ConfigurationError(
                f"{name or 'the settings'} cannot be used: {first['msg']}",
                hint="correct the environment variable; `localstore config show` lists what is set",
            ) from None

    def shown(self) -> dict[str, Any]:
        """Return every setting as plain values, a secret as whether it is set."""
        return {name: _shown(getattr(self, name)) for name in type(self).model_fields}


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "(set)"
    if isinstance(value, Path):
        return str(value)
    return value
