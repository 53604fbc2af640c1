"""Claims about a new column's default on its way to production: it merges by column, whoever wrote the rows last."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import MetaData
from sqlmodel import Field, SQLModel

from localstore.columns import DecimalText
from localstore.evolution import Evolution
from localstore.sqlite import capture
from localstore.sqlite.layout import read_catalogue
from localstore.sqlite.marks import UPDATE
from localstore.sqlite.prepare import Models
from sync.schema.before import seal_pending
from tests.integration.promotion import Sides, counts, sides
from tests.integration.test_pull import second_box

OLD = (
    "CREATE TABLE t (company_id VARCHAR NOT NULL, number INTEGER NOT NULL, text VARCHAR, n INTEGER, "
    "PRIMARY KEY (company_id, number))"
)


class Filled(SQLModel, table=True):
    """The table with a column that may not be NULL."""

    metadata: ClassVar[Any] = MetaData()
    __tablename__: ClassVar[Any] = "t"
    company_id: str = Field(primary_key=True)
    number: int = Field(primary_key=True)
    text: str | None = None
    n: int | None = None
    extra: str = "dflt"


class Widened(SQLModel, table=True):
    """The same, and whole numbers have become decimals."""

    metadata: ClassVar[Any] = MetaData()
    __tablename__: ClassVar[Any] = "t"
    company_id: str = Field(primary_key=True)
    number: int = Field(primary_key=True)
    text: str | None = None
    n: Decimal | None = Field(default=None, sa_type=DecimalText)
    extra: str = "dflt"


async def changed(box: Sides, model: type[Any]) -> None:
    """Bring the file to the model's shape, and production to the file's."""
    done = await Evolution(box.store, Models((model,)), before=(seal_pending,)).apply()
    assert done.exit_code == 0, done.to_json()
    await box.database.refresh()
    assert (await box.engine.schema.apply(destructive=True)).exit_code == 0


async def written(one: Sides) -> None:
    """Let the replica write four rows, and an application a fifth and one of the four; all of it is pulled."""
    await one.track(OLD)
    await one.local("INSERT INTO t VALUES ('acme', ?, 'ours', 7)", [(number,) for number in range(1, 5)])
    await one.push()
    await one.theirs("INSERT INTO t VALUES ('acme', 5, 'theirs', 5)", "UPDATE t SET text = 'theirs' WHERE number = 2")
    assert (await one.engine.pull()).exit_code == 0


@pytest.mark.parametrize("model", [Filled, Widened])
async def test_a_default_reaches_rows_that_others_wrote(tmp_path: Path, production: str, model: type[Any]) -> None:
    """Rows of an application's own get it as the replica's own do, and a column that widens beside it is no change."""
    async with sides(tmp_path, production) as one:
        await written(one)
        await changed(one, model)
        assert counts(await one.push()) == {"updated": 5}
        assert await one.production("SELECT DISTINCT extra FROM t") == [("dflt",)]
        await one.assert_equal()


@pytest.mark.parametrize("model", [Filled, Widened])
async def test_a_second_box_finds_the_default_there(tmp_path: Path, production: str, model: type[Any]) -> None:
    """Two boxes that fill the same column agree, with a pull in between and without one."""
    async with sides(tmp_path, production) as one:
        await written(one)
        async with second_box(tmp_path, production) as two:
            await changed(one, model)
            await one.push()
            await changed(two, model)
            assert counts(await two.push()) == {"unchanged": 5}
            await two.assert_equal()
            assert (await one.engine.pull()).exit_code == 0
            await one.assert_equal()


async def test_what_waits_is_sent_with_the_default(tmp_path: Path, production: str) -> None:
    """New, changed and deleted rows that wait arrive as they are; the default adds to them and takes nothing away."""
    async with sides(tmp_path, production) as one:
        await written(one)
        await one.local("INSERT INTO t VALUES ('acme', 6, 'new', 1)")
        await one.local("UPDATE t SET text = 'again' WHERE number = 5")
        await one.local("DELETE FROM t WHERE number = 1")
        await changed(one, Filled)
        await one.push()
        rows = await one.production("SELECT number, text, extra FROM t ORDER BY 1")
        assert rows == [
            (2, "theirs", "dflt"),
            (3, "ours", "dflt"),
            (4, "ours", "dflt"),
            (5, "again", "dflt"),
            (6, "new", "dflt"),
        ]
        await one.assert_equal()


async def test_values_that_production_has_there_are_conflicts_by_column(tmp_path: Path, production: str) -> None:
    """Another value in production's column is somebody's, so it stays, with a conflict that names the column alone."""
    async with sides(tmp_path, production) as one:
        await written(one)
        await one.theirs("ALTER TABLE t ADD COLUMN extra text", "UPDATE t SET extra = 'theirs' WHERE number = 3")
        await changed(one, Filled)
        assert counts(await one.push(exit_code=3)) == {"updated": 4, "conflicts": 1}
        assert list(await one.reasons()) == ["t/3"]
        assert await one.production("SELECT number FROM t WHERE extra = 'theirs'") == [(3,)]


async def test_marks_tell_the_default_and_no_snapshot_is_due(tmp_path: Path, production: str) -> None:
    """One mark a row with NULL as the old value, by which production's own column can be told from a change."""
    async with sides(tmp_path, production) as one:
        await written(one)
        before = (await one.rows("SELECT max(seq) FROM localstore_marks"))[0][0]
        await changed(one, Filled)
        (entry,) = await one.database.read(read_catalogue)
        assert (entry.snapshot_due, await one.database.read(capture.check)) == (False, [])
        assert await one.rows(f"SELECT op, col, v0, v1, v2 FROM localstore_marks WHERE seq > {before}") == [
            (UPDATE, entry.table.ordinal["extra"], None, "acme", number) for number in range(1, 6)
        ]
