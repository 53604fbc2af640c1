"""Rebase: a restored or copied file becomes a new replica on production's state, and loses nothing it had to send."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from localstore import LocalStore
from sync import SyncEngine
from tests.integration.promotion import COMPANY, counts, sides

TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT)"


def backup(source: Path, folder: Path) -> Path:
    """Copy a tenant's file, as of now, into a store of its own."""
    place = folder / COMPANY / "store.db"
    place.parent.mkdir(parents=True)
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(place)) as other:
        one.backup(other)
    return place


async def test_F17_a_restored_file_is_rebased(tmp_path: Path, production: str) -> None:
    """F17: it is refused until it is rebased; then its pending columns are merged and all else is production's."""
    async with sides(tmp_path, production) as one:
        await one.track(TABLE)
        await one.local("INSERT INTO t VALUES (?, 'a', 'b')", [(1,), (2,), (3,), (4,)])
        await one.push()
        await one.local("UPDATE t SET a = 'pending' WHERE id IN (1, 2)")
        await one.local("INSERT INTO t VALUES (8, 'pending', NULL)")
        await one.local("DELETE FROM t WHERE id = 4")
        file = backup(one.database.path, tmp_path / "restored")
        await one.local("UPDATE t SET b = 'newer' WHERE id = 1")
        await one.local("UPDATE t SET a = 'newer' WHERE id = 2")
        await one.local("DELETE FROM t WHERE id = 3")
        await one.push()
        async with LocalStore(tmp_path / "restored", models=[]) as store, SyncEngine(store, to=production) as engine:
            refused = await engine.pull([COMPANY])
            assert refused.exit_code == 6, refused.to_json()
            rebased = await engine.rebase([COMPANY])
            assert rebased.exit_code == 0, rebased.to_json()
            # What the older file had to send is in production already, but for the value that was newer there.
            with closing(sqlite3.connect(file)) as shell:
                rows = shell.execute("SELECT * FROM t ORDER BY id").fetchall()
            assert rows == [(1, "pending", "newer"), (2, "pending", "b"), (8, "pending", None)]
            assert counts(rebased)["conflicts"] == 1
            pushed = await engine.push([COMPANY], promote=True)
            assert pushed.exit_code == 3
            assert [item.address for item in await engine.held()] == ["t/2"]
            await engine.conflicts.resolve("t/2", "production")
            assert (await engine.push([COMPANY], promote=True)).exit_code == 0
            assert (await engine.verify([COMPANY]))[0].equal


async def test_F18_a_copied_file_and_its_original_go_on_together(tmp_path: Path, production: str) -> None:
    """F18: after its rebase the copy is a box of its own, and neither blocks the other any more."""
    async with sides(tmp_path, production) as one:
        await one.track(TABLE)
        await one.local("INSERT INTO t VALUES (1, 'a', 'b')")
        await one.push()
        backup(one.database.path, tmp_path / "copy")
        async with LocalStore(tmp_path / "copy", models=[]) as store, SyncEngine(store, to=production) as engine:
            assert (await engine.rebase([COMPANY])).exit_code == 0
            async with store.tenant(COMPANY) as copy:
                assert copy.database.identity.replica != one.database.identity.replica
                await copy.database.write(lambda file: file.execute("UPDATE t SET a = 'copy'"))
            await one.local("UPDATE t SET b = 'original'")
            await one.push()
            assert (await engine.pull([COMPANY])).exit_code == 0
            assert (await engine.push([COMPANY], promote=True)).exit_code == 0
            assert (await one.engine.pull([COMPANY])).exit_code == 0
            assert await one.rows("SELECT * FROM t") == [(1, "copy", "original")]
            await one.assert_equal()
            assert (await engine.verify([COMPANY]))[0].equal


async def test_a_rebase_keeps_what_production_held(tmp_path: Path, production: str) -> None:
    """A change that was held for the old replica is pending again in the new one, with the base it was held with."""
    async with sides(tmp_path, production) as one:
        await one.track(TABLE)
        await one.local("INSERT INTO t VALUES (1, 'a', 'b')")
        await one.push()
        await one.local("UPDATE t SET a = 'ours'")
        await one.theirs("UPDATE t SET a = 'theirs'")
        await one.push(exit_code=3)
        old = one.database.identity.replica
        assert (await one.engine.rebase([COMPANY])).exit_code == 0
        assert one.database.identity.replica != old
        assert await one.rows("SELECT a FROM t") == [("ours",)]
        assert (await one.engine.status([COMPANY])).tenants[0].pending == 1
        await one.theirs("UPDATE t SET a = 'a'")
        await one.engine.push([COMPANY], promote=True)
        assert await one.production("SELECT a FROM t") == [("ours",)]
