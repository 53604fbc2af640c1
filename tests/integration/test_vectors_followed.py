"""Qdrant ends with what production ends with: among writers at once, after one that died, and from any command at all.

Engines and applications of a test share one engine of Qdrant's inside its client, as they would a server.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from localstore import LocalStore
from localstore.postgres.connect import Server, connection_to
from localstore.postgres.pool import Pool
from localstore.vectors import FollowedVectors, PgVectors, QdrantVectors, VectorsInterface
from localstore.vectors.qdrant_server import Qdrant, connect
from localstore.vectors.table import VECTORS
from sync import SyncEngine
from sync.following import due_companies
from sync.production import prepare, register
from tests.conftest import Login
from tests.contract.test_vectors import crowd, told

pytestmark = pytest.mark.usefixtures("pgvector")

DYING = """
import asyncio, os, signal
from localstore import VectorPlaces
from localstore.vectors.qdrant import QdrantVectors

async def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with VectorPlaces() as places:
        vectors = await places.of("acme")
        await vectors.put("kb/1", [1, 0], model="m")
        await vectors.put("kb/2", [0, 1], model="m")
        QdrantVectors.bring = die
        await {write}

asyncio.run(main())
"""


@pytest.fixture
async def app(production: str) -> AsyncIterator[asyncpg.Connection]:
    """Return a connection to a production that has the table of vectors."""
    async with connection_to(Server.parse(production)) as connection:
        await prepare(connection)
        await register(connection, "public", [VECTORS])
        yield connection


@pytest.fixture
async def qdrant(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Qdrant]:
    """Return the one Qdrant to which every part of the test connects."""
    monkeypatch.setenv("QDRANT_URL", "memory:")
    async with connect("memory:") as shared:
        monkeypatch.setattr("localstore.vectors.qdrant_server.connect", lambda _url: shared)
        monkeypatch.setattr(shared.client, "close", _stay_open)
        yield shared


async def _stay_open() -> None:
    """Leave the engine to the other parts of the test."""


async def agree(found: VectorsInterface, truth: VectorsInterface, model: str, dimension: int) -> None:
    """Check that a model's vectors are the same in both places."""
    for query in ([1.0] * dimension, [float(place) for place in range(1, dimension + 1)]):
        answers = [await place.search(query, model=model, k=1000) for place in (found, truth)]
        assert told(answers[0]) == told(answers[1])
        assert [match.metadata for match in answers[0]] == [match.metadata for match in answers[1]]
    assert await found.count(model) == await truth.count(model)


@pytest.mark.parametrize("second", ["put", "delete", "delete_model"])
async def test_of_two_writers_at_once_search_finds_the_later_one_s(
    production: str, app: asyncpg.Connection, qdrant: Qdrant, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    """Also if the first one's request to Qdrant is under way while the second one commits."""
    under_way, committed = asyncio.Event(), asyncio.Event()
    bring = QdrantVectors.bring

    async def slow_at_first(self: QdrantVectors, *arguments: object) -> None:
        if not under_way.is_set():
            under_way.set()
            await committed.wait()
        await bring(self, *arguments)  # type: ignore[arg-type]

    async with Pool(Server.parse(production)) as pool:
        one, other = FollowedVectors(pool, "acme", qdrant), FollowedVectors(pool, "acme", qdrant)
        await one.put("kb/2", [1, 2], model="m")
        monkeypatch.setattr(QdrantVectors, "bring", slow_at_first)
        writing = asyncio.create_task(one.put("kb/1", [1, 1], model="m", metadata={"by": 1}))
        await under_way.wait()
        writes: dict[str, Callable[[], Awaitable[object]]] = {
            "put": lambda: other.put("kb/1", [2, 1], model="m", metadata={"by": 2}),
            "delete": lambda: other.delete("kb/1", model="m"),
            "delete_model": lambda: other.delete_model("m"),
        }
        following = asyncio.ensure_future(writes[second]())
        truth = PgVectors(pool, "acme")
        while (found := await truth.get("kb/1", model="m")) is not None and found.metadata == {"by": 1}:
            await asyncio.sleep(0.01)
        # Long enough for a writer that waits for nobody to be done with Qdrant.
        await asyncio.wait([following], timeout=0.2)
        committed.set()
        await asyncio.gather(writing, following)
        await agree(one, truth, "m", 2)
        assert await one.count("m") == {"put": 2, "delete": 1, "delete_model": 0}[second]


async def test_a_model_that_is_put_again_while_it_is_deleted_is_found(
    production: str, app: asyncpg.Connection, qdrant: Qdrant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was put after the deletion was committed stays in Qdrant, though that is emptied of the model afterwards."""
    delete_model = PgVectors._delete_model
    async with Pool(Server.parse(production)) as pool:
        one, other = FollowedVectors(pool, "acme", qdrant), FollowedVectors(pool, "acme", qdrant)

        async def overtaken(self: PgVectors, model: str) -> int:
            deleted = await delete_model(self, model)
            await other.put("kb/2", [2, 1], model="m")
            return deleted

        await one.put("kb/1", [1, 2], model="m")
        monkeypatch.setattr(PgVectors, "_delete_model", overtaken)
        assert await one.delete_model("m") == 1
        assert [match.item for match in await one.search([1, 1], model="m")] == ["kb/2"]
        assert await QdrantVectors(qdrant, "acme").count() == 1


@pytest.mark.parametrize(
    ("write", "left"),
    [
        ("vectors.put('kb/3', [1, 1], model='m')", {"kb/1", "kb/2", "kb/3"}),
        ("vectors.delete('kb/1', model='m')", {"kb/2"}),
        ("vectors.delete_model('m')", set()),
    ],
)
@pytest.mark.parametrize("command", ["promote", "push"])
async def test_a_program_that_died_before_qdrant_is_healed_by_any_command(
    tmp_path: Path,
    production: str,
    app: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    write: str,
    left: set[str],
) -> None:
    """By one without files, and by the push of a store that has another tenant; after that there is nothing to do."""
    monkeypatch.setenv("QDRANT_URL", (tmp_path / "qdrant").as_uri())
    monkeypatch.setenv("STORAGE_TYPE", "postgresql")
    monkeypatch.setenv("DATABASE_URL", production)
    killed = subprocess.run([sys.executable, "-c", DYING.format(write=write)], check=False)
    assert killed.returncode == -signal.SIGKILL
    async with LocalStore(tmp_path / "data", models=[]) as store:
        await store.tenant("other").vectors.put("kb/1", [1, 0], model="m")
        for state in ("promoted", "unchanged"):
            async with SyncEngine(store if command == "push" else None, to=production) as engine:
                result = await (engine.push(promote=True) if command == "push" else engine.promote())
                assert result.exit_code == 0, result.to_json()
                assert [(each.tenant, each.state) for each in result.tenants] == [("other", state)][: command == "push"]
            monkeypatch.setattr("sync.outbox.follow", _nobody)
    async with connect((tmp_path / "qdrant").as_uri()) as qdrant:
        found = QdrantVectors(qdrant, "acme")
        assert {match.item for match in await found.search([1, 1], model="m")} == left
        assert await QdrantVectors(qdrant, "other").count() == (command == "push")


async def _nobody(*_: object, **__: object) -> int:
    raise AssertionError("nobody is due")


async def test_another_company_that_cannot_be_followed_is_named(
    tmp_path: Path, production: str, app: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command's own promotion is reported as it was, and a command that had nothing of its own fails, too."""
    async with Pool(Server.parse(production)) as pool:
        await PgVectors(pool, "other").put("kb/1", [1, 0], model="m")
    monkeypatch.setenv("QDRANT_URL", "http://:secret@127.0.0.1:1")
    async with SyncEngine(None, to=production) as engine:
        result = await engine.promote()
    (entry,) = result.tenants
    assert (entry.tenant, entry.state, result.exit_code) == ("other", "failed", 1)
    assert entry.failure is not None
    assert entry.failure.code == "vectors_unavailable"
    assert "secret" not in str(result.to_json())


async def test_a_folder_of_qdrant_s_that_is_in_use_loses_nothing(
    tmp_path: Path, production: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are promoted, the command says who is in the way, and the next one brings the points."""
    url = (tmp_path / "qdrant").as_uri()
    monkeypatch.setenv("QDRANT_URL", url)
    async with LocalStore(tmp_path / "data", models=[]) as store:
        await store.tenant("acme").vectors.put("kb/1", [1, 0], model="m")
        async with connect(url), SyncEngine(store, to=production) as engine:
            result = await engine.push(promote=True)
            (tenant,) = result.tenants
            assert (tenant.state, tenant.tables["vectors"]["inserted"], result.exit_code) == ("promoted", 1, 1)
            assert tenant.failure is not None
            assert "has Qdrant's folder" in tenant.failure.message
            assert "QDRANT_URL=http://" in tenant.failure.hint
        async with SyncEngine(store, to=production) as engine:
            assert (await engine.push(promote=True)).exit_code == 0
    async with connect(url) as qdrant:
        assert await QdrantVectors(qdrant, "acme").count() == 1


async def test_a_rollback_leaves_what_an_application_wrote_since_in_both_places(
    tmp_path: Path, production: str, qdrant: Qdrant
) -> None:
    """Two models of one tenant are taken back, but for the rows that changed since; Qdrant has just those."""
    async with LocalStore(tmp_path, models=[]) as store, SyncEngine(store, to=production) as engine:
        mine = store.tenant("acme").vectors
        await mine.put_many(crowd(30, 4, 1), model="small")
        await mine.put_many(crowd(30, 8, 2), model="large")
        await engine.push(promote=True)
        await mine.put_many(crowd(20, 4, 3), model="small")
        await mine.put("kb/1", [1.0] * 4, model="small")
        await mine.put("kb/2", [1.0] * 4, model="small")
        await mine.delete("tickets/jira/M-25", model="large")
        batch = (await engine.push(promote=True)).tenants[0].batch
        assert batch is not None
        async with connection_to(Server.parse(production)) as app, Pool(Server.parse(production)) as pool:
            truth, found = PgVectors(pool, "acme"), QdrantVectors(qdrant, "acme")
            await app.execute(
                "UPDATE vectors SET embedding = '[9,9,9,9]' "
                "WHERE model = 'small' AND item IN ('kb/2', 'tickets/jira/M-7', 'tickets/jira/M-27')"
            )
            result = await engine.rollback(batch)
            assert len(result.tenants[0].left_alone) == 2
            for model, dimension in (("small", 4), ("large", 8)):
                await agree(found, truth, model, dimension)
            assert await found.get("kb/1", model="small") is None
            assert await found.get("tickets/jira/M-25", model="large") is not None
            for item in ("kb/2", "tickets/jira/M-7", "tickets/jira/M-27"):
                vector = await found.get(item, model="small")
                assert vector is not None
                assert list(vector.embedding) == [9.0] * 4


async def test_two_pushes_at_once_leave_qdrant_with_what_production_has(
    tmp_path: Path, production: str, qdrant: Qdrant
) -> None:
    """Two boxes of one company promote and follow side by side, while an application writes, too."""
    async with (
        LocalStore(tmp_path / "one", models=[]) as one,
        LocalStore(tmp_path / "two", models=[]) as two,
        SyncEngine(one, to=production) as first,
        SyncEngine(two, to=production) as second,
        Pool(Server.parse(production)) as pool,
    ):
        vectors = crowd(90, 4, 5)
        await one.tenant("acme").vectors.put_many(vectors[:30], model="m")
        await first.push(promote=True)
        await second.pull(["acme"])
        truth, found = PgVectors(pool, "acme"), QdrantVectors(qdrant, "acme")
        for turn in range(5):
            await one.tenant("acme").vectors.put_many(vectors[30:60][turn::5], model="m")
            await one.tenant("acme").vectors.delete(vectors[turn].item, model="m")
            await two.tenant("acme").vectors.put_many(vectors[60:][turn::5], model="m")
            await two.tenant("acme").vectors.put_many(vectors[turn::5], model="n")
            async with connection_to(Server.parse(production)) as app:
                _, *results = await asyncio.gather(
                    app.execute("UPDATE vectors SET metadata = '{}' WHERE item = $1", vectors[20 + turn].item),
                    first.push(promote=True),
                    second.push(promote=True),
                )
            assert [result.exit_code for result in results] == [0, 0]
        await first.promote()
        for model in ("m", "n"):
            await agree(found, truth, model, 4)


async def test_what_another_program_wrote_into_production_stands_in_nobody_s_way(
    production: str, app: asyncpg.Connection, qdrant: Qdrant
) -> None:
    """Rows without a direction, of another dimension than they say, or with metadata of another shape."""
    async with Pool(Server.parse(production)) as pool:
        truth, found = PgVectors(pool, "acme"), FollowedVectors(pool, "acme", qdrant)
        for item in ("!1", "!2", "!3", "!4", "kb/1", "kb/2"):
            await found.put(item, [1, 0, 0], model="m", metadata={"a": 1})
        for item, change in (
            ("!1", "embedding = '[0,0,0]'"),
            ("!2", "embedding = '[1,2]'"),
            ("!3", "metadata = '[1]'"),
            ("!4", "embedding = NULL, dimension = 7"),
        ):
            await app.execute(f"UPDATE vectors SET {change} WHERE item = $1", item)
        async with SyncEngine(None, to=production) as engine:
            assert (await engine.promote()).exit_code == 0
        for vectors in (truth, found):
            answer = await vectors.search([1, 0, 0], model="m")
            assert [(match.item, match.metadata) for match in answer] == [
                ("!3", {}),
                ("kb/1", {"a": 1}),
                ("kb/2", {"a": 1}),
            ]
            assert await vectors.get("!4", model="m") is None
            await vectors.put("kb/2", [1, 0, 0], model="m", metadata={"a": 1})


async def test_only_who_has_something_to_bring_is_due(
    tmp_path: Path, production: str, app: asyncpg.Connection, qdrant: Qdrant, login: Login
) -> None:
    """Where something changed, and where the position is old, from another production or from the future.

    A login that may push and promote, and nothing else, finds that out.
    """
    url = login("localstore_stager", "localstore_promoter", "localstore_reader")
    async with LocalStore(tmp_path, models=[]) as store, SyncEngine(store, to=url) as engine:
        for company in ("a", "b"):
            await store.tenant(company).vectors.put("kb/1", [1, 0], model="m")
        await engine.push()
        assert await due_companies(app, qdrant, []) == [("a", "public"), ("b", "public")]
        assert await due_companies(app, qdrant, ["b"]) == [("b", "public"), ("a", "public")]
        await engine.push(promote=True)
        assert await due_companies(app, qdrant, ["a"]) == []
        await app.execute("UPDATE vectors SET content_hash = 'another' WHERE company_id = 'b'")
        assert await due_companies(app, qdrant, ["a"]) == [("b", "public")]
        await engine.promote()
        assert await due_companies(app, qdrant, ["a"]) == []
        for change in (
            "at = now() - interval '16 days'",
            "position = jsonb_set(position::jsonb, '{timeline}', '77')::text",
            "position = jsonb_set(position::jsonb, '{snapshot}', '\"99999999:99999999:\"')::text",
        ):
            await app.execute(f"UPDATE localstore.followers SET {change} WHERE company_id = 'a'")
            assert await due_companies(app, qdrant, []) == [("a", "public")]
            await engine.promote()
            assert await due_companies(app, qdrant, []) == []
