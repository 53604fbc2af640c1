"""Every error that localstore raises, in one tree.

LocalStoreError
├── ConfigurationError            a setting, option or URL cannot be used (also a ValueError)
│   └── InvalidIdentifier         a tenant id, platform or key breaks the naming rules
├── WrongMode                     the tenant's mode belongs to another storage
├── StoreError                    something about a store or a tenant's file
│   ├── NotAStore                 the folder is missing or holds no store
│   ├── TenantNotFound            no such tenant in this store
│   ├── TenantExists              the tenant is already there
│   ├── ForeignFile               the file is not the tenant's: empty, foreign, damaged or replaced
│   ├── WrongTenant               a row names another company than the tenant it is written to
│   ├── InvalidRow                a row cannot be written as it is
│   └── StoreBusy                 another writer held the file for longer than the timeout
│       └── ModeChanging          the tenant's mode is being changed, and that took longer than the timeout
├── BlobError                     something about a blob or the place where blobs are kept
│   ├── BlobNotFound              no blob of the tenant has this key
│   ├── BlobRefused               a limit forbids the blob: its size, the tenant's quota or its content type
│   ├── BlobKeyTaken              a key differs from another one's only in case or normal form
│   ├── BlobDamaged               the bytes that a row names are not here, or not what they were
│   ├── ObjectStoreUnavailable    the object store cannot be reached or has no time
│   └── ObjectStoreDenied         the object store refused the credentials or what was asked with them
├── CacheUnavailable              the cache did not answer when it was to be emptied
├── VectorError                   something about vectors
│   ├── InvalidVector             an embedding, its names or a search cannot be used as they are (also a ValueError)
│   └── VectorsUnavailable        the place where vectors are kept cannot be reached, or is not ready for them
├── PostgresError                 something about production
│   ├── PostgresUnavailable       the server cannot be reached, refused the connection or went away
│   ├── PostgresDenied            the login or its password was refused
│   └── MissingRights             the login may not do this; the hint holds what an owner can run
└── UnexpectedError               what nobody expected, met while others are still to be served
"""

from __future__ import annotations

from typing import ClassVar


class LocalStoreError(Exception):
    """Raised when an operation could not be done; nothing was lost.

    `code` is a stable word for programs, `exit_code` what the command exits with, `hint` the next command,
    `retryable` whether the same call may succeed later. `tenant` and `row` (an address) say to what it happened.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", tenant: str | None = None, row: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.tenant = tenant
        self.row = row

    def to_json(self) -> dict[str, object]:
        """Return the error as the `error` member of the command's JSON."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class ConfigurationError(LocalStoreError, ValueError):
    """Raised when a setting, an option or a URL cannot be used."""

    code = "configuration"
    exit_code = 2


class InvalidIdentifier(ConfigurationError):
    """Raised when a tenant id, a platform or a key breaks the naming rules."""

    code = "invalid_identifier"


class WrongMode(LocalStoreError):
    """Raised when a tenant's truth is not where this storage looks for it: its mode belongs to another storage."""

    code = "wrong_mode"
    exit_code = 6


class StoreError(LocalStoreError):
    """Raised when a store or a tenant's file cannot be used."""

    code = "store"


class NotAStore(StoreError):
    """Raised when a folder is missing or holds no store."""

    code = "not_a_store"


class TenantNotFound(StoreError):
    """Raised when a store has no such tenant."""

    code = "tenant_not_found"


class TenantExists(StoreError):
    """Raised when a tenant to be created is already there."""

    code = "tenant_exists"


class ForeignFile(StoreError):
    """Raised when a file is not this tenant's database: empty, foreign, damaged or replaced."""

    code = "foreign_file"


class MissingTable(StoreError):
    """Raised when another tool dropped or renamed a tracked table, so that its rows are unknown."""

    code = "missing_table"


class WrongTenant(StoreError):
    """Raised when a row names another company than the tenant it is written to."""

    code = "wrong_tenant"


class InvalidRow(StoreError):
    """Raised when a row cannot be written as it is."""

    code = "invalid_row"


class StoreBusy(StoreError):
    """Raised when another writer held the tenant's file for longer than the timeout."""

    code = "store_busy"
    retryable = True


class ModeChanging(StoreBusy):
    """Raised when a write waited for a change of the tenant's mode, and that did not end within the timeout."""

    code = "mode_changing"


class BlobError(LocalStoreError):
    """Raised when a blob, or the place where blobs are kept, cannot be used."""

    code = "blob"


class BlobNotFound(BlobError):
    """Raised when no blob of the tenant has this key."""

    code = "blob_not_found"


class BlobRefused(BlobError):
    """Raised when a limit forbids a blob: its size, the tenant's quota or its content type."""

    code = "blob_refused"


class BlobKeyTaken(BlobError):
    """Raised when a key differs from that of another blob only in case or normal form."""

    code = "blob_key_taken"


class BlobDamaged(BlobError):
    """Raised when the bytes that a row names are not here, or not what they were when they were put."""

    code = "blob_damaged"


class ObjectStoreUnavailable(BlobError):
    """Raised when the object store cannot be reached, or has no time."""

    code = "object_store_unavailable"
    retryable = True


class ObjectStoreDenied(BlobError):
    """Raised when the object store refused the credentials, or what was asked with them."""

    code = "object_store_denied"
    exit_code = 6


class CacheUnavailable(LocalStoreError):
    """Raised when the cache was to be emptied and did not answer; in all else such a cache is a miss."""

    code = "cache_unavailable"
    retryable = True


class VectorError(LocalStoreError):
    """Raised when something about vectors could not be done."""

    code = "vector"


class InvalidVector(VectorError, ValueError):
    """Raised when an embedding, its names or a search cannot be used as they are."""

    code = "invalid_vector"


class VectorsUnavailable(VectorError):
    """Raised when the place where vectors are kept cannot be reached or is not ready for them; the rows are safe."""

    code = "vectors_unavailable"
    retryable = True


class PostgresError(LocalStoreError):
    """Raised when production could not do what was asked."""

    code = "postgres"


class PostgresUnavailable(PostgresError):
    """Raised when the server cannot be reached, refused the connection or went away."""

    code = "postgres_unavailable"
    retryable = True


class PostgresDenied(PostgresError):
    """Raised when the server refused the login or its password."""

    code = "postgres_denied"


class MissingRights(PostgresError):
    """Raised when the login may not do this; the hint holds what an owner can run."""

    code = "missing_rights"
    exit_code = 6


class UnexpectedError(LocalStoreError):
    """Raised in place of an error that nobody expected, where one tenant's must not end the work for the others."""

    code = "unexpected"
