"""Qdrant follows production: promotions, rollbacks and what applications wrote, through every interruption.

It is the engine inside Qdrant's client, on disk: one process at a time has it open.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from localstore import LocalStore
from localstore.postgres.connect import Server, connection_to
from localstore.vectors import Match, QdrantVectors, Vector, VectorsInterface
from localstore.vectors.qdrant_server import connect
from localstore.vectors.values import METRICS
from sync import SyncEngine
from sync.errors import NotReady
from tests.contract.test_vectors import crowd, told

pytestmark = pytest.mark.usefixtures("pgvector")

PUSHING = """
import asyncio, os, signal, sys
from localstore import LocalStore
from localstore.vectors.qdrant import QdrantVectors
from sync import SyncEngine

bring = QdrantVectors.bring

async def bring_and_die(*arguments):
    await bring(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    QdrantVectors.bring = bring_and_die
    async with LocalStore(sys.argv[1], models=[]) as store, SyncEngine(store, to=sys.argv[2]) as engine:
        await engine.push(promote=True)

asyncio.run(main())
"""


@pytest.fixture
def qdrant_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name a place for Qdrant's vectors in the environment."""
    url = (tmp_path / "qdrant").as_uri()
    monkeypatch.setenv("QDRANT_URL", url)
    return url


async def answers(vectors: VectorsInterface, query: Vector, model: str) -> list[object]:
    """Return what a place answers."""
    found = [told(await vectors.search(query.embedding, model=model, k=30, metric=metric)) for metric in METRICS]
    return [*found, await vectors.count(), await vectors.get("kb/1", model=model) is None]


async def test_qdrant_has_what_production_has_after_every_command(
    tmp_path: Path, production: str, qdrant_url: str
) -> None:
    """Each push, planned promotion and rollback ends with Qdrant answering as the file does, of this tenant alone."""
    vectors = crowd(120, 16, 2)
    async with LocalStore(tmp_path / "data", models=[]) as store:
        mine = store.tenant("acme").vectors
        await store.tenant("other").vectors.put_many(vectors[:5], model="m")

        async def agree() -> None:
            async with connect(qdrant_url) as qdrant:
                theirs = QdrantVectors(qdrant, "acme")
                assert await answers(theirs, vectors[3], "m") == await answers(mine, vectors[3], "m")
                assert await QdrantVectors(qdrant, "other").count() == 5

        await mine.put_many(vectors, model="m")
        async with SyncEngine(store, to=production) as engine:
            result = await engine.push(promote=True)
            assert result.exit_code == 0, result.to_json()
        await agree()

        await mine.delete(vectors[3].item, model="m")
        await mine.put("kb/1", vectors[3].embedding, model="m", metadata={"of": 1})
        await mine.put(vectors[4].item, [1.0] * 16, model="m")
        async with SyncEngine(store, to=production) as engine:
            promoted = await engine.promote(await engine.plan())
            assert promoted.exit_code == 0, promoted.to_json()
        await agree()

        async with SyncEngine(store, to=production) as engine:
            batch = next(tenant.batch for tenant in promoted.tenants if tenant.tenant == "acme")
            assert batch is not None
            assert (await engine.rollback(batch)).exit_code == 0
        async with connect(qdrant_url) as qdrant:
            theirs = QdrantVectors(qdrant, "acme")
            assert await theirs.get("kb/1", model="m") is None
            found = await theirs.search(vectors[3].embedding, model="m", k=120)
            assert told(found) == told(await _without_rollback(tmp_path / "again", vectors))
        async with SyncEngine(store, to=production) as engine:
            await engine.requeue(batch)
            await engine.push(promote=True)
        await agree()

        async with connection_to(Server.parse(production)) as application:
            await application.execute("DELETE FROM vectors WHERE item = $1", vectors[10].item)
            await application.execute("UPDATE vectors SET content_hash = 'changed' WHERE company_id = 'acme'")
        async with SyncEngine(store, to=production) as engine:
            await engine.pull()
            await engine.push(promote=True)
        await agree()


async def _without_rollback(folder: Path, vectors: list[Vector]) -> list[Match]:
    """Return what a tenant answers that never had anything but these vectors."""
    async with LocalStore(folder, models=[]) as store:
        await store.tenant("acme").vectors.put_many(vectors, model="m")
        return await store.tenant("acme").vectors.search(vectors[3].embedding, model="m", k=120)


async def test_a_qdrant_that_is_away_stops_no_promotion_and_catches_up(
    tmp_path: Path, production: str, qdrant_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promotion is done and says what did not follow; the next push brings it, though it has nothing else to do."""
    vectors = crowd(20, 16, 4)
    async with LocalStore(tmp_path / "data", models=[]) as store:
        mine = store.tenant("acme").vectors
        await mine.put_many(vectors, model="m")
        monkeypatch.setenv("QDRANT_URL", "http://:secret@127.0.0.1:1")
        async with SyncEngine(store, to=production) as engine:
            result = await engine.push(promote=True)
        (tenant,) = result.tenants
        assert (tenant.state, tenant.tables["vectors"]["inserted"], result.exit_code) == ("promoted", 20, 1)
        assert tenant.failure is not None
        assert tenant.failure.code == "vectors_unavailable"
        assert "secret" not in str(result.to_json())
        monkeypatch.setenv("QDRANT_URL", qdrant_url)
        async with SyncEngine(store, to=production) as engine:
            result = await engine.push(promote=True)
            assert (result.tenants[0].state, result.exit_code) == ("unchanged", 0)
        async with connect(qdrant_url) as qdrant:
            assert await answers(QdrantVectors(qdrant, "acme"), vectors[3], "m") == await answers(mine, vectors[3], "m")


async def test_a_mode_is_not_changed_before_qdrant_has_every_vector(
    tmp_path: Path, production: str, qdrant_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the way to postgresql it follows what the change itself promotes; where it is away the file stays open."""
    vectors = crowd(20, 16, 4)
    async with LocalStore(tmp_path / "data", models=[]) as store:
        mine = store.tenant("acme").vectors
        await mine.put_many(vectors[:10], model="m")
        async with SyncEngine(store, to=production) as engine:
            await engine.push(promote=True)
            await engine.modes.advance("acme")
        await mine.put_many(vectors[10:], model="m")
        monkeypatch.setenv("QDRANT_URL", "http://127.0.0.1:1")
        async with SyncEngine(store, to=production) as engine:
            with pytest.raises(NotReady, match="Qdrant"):
                await engine.modes.advance("acme")
        await mine.put("kb/late", vectors[0].embedding, model="m")
        monkeypatch.setenv("QDRANT_URL", qdrant_url)
        async with SyncEngine(store, to=production) as engine:
            assert (await engine.modes.advance("acme")).mode == "postgresql"
        async with connect(qdrant_url) as qdrant:
            assert await QdrantVectors(qdrant, "acme").count() == 21


async def test_a_push_killed_while_qdrant_follows_is_finished_by_the_next(
    tmp_path: Path, production: str, qdrant_url: str
) -> None:
    """SIGKILL after the first request leaves part of it there; the next push completes it and changes nothing else."""
    vectors = crowd(30, 16, 6)
    async with LocalStore(tmp_path / "data", models=[]) as store:
        mine = store.tenant("acme").vectors
        await mine.put_many(vectors, model="m")
        await mine.put_many(vectors[:10], model="n")
        killed = subprocess.run([sys.executable, "-c", PUSHING, str(tmp_path / "data"), production], check=False)
        assert killed.returncode == -signal.SIGKILL
        async with connect(qdrant_url) as qdrant:
            assert await QdrantVectors(qdrant, "acme").count() in (10, 30)
        await mine.delete(vectors[0].item, model="n")
        await mine.delete(vectors[0].item, model="m")
        for state in ("promoted", "unchanged"):
            async with SyncEngine(store, to=production) as engine:
                result = await engine.push(promote=True)
                assert (result.tenants[0].state, result.exit_code) == (state, 0)
            async with connect(qdrant_url) as qdrant:
                theirs = QdrantVectors(qdrant, "acme")
                for model in ("m", "n"):
                    assert await answers(theirs, vectors[3], model) == await answers(mine, vectors[3], model)
