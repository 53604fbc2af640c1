"""Time the ten nearest of one tenant's 100,000 vectors of 384 dimensions, exactly, in every place that keeps vectors.

Run `python benchmarks/vectors.py [ROWS]`. Each figure is the fastest of some searches, as a ratio to the bare product
of the same matrix in the same run, which no exact search can beat. Without memory the file is searched by sqlite-vec
where this Python loads it, else block by block; sqlite-vec alone takes part where any Python on the path can load it.
Qdrant is the engine inside its client, which is no measure of a server.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter

import numpy as np

from localstore import LocalStore
from localstore.postgres.connect import connection_to
from localstore.postgres.embedded import embedded_server
from localstore.postgres.pool import Pool
from localstore.vectors import Match, PgVectors, QdrantVectors, Vector, VectorsInterface
from localstore.vectors.blocks import search as nearest
from localstore.vectors.matrices import Matrices
from localstore.vectors.qdrant_server import connect
from localstore.vectors.sqlite_vec import load
from localstore.vectors.values import Floats, check_query
from sync import SyncEngine

DIMENSION = 384
MODEL = "bench-384"
ROUNDS_MIN, ROUNDS_MAX, SECONDS_MAX = 3, 30, 5.0
"""Quick searches are repeated more often, since another process on the machine disturbs them more."""
BATCH = 5_000
SHARED_FILTER = {"group": 7}

SQLITE_VEC = """
import json, sqlite3, sys, time
library, path, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
file = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
file.enable_load_extension(True)
file.load_extension(library)
query = file.execute("SELECT embedding FROM vectors WHERE item = 'kb/0'").fetchone()
times = []
for _ in range(rounds):
    began = time.perf_counter()
    rows = file.execute(
        "SELECT item FROM vectors WHERE company_id = 'acme' AND model = ? "
        "ORDER BY vec_distance_cosine(embedding, ?) LIMIT 10", (sys.argv[4], query[0])
    ).fetchall()
    times.append(time.perf_counter() - began)
print(json.dumps([min(times), [row[0] for row in rows]]))
"""


async def fastest(work: Callable[[], Awaitable[object]]) -> float:
    """Return the seconds of the fastest of some calls."""
    times: list[float] = []
    while len(times) < ROUNDS_MIN or (len(times) < ROUNDS_MAX and sum(times) < SECONDS_MAX):
        began = perf_counter()
        await work()
        times.append(perf_counter() - began)
    return min(times)


def bare(rows: Floats, query: Floats) -> float:
    """Return the seconds of one product with the whole matrix and the choice of the ten nearest."""
    times = []
    for _ in range(ROUNDS_MAX):
        began = perf_counter()
        scores = rows @ query
        np.argpartition(-scores, 10)
        times.append(perf_counter() - began)
    return min(times)


def sqlite_vec(path: Path) -> tuple[float, list[str]] | str:
    """Return sqlite-vec's seconds and answer over the tenant's own file, or why there are none."""
    found = importlib.util.find_spec("sqlite_vec")
    if found is None or found.origin is None:
        return "not installed"
    library = str(Path(found.origin).parent / "vec0")
    probe = "import sqlite3; sqlite3.connect(':memory:').enable_load_extension(True)"
    for python in (sys.executable, "/usr/bin/python3", shutil.which("python3") or sys.executable):
        if subprocess.run([python, "-c", probe], capture_output=True, check=False).returncode == 0:
            arguments = [python, "-c", SQLITE_VEC, library, str(path), str(ROUNDS_MAX), MODEL]
            seconds, items = json.loads(subprocess.run(arguments, capture_output=True, check=True).stdout)
            return seconds, items
    return "no Python here can load extensions into SQLite"


async def main(count: int) -> None:
    """Fill every place with the same vectors and ask each the same."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(count, DIMENSION)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    vectors = [Vector(f"kb/{place}", row, None, {"group": place % 100}) for place, row in enumerate(rows)]
    floor = bare(rows, rows[0])

    def show(what: str, seconds: float) -> None:
        print(f"{what:<44}{seconds / floor:8.2f}   {seconds * 1000:9.1f} ms", flush=True)

    print(f"{count:,} vectors of {DIMENSION} dimensions; top 10 by cosine; as a ratio to the bare product")
    show("bare product (numpy)", floor)
    with tempfile.TemporaryDirectory(prefix="localstore-bench-") as folder:
        root = Path(folder)
        async with (
            LocalStore(root / "data", models=[]) as store,
            embedded_server(root / "data", erase=True) as server,
            SyncEngine(store, to=server.url) as engine,
            Pool(server) as pool,
        ):
            mine = store.tenant("acme").vectors
            began = perf_counter()
            for place in range(0, count, BATCH):
                await mine.put_many(vectors[place : place + BATCH], model=MODEL)
            print(f"put into the file: {count / (perf_counter() - began):,.0f} vectors/s")

            async def search(place: VectorsInterface = mine) -> list[str]:
                return [match.item for match in await place.search(rows[0], model=MODEL)]

            expected = await search()
            show("file, from memory", await fastest(search))
            show("file, 1 % by a filter", await fastest(lambda: mine.search(rows[0], model=MODEL, where=SHARED_FILTER)))

            query = check_query(MODEL, rows[0], 10, "cosine", None)

            def unkept(file: sqlite3.Connection) -> list[Match]:
                return nearest(Matrices(0).blocks(database, file, query), query)

            database = store.tenant("acme").database
            assert [match.item for match in await database.read(unkept)] == expected
            inside = await database.read(load)
            show(
                f"file, {'by sqlite-vec' if inside else 'block by block'}", await fastest(lambda: database.read(unkept))
            )

            async def search_after_write() -> None:
                await mine.put("kb/last", -rows[0], model=MODEL, text=str(perf_counter()))
                await search()

            show("file, after a write", await fastest(search_after_write))

            answer = sqlite_vec(root / "data" / "acme" / "store.db")
            if isinstance(answer, str):
                print(f"sqlite-vec: {answer}")
            else:
                assert answer[1] == expected
                show("sqlite-vec, the same file", answer[0])

            began = perf_counter()
            await engine.push(promote=True)
            print(f"push and promote: {count / (perf_counter() - began):,.0f} vectors/s")
            theirs = PgVectors(pool, "acme")
            assert await search(theirs) == expected
            show("pgvector, exact", await fastest(lambda: search(theirs)))
            began = perf_counter()
            await engine.init()
            print(f"HNSW index made in {perf_counter() - began:,.0f} s")
            async with connection_to(server) as connection:
                await connection.execute("ANALYZE vectors")
            show("pgvector, nearest (approximate)", await fastest(lambda: theirs.nearest(rows[0], model=MODEL)))

            async with connect("memory:") as qdrant:
                beside = QdrantVectors(qdrant, "acme")
                began = perf_counter()
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Local mode is not recommended")
                    for place in range(0, count, BATCH):
                        await beside.put_many(vectors[place : place + BATCH], model=MODEL)
                    print(f"put into Qdrant in process: {count / (perf_counter() - began):,.0f} vectors/s")
                    assert await search(beside) == expected
                    show("Qdrant in process, exact", await fastest(lambda: search(beside)))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
