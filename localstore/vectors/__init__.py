"""Vectors of a tenant: an interface, the tenant's own file behind it, and production's engines."""

from localstore.vectors.file import Vectors
from localstore.vectors.hashing import HashingEmbedder
from localstore.vectors.interface import VectorsInterface
from localstore.vectors.values import Match, Vector, content_hash

__all__ = ["HashingEmbedder", "Match", "Vector", "Vectors", "VectorsInterface", "content_hash"]
