"""A tenant's vectors in its file, in production and on a second box: the same answers everywhere, whatever happens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from localstore import LocalStore
from localstore.postgres.connect import Server, connection_to
from localstore.postgres.pool import Pool
from localstore.vectors import PgVectors, Vector, VectorsInterface
from localstore.vectors.values import METRICS, check_query
from sync import SyncEngine
from sync.production.vectors import INDEXED_ROWS_MIN, index_vectors
from tests.conftest import Login
from tests.contract.test_vectors import crowd, told

pytestmark = pytest.mark.usefixtures("pgvector")

MODEL = "hashing-16"


async def answers(vectors: VectorsInterface, query: Vector) -> list[object]:
    """Return what a place answers to some questions."""
    return [
        told(await vectors.search(query.embedding, model=MODEL, k=25, metric=metric, where=where))
        for metric in METRICS
        for where in (None, {"of": [1, 2]})
    ]


async def test_vectors_are_found_alike_on_both_sides_after_every_command(
    tmp_path: Path, production: str, login: Login
) -> None:
    """Promoted, changed, rolled back and pulled vectors are searched by pgvector and by numpy with one answer."""
    vectors = crowd(200, 16, 11)
    async with (
        LocalStore(tmp_path / "one", models=[]) as one,
        LocalStore(tmp_path / "two", models=[]) as two,
        SyncEngine(one, to=production) as first,
        SyncEngine(two, to=production) as second,
    ):
        mine = one.tenant("acme").vectors
        await mine.put_many(vectors, model=MODEL)
        await first.push(promote=True)
        await second.pull(["acme"])
        copy = two.tenant("acme").vectors
        async with Pool(Server.parse(login("app_user"))) as pool:
            theirs = PgVectors(pool, "acme")

            async def agree() -> None:
                expected = await answers(mine, vectors[3])
                assert await answers(theirs, vectors[3]) == expected
                assert await answers(copy, vectors[3]) == expected

            await agree()
            await mine.delete("tickets/jira/M-3", model=MODEL)
            await mine.put_many([Vector("kb/1", vectors[3].embedding, None, {"of": 1})], model=MODEL)
            batch = (await first.push(promote=True)).tenants[0].batch
            assert batch is not None
            await second.pull(["acme"])
            await agree()

            async with pool.transaction("acme") as application:
                await application.execute(
                    "INSERT INTO vectors SELECT company_id, model, 'kb/2', dimension, NULL, '{\"of\": 2}', embedding "
                    "FROM vectors WHERE item = $1",
                    vectors[7].item,
                )
            await first.pull()
            await second.pull(["acme"])
            await agree()

            await first.rollback(batch)
            await second.pull(["acme"])
            found = await answers(theirs, vectors[3])
            assert found == await answers(copy, vectors[3])
            assert "tickets/jira/M-3" in str(found[0])
            assert "kb/1" not in str(found[0])
            await first.requeue(batch)
            await first.push(promote=True)
            await second.pull(["acme"])
            await agree()
            assert all(verified.equal for verified in await first.verify())


async def test_an_index_is_made_for_models_with_many_vectors_and_serves_nearest(
    tmp_path: Path, production: str, login: Login
) -> None:
    """It covers one model and dimension, is made once, and is what `nearest` reads; exact searches go past it."""
    random = np.random.default_rng(5)
    rows = random.normal(size=(INDEXED_ROWS_MIN, 4))
    async with LocalStore(tmp_path, models=[]) as store, SyncEngine(store, to=production) as engine:
        mine = store.tenant("acme").vectors
        await mine.put_many([Vector(f"kb/{place}", row) for place, row in enumerate(rows)], model="many")
        await mine.put("kb/1", [1, 2, 3], model="few")
        await engine.push(promote=True)
        async with connection_to(Server.parse(production)) as owner:
            assert await index_vectors(owner, "public", "acme", INDEXED_ROWS_MIN + 1) == ()
            await engine.init()
            assert await index_vectors(owner, "public", "acme") == ("vectors_many_4_hnsw",)
            await owner.execute("ANALYZE vectors")
        async with Pool(Server.parse(login("app_user"))) as pool:
            theirs = PgVectors(pool, "acme")
            exact = [match.item for match in await theirs.search(rows[7], model="many")]
            near = [match.item for match in await theirs.nearest(rows[7], model="many")]
            assert near[0] == exact[0] == "kb/7"
            assert len(set(near) & set(exact)) >= 8
            assert await PgVectors(pool, "other").nearest(rows[7], model="many") == []
            statement = theirs.nearest_statement(check_query("many", rows[7], 10, "cosine", None), '"public"')
            async with pool.transaction("acme") as connection:
                plan = await connection.fetch(f"EXPLAIN {statement}", "acme", rows[7].tolist(), 10)
            assert "vectors_many_4_hnsw" in str(plan)
        await mine.put_many([Vector(f"kb/{place}", row) for place, row in enumerate(rows[::-1][:50])], model="many")
        await engine.push(promote=True)
        assert (await engine.verify())[0].equal
