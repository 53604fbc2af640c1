"""What goes into a set of vectors and what comes out of a search, checked alike whatever the place that keeps them."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from localstore.codec import Text, ValueDefect, encoder
from localstore.codec.vector import DIMENSIONS_MAX
from localstore.columns import dump_json
from localstore.errors import InvalidVector
from localstore.identifiers import preview
from localstore.schema.tables import Kind

Metric: TypeAlias = Literal["cosine", "dot", "l2"]
Floats: TypeAlias = NDArray[np.float32]
Embedding: TypeAlias = "NDArray[np.floating[Any]] | Sequence[float]"
Scalar: TypeAlias = str | int | float | bool

METRICS: Final[tuple[Metric, ...]] = get_args(Metric)

MODEL_CHARACTERS_MAX: Final = 128
"""A model's name is part of an index's condition in production."""

ITEM_BYTES_MAX: Final = 1024
"""An item is part of a key, and an index entry of production has an end."""

METADATA_BYTES_MAX: Final = 64 * 1024
"""Metadata is kept in memory for searching; what is larger is the item's own content."""

LENGTH_MIN: Final = 1e-15
LENGTH_MAX: Final = 1e15
"""Between these lengths no metric leaves the range of a float of 32 bits, and every vector has a direction."""

K_MAX: Final = 10_000
"""More matches than this are a listing, not a search."""

INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**64 - 1
"""Between these every reader of JSON takes an integer for what it is; a larger one becomes a float in some places."""

_LONG = re.compile(r"\d{19}")
"""Integers of fewer digits have 64 bits at most."""

_DIGITS_MAX: Final = 20

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*")


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """The embedding of one item. `item` is the address of what it belongs to, such as `tickets/jira/MOD-42`.

    `content_hash` says from which text it was made (see `content_hash`), None where nobody said.
    """

    item: str
    embedding: Embedding
    content_hash: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """One answer of a search. A higher score is nearer for `cosine` and `dot`; for `l2` it is a distance."""

    item: str
    score: float
    content_hash: str | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stored:
    """A vector as it is kept: little-endian floats of 32 bits, metadata as JSON text."""

    item: str
    dimension: int
    content_hash: str | None
    metadata: str
    embedding: bytes

    @property
    def floats(self) -> Floats:
        """Return the embedding."""
        return np.frombuffer(self.embedding, "<f4")


@dataclass(frozen=True, slots=True)
class Query:
    """A search whose parts are checked. `where` gives for each key of the metadata the values that will do."""

    model: str
    embedding: Floats
    k: int
    metric: Metric
    where: tuple[tuple[str, tuple[Scalar, ...]], ...]

    @property
    def dimension(self) -> int:
        """Return how many numbers the vectors have."""
        return len(self.embedding)


def content_hash(text: str) -> str:
    """Return what tells one text from another: 128 bits of BLAKE2b over its UTF-8, in hex."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def check_model(model: object) -> str:
    """Return the model's name, or raise InvalidVector."""
    if isinstance(model, str) and len(model) <= MODEL_CHARACTERS_MAX and _MODEL.fullmatch(model):
        return model
    raise InvalidVector(
        f"{preview(model)} cannot name a model",
        hint=f"use up to {MODEL_CHARACTERS_MAX} letters, digits and . _ : / @ + -, beginning with a letter or digit",
    )


def check_item(item: object) -> str:
    """Return the item's address, or raise InvalidVector."""
    if isinstance(item, str) and item.strip() and item.isprintable() and len(item.encode()) <= ITEM_BYTES_MAX:
        return item
    raise InvalidVector(
        f"{preview(item)} cannot be the address of an item",
        hint=f"use printable text of at most {ITEM_BYTES_MAX:,} bytes, such as tickets/jira/MOD-42",
    )


def check_embedding(embedding: Embedding, item: str = "the query") -> Floats:
    """Return the embedding as floats of 32 bits; InvalidVector for what is no vector or cannot be compared."""
    try:
        given = np.asarray(embedding)
    except (TypeError, ValueError) as error:
        raise InvalidVector(f"the embedding of {preview(item)} is not a row of numbers", hint=_NUMBERS) from error
    # Texts, booleans, times and complex numbers would be made numbers of, and nobody would hear of it.
    if given.size and given.dtype.kind not in "iuf":
        raise InvalidVector(f"the embedding of {preview(item)} holds {given.dtype}, not numbers", hint=_NUMBERS)
    if given.ndim != 1 or not 1 <= len(given) <= DIMENSIONS_MAX:
        raise InvalidVector(
            f"the embedding of {preview(item)} has the shape {given.shape}",
            hint=f"give one row of 1 to {DIMENSIONS_MAX:,} numbers",
        )
    with np.errstate(over="ignore"):
        floats = np.ascontiguousarray(given, dtype="<f4")
    length = length_of(floats)
    if not LENGTH_MIN <= length <= LENGTH_MAX:
        what = "has no direction" if length < LENGTH_MIN else "holds NaN, an infinity or numbers beyond all use"
        raise InvalidVector(f"the embedding of {preview(item)} {what}", hint=_NUMBERS)
    return floats


def length_of(floats: Floats) -> float:
    """Return the embedding's length, which is NaN or infinite where some number is."""
    with np.errstate(all="ignore"):
        return math.sqrt(float(np.square(floats, dtype=np.float64).sum()))


def has_direction(floats: Floats) -> bool:
    """Return whether a search can find the embedding: what another program wrote may be zero or no number."""
    return math.isfinite(length := length_of(floats)) and length > 0


def check_vector(vector: Vector) -> Stored:
    """Return the vector as it is kept; InvalidVector for what some place could not keep."""
    item = check_item(vector.item)
    floats = check_embedding(vector.embedding, item)
    return Stored(
        item, len(floats), _digest(vector.content_hash), _metadata_text(vector.metadata, item), floats.tobytes()
    )


def _digest(digest: object) -> str | None:
    if digest is None or (isinstance(digest, str) and digest.isprintable() and len(digest) <= ITEM_BYTES_MAX):
        return digest
    raise InvalidVector(f"{preview(digest)} is no content hash", hint="use localstore.vectors.content_hash(text)")


def check_same_dimension(vectors: Sequence[Stored], model: str, known: int | None = None) -> int:
    """Return the one dimension that all of them have, also the model's vectors that are kept already (`known`)."""
    dimension = vectors[0].dimension if known is None else known
    for vector in vectors:
        if vector.dimension != dimension:
            raise other_dimension(model, dimension, vector.dimension)
    return dimension


def other_dimension(model: str, known: int, given: int) -> InvalidVector:
    """Return the error for a vector or a query of another dimension than the model's."""
    return InvalidVector(
        f"vectors of the model {model} have {known:,} dimensions, not {given:,}",
        hint="name another model, or delete_model this one and embed its items anew",
    )


def check_query(model: str, query: Embedding, k: int, metric: Metric, where: Mapping[str, Any] | None) -> Query:
    """Return the search with its parts checked."""
    if metric not in METRICS:
        raise InvalidVector(f"there is no metric {preview(metric)}", hint=f"one of {', '.join(METRICS)}")
    if type(k) is not int or not 1 <= k <= K_MAX:
        raise InvalidVector(f"k cannot be {preview(k)}", hint=f"ask for 1 to {K_MAX:,} matches")
    conditions = tuple((_key(key), _choices(key, value)) for key, value in (where or {}).items())
    return Query(check_model(model), check_embedding(query), k, metric, conditions)


def scalar(value: object) -> tuple[str, object] | None:
    """Return what a value of metadata is compared by, None for one that no filter finds.

    As JSON has it, true is not 1, and 1 is 1.0.
    """
    if isinstance(value, bool | str):
        return type(value).__name__, value
    if isinstance(value, int | float) and math.isfinite(value):
        return "number", value
    return None


_NUMBERS: Final = "give finite numbers, not all of them zero"


def _key(key: object) -> str:
    if isinstance(key, str) and key.isprintable():
        return key
    raise InvalidVector(f"{preview(key)} is no key of metadata", hint="filter by keys of the metadata that was put")


def _choices(key: str, value: object) -> tuple[Scalar, ...]:
    choices = tuple(value) if isinstance(value, list | tuple | set | frozenset) else (value,)
    if all(_can_be_asked_for(choice) for choice in choices):
        return choices
    raise InvalidVector(
        f"metadata cannot be filtered by {preview(key)} = {preview(value)}",
        hint="give a text, a boolean, a number (an integer of at most 64 bits), or a list of such values",
    )


def _can_be_asked_for(choice: object) -> bool:
    if isinstance(choice, str):
        return choice.isprintable()
    if isinstance(choice, int):
        return INTEGER_MIN <= choice <= INTEGER_MAX
    return scalar(choice) is not None


def _integer(digits: str) -> int:
    number = int(digits) if len(digits) <= _DIGITS_MAX else INTEGER_MAX + 1
    if not INTEGER_MIN <= number <= INTEGER_MAX:
        raise ValueError("an integer of more than 64 bits, which some readers of JSON would change")
    return number


def _metadata_text(metadata: object, item: str) -> str:
    try:
        if not isinstance(metadata, Mapping):
            raise TypeError("it is no mapping")
        text = dump_json(dict(metadata))
        if _LONG.search(text):
            json.loads(text, parse_int=_integer)
        encoder(Kind.JSON)(Text(text.encode()))
    except (TypeError, ValueError, ValueDefect) as error:
        raise InvalidVector(f"the metadata of {preview(item)} cannot be kept as JSON: {error}", hint=_KEPT) from error
    if len(text) > METADATA_BYTES_MAX:
        raise InvalidVector(f"the metadata of {preview(item)} has {len(text):,} characters", hint=_KEPT)
    return text


_KEPT: Final = f"use a mapping of texts to JSON values, {METADATA_BYTES_MAX:,} characters at most"
