"""Vectors of a tenant: an interface, the tenant's own file behind it, and production's engines.

Names are loaded when they are first used: they need numpy, and the table of vectors does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localstore.vectors.file import Vectors
    from localstore.vectors.followed import FollowedVectors
    from localstore.vectors.hashing import HashingEmbedder
    from localstore.vectors.interface import VectorsInterface
    from localstore.vectors.pgvector import PgVectors
    from localstore.vectors.qdrant import QdrantVectors
    from localstore.vectors.values import Match, Vector, content_hash

__all__ = [
    "FollowedVectors",
    "HashingEmbedder",
    "Match",
    "PgVectors",
    "QdrantVectors",
    "Vector",
    "Vectors",
    "VectorsInterface",
    "content_hash",
]

_LAZY = {
    "FollowedVectors": "followed",
    "HashingEmbedder": "hashing",
    "Match": "values",
    "PgVectors": "pgvector",
    "QdrantVectors": "qdrant",
    "Vector": "values",
    "Vectors": "file",
    "VectorsInterface": "interface",
    "content_hash": "values",
}


def __getattr__(name: str) -> Any:
    """Load a name at its first use."""
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'localstore.vectors' has no attribute {name!r}")
    value = getattr(import_module(f"localstore.vectors.{module}"), name)
    globals()[name] = value
    return value
