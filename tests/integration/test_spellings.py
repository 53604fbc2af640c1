"""Two rows of the file that are one row in production: what is held, what is decided, and what production keeps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from localstore.errors import InvalidRow
from sync import SyncEngine, spellings
from sync.config import SyncSettings
from sync.verify.differences import Why
from tests.integration.promotion import COMPANY, Sides, counts, sides

HEX = "1e7e48c6ad744694b306df33c509766c"
HYPHENS = "1e7e48c6-ad74-4694-b306-df33c509766c"
UPPER = HYPHENS.upper()
SPELLINGS = {
    "UUID": (HEX, HYPHENS, UPPER),
    "CHAR(32)": (HEX, HYPHENS, "{" + UPPER + "}"),
    "DATETIME": ("2024-01-01T00:00:00Z", "2024-01-01 01:00:00+01:00", "2023-12-31 23:00:00-01:00"),
}


@pytest.fixture
async def opened(tmp_path: Path, production: str) -> AsyncIterator[Sides]:
    """Return an empty file and a production."""
    async with sides(tmp_path, production) as both:
        yield both


@pytest.fixture(params=["UUID", "UUID in bulk", "DATETIME"])
async def both(opened: Sides, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Sides:
    """Return both sides with a table whose key can be spelt in three ways, looked up by index and at once."""
    kind = request.param.split()[0]
    if "bulk" in request.param:
        monkeypatch.setattr(spellings, "PROBED_MAX", -1)
    await opened.track(
        f"CREATE TABLE t (id {kind} NOT NULL PRIMARY KEY, code TEXT)", "CREATE TABLE o (id INTEGER PRIMARY KEY)"
    )
    await opened.engine.init()
    opened.spelt = SPELLINGS[kind]  # type: ignore[attr-defined]
    await opened.local("INSERT INTO t VALUES (?, 'other')", [(OTHER[kind],)])
    await opened.local("INSERT INTO t VALUES (?, 'good')", [(SPELLINGS[kind][0],)])
    await opened.push()
    return opened


OTHER = {"UUID": "1e7e48c6-ad74-4694-b306-df33c5097660", "DATETIME": "2024-01-01T00:00:01Z"}


def spelt(both: Sides) -> tuple[str, str, str]:
    """Return three spellings of one key, of which the first is production's row."""
    found: tuple[str, str, str] = both.spelt  # type: ignore[attr-defined]
    return found


async def add(both: Sides, code: str = "dup") -> None:
    """Write a second row that is the first one in production, and push it."""
    await both.local("INSERT INTO t VALUES (?, ?)", [(spelt(both)[1], code)])
    assert counts(await both.push(3)) == {"quarantined": 1}


async def codes(both: Sides) -> set[str]:
    """Return production's codes but that of the bystander."""
    return {code for (code,) in await both.production("SELECT code FROM t")} - {"other"}


async def local(both: Sides) -> set[str]:
    """Return the file's codes but that of the bystander."""
    return {code for (code,) in await both.rows("SELECT code FROM t")} - {"other"}


@pytest.mark.parametrize("code", ["dup", "dup\0"])
async def test_discarding_a_second_spelling_removes_that_very_row(both: Sides, code: str) -> None:
    """Whatever else is wrong with the row, the one that production has stays."""
    await add(both, code)
    assert await both.reasons() == {f"t/{spelt(both)[1]}": "value"}
    await both.engine.quarantine.discard(f"t/{spelt(both)[1]}")
    assert await local(both) == {"good"}
    await both.push()
    assert await both.held() == {}
    assert await codes(both) == {"good"}
    await both.assert_equal()


async def test_deleting_the_second_spelling_leaves_production_s_row(both: Sides) -> None:
    """The delete ends what was held, and is no delete to production."""
    await add(both)
    await both.local("DELETE FROM t WHERE code = 'dup'")
    assert counts(await both.push()) == {}
    assert await both.held() == {}
    assert await codes(both) == {"good"}
    await both.assert_equal()


async def test_deleting_a_second_spelling_of_which_nothing_was_heard_leaves_production_s_row(both: Sides) -> None:
    """A batch that is on its way is as good as one that arrived: the row that is left travels whole."""
    await both.local("INSERT INTO t VALUES (?, 'dup')", [(spelt(both)[1],)])
    await both.engine.push(promote=False)
    await both.local("DELETE FROM t WHERE code = 'dup'")
    await both.push()
    assert await both.held() == {}
    assert await codes(both) == {"good"}
    await both.assert_equal()


async def test_both_spellings_gone_before_anything_was_heard_delete_production_s_row(both: Sides) -> None:
    """Of two deletes of one key the one counts whose row production has; nothing stays held."""
    await both.local("INSERT INTO t VALUES (?, 'dup')", [(spelt(both)[1],)])
    await both.engine.push(promote=False)
    await both.local("DELETE FROM t WHERE code <> 'other'")
    await both.push()
    assert await both.held() == {}
    await both.assert_equal()


@pytest.mark.parametrize("edited", [False, True])
async def test_deleting_the_row_that_production_has_lets_the_other_take_its_place(both: Sides, edited: bool) -> None:
    """Where one row is left, production's becomes that one."""
    await add(both)
    if edited:
        await both.local("UPDATE t SET code = 'newer' WHERE code = 'dup'")
        await both.push(3)
    await both.local("DELETE FROM t WHERE code = 'good'")
    assert counts(await both.push()).get("updated") == 1
    assert await codes(both) == await local(both) == {"newer" if edited else "dup"}
    assert await both.held() == {}
    await both.assert_equal()


async def test_edits_of_either_row_are_held_until_one_is_left(both: Sides) -> None:
    """While two rows are one in production no edit of either goes there; renamed, both arrive."""
    await add(both)
    await both.local("UPDATE t SET code = code || '!' WHERE code <> 'other'")
    await both.push(3)
    assert set(await both.reasons()) == {f"t/{one}" for one in spelt(both)[:2]}
    assert await codes(both) == {"good"}
    assert {one.why for one in (await both.verified()).tables["t"].differences} == {Why.HELD}
    new = spelt(both)[1].replace("e7", "a1").replace("2024", "2025")
    await both.local("UPDATE t SET id = ? WHERE code = 'dup!'", [(new,)])
    await both.push()
    assert await both.held() == {}
    assert await codes(both) == {"good!", "dup!"}
    await both.assert_equal()


async def test_two_new_rows_of_one_key_are_both_held_and_verify_says_so(both: Sides) -> None:
    """Which of them is meant nobody has said; either may be discarded."""
    await both.local("DELETE FROM t WHERE code = 'good'")
    await both.push()
    await both.local("INSERT INTO t VALUES (?, ?)", list(zip(spelt(both), "xyz", strict=True)))
    assert counts(await both.push(3)) == {"quarantined": 3}
    assert {one.why for one in (await both.verified()).tables["t"].differences} == {Why.HELD}
    await both.engine.quarantine.discard(f"t/{spelt(both)[0]}")
    await both.push(3)
    assert set(await both.reasons()) == {f"t/{one}" for one in spelt(both)[1:]}
    await both.engine.quarantine.discard(f"t/{spelt(both)[2]}")
    await both.push()
    assert await both.held() == {}
    assert await codes(both) == await local(both) == {"y"}
    await both.assert_equal()


async def test_deleting_both_spellings_deletes_production_s_row(both: Sides) -> None:
    """Both gone, the row is gone, and nothing stays held."""
    await add(both)
    await both.local("DELETE FROM t WHERE code <> 'other'")
    assert counts(await both.push()) == {"deleted": 1}
    assert await both.held() == {}
    await both.assert_equal()


async def test_a_retry_of_a_second_spelling_changes_nothing_until_it_is_alone(both: Sides) -> None:
    """Tried again beside the other row, it is held again."""
    await add(both)
    await both.engine.quarantine.retry(f"t/{spelt(both)[1]}")
    await both.push(3)
    assert await both.reasons() == {f"t/{spelt(both)[1]}": "value"}
    assert await codes(both) == {"good"}


async def test_a_decision_that_may_mean_two_rows_is_refused_and_names_them(both: Sides) -> None:
    """A row with the held one's key came since: to decide about the wrong one would lose it."""
    await both.theirs("UPDATE t SET code = 'theirs' WHERE code = 'good'")
    await both.local("UPDATE t SET code = 'ours' WHERE code = 'good'")
    await both.push(3)
    await both.local("INSERT INTO t VALUES (?, 'dup')", [(spelt(both)[1],)])
    (address,) = await both.reasons()
    for use in ("local", "production"):
        with pytest.raises(InvalidRow, match="2 rows of t are") as refused:
            await both.engine.conflicts.resolve(address, use)
        assert all(one in str(refused.value) for one in spelt(both)[:2])
    assert await local(both) == {"ours", "dup"}


async def test_a_whole_table_with_two_spellings_deletes_nothing(both: Sides, production: str) -> None:
    """A table that travels whole has the key, so that it is not taken for one that is gone."""
    await both.local("INSERT INTO t VALUES (?, 'dup')", [(spelt(both)[1],)])
    await both.database.write(lambda file: file.execute("UPDATE localstore_tables SET snapshot_due = 1"))
    settings = SyncSettings(allow_deletes=1000)
    async with SyncEngine(both.store, to=production, settings=settings) as engine:
        await engine.push([COMPANY], promote=True)
    assert await codes(both) == {"good"}
    await both.local("DELETE FROM t WHERE code = 'dup'")
    await both.push()
    assert await codes(both) == {"good"}
    assert await both.held() == {}
    await both.assert_equal()
