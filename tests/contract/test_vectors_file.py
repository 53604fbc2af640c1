"""Vectors in a tenant's file: made when needed, never older than what any tool wrote, whole after a kill."""

from __future__ import annotations

import random
import signal
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from localstore import LocalStore, Tenant
from localstore.errors import InvalidVector, StoreError, WrongMode
from localstore.sqlite import marks, mode
from localstore.vectors import HashingEmbedder, Match, content_hash
from localstore.vectors.blocks import search
from localstore.vectors.matrices import Matrices
from localstore.vectors.values import METRICS, Query, check_query
from tests.contract.test_vectors import crowd, told

BATCH = 50

REPLACE = """REPLACE INTO vectors (company_id, model, item, dimension, content_hash, metadata, embedding)
    SELECT company_id, model, ?, dimension, content_hash, metadata, embedding FROM vectors WHERE model = 'm' LIMIT 1"""

PUTTING = f"""
import asyncio, sys
import numpy as np
from localstore import LocalStore
from localstore.vectors import Vector

async def main():
    vectors = LocalStore(sys.argv[1], models=[]).tenant("acme").vectors
    random = np.random.default_rng(1)
    for batch in range(1_000_000):
        rows = random.normal(size=({BATCH}, 32))
        await vectors.put_many([Vector(f"{{batch}}/{{at}}", row) for at, row in enumerate(rows)], model="m")
        print(batch, flush=True)

asyncio.run(main())
"""


NO_UTF8 = object()
"""Stands for text that SQLite takes and Python cannot read."""


async def answer(tenant: Tenant, kept: Matrices, query: Query) -> list[Match]:
    """Return what a search answers that keeps its vectors there."""
    return await tenant.database.read(lambda file: search(kept.blocks(tenant.database, file, query), query))


async def test_the_table_is_made_with_the_first_vector_and_captured_from_then_on(tmp_path: Path) -> None:
    """A tenant without vectors has no table of them, asking makes none, and each later write leaves a mark."""
    async with LocalStore(tmp_path, models=[]) as store:
        vectors = store.tenant("acme").vectors
        assert (await vectors.count(), await vectors.search([1], model="m")) == (0, [])
        database = store.tenant("acme").database
        assert not database.tables
        await vectors.put("kb/1", [1, 2], model="m")
        assert [table.name for table in database.tables] == ["vectors"]
        marks = "SELECT count(*) FROM localstore_marks"
        assert await database.read(lambda file: file.execute(marks).fetchone()) == (1,)
        await vectors.put("kb/1", [1, 2], model="m")
        assert await database.read(lambda file: file.execute(marks).fetchone()) == (1,)
    async with LocalStore(tmp_path, models=[]) as store:
        assert [match.item for match in await store.tenant("acme").vectors.search([1, 2], model="m")] == ["kb/1"]


async def test_a_search_sees_what_another_tool_wrote(tmp_path: Path) -> None:
    """The shell inserts, changes and deletes; each next search knows, and what is no vector is left out."""
    async with LocalStore(tmp_path, models=[]) as store:
        vectors = store.tenant("acme").vectors
        await vectors.put("kb/1", [1, 0], model="m")
        shell = sqlite3.connect(tmp_path / "acme" / "store.db", isolation_level=None)

        async def found() -> list[str]:
            return [match.item for match in await vectors.search([1, 0], model="m")]

        assert await found() == ["kb/1"]
        insert = "INSERT INTO vectors (company_id, model, item, embedding, metadata) VALUES ('acme', 'm', ?, ?, ?)"
        for item, value in (("kb/2", struct.pack("<2f", 2, 1)), ("kb/3", "text"), ("kb/4", b"123"), ("kb/5", None)):
            shell.execute(insert, (item, value, None))
        shell.execute(insert, ("kb/6", struct.pack("<2f", float("nan"), 1), "{"))
        shell.execute(insert, ("kb/7", struct.pack("<2f", 0, 1), "no JSON"))
        assert await found() == ["kb/1", "kb/2", "kb/7"]
        assert not await vectors.search([1, 0], model="m", where={"a": 1})
        shell.execute("UPDATE vectors SET embedding = ? WHERE item = 'kb/1'", (struct.pack("<2f", -1, 0),))
        assert await found() == ["kb/2", "kb/7", "kb/1"]
        shell.execute("DELETE FROM vectors WHERE item = 'kb/2'")
        assert await found() == ["kb/7", "kb/1"]
        shell.execute("ALTER TABLE vectors RENAME TO others")
        shell.execute("CREATE TABLE vectors (a)")
        shell.close()
    with pytest.raises(StoreError):
        async with LocalStore(tmp_path, models=[]) as store:
            await store.tenant("acme").vectors.put("kb/1", [1, 0], model="m")


@pytest.mark.parametrize(
    ("column", "value", "is_vector"),
    [
        ("embedding", b"00", False),
        ("embedding", b"", False),
        ("embedding", b"12345", False),
        ("embedding", bytes(64_004), False),
        ("embedding", "text", False),
        ("embedding", 1.5, False),
        ("embedding", None, False),
        ("embedding", bytes(8), False),
        ("embedding", struct.pack("<2f", float("nan"), 1), False),
        ("item", b"\xff\x01", False),
        ("item", NO_UTF8, False),
        ("content_hash", b"\xff", True),
        ("content_hash", NO_UTF8, True),
        ("metadata", "[1", True),
        ("metadata", "[1]", True),
        ("metadata", b"{}", True),
        ("metadata", 7, True),
        ("metadata", NO_UTF8, True),
        ("dimension", "many", True),
    ],
)
async def test_what_another_tool_wrote_stands_in_nobody_s_way(
    tmp_path: Path, column: str, value: object, is_vector: bool
) -> None:
    """Whatever is in one row, all others are read and written on; what is no vector is none to every call."""
    async with LocalStore(tmp_path, models=[]) as store:
        vectors = store.tenant("acme").vectors
        for item in ("!", "kb/1", "kb/2"):
            await vectors.put(item, [1, 0, 0], model="m", text="text", metadata={"a": 1})
        for before in (False, True):
            if before:
                await vectors.search([1, 0, 0], model="m")
            shell = sqlite3.connect(tmp_path / "acme" / "store.db", isolation_level=None)
            term = "CAST(x'ff41' AS TEXT)" if value is NO_UTF8 else "?"
            change = f"UPDATE vectors SET {column} = {term} WHERE rowid = (SELECT min(rowid) FROM vectors)"
            shell.execute(change, () if value is NO_UTF8 else (value,))
            shell.close()
            rest = ["!"] * is_vector + ["kb/1", "kb/2"]
            assert [match.item for match in await vectors.search([1, 0, 0], model="m")] == rest
            assert [match.item for match in await vectors.search([1, 0, 0], model="m", where={"a": 1})][-2:] == rest[
                -2:
            ]
            assert (await vectors.stale(lambda _item: "another", model="m"))[-2:] == rest[-2:]
            found = await vectors.get("!", model="m")
            assert (found is not None) == is_vector
            if found is not None:
                assert found.metadata == ({} if column == "metadata" else {"a": 1})
                assert found.content_hash == (None if column == "content_hash" else content_hash("text"))
            await vectors.put("kb/2", [1, 0, 0], model="m", text="text", metadata={"a": 1})
            with pytest.raises(InvalidVector, match="3 dimensions, not 2"):
                await vectors.put("kb/3", [1, 0], model="m")
        await vectors.put("!", [1, 0, 0], model="m")
        assert await vectors.get("!", model="m") is not None
        assert await vectors.delete_model("m") == 3 + (column == "item")
        assert await vectors.count() == 0


async def test_a_vector_of_another_dimension_by_another_tool_stands_in_nobody_s_way(tmp_path: Path) -> None:
    """Searches and puts of the model's own dimension go on, wherever the other one sorts."""
    async with LocalStore(tmp_path, models=[]) as store:
        vectors = store.tenant("acme").vectors
        await vectors.put("kb/1", [1, 0, 0], model="m")
        shell = sqlite3.connect(tmp_path / "acme" / "store.db", isolation_level=None)
        for item in ("!", "zz"):
            shell.execute(
                "INSERT INTO vectors (company_id, model, item, dimension, embedding) VALUES ('acme', 'm', ?, 3, ?)",
                (item, struct.pack("<2f", 1, 2)),
            )
        shell.close()
        assert [match.item for match in await vectors.search([1, 0, 0], model="m")] == ["kb/1"]
        await vectors.put("kb/2", [0, 1, 0], model="m")
        assert len(await vectors.search([1, 0, 0], model="m")) == 2


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_kept_in_memory_is_what_the_file_holds(tmp_path: Path, seed: int) -> None:
    """After any run of writes by any tool, with marks trimmed in between, a search answers as one that reads it all."""
    chance = random.Random(seed)
    vectors = crowd(60, 4, seed)
    async with LocalStore(tmp_path, models=[]) as store:
        tenant = await store.tenant("acme").open()
        await tenant.vectors.put_many(vectors[:40], model="m")
        shell = sqlite3.connect(tmp_path / "acme" / "store.db", isolation_level=None)
        for _ in range(60):
            vector = chance.choice(vectors)
            match chance.choice(("put", "many", "delete", "shell", "rename", "replace", "other", "trim", "model")):
                case "put":
                    await tenant.vectors.put(vector.item, chance.choice(vectors).embedding, model="m")
                case "many":
                    await tenant.vectors.put_many(chance.sample(vectors, 20), model="m")
                case "delete":
                    await tenant.vectors.delete(vector.item, model="m")
                case "shell":
                    shell.execute("UPDATE vectors SET metadata = ? WHERE item = ?", ('{"of": 9}', vector.item))
                case "rename":
                    shell.execute("UPDATE OR REPLACE vectors SET item = 'x' || item WHERE item = ?", (vector.item,))
                case "replace":
                    shell.execute(REPLACE, (vector.item,))
                case "other":
                    await tenant.vectors.put(vector.item, vector.embedding, model="n")
                case "trim":
                    await tenant.database.write(lambda file: marks.trim(file, marks.newest(file)))
                case "model" if chance.random() < 0.2:
                    await tenant.vectors.delete_model("m")
                    await tenant.vectors.put_many(vectors[:40], model="m")
            query = check_query(
                "m", vector.embedding, 100, "cosine", {"of": [1, 2, 9]} if chance.random() < 0.5 else None
            )
            whole = await answer(tenant, Matrices(), query)
            kept = await tenant.vectors.search(vector.embedding, model="m", k=100, where=dict(query.where))
            assert kept == whole
        shell.close()


async def test_memory_is_bounded_and_changes_no_answer(tmp_path: Path) -> None:
    """Models beyond the limit make room for each other, and one that never fits is read block by block."""
    async with LocalStore(tmp_path, models=[]) as store:
        tenant = await store.tenant("acme").open()
        vectors = crowd(400, 16, 3)
        for model in ("a", "b", "c"):
            await tenant.vectors.put_many(vectors, model=model)
        one = 400 * (16 * 4 + 300)
        for limit in (10 * one, 2 * one, 1000):
            kept = Matrices(limit)
            for model in ("a", "b", "a", "c"):
                for metric in METRICS:
                    query = check_query(model, np.asarray(vectors[5].embedding), 30, metric, {"even": False})
                    found = await answer(tenant, kept, query)
                    whole = await tenant.vectors.search(
                        query.embedding, model=model, k=30, metric=metric, where={"even": False}
                    )
                    assert told(found) == told(whole)
                assert kept.bytes <= limit
        assert kept.bytes == 0


async def test_a_put_killed_in_the_middle_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """What a call returned from survives SIGKILL, and of the one that was cut off no part is seen."""
    process = subprocess.Popen(
        [sys.executable, "-c", PUTTING, str(tmp_path)], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    with process:
        assert process.stdout is not None
        returned = [int(process.stdout.readline()) for _ in range(10)][-1]
        process.send_signal(signal.SIGKILL)
        returned = max([returned, *map(int, process.stdout.read().split())])
    async with LocalStore(tmp_path, models=[]) as store:
        vectors = store.tenant("acme").vectors
        count = await vectors.count("m")
        assert count % BATCH == 0
        assert count // BATCH - 1 >= returned
        assert len(await vectors.search(np.ones(32), model="m", k=count)) == count


async def test_a_file_that_is_a_copy_takes_no_vectors(tmp_path: Path) -> None:
    """Where production is the truth, writes are refused in the words of all writes, and searches go on."""
    async with LocalStore(tmp_path, models=[]) as store:
        for company in ("acme", "empty"):
            tenant = await store.tenant(company).open()
            if company == "acme":
                await tenant.vectors.put("kb/1", [1, 2], model="m")
            await tenant.database.write(lambda file: mode.set_mode(file, mode.POSTGRESQL))
            with pytest.raises(WrongMode):
                await tenant.vectors.put("kb/2", [1, 2], model="m")
            assert len(await tenant.vectors.search([1, 2], model="m")) == (company == "acme")
        with pytest.raises(WrongMode):
            await store.tenant("acme").vectors.delete("kb/1", model="m")
        assert not store.tenant("empty").database.tables


async def test_the_hashing_embedder_is_the_same_on_every_machine() -> None:
    """It gives unit vectors that depend on the words alone, also for texts without any."""
    embedder = HashingEmbedder()
    assert embedder.model == "hashing-64"
    assert np.allclose(np.linalg.norm(embedder.embed("")), 1)
    assert np.array_equal(embedder.embed("Printer offline"), embedder.embed("OFFLINE, printer!"))
    assert np.flatnonzero(HashingEmbedder(16).embed("printer")).tolist() == [14]
