"""The crash table's line *pull*: a real process dies in the middle of one, and the next one goes on."""

from __future__ import annotations

import importlib
import inspect
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from localstore.schema.tables import Policy
from tests.faults.killing import die
from tests.forked import be_command, processes
from tests.integration.command import TIMEOUT_SECONDS, environment, sync
from tests.integration.promotion import COMPANY, Sides, sides

POINTS = {
    "fetched, nothing applied": ("sync.pull.apply:Application", "run", False),
    "applied, no cursor": ("sync.steps.pull", "_moved", False),
    "cursor written, nothing committed": ("sync.steps.pull", "_apply", True),
    "committed, nobody told": ("sync.steps.pull", "_result", False),
    "batch withdrawn in production only": ("sync.batches", "withdraw", False),
}
"""Where a pull dies: a function, and whether after it rather than before."""

WHOLE_POINTS = {
    "the tenant's file is made": ("localstore.store:LocalStore", "create_tenant", False),
    "tables made": ("sync.steps.pull", "fetch", False),
    "fetched, nothing applied": ("sync.pull.apply:Application", "run", False),
    "cursor written, nothing committed": ("sync.steps.pull", "_apply", True),
}


def dying(point: tuple[str, str, bool], arguments: Sequence[str], environment: Mapping[str, str], out: Path) -> None:
    """Be the command that dies at the point."""
    owner, name, after = point
    module, _, cls = owner.partition(":")
    place: Any = importlib.import_module(module)
    if cls:
        place = getattr(place, cls)
    original = getattr(place, name)

    def called(*given: Any, **named: Any) -> None:
        if not after and not inspect.iscoroutinefunction(original):
            die()
        done = original(*given, **named)
        if inspect.iscoroutinefunction(original):
            done.close()
        die()

    setattr(place, name, called)
    be_command(arguments, environment, None, out, out)


def killed(folder: Path, point: tuple[str, str, bool], *arguments: str | Path) -> None:
    """Run the command until it dies at the point; what it prints lies in the folder."""
    out = folder / "printed"
    process = processes.Process(target=dying, args=(point, [*map(str, arguments)], environment(), out))
    process.start()
    process.join(TIMEOUT_SECONDS)
    assert process.exitcode == -signal.SIGKILL, out.read_text()
    process.close()


async def prepared(one: Sides) -> None:
    """Make a tenant of which both sides have changed since the last pull, with a batch that waits in production."""
    await one.track(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, top INTEGER, a TEXT, b TEXT)", policies={"top": Policy.MAX}
    )
    await one.local("INSERT INTO t VALUES (?, 1, 'a', 'b')", [(number,) for number in range(1, 7)])
    await one.push()
    assert (await one.engine.pull([COMPANY])).exit_code == 0
    await one.local("UPDATE t SET top = 5, a = 'ours' WHERE id IN (1, 2)")
    await one.engine.push([COMPANY])
    await one.local("UPDATE t SET a = 'later' WHERE id = 3")
    await one.theirs(
        "UPDATE t SET top = 9 WHERE id = 1",
        "UPDATE t SET b = 'theirs' WHERE id IN (2, 3)",
        "DELETE FROM t WHERE id = 4",
        "INSERT INTO t (company_id, id, a) VALUES ('acme', 7, 'theirs')",
    )


@pytest.mark.parametrize("point", POINTS)
async def test_F1_a_pull_that_dies_is_done_whole_or_not_at_all(tmp_path: Path, production: str, point: str) -> None:
    """Rows and cursor are one transaction: the file is as before or as after, and the next pull and push settle it."""
    async with sides(tmp_path, production) as one:
        await prepared(one)
        before = await one.rows("SELECT * FROM t ORDER BY id"), await one.rows(CURSOR)
        killed(tmp_path, POINTS[point], "sync", "pull", "--to", production, "--data", one.store.root)
        after = await one.rows("SELECT * FROM t ORDER BY id"), await one.rows(CURSOR)
        assert (after != before) == point.startswith("committed")
        assert (after[1] == before[1]) == (after[0] == before[0])
        assert (await one.engine.pull([COMPANY])).exit_code == 0
        expected = [
            (1, 9, "ours", "b"),
            (2, 5, "ours", "theirs"),
            (3, 1, "later", "theirs"),
            (5, 1, "a", "b"),
            (6, 1, "a", "b"),
            (7, None, "theirs", None),
        ]
        assert await one.rows("SELECT * FROM t ORDER BY id") == expected
        await one.push()
        assert await one.production("SELECT id, top, a, b FROM t ORDER BY id") == expected
        await one.assert_equal()


@pytest.mark.parametrize("point", WHOLE_POINTS)
async def test_F1_a_first_pull_that_dies_is_taken_up_again(tmp_path: Path, production: str, point: str) -> None:
    """Whatever is left of a new tenant when its first pull dies, the next one completes it."""
    async with sides(tmp_path, production) as one:
        await prepared(one)
        await one.push()
        second = tmp_path / "second"
        arguments = ("sync", "pull", "--tenant", COMPANY, "--to", production, "--data", second)
        killed(tmp_path, WHOLE_POINTS[point], *arguments)
        again = sync(*arguments[1:], "--json")
        assert again.code == 0, again.all
        assert again.json["tenants"][0]["tables"]["t"]["inserted"] == 6
        verified = sync("verify", "--to", production, "--data", second)
        assert verified.code == 0, verified.all


async def test_the_command_says_what_it_did(tmp_path: Path, production: str) -> None:
    """`pull` prints its counts and sentences, and an unknown tenant is an error that names the next command."""
    async with sides(tmp_path, production) as one:
        await prepared(one)
        await one.push()
        done = sync("pull", "--to", production, "--data", one.store.root)
        assert done.code == 0, done.all
        assert "acme: pulled" in done.all
        idle = sync("pull", "--to", production, "--data", one.store.root)
        assert (idle.code, "Nothing new to pull" in idle.all) == (0, True), idle.all
        unknown = sync("pull", "--tenant", "nobody", "--to", production, "--data", one.store.root)
        assert (unknown.code, "Try:" in unknown.all) == (1, True), unknown.all
        rebased = sync("rebase", "--tenant", COMPANY, "--to", production, "--data", one.store.root)
        assert (rebased.code, "acme: rebased" in rebased.all) == (0, True), rebased.all


async def test_P11_a_long_transaction_neither_stalls_nor_hides_anything(tmp_path: Path, production: str) -> None:
    """P11: what commits beside a long transaction arrives at once; what that one wrote arrives when it commits."""
    async with sides(tmp_path, production) as one:
        await one.track("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
        await one.local("INSERT INTO t VALUES (1, 'a')")
        await one.push()
        long = await asyncpg.connect(production)
        try:
            transaction = long.transaction()
            await transaction.start()
            await long.execute("INSERT INTO t VALUES ('acme', 2, 'long')")
            await one.theirs("INSERT INTO t VALUES ('acme', 3, 'short')")
            await one.engine.pull([COMPANY])
            assert await one.rows("SELECT id FROM t ORDER BY id") == [(1,), (3,)]
            await transaction.commit()
        finally:
            await long.close()
        await one.engine.pull([COMPANY])
        assert await one.rows("SELECT id FROM t ORDER BY id") == [(1,), (2,), (3,)]


CURSOR = "SELECT value FROM localstore_state WHERE name = 'cursor'"
