"""sqlite-vec, where the interpreter loads it: who may be among the nearest, found without leaving SQLite."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Final

import numpy as np

from localstore.vectors.blocks import Block, parsed
from localstore.vectors.reading import OF_DIMENSION, Source, read_items
from localstore.vectors.values import LENGTH_MAX, LENGTH_MIN, Query, scalar

EXTRA_ROWS: Final = 1_000
"""Beside twice the `k`, so many are taken at first: who is as near as the last one, within the error, must be there."""

_FUNCTIONS: Final = {"cosine": "vec_distance_cosine", "l2": "vec_distance_l2"}
"""There is none for the dot product."""

_PASSES: Final = "localstore_vector_passes"

_EPSILON: Final = float(np.finfo(np.float32).eps)

_SMALLEST: Final = float(np.sqrt(np.finfo(np.float32).tiny))
"""Below this a number's square is lost in 32 bits."""


def load(connection: sqlite3.Connection) -> bool:
    """Return whether the connection has sqlite-vec's functions, after loading them where that is possible.

    Many Pythons are built without loading, not everybody has the package, and its library is not for every machine.
    """
    if _has_functions(connection):
        return True
    if not hasattr(connection, "enable_load_extension"):
        return False
    try:
        package = import_module("sqlite_vec")
    except ImportError:
        return False
    try:
        connection.enable_load_extension(True)
        package.load(connection)
    except sqlite3.Error:
        return False
    finally:
        # While this is on, a statement could load any library, too.
        connection.enable_load_extension(False)
    return _has_functions(connection)


def candidates(connection: sqlite3.Connection, source: Source, query: Query) -> list[Block] | None:
    """Return blocks in which the query's nearest are for certain, to be measured again; None where that cannot be had.

    That is so for a metric that sqlite-vec has not, where it does not load, and where more are equally near, within the
    error of its 32 bits, than are taken.
    """
    if query.metric not in _FUNCTIONS or not load(connection):
        return None
    limit = 2 * query.k + EXTRA_ROWS
    near = _nearest(connection, source, query, limit)
    # Those without a distance come first and may be anywhere.
    distances = [distance for _, distance in near if distance is not None]
    if len(near) == limit and not (len(distances) >= query.k and distances[-1] > _reach(distances[query.k - 1], query)):
        return None
    block = read_items(connection, source, (item for item, _ in near))
    return [] if block is None else [block]


def _has_functions(connection: sqlite3.Connection) -> bool:
    names = tuple(_FUNCTIONS.values())
    (there,) = connection.execute(
        "SELECT count(DISTINCT name) FROM pragma_function_list WHERE name IN (?, ?)", names
    ).fetchone()
    return bool(there == len(names))


def _nearest(
    connection: sqlite3.Connection, source: Source, query: Query, limit: int
) -> list[tuple[str, float | None]]:
    """Return items with their distances, after those without one: another tool wrote vectors too short or too long."""
    floats = query.embedding.tobytes()
    distance = (
        f"CASE WHEN vec_distance_l2(embedding, ?) BETWEEN {LENGTH_MIN!r} AND {LENGTH_MAX!r} "
        f"THEN {_FUNCTIONS[query.metric]}(embedding, ?) END"
    )
    condition = f" AND {_PASSES}(CASE typeof(metadata) WHEN 'text' THEN CAST(metadata AS BLOB) END)"
    with _passing(connection, query):
        rows = connection.execute(
            f"SELECT CAST(item AS BLOB), {distance} AS distance {OF_DIMENSION}{condition if query.where else ''} "
            "ORDER BY distance LIMIT ?",
            (bytes(len(floats)), floats, *source.arguments, limit),
        ).fetchall()
    # An item that is no text, though SQLite takes it for one, is read by nobody.
    return [(item.decode(errors="replace"), distance) for item, distance in rows]


@contextmanager
def _passing(connection: sqlite3.Connection, query: Query) -> Iterator[None]:
    """Let SQL ask whether metadata passes the filter: by the equality of all places, which is not that of SQLite."""
    if not query.where:
        yield
        return
    connection.create_function(_PASSES, 1, _filter(query), deterministic=True)
    try:
        yield
    finally:
        connection.create_function(_PASSES, 1, None)


def _filter(query: Query) -> Callable[[bytes | None], bool]:
    wanted = [(key, {scalar(choice) for choice in choices}) for key, choices in query.where]

    def passes(text: bytes | None) -> bool:
        metadata = parsed(text or b"{}")
        return all(scalar(metadata.get(key)) in choices for key, choices in wanted)

    return passes


def _reach(distance: float, query: Query) -> float:
    """Return up to which distance somebody may in truth be as near as one of this distance.

    Sums of `dimension` products in 32 bits: the error of a cosine is absolute, that of a length relative to it.
    """
    wrong = 2 * (query.dimension + 8) * _EPSILON
    if query.metric == "cosine":
        return distance + 2 * wrong
    return distance * (1 + 3 * wrong) + 3 * math.sqrt(query.dimension) * _SMALLEST
