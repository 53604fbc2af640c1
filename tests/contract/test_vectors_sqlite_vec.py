"""Models too large for memory: the same answers where the interpreter loads sqlite-vec and where it does not."""

from __future__ import annotations

import sqlite3
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlite_vec

from localstore import LocalStore, Tenant
from localstore.vectors import Vector
from localstore.vectors.blocks import search
from localstore.vectors.matrices import Matrices
from localstore.vectors.values import METRICS, Metric, check_query
from tests.contract.test_vectors import crowd

ROWS = 2_600
FILTERS: tuple[dict[str, Any], ...] = ({}, {"even": False}, {"even": 1}, {"of": 1.0, "even": [True, "x"]}, {"no": 1})
INSERT = "INSERT INTO vectors (company_id, model, item, embedding, metadata) VALUES ('acme', 'm', ?, ?, ?)"
LOADED = "SELECT count(*) FROM pragma_function_list WHERE name = 'vec_version'"


def loads_here() -> bool:
    """Return whether this interpreter loads sqlite-vec into a connection of the test's own."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.enable_load_extension(True)
        sqlite_vec.load(connection)
    except (AttributeError, sqlite3.Error):
        return False
    finally:
        connection.close()
    return True


@pytest.fixture
async def tenant(tmp_path: Path) -> AsyncIterator[Tenant]:
    """Open a tenant."""
    async with LocalStore(tmp_path, models=[]) as store:
        yield await store.tenant("acme").open()


async def same_in_the_file(
    tenant: Tenant, asked: np.ndarray, metric: Metric, k: int, where: dict[str, Any]
) -> tuple[int, bool]:
    """Check a search without memory against one from memory; return how many rows it measured, and who was loaded.

    What it leaves behind on its connection is that nobody can load anything.
    """
    query = check_query("m", asked, k, metric, where)

    def work(file: sqlite3.Connection) -> tuple[int, bool]:
        blocks = list(Matrices(0).blocks(tenant.database, file, query))
        assert search(blocks, query) == search(Matrices().blocks(tenant.database, file, query), query)
        with pytest.raises(sqlite3.OperationalError, match=r"not authorized|no such function"):
            file.execute("SELECT load_extension('vec0')")
        return sum(len(block.items) for block in blocks), bool(file.execute(LOADED).fetchone()[0])

    return await tenant.database.read(work)


@pytest.mark.parametrize("dimension", [16, 21])
async def test_sqlite_vec_chooses_where_it_loads_and_answers_are_those_from_memory(
    tenant: Tenant, tmp_path: Path, dimension: int
) -> None:
    """For each metric and filter, also with vectors that no application could have put; it is used where it can be."""
    vectors = crowd(ROWS, dimension, dimension)
    query = np.random.default_rng(dimension).normal(size=dimension)
    # The farthest of all has 1 where half of the others have true.
    await tenant.vectors.put_many([*vectors, Vector("kb/one", -query, metadata={"even": 1.0})], model="m")
    shell = sqlite3.connect(tmp_path / "acme" / "store.db", isolation_level=None)
    for factor in (0, 1e-30, 1e-20, 1e20, 1e36, float("nan"), float("inf")):
        floats = struct.pack(f"<{dimension}f", *(query * factor))
        shell.execute(INSERT, (f"odd/{factor}", floats, '{"even": false}'))
        shell.execute(INSERT, (f"odd/half/{factor}", struct.pack("<f", 1) + floats[4:], "no JSON"))
    shell.close()
    for metric in METRICS:
        chosen = loads_here() and metric != "dot"
        for where in FILTERS:
            for k in (1, 40):
                measured, _ = await same_in_the_file(tenant, query, metric, k, where)
                assert measured <= (2 * k + 1_000 if chosen else ROWS + 15)
                if not chosen:
                    assert measured > ROWS
        assert (await same_in_the_file(tenant, query, metric, 1, {}))[1] == loads_here()


async def test_more_equal_vectors_than_sqlite_vec_is_asked_for_are_ordered_by_their_items(tenant: Tenant) -> None:
    """Who is first among thousands that are equally near cannot be told by a part of them, so all are read."""
    items = [f"kb/{place:04}" for place in range(1_500)]
    await tenant.vectors.put_many([Vector(item, [3.0, 4.0, 5.0]) for item in reversed(items)], model="m")
    for metric in METRICS:
        assert (await same_in_the_file(tenant, np.ones(3), metric, 10, {}))[0] == len(items)


async def test_a_library_that_does_not_load_costs_no_answer(
    tenant: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the package is missing or is one for another machine, all is read, and nothing stays unlocked."""
    await tenant.vectors.put_many(crowd(ROWS, 4, 1), model="m")
    (tmp_path / "vec0.so").write_bytes(b"for another machine")
    with monkeypatch.context() as patched:
        patched.setattr(sqlite_vec, "loadable_path", lambda: str(tmp_path / "vec0.so"))
        assert await same_in_the_file(tenant, np.ones(4), "cosine", 5, {}) == (ROWS, False)
    monkeypatch.setitem(sys.modules, "sqlite_vec", None)
    assert await same_in_the_file(tenant, np.ones(4), "cosine", 5, {}) == (ROWS, False)
