"""Whatever two boxes, an application and an operator do in turn, pulls lose nothing and leave nothing unexplained."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from localstore import LocalStore
from localstore.codec import Text
from localstore.sqlite import marks
from localstore.sqlite.database import Database
from localstore.sqlite.layout import read_catalogue
from sync import SyncEngine, batches
from sync.changes import changes
from sync.verify.differences import Difference, Why
from tests.properties.test_sync_properties import LOCAL, MANUAL, THEIRS, Step, bounded, make_tables

EXAMPLES: Final = int(os.environ.get("LOCALSTORE_STORIES", "5"))
PULLS: Final = ("pull", "pull", "pull", "push", "promote", "promote", "rollback", "rebase")
BOXES: Final = 2

steps = st.tuples(
    st.integers(0, BOXES - 1),
    st.builds(
        Step,
        st.sampled_from([*LOCAL, *LOCAL, *THEIRS, *PULLS, *PULLS, *PULLS]),
        st.integers(1, 3),
        st.integers(1, 3),
        st.sampled_from(("x", "y", "z", None)),
    ),
)


class Box:
    """One box's copy of the tenant."""

    def __init__(self, engine: SyncEngine, database: Database, company: str) -> None:
        self.engine = engine
        self.database = database
        self.company = company
        self.mine = [company]

    async def write(self, statement: str, step: Step, text: str | None) -> None:
        """Write to the file; what its constraints refuse is part of the story."""
        values = {"one": step.one, "two": step.two, "text": text, "code": text, "company": self.company}

        def run(file: sqlite3.Connection) -> None:
            file.execute("SAVEPOINT story")
            try:
                file.execute(statement, values)
            except sqlite3.IntegrityError:
                file.execute("ROLLBACK TO story")
            file.execute("RELEASE story")

        with suppress(sqlite3.IntegrityError):
            await self.database.write(run)

    async def pull(self, *, rebase: bool = False) -> None:
        """Pull: what waited before still waits with its value, and every other difference is left alone by name."""
        before = await self.differences()
        result = await (self.engine.rebase(self.mine) if rebase else self.engine.pull(self.mine))
        failure = result.tenants[0].failure
        assert failure is None, failure
        alone = {row for row, _ in result.tenants[0].left_alone}
        after = await self.differences()
        edited = await self.database.read(self.edited)
        for (table, key, column), difference in after.items():
            named = "/".join((table, *key)) in alone
            # A row that others deleted and that was edited here stays, to become a conflict of the next promotion.
            kept = column is None and difference.production is None and (table, key) in edited
            assert named or kept or difference.why in (Why.PENDING, Why.HELD), (table, key, column, difference)
        for (table, key, column), was in before.items():
            if was.why not in (Why.PENDING, Why.HELD) or (column is not None and column not in MANUAL[table]):
                continue
            now = after.get((table, key, column)) or after.get((table, key, None))
            # What no longer differs agrees; a row that is gone in production is one difference, not one a column.
            if now is not None and column is not None and now.column == column:
                assert now.local == was.local, (table, key, column, was, now)

    @staticmethod
    def edited(file: sqlite3.Connection) -> set[tuple[str, tuple[str, ...]]]:
        """Return the rows with pending updates."""
        done = max((batch.marks_to for batch in batches.live(file) if batch.state == "acknowledged"), default=0)
        return {
            (entry.table.name, tuple(map(str, texts)))
            for entry in read_catalogue(file)
            for change in changes(file, entry, done, marks.newest(file))
            if change.op == "u"
            for texts in [
                [
                    part.decode() if isinstance(part, Text) else part
                    for name, part in zip(entry.table.key, change.key, strict=True)
                    if name != entry.table.company
                ]
            ]
        }

    async def differences(self) -> dict[tuple[str, tuple[str, ...], str | None], Difference]:
        """Return how the file differs from production, by row and column."""
        verified = (await self.engine.verify(self.mine))[0]
        return {
            (name, difference.key, difference.column): difference
            for name, table in verified.tables.items()
            for difference in table.differences
        }

    async def push(self, *, promote: bool) -> UUID | None:
        """Push; nothing fails."""
        result = await self.engine.push(self.mine, promote=promote)
        assert result.tenants[0].failure is None, result.tenants[0].failure
        return result.tenants[0].batch if promote else None


class Stage:
    """Two stores and one production for all stories of a test; each story has a tenant of its own."""

    def __init__(self, production: str) -> None:
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory(prefix="pulls-")
        self.production = production
        self.companies = (f"pull{number}" for number in count(1))
        self.tokens = (f"w{number}" for number in count(1))
        self.runner.run(self.open())

    async def open(self) -> None:
        """Open everything."""
        self.stores = [LocalStore(Path(self.folder.name) / str(box), models=[]) for box in range(BOXES)]
        self.engines = [SyncEngine(store, to=self.production) for store in self.stores]
        self.app = await asyncpg.connect(self.production)

    def close(self) -> None:
        """Close everything."""

        async def close() -> None:
            await self.app.close()
            for engine, store in zip(self.engines, self.stores, strict=True):
                await engine.close()
                await store.close()

        self.runner.run(close())
        self.runner.close()
        self.folder.cleanup()

    async def told(self, story: list[tuple[int, Step]]) -> None:
        """Tell one story, and let both boxes come to rest at its end."""
        company = next(self.companies)
        first = await self.stores[0].tenant(company).open()
        await first.database.write(make_tables)
        await first.database.refresh()
        await self.engines[0].init([company])
        boxes = [Box(self.engines[0], first.database, company)]
        await boxes[0].write(LOCAL["add parent"], Step("add parent", 1, 1, "x"), next(self.tokens))
        await boxes[0].push(promote=True)
        for engine, store in zip(self.engines[1:], self.stores[1:], strict=True):
            assert (await engine.pull([company])).tenants[0].failure is None
            boxes.append(Box(engine, (await store.tenant(company, create=False).open()).database, company))
        promoted: list[UUID] = []
        for number, step in story:
            await self.happens(boxes[number], step, promoted)
        for box in boxes * 3:
            await box.pull()
            await box.push(promote=True)
        for box in boxes:
            await box.pull()
            for where, difference in (await box.differences()).items():
                assert difference.why is not Why.DRIFT, (where, difference)

    async def happens(self, box: Box, step: Step, promoted: list[UUID]) -> None:
        """Let one thing happen."""
        text = None if step.text is None else next(self.tokens)
        if step.what in LOCAL:
            await box.write(LOCAL[step.what], step, text)
        elif step.what in THEIRS:
            with suppress(asyncpg.IntegrityConstraintViolationError):
                async with self.app.transaction():
                    await self.app.execute(THEIRS[step.what], box.company, step.one, next(self.tokens))
        elif step.what in ("pull", "rebase"):
            await box.pull(rebase=step.what == "rebase")
        elif step.what == "rollback":
            if promoted:
                result: Any = await box.engine.rollback(promoted.pop(step.one % len(promoted)))
                assert result.tenants[0].failure is None, result.tenants[0].failure
        else:
            batch = await box.push(promote=step.what == "promote")
            if batch is not None and batch not in promoted:
                promoted.append(batch)


@pytest.fixture
def stage(production: str) -> Iterator[Stage]:
    """Return a stage for stories."""
    opened = Stage(production)
    yield opened
    opened.close()


@pytest.mark.timeout(900)
@bounded(EXAMPLES)
@given(story=st.lists(steps, min_size=4, max_size=20))
@example(story=[(1, Step("put parent", 1, 1, "x")), (0, Step("move parent", 1, 2, "x"))])
@example(story=[(0, Step("put parent", 2, 1, "x")), (0, Step("their parent", 2, 1, "x"))])
def test_two_boxes_and_an_application_lose_nothing(stage: Stage, story: list[tuple[int, Step]]) -> None:
    """After each pull every difference waits, is held or is left alone by name, and what waited kept its value."""
    stage.runner.run(stage.told(story))
