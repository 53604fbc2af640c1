"""A tracked table that another tool drops or renames: nothing is concluded from it, and its rows come back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from localstore.sqlite.capture import install
from sync import SyncEngine
from sync.config import SyncSettings
from tests.integration.command import command, sync
from tests.integration.promotion import COMPANY, Sides, counts, sides

TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)"
ROWS = [(1, "x"), (2, "x"), (3, "x")]


@pytest.fixture
async def both(tmp_path: Path, production: str) -> AsyncIterator[Sides]:
    """Return a file whose two tables are in production, and up to date with it."""
    async with sides(tmp_path, production) as opened:
        await opened.track(TABLE, "CREATE TABLE other (id INTEGER PRIMARY KEY)")
        await opened.local("INSERT INTO t VALUES (?, ?)", ROWS)
        await opened.local("INSERT INTO other VALUES (1)")
        await opened.push()
        await opened.engine.pull([COMPANY])
        yield opened


async def make_again(both: Sides) -> None:
    """Make the table anew, as `schema apply` does."""
    await both.local(TABLE)
    await both.database.write(lambda file: install(file, ()))
    await both.database.refresh()


async def test_every_command_names_the_table_and_a_way_out(both: Sides, production: str) -> None:
    """One clear line each, exit 1, and production stands."""
    await both.unchecked("DROP TABLE t", "INSERT INTO other VALUES (2)")
    data = both.store.root
    pages = [command("tenants", "show", COMPANY, "--data", data), sync("status", "--data", data)]
    pages += [
        sync(*words, "--to", production, "--data", data)
        for words in (["plan"], ["push", "--promote", "--allow-deletes", "9"], ["verify"], ["pull"], ["rebase"])
    ]
    for page in pages:
        assert (page.code, "keeps track of: table t;" in page.err, "Try: make it again" in page.err) == (1, True, True)
    assert len(await both.production("SELECT FROM t")) == 3
    assert await both.production("SELECT id FROM other") == [(1,)]


async def test_a_table_made_again_gets_its_rows_back(both: Sides) -> None:
    """A push settles that the table is empty without deleting anything; a pull brings what production has kept."""
    await both.unchecked("DROP TABLE t")
    await make_again(both)
    assert counts(await both.push()) == {}
    assert len(await both.production("SELECT FROM t")) == 3
    result = (await both.engine.pull([COMPANY])).tenants[0]
    assert counts(result) == {"inserted": 3}
    assert await both.rows("SELECT id, a FROM t ORDER BY id") == ROWS
    await both.assert_equal()


async def test_a_table_made_again_can_be_meant_to_be_empty(both: Sides, production: str) -> None:
    """With deletes allowed the rows go from production, too; another company's stay."""
    await both.theirs("INSERT INTO t VALUES ('other', 1, 'x')")
    await both.unchecked("DROP TABLE t")
    await make_again(both)
    async with SyncEngine(both.store, to=production, settings=SyncSettings(allow_deletes=3)) as engine:
        assert counts(await engine.push([COMPANY], promote=True)) == {"deleted": 3}
    assert await both.production("SELECT company_id FROM t") == [("other",)]
    await both.assert_equal()


async def test_a_table_renamed_back_goes_on(both: Sides) -> None:
    """What was written in between travels, too."""
    await both.unchecked("ALTER TABLE t RENAME TO s", "UPDATE s SET a = 'y' WHERE id = 1", "ALTER TABLE s RENAME TO t")
    await both.push()
    assert await both.production("SELECT id, a FROM t ORDER BY id") == [(1, "y"), (2, "x"), (3, "x")]
    await both.assert_equal()
