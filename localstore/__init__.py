"""An embedded, SQLite-first, offline store for tenants. Names are loaded when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from localstore.errors import (
    BlobDamaged,
    BlobError,
    BlobKeyTaken,
    BlobNotFound,
    BlobRefused,
    CacheUnavailable,
    ConfigurationError,
    ForeignFile,
    InvalidIdentifier,
    InvalidRow,
    InvalidVector,
    LocalStoreError,
    MissingRights,
    ModeChanging,
    NotAStore,
    ObjectStoreDenied,
    ObjectStoreUnavailable,
    PostgresDenied,
    PostgresError,
    PostgresUnavailable,
    StoreBusy,
    StoreError,
    TenantExists,
    TenantNotFound,
    VectorError,
    VectorsUnavailable,
    WrongMode,
    WrongTenant,
)

if TYPE_CHECKING:
    from localstore.blobs.model import BlobInfo
    from localstore.blobs.store import Blobs
    from localstore.cache.cached import cached
    from localstore.cache.interface import Cache
    from localstore.cache.platforms import CacheManager, cache_manager
    from localstore.cache.stats import CacheStats
    from localstore.columns import DecimalText, JSONText, RawJSON, UtcDateTime, as_text
    from localstore.config import Settings
    from localstore.helpdesk import Conversation, KnowledgeArticle, ProcessingProgress, Ticket
    from localstore.helpdesk.repository import TicketRepository
    from localstore.models import TenantModel
    from localstore.storage.factory import StorageFactory, get_storage
    from localstore.storage.file import FileStorage
    from localstore.storage.interface import StorageInterface
    from localstore.storage.places import BlobPlaces
    from localstore.storage.postgres import PostgresStorage
    from localstore.storage.uploads import FileStorageManager, file_storage
    from localstore.storage.vectors import VectorPlaces
    from localstore.store import LocalStore
    from localstore.tenant import Tenant
    from localstore.vectors.hashing import HashingEmbedder
    from localstore.vectors.values import Match, Vector

__all__ = [
    "BlobDamaged",
    "BlobError",
    "BlobInfo",
    "BlobKeyTaken",
    "BlobNotFound",
    "BlobPlaces",
    "BlobRefused",
    "Blobs",
    "Cache",
    "CacheManager",
    "CacheStats",
    "CacheUnavailable",
    "ConfigurationError",
    "Conversation",
    "DecimalText",
    "FileStorage",
    "FileStorageManager",
    "ForeignFile",
    "HashingEmbedder",
    "InvalidIdentifier",
    "InvalidRow",
    "InvalidVector",
    "JSONText",
    "KnowledgeArticle",
    "LocalStore",
    "LocalStoreError",
    "Match",
    "MissingRights",
    "ModeChanging",
    "NotAStore",
    "ObjectStoreDenied",
    "ObjectStoreUnavailable",
    "PostgresDenied",
    "PostgresError",
    "PostgresStorage",
    "PostgresUnavailable",
    "ProcessingProgress",
    "RawJSON",
    "Settings",
    "StorageFactory",
    "StorageInterface",
    "StoreBusy",
    "StoreError",
    "Tenant",
    "TenantExists",
    "TenantModel",
    "TenantNotFound",
    "Ticket",
    "TicketRepository",
    "UtcDateTime",
    "Vector",
    "VectorError",
    "VectorPlaces",
    "VectorsUnavailable",
    "WrongMode",
    "WrongTenant",
    "as_text",
    "cache_manager",
    "cached",
    "file_storage",
    "get_storage",
]

_LAZY = {
    "BlobInfo": "localstore.blobs.model",
    "BlobPlaces": "localstore.storage.places",
    "Blobs": "localstore.blobs.store",
    "Cache": "localstore.cache.interface",
    "CacheManager": "localstore.cache.platforms",
    "CacheStats": "localstore.cache.stats",
    "Conversation": "localstore.helpdesk",
    "DecimalText": "localstore.columns",
    "FileStorage": "localstore.storage.file",
    "HashingEmbedder": "localstore.vectors.hashing",
    "FileStorageManager": "localstore.storage.uploads",
    "JSONText": "localstore.columns",
    "KnowledgeArticle": "localstore.helpdesk",
    "LocalStore": "localstore.store",
    "Match": "localstore.vectors.values",
    "PostgresStorage": "localstore.storage.postgres",
    "ProcessingProgress": "localstore.helpdesk",
    "RawJSON": "localstore.columns",
    "Settings": "localstore.config",
    "StorageFactory": "localstore.storage.factory",
    "StorageInterface": "localstore.storage.interface",
    "Tenant": "localstore.tenant",
    "TenantModel": "localstore.models",
    "Ticket": "localstore.helpdesk",
    "TicketRepository": "localstore.helpdesk.repository",
    "UtcDateTime": "localstore.columns",
    "Vector": "localstore.vectors.values",
    "VectorPlaces": "localstore.storage.vectors",
    "as_text": "localstore.columns",
    "cache_manager": "localstore.cache.platforms",
    "cached": "localstore.cache.cached",
    "file_storage": "localstore.storage.uploads",
    "get_storage": "localstore.storage.factory",
}
"""What needs SQLAlchemy or pydantic, by the module that defines it: importing them takes most of a second."""


def __getattr__(name: str) -> Any:
    """Load a name at its first use."""
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'localstore' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value
