"""An embedder for demonstrations and tests: words are hashed into places. It knows nothing of meaning."""

from __future__ import annotations

import hashlib
import re
from typing import Final

import numpy as np

from localstore.vectors.values import Floats

DIMENSION: Final = 64

_WORD = re.compile(r"\w+")


class HashingEmbedder:
    """Embed a text by its words: the same words give the same vector, on every machine. For demos and tests alone.

    Each word adds one or takes one away at a place that its hash names ("feature hashing", Weinberger et al. 2009).
    """

    def __init__(self, dimension: int = DIMENSION) -> None:
        self.dimension = dimension

    @property
    def model(self) -> str:
        """Return the name under which its vectors are kept."""
        return f"hashing-{self.dimension}"

    def embed(self, text: str) -> Floats:
        """Return a vector of length one."""
        vector = np.zeros(self.dimension, np.float64)
        for word in _WORD.findall(text.casefold()) or [""]:
            number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
            vector[(number >> 1) % self.dimension] += 1 if number & 1 else -1
        if not vector.any():  # The words cancelled each other out.
            vector[0] = 1
        return (vector / np.linalg.norm(vector)).astype(np.float32)
