"""One contract for every place that keeps vectors: the same answers, the same errors, and each tenant for itself."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from localstore import LocalStore
from localstore.errors import (
    ConfigurationError,
    InvalidIdentifier,
    InvalidVector,
    TenantNotFound,
    VectorsUnavailable,
    WrongMode,
)
from localstore.postgres.connect import connection_to
from localstore.postgres.pool import Pool
from localstore.postgres.server import Server
from localstore.sqlite.mode import set_mode
from localstore.storage.vectors import VectorPlaces
from localstore.vectors import FollowedVectors, HashingEmbedder, Match, Vector, VectorsInterface, content_hash
from localstore.vectors.pgvector import PgVectors
from localstore.vectors.qdrant import QdrantVectors
from localstore.vectors.qdrant_server import connect
from localstore.vectors.table import VECTORS
from localstore.vectors.values import METRICS, Embedding, Metric
from sync.production import prepare, register
from tests.conftest import run_sql

MODEL = "hashing-16"
EMPTY = "TRUNCATE vectors, localstore.feed, localstore.tenants"
EMBEDDER = HashingEmbedder(16)

ALPHABET = ("kb/1", "acme-2", "/", "..", *"%_'*.[{\"\\\0\n", "$1", ":m", "é", "\ud800", "🜁")
"""What names are put together from that try to reach another tenant."""

FILTERS_OF_NOTHING: tuple[object, ...] = (None, {"b": 1}, 2**64, -(2**63) - 1, [1, 2**64])
"""Values by which no place filters."""

Place: TypeAlias = Callable[[str], VectorsInterface]
"""Gives a company's vectors in one place."""


@asynccontextmanager
async def file_place(folder: Path) -> AsyncIterator[Place]:
    """Keep vectors in tenants' files."""
    async with LocalStore(folder, models=[]) as store:
        yield lambda company: store.tenant(company).vectors


@dataclass(frozen=True, slots=True)
class Production:
    """A database that has the table of vectors: as a superuser reaches it, and as a member of app_user does."""

    owner: Server
    app: Server


@pytest.fixture(scope="session")
def production_of_vectors(postgres_server: Server, pgvector: None) -> Iterator[Production]:
    """Make one database for all of these tests."""
    name, password = f"vectors_{secrets.token_hex(6)}", secrets.token_urlsafe(18)
    owner = postgres_server.with_database(name)

    async def make() -> None:
        async with connection_to(owner) as connection:
            await prepare(connection)
            await register(connection, "public", [VECTORS])

    run_sql(postgres_server, f"CREATE DATABASE {name} TEMPLATE template0")
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(make())).result()
    run_sql(owner, f"CREATE ROLE {name} LOGIN PASSWORD '{password}' IN ROLE app_user")
    yield Production(owner, owner.with_login(name, password))
    run_sql(postgres_server, f"DROP DATABASE {name} WITH (FORCE)", f"DROP ROLE {name}")


@asynccontextmanager
async def pgvector_place(production: Production) -> AsyncIterator[Place]:
    """Keep vectors in production, reached by a login that is a member of app_user and nothing else."""
    async with Pool(production.app) as pool:
        yield lambda company: PgVectors(pool, company)
    async with connection_to(production.owner) as connection:
        await connection.execute(EMPTY)


@asynccontextmanager
async def qdrant_place() -> AsyncIterator[Place]:
    """Keep vectors in the server that QDRANT_URL names, else in the engine inside Qdrant's client: no server's twin."""
    collection = f"localstore-{secrets.token_hex(6)}"
    async with connect(os.environ.get("QDRANT_URL", "memory:")) as qdrant:
        yield lambda company: QdrantVectors(qdrant, company, collection)
        await qdrant.client.delete_collection(collection)


@asynccontextmanager
async def followed_place(production: Production) -> AsyncIterator[Place]:
    """Keep vectors in production and find them in Qdrant."""
    collection = f"localstore-{secrets.token_hex(6)}"
    async with connect(os.environ.get("QDRANT_URL", "memory:")) as qdrant, Pool(production.app) as pool:
        yield lambda company: FollowedVectors(pool, company, qdrant, collection=collection)
        await qdrant.client.delete_collection(collection)
    async with connection_to(production.owner) as connection:
        await connection.execute(EMPTY)


@pytest.fixture(params=["file", "pgvector", "qdrant", "followed"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """Give one place after the other, empty."""
    production: Any = request.getfixturevalue("production_of_vectors") if "qdrant" != request.param != "file" else None
    places: dict[str, Callable[[], AbstractAsyncContextManager[Place]]] = {
        "file": lambda: file_place(tmp_path / "data"),
        "pgvector": lambda: pgvector_place(production),
        "qdrant": qdrant_place,
        "followed": lambda: followed_place(production),
    }
    async with places[request.param]() as found:
        yield found


def told(matches: list[Match]) -> list[tuple[str, Any]]:
    """Return items with their scores, as far as places agree on them."""
    return [(match.item, pytest.approx(match.score, abs=1e-4, rel=1e-5)) for match in matches]


def crowd(count: int, dimension: int, seed: int) -> list[Vector]:
    """Return vectors of all lengths and directions, some of them twice, with metadata to filter by."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(count, dimension)) * random.uniform(0.1, 5, size=(count, 1))
    rows[count // 2 :: 7] = rows[count // 3]
    return [
        Vector(f"tickets/jira/M-{place}", row, content_hash(str(place)), {"even": place % 2 == 0, "of": place % 5})
        for place, row in enumerate(rows)
    ]


def expected(vectors: list[Vector], query: np.ndarray, metric: Metric, k: int) -> list[tuple[str, float]]:
    """Return the answer by the textbook, one vector at a time in 64 bits."""
    scored = []
    for vector in vectors:
        row, asked = np.asarray(vector.embedding, np.float32).astype(float), query.astype(np.float32).astype(float)
        if metric == "l2":
            score = float(np.sqrt(((row - asked) ** 2).sum()))
        else:
            score = float(row @ asked)
            if metric == "cosine":
                score /= float(np.linalg.norm(row) * np.linalg.norm(asked))
        scored.append((score if metric == "l2" else -score, vector.item, score))
    return [(item, score) for _, item, score in sorted(scored, key=lambda each: (round(each[0], 9), each[1]))[:k]]


@pytest.mark.parametrize("metric", METRICS)
async def test_a_search_finds_exactly_the_nearest_in_a_defined_order(place: Place, metric: Metric) -> None:
    """By every metric the answer is the textbook's, ties by item, and filters choose before the nearest are taken."""
    vectors = place("acme")
    crowded = crowd(300, 16, 7)
    assert await vectors.put_many(crowded, model=MODEL) == 300
    for seed in range(3):
        query = np.asarray(crowded[seed * 50].embedding) + np.random.default_rng(seed).normal(size=16) * 0.1
        for k in (1, 10, 120, 1000):
            answer = await vectors.search(query, model=MODEL, k=k, metric=metric)
            assert told(answer) == expected(crowded, query, metric, k)
        some = [vector for vector in crowded if vector.metadata["even"] and vector.metadata["of"] in (1, 3)]
        answer = await vectors.search(query, model=MODEL, k=20, metric=metric, where={"even": True, "of": [1, 3.0]})
        assert told(answer) == expected(some, query, metric, 20)
        assert all(match.metadata == {"even": True, "of": match.metadata["of"]} for match in answer)
        assert answer[0].content_hash == content_hash(answer[0].item.rpartition("-")[2])
        assert not await vectors.search(query, model=MODEL, where={"even": 1})
        assert not await vectors.search(query, model=MODEL, where={"odd": True})
    assert not await vectors.search([1.0] * 16, model="another")


async def test_what_is_put_is_there_at_once_and_what_is_deleted_is_gone(place: Place) -> None:
    """Put again replaces, get gives back every bit, and a search never answers from what was."""
    vectors = place("acme")
    assert await vectors.count() == 0
    assert await vectors.get("kb/1", model=MODEL) is None
    assert not await vectors.delete("kb/1", model=MODEL)
    await vectors.put("kb/1", [0.5, -0.0, 1e-3], model="m", text="one", metadata={"a": [1, {"b": None}], "한": "글"})
    await vectors.put("kb/2", [1, 1, 1], model="m")
    found = await vectors.get("kb/1", model="m")
    assert found is not None
    assert np.asarray(found.embedding, np.float32).tobytes() == np.array([0.5, -0.0, 1e-3], np.float32).tobytes()
    assert (found.content_hash, found.metadata) == (content_hash("one"), {"a": [1, {"b": None}], "한": "글"})
    assert [match.item for match in await vectors.search([1, 0, 0], model="m")] == ["kb/1", "kb/2"]
    await vectors.put("kb/1", [-1, 0, 0], model="m")
    assert [match.item for match in await vectors.search([1, 0, 0], model="m")] == ["kb/2", "kb/1"]
    assert await vectors.delete("kb/2", model="m")
    assert [match.item for match in await vectors.search([1, 0, 0], model="m")] == ["kb/1"]
    await vectors.put("kb/1", [1, 0], model="other")
    assert (await vectors.count(), await vectors.count("m"), await vectors.count("other")) == (2, 1, 1)
    assert await vectors.delete_model("m") == 1
    await vectors.put("kb/1", [1, 0, 0, 0], model="m")
    assert await vectors.count() == 2


async def test_a_vector_whose_text_has_changed_is_stale(place: Place) -> None:
    """So is one whose text is gone, or of which nobody said what it was made from."""
    vectors = place("acme")
    texts = {"kb/1": "one", "kb/2": "two", "kb/3": "three", "kb/é": "four"}
    for item, text in texts.items():
        await vectors.put(item, EMBEDDER.embed(text), model=MODEL, text=text)
    await vectors.put("kb/5", [1.0] * 16, model=MODEL)
    assert await vectors.stale(texts, model=MODEL) == []
    texts |= {"kb/2": "two, said otherwise"}
    del texts["kb/1"]
    assert await vectors.stale(texts, model=MODEL) == ["kb/2"]
    assert await vectors.stale(texts.get, model=MODEL) == ["kb/1", "kb/2", "kb/5"]
    await vectors.put("kb/2", EMBEDDER.embed(texts["kb/2"]), model=MODEL, text=texts["kb/2"])
    assert await vectors.stale(texts, model=MODEL) == []


@pytest.mark.parametrize(
    ("item", "embedding", "model", "metadata"),
    [
        ("kb/1", [float("nan"), 1], "m", {}),
        ("kb/1", [float("inf"), 1], "m", {}),
        ("kb/1", [1e39, 1], "m", {}),
        ("kb/1", [0.0, -0.0], "m", {}),
        ("kb/1", [], "m", {}),
        ("kb/1", [[1, 2]], "m", {}),
        ("kb/1", ["a"], "m", {}),
        ("kb/1", ["1", "2"], "m", {}),
        ("kb/1", "12", "m", {}),
        ("kb/1", b"12", "m", {}),
        ("kb/1", 12, "m", {}),
        ("kb/1", [1 + 2j, 1], "m", {}),
        ("kb/1", [True, False], "m", {}),
        ("kb/1", [None, 1.0], "m", {}),
        ("kb/1", np.array(["2020-01-01"], "datetime64[D]"), "m", {}),
        ("kb/1", [0.1] * 16_001, "m", {}),
        ("", [1], "m", {}),
        ("kb\0", [1], "m", {}),
        ("kb/\u202e", [1], "m", {}),
        ("kb/\ud800", [1], "m", {}),
        ("é" * 513, [1], "m", {}),
        ("kb/1", [1], "", {}),
        ("kb/1", [1], "m'; DROP TABLE vectors; --", {}),
        ("kb/1", [1], "m", {"a": float("nan")}),
        ("kb/1", [1], "m", {"a": "\0"}),
        ("kb/1", [1], "m", {1: 2}),
        ("kb/1", [1], "m", {"a": "x" * 70_000}),
        ("kb/1", [1], "m", {"a": 2**64}),
        ("kb/1", [1], "m", {"a": [{"b": -(2**63) - 1}]}),
        ("kb/1", [1], "m", {"a": 10**5000}),
    ],
)
async def test_V44_what_no_place_could_keep_is_refused_by_all(
    place: Place, item: str, embedding: Embedding, model: str, metadata: dict[str, object]
) -> None:
    """Nothing is stored of it, also of the good vectors that came along."""
    vectors = place("acme")
    with pytest.raises(InvalidVector):
        await vectors.put_many([Vector("good", [1.0, 2.0]), Vector(item, embedding, None, metadata)], model=model)
    with pytest.raises(InvalidVector):
        await vectors.put_many([Vector(item, embedding, None, metadata)], model=model)
    assert await vectors.count() == 0


async def test_a_model_has_one_dimension_and_a_search_that_of_its_model(place: Place) -> None:
    """Another dimension is an error and not an empty answer; so are other metrics, numbers of matches and filters."""
    vectors = place("acme")
    await vectors.put("kb/1", [1, 2, 3], model="m")
    with pytest.raises(InvalidVector, match="3 dimensions, not 2"):
        await vectors.put("kb/2", [1, 2], model="m")
    with pytest.raises(InvalidVector):
        await vectors.put_many([Vector("kb/3", [1, 2]), Vector("kb/4", [1, 2, 3])], model="n")
    with pytest.raises(InvalidVector, match="3 dimensions, not 2"):
        await vectors.search([1, 2], model="m")
    with pytest.raises(InvalidVector):
        await vectors.search([0, 0, 0], model="m")
    wrong: list[dict[str, Any]] = [{"k": 0}, {"k": 10_001}, {"metric": "near"}]
    for options in wrong + [{"where": {"a": value}} for value in FILTERS_OF_NOTHING]:
        with pytest.raises(InvalidVector):
            await vectors.search([1, 2, 3], model="m", **options)
    assert await vectors.count() == 1


async def test_numbers_of_metadata_are_the_same_everywhere(place: Place) -> None:
    """Integers of 64 bits come back as they were, and are equal to the floats that they are equal to."""
    vectors = place("acme")
    numbers = {"kb/1": 2**63, "kb/2": 2.0**53, "kb/3": 2**64 - 1, "kb/4": -(2**63), "kb/5": 2**53, "kb/6": 0.5}
    for item, number in numbers.items():
        await vectors.put(item, [1, 2], model="m", metadata={"n": number, "digits": "9" * 30})
        found = await vectors.get(item, model="m")
        assert found is not None
        assert found.metadata == {"n": number, "digits": "9" * 30}
    for asked in numbers.values():
        matches = await vectors.search([1, 2], model="m", where={"n": asked})
        assert [match.item for match in matches] == [item for item, number in numbers.items() if number == asked]


async def test_a_tenant_never_reaches_another_s_vectors(place: Place) -> None:
    """Whatever names it uses, it reads, lists, overwrites and deletes its own alone, and names no other tenant."""
    mine, theirs = place("acme"), place("acme-2")
    secret = Vector("kb/1", [1, 0, 0], content_hash("secret"), {"owner": "acme-2"})
    await theirs.put_many([secret, Vector("kb/secret", [0, 1, 0])], model="m")
    names = ("kb/1", "acme-2/kb/1", "../acme-2/kb/1", "kb/%", "acme-2\\kb/1", "' OR '1'='1", 'kb/1" OR 1=1 --', "*")
    for name in names:
        assert await mine.get(name, model="m") is None
        assert not await mine.delete(name, model="m")
        await mine.put(name, [0, 0, 1], model="m", metadata={"owner": "acme", "company_id": "acme-2"})
    assert await mine.count() == len(names)
    for where in (None, {"company_id": "acme-2"}, {"owner": "acme-2"}, {"owner": ["acme", "acme-2"]}):
        answer = await mine.search([1, 0, 0], model="m", where=where, k=1000)
        assert all(match.metadata["owner"] == "acme" for match in answer)
    assert await mine.stale(lambda _item: None, model="m") == sorted(names)
    assert await mine.delete_model("m") == len(names)
    assert await theirs.count() == 2
    found = await theirs.get("kb/1", model="m")
    assert found is not None
    assert (found.content_hash, found.metadata) == (secret.content_hash, secret.metadata)
    assert [match.item for match in await theirs.search([1, 0, 0], model="m", k=1)] == ["kb/1"]
    chance = random.Random(5)
    for _ in range(60):
        name = "".join(chance.choices(ALPHABET, k=chance.randrange(1, 12)))
        with suppress(InvalidVector):
            assert await mine.get(name, model=chance.choice(("m", name))) is None
        with suppress(InvalidVector):
            assert not await mine.delete(name, model="m")
        with suppress(InvalidVector):
            assert not await mine.search([1, 0, 0], model="m", where={name: chance.choice(("acme-2", name, True))})
        with suppress(InvalidVector):
            await mine.put(name, [0, 0, 1], model=chance.choice(("m", name, "acme-2")), metadata={name: name})
            await mine.delete(name, model="m")
        with suppress(InvalidVector):
            await mine.delete_model(name)
    assert await theirs.count() == 2
    for wrong in ("", "../acme-2", "acme' OR '1'='1", "*"):
        with pytest.raises(InvalidIdentifier):
            await place(wrong).count()


async def test_the_environment_alone_says_where_vectors_are(
    tmp_path: Path, production_of_vectors: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One program keeps them in files or in production by STORAGE_TYPE, and each refuses a tenant of the other's."""
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", production_of_vectors.app.url)
    try:
        monkeypatch.delenv("QDRANT_URL", raising=False)
        for storage_type, kind in (("file", "Vectors"), ("postgresql", "PgVectors"), ("postgresql", "FollowedVectors")):
            monkeypatch.setenv("STORAGE_TYPE", storage_type)
            if kind == "FollowedVectors":
                monkeypatch.setenv("QDRANT_URL", "memory:")
            async with VectorPlaces() as places:
                vectors = await places.of("acme")
                assert type(vectors).__name__ == kind
                await vectors.put("kb/1", [1, 2], model="m", metadata={"in": storage_type})
                assert [match.metadata for match in await vectors.search([1, 2], model="m")] == [{"in": storage_type}]
        async with LocalStore(tmp_path, models=[]) as store:
            database = (await store.tenant("acme").open()).database
            await database.write(lambda file: set_mode(file, "postgresql"))
        async with connection_to(production_of_vectors.owner) as owner:
            await owner.execute("UPDATE localstore.tenants SET mode = 'file'")
        async with VectorPlaces() as places:
            vectors = await places.of("acme")
            assert await vectors.count() == 1
            with pytest.raises(WrongMode):
                await vectors.put("kb/1", [1, 2], model="m")
        monkeypatch.setenv("STORAGE_TYPE", "file")
        async with VectorPlaces() as places:
            with pytest.raises(WrongMode):
                await places.of("acme")
            with pytest.raises(TenantNotFound):
                await places.of("nobody", create=False)
    finally:
        async with connection_to(production_of_vectors.owner) as owner:
            await owner.execute(EMPTY)


def test_an_engine_that_somebody_has_open_is_named(tmp_path: Path) -> None:
    """One client at a time has a folder: the other's error is ours and says what to do; so is a wrong folder's."""
    url = (tmp_path / "qdrant").as_uri()
    first = connect(url)
    with pytest.raises(VectorsUnavailable, match="open") as refused:
        connect(url)
    assert "http://HOST:6333" in refused.value.hint
    asyncio.run(first.client.close())
    asyncio.run(connect(url).client.close())
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(VectorsUnavailable, match="cannot be used"):
        connect((tmp_path / "file" / "qdrant").as_uri())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://:secret@qdrant.example:6333", "unencrypted"),
        ("redis://:secret@localhost", "redis URL"),
        ("http://:secret@localhost:port", "no URL"),
        ("file://secret/folder", "file URL"),
        ("secret", "bare URL"),
    ],
)
def test_a_url_that_cannot_be_is_refused_without_its_secret(url: str, said: str) -> None:
    """The API key stays out of the message and the hint; so it does where the URL is a good one."""
    with pytest.raises(ConfigurationError, match=said) as refused:
        connect(url)
    assert "secret" not in f"{refused.value} {refused.value.hint}"


async def test_a_qdrant_that_does_not_answer_is_named_without_its_key() -> None:
    """Whatever is asked of it, the error is ours and may be retried."""
    async with connect("http://:secret@127.0.0.1:1") as qdrant:
        vectors = QdrantVectors(qdrant, "acme")
        with pytest.raises(VectorsUnavailable, match=r"at http://127\.0\.0\.1:1 does not answer") as failed:
            await vectors.count()
        assert failed.value.retryable
        assert "secret" not in f"{failed.value} {qdrant!r} {vectors!r}"


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect", "ignore:Local mode performs exact")
async def test_qdrant_takes_every_request_that_a_server_gets() -> None:
    """The engine in the client checks what it does not need itself: the tenant's index, and the wish to be exact."""
    async with connect("memory:") as inside:
        vectors = QdrantVectors(replace(inside, in_process=False), "acme")
        crowded = crowd(40, 16, 1)
        await vectors.put_many(crowded, model=MODEL)
        await vectors.put("kb/1", [1, 2, 3], model="m")
        answer = await vectors.search(crowded[3].embedding, model=MODEL, k=5, where={"even": False})
        odd = [vector for vector in crowded if not vector.metadata["even"]]
        assert told(answer) == expected(odd, np.asarray(crowded[3].embedding), "cosine", 5)
        config = (await inside.client.get_collection("localstore")).config.params
        assert set(config.vectors or ()) == {f"{metric}-{dimension}" for metric in METRICS for dimension in (3, 16)}
