"""Vectors on their way to production: into the extension's type, back from it, and while the extension is missing."""

from __future__ import annotations

import struct
from pathlib import Path

import asyncpg
import pytest

from localstore import LocalStore
from localstore.postgres.connect import Server, connection_to
from localstore.schema.tables import Kind
from sync import SyncEngine
from sync.production import prepare
from tests.conftest import Login
from tests.integration.promotion import COMPANY, counts, sides

pytestmark = pytest.mark.usefixtures("pgvector")

TABLE = "CREATE TABLE v (id TEXT PRIMARY KEY, words TEXT, place F32_BLOB)"
PLAIN = "CREATE TABLE t (id TEXT PRIMARY KEY, words TEXT)"


def blob(*numbers: float) -> bytes:
    """Return a vector as the file stores it."""
    return struct.pack(f"<{len(numbers)}f", *numbers)


async def test_vectors_become_pgvectors_and_every_promise_holds(tmp_path: Path, production: str) -> None:
    """They are promoted, changed, verified, pulled and taken back as any value is, and a bad one is held alone."""
    async with sides(tmp_path, production) as both:
        await both.track(TABLE)
        rows = [(f"r{number}", blob(number, 0.1, -0.0)) for number in range(30)]
        await both.local("INSERT INTO v (id, place) VALUES (?, ?)", rows)
        await both.local("INSERT INTO v (id, place) VALUES ('bad', ?)", [(blob(1, float("inf")),)])
        largest = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
        await both.local("INSERT INTO v (id, place) VALUES ('long', ?)", [(blob(largest, 1e-45, *[0.1] * 15_998),)])
        await both.local("INSERT INTO v (id, place) VALUES ('longer', ?)", [(blob(*[0.1] * 16_001),)])
        assert counts(await both.push(3), "v") == {"inserted": 31, "quarantined": 2}
        assert await both.reasons() == {"v/bad": "value", "v/longer": "value"}
        await both.local("DELETE FROM v WHERE id = 'longer'")
        assert await both.production("SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attname = 'place'"
                                     " AND attrelid = 'v'::regclass") == [("vector",)]  # fmt: skip
        await both.local("UPDATE v SET place = ? WHERE id = 'bad'", [(blob(1, 2, 3),)])
        await both.local("UPDATE v SET place = ? WHERE id = 'r1'", [(blob(9, 9, 9),)])
        await both.local("DELETE FROM v WHERE id = 'r2'")
        plan = await both.engine.plan()
        batch = (await both.engine.promote(plan)).tenants[0].batch
        assert batch is not None
        await both.assert_equal()
        assert await both.production("SELECT place::text FROM v WHERE id = 'r1'") == [("[9,9,9]",)]

        await both.theirs("UPDATE v SET place = '[5,5,5]' WHERE id = 'r5'")
        await both.local("UPDATE v SET place = ? WHERE id = 'r5'", [(blob(6, 6, 6),)])
        await both.push(3)
        assert (await both.reasons())["v/r5"] == "conflict"
        await both.engine.conflicts.resolve("v/r5", "production")
        await both.push()
        assert await both.rows("SELECT place FROM v WHERE id = 'r5'") == [(blob(5, 5, 5),)]

        await both.engine.rollback(batch)
        assert await both.production("SELECT id, place::text FROM v WHERE id IN ('r1', 'r2', 'bad') ORDER BY id") == [
            ("r1", "[1,0.1,-0]"),
            ("r2", "[2,0.1,-0]"),
        ]
        await both.engine.requeue(batch)
        await both.push()
        await both.assert_equal()

    async with LocalStore(tmp_path / "second", models=[]) as store, SyncEngine(store, to=production) as engine:
        await engine.pull([COMPANY])
        assert (await engine.verify([COMPANY]))[0].equal
        assert [table.by_name["place"].kind for table in store.tenant(COMPANY).database.tables] == [Kind.VECTOR]


async def test_a_production_without_the_extension_holds_vectors_and_nothing_else(
    tmp_path: Path, production: str, login: Login
) -> None:
    """Their rows wait, all others go; once an owner has made the extension the next push brings them, though empty."""
    async with connection_to(Server.parse(production)) as owner:
        await prepare(owner)
    url = login("localstore_owner", "localstore_stager", "localstore_promoter", "localstore_reader")
    async with sides(tmp_path, url) as both:
        await both.track(TABLE, PLAIN)
        await both.local("INSERT INTO v (id, place) VALUES (?, ?)", [("a", blob(1, 2)), ("b", blob(3, 4))])
        await both.local("INSERT INTO t VALUES ('a', 'words')")
        plan = await both.engine.plan()
        assert plan.result.tenants[0].tables["v"]["quarantined"] == 2
        result = await both.push(3)
        assert counts(result) == {"inserted": 1}
        assert await both.reasons() == {"v/a": "waits", "v/b": "waits"}
        found = await both.verified()
        assert found.explained
        assert not found.equal

        await both.local("UPDATE v SET place = ? WHERE id = 'a'", [(blob(7, 7),)])
        await both.push(3)
        assert await both.reasons() == {"v/a": "waits", "v/b": "waits"}

        async with connection_to(Server.parse(production)) as owner:
            await owner.execute("CREATE SCHEMA apart; CREATE EXTENSION vector SCHEMA apart")
            # In a schema that others may not use, it is of no use to them.
            await both.push(3)
            await owner.execute("GRANT USAGE ON SCHEMA apart TO PUBLIC")
        await both.push()
        await both.assert_equal()
        async with connection_to(Server.parse(production)) as owner:
            assert await _places(owner) == [("a", "[7,7]"), ("b", "[3,4]")]
        change = await both.engine.schema.plan([COMPANY])
        assert not change.targets[0].steps


async def _places(owner: asyncpg.Connection) -> list[tuple[str, str]]:
    return [tuple(row) for row in await owner.fetch("SELECT id, place::text FROM v ORDER BY id")]


async def test_a_drifted_vector_is_put_in_line(tmp_path: Path, production: str) -> None:
    """What production has of a vector is read whole, so that a repair's change of it is no conflict."""
    async with sides(tmp_path, production) as both:
        await both.track(TABLE)
        await both.local("INSERT INTO v (id, place) VALUES (?, ?)", [(name, blob(1, 0.1, -0.0)) for name in "abc"])
        await both.push()
        await both.theirs(
            "ALTER TABLE v DISABLE TRIGGER USER",
            "UPDATE v SET place = '[0.3,1e-45,7]' WHERE id = 'a'",
            "DELETE FROM v WHERE id = 'b'",
            "INSERT INTO v (company_id, id, place) VALUES ('acme', 'd', '[0.1,2,3]')",
            "ALTER TABLE v ENABLE TRIGGER USER",
        )
        (found,) = await both.engine.verify([COMPANY], repair=True)
        assert found.repaired is not None
        assert dict(found.repaired.rows) == {"v": 3}
        assert (await both.engine.promote(found.repaired.batch)).exit_code == 0
        await both.assert_equal()
