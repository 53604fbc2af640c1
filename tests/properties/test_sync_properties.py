"""Whatever a tenant, an application in production and an operator do in turn, sync keeps its promises.

Each story runs on a real SQLite file and a real PostgreSQL. After every promotion the whole state of both sides is
compared, by hand and by `verify`.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from localstore import LocalStore
from localstore.errors import InvalidRow
from localstore.schema.sqlite import table_from_sqlite
from localstore.schema.tables import Policy, Table
from localstore.sqlite.capture import install
from localstore.sqlite.database import Database
from sync import SyncEngine
from sync.listing import held_in_file
from sync.results import HeldItem, Result
from sync.verify.differences import Why

EXAMPLES: Final = int(os.environ.get("LOCALSTORE_STORIES", "25"))

SCHEMA: Final = (
    """CREATE TABLE parent (id INTEGER PRIMARY KEY, code TEXT UNIQUE, note TEXT, top INTEGER, low INTEGER,
       ours TEXT, theirs TEXT, doc JSON)""",
    "CREATE TABLE child (k TEXT PRIMARY KEY, parent INTEGER REFERENCES parent (id) ON DELETE CASCADE, v TEXT)",
    """CREATE TABLE leaf (company_id TEXT, a TEXT, b INTEGER, child TEXT NOT NULL REFERENCES child (k), v TEXT,
       PRIMARY KEY (company_id, a, b))""",
)
POLICIES: Final = {"top": Policy.MAX, "low": Policy.MIN, "ours": Policy.LOCAL, "theirs": Policy.PRODUCTION}
KEYS: Final = {"parent": ("id",), "child": ("k",), "leaf": ("a", "b")}
MANUAL: Final = {"parent": ("code", "note", "doc"), "child": ("parent", "v"), "leaf": ("child", "v")}

Cell = tuple[str, tuple[str, ...], str]
Row = dict[str, str | None]
Rows = dict[tuple[str, tuple[str, ...]], Row]


@dataclass(frozen=True)
class Step:
    """One thing that happens, and the numbers that say to what."""

    what: str
    one: int
    two: int
    text: str | None


LOCAL: Final = {
    "put parent": """INSERT OR REPLACE INTO parent
        VALUES (:one, :code, :text, :two, :two, :text, :text, json_array(:two))""",
    "add parent": "INSERT INTO parent (id, code, note) VALUES (:one, :code, :text)",
    "edit note": "UPDATE parent SET note = :text WHERE id = :one",
    "edit doc": "UPDATE parent SET doc = json_object('a', :two) WHERE id = :one",
    "edit code": "UPDATE parent SET code = :code WHERE id = :one",
    "edit policies": "UPDATE parent SET top = :two, low = :two, ours = :text, theirs = :text WHERE id = :one",
    "swap codes": """UPDATE parent SET code = CASE id WHEN :one THEN (SELECT code FROM parent WHERE id = :two)
        ELSE (SELECT code FROM parent WHERE id = :one) END WHERE id IN (:one, :two)""",
    "move parent": "UPDATE parent SET id = :two WHERE id = :one",
    "drop parent": "DELETE FROM parent WHERE id = :one",
    "put child": "INSERT OR REPLACE INTO child VALUES ('k' || :one, :two, :text)",
    "edit child": "UPDATE child SET v = :text WHERE k = 'k' || :one",
    "move child": "UPDATE child SET parent = :two WHERE k = 'k' || :one",
    "rename child": "UPDATE OR REPLACE child SET k = 'k' || :two WHERE k = 'k' || :one",
    "drop child": "DELETE FROM child WHERE k = 'k' || :one",
    "put leaf": "INSERT OR REPLACE INTO leaf VALUES (:company, 'a', :one, 'k' || :two, :text)",
    "edit leaf": "UPDATE leaf SET v = :text WHERE b = :one",
    "drop leaf": "DELETE FROM leaf WHERE b = :one",
}
SPOILING: Final = {"spoil": "UPDATE parent SET note = 'bad' || char(0) WHERE id = :one"}

THEIRS: Final = {
    "their note": "UPDATE parent SET note = $3 WHERE company_id = $1 AND id = $2",
    "their same": "UPDATE parent SET note = note WHERE company_id = $1 AND id = $2 AND $3::text IS NOT NULL",
    "their code": "UPDATE parent SET code = $3 WHERE company_id = $1 AND id = $2",
    "their policies": """UPDATE parent SET top = 2, low = 2, ours = $3, theirs = $3
        WHERE company_id = $1 AND id = $2""",
    "their parent": "INSERT INTO parent (company_id, id, note) VALUES ($1, $2, $3)",
    "their drop": "DELETE FROM parent WHERE company_id = $1 AND id = $2 AND $3::text IS NOT NULL",
    "their child": "UPDATE child SET v = $3 WHERE company_id = $1 AND k = 'k' || $2::bigint",
    "their new child": "INSERT INTO child (company_id, k, parent, v) VALUES ($1, 't' || $2::bigint, $2, $3)",
    "their leaf": "UPDATE leaf SET v = $3 WHERE company_id = $1 AND b = $2",
    "their drop leaf": "DELETE FROM leaf WHERE company_id = $1 AND b = $2 AND $3::text IS NOT NULL",
}
ENGINE: Final = (
    "push", "promote", "promote", "promote", "plan", "rollback", "round trip", "requeue", "withdraw", "resolve local",
    "resolve production", "fix", "retry", "discard",
)  # fmt: skip

BEGINNING: Final = (
    *(Step("put parent", number, number, None if number == 3 else "xyz"[number - 1]) for number in (1, 2, 3)),
    *(Step("put child", number, number, "x") for number in (1, 2, 3)),
    *(Step("put leaf", number, number, "x") for number in (1, 2)),
    Step("promote", 1, 1, None),
)
"""Every story begins with rows on both sides: on empty tables most steps would do nothing."""


def step(names: Iterable[str]) -> st.SearchStrategy[Step]:
    """Return a strategy for steps of these names."""
    numbers = st.integers(1, 3)
    return st.builds(Step, st.sampled_from(sorted(names)), numbers, numbers, st.sampled_from(("x", "y", "z", None)))


def rounds(*, alone: bool) -> st.SearchStrategy[list[Step]]:
    """Return a strategy for stories: in each round the tenant writes, then applications unless `alone`, then we act."""
    ours = st.lists(step([*LOCAL, *SPOILING]), min_size=1, max_size=4)
    theirs = st.just([]) if alone else st.lists(step(THEIRS), max_size=3)
    acts = st.lists(step(ENGINE) | st.just(Step("promote", 1, 1, None)), min_size=1, max_size=3)
    told = st.lists(st.tuples(ours, theirs, acts), min_size=2, max_size=8)
    return told.map(lambda parts: [one for part in parts for steps in part for one in steps])


class World:
    """One tenant, its production, and a memory of everything that its applications wrote there."""

    def __init__(self, engine: SyncEngine, database: Database, app: asyncpg.Connection, company: str) -> None:
        self.engine = engine
        self.database = database
        self.app = app
        self.company = company
        self.mine = [company]
        self.batches: list[UUID] = []
        self.rolled_back: list[UUID] = []
        self.numbers = count(1)
        self.written: dict[Cell, str | None] = {}
        self.seen: dict[Cell, set[str | None]] = {}
        self.touched: set[tuple[str, tuple[str, ...]]] = set()

    # -- what happens ---------------------------------------------------------------------------------------------

    async def run(self, step: Step) -> None:
        """Let one thing happen."""
        if step.what in LOCAL or step.what in SPOILING:
            await self.local({**LOCAL, **SPOILING}[step.what], step)
        elif step.what in THEIRS:
            await self.theirs(THEIRS[step.what], step)
        else:
            await getattr(self, step.what.replace(" ", "_"))(step)

    async def local(self, statement: str, step: Step) -> None:
        """Write to the file; what its constraints refuse is part of the story."""
        values = {"one": step.one, "two": step.two, "text": step.text, "code": step.text, "company": self.company}

        def write(file: sqlite3.Connection) -> None:
            file.execute("SAVEPOINT story")
            try:
                file.execute(statement, values)
            except sqlite3.IntegrityError:
                file.execute("ROLLBACK TO story")
            file.execute("RELEASE story")

        with suppress(InvalidRow):
            await self.database.write(write)

    async def theirs(self, statement: str, step: Step) -> None:
        """Write to production as an application, and remember what it wrote."""
        before = await self.production()
        with suppress(asyncpg.IntegrityConstraintViolationError):
            async with self.app.transaction():
                await self.app.execute(statement, self.company, step.one, f"app{next(self.numbers)}")
        after = await self.production()
        for table, key in before.keys() | after.keys():
            old, new = before.get((table, key)), after.get((table, key))
            if old == new:
                continue
            self.touched.add((table, key))
            for column in MANUAL[table]:
                cell = (table, key, column)
                if old is None or new is None or old[column] != new[column]:
                    self.written.pop(cell, None)
                    if new is not None:
                        self.written[cell] = new[column]

    async def push(self, _step: Step) -> None:
        """Seal and stage."""
        self.check_result(await self.engine.push(self.mine))

    async def promote(self, _step: Step) -> None:
        """Push with promotion, check everything, and push once more, which must move nothing."""
        before = await self.production()
        await self.promote_once()
        await self.check(before)
        again = await self.engine.push(self.mine, promote=True)
        self.check_result(again)
        assert again.tenants[0].state == "unchanged", again.to_json()
        assert again.tenants[0].tables == {}

    async def promote_once(self) -> Result:
        """Push with promotion and remember the batches."""
        result = await self.engine.push(self.mine, promote=True)
        self.check_result(result)
        for batch in result.tenants[0].batches:
            if batch not in self.batches:
                self.batches.append(batch)
        return result

    async def plan(self, _step: Step) -> None:
        """Plan, see that nothing moved, and promote just that: the counts are the same."""
        before = await self.production()
        plan = await self.engine.plan(self.mine)
        self.check_result(plan.result)
        assert await self.production() == before
        done = await self.engine.promote(plan) if plan.batches else None
        if done is not None:
            self.check_result(done)
            assert done.tenants[0].tables == plan.result.tenants[0].tables
            self.batches += [batch for batch in done.tenants[0].batches if batch not in self.batches]
        await self.check(before)

    async def rollback(self, step: Step) -> None:
        """Take any promoted batch back."""
        if not self.batches:
            return
        batch = self.batches.pop(step.one * 7 % len(self.batches))
        before = await self.production()
        self.check_result(await self.engine.rollback(batch))
        self.rolled_back.append(batch)
        await self.check(before, pending=True)

    async def round_trip(self, step: Step) -> None:
        """Promote, take that back: production is as before; put it in line again: it is as it was promoted."""
        await self.promote(step)
        await self.local("UPDATE parent SET note = coalesce(note, '') || '+' WHERE id = :one", step)
        await self.local(LOCAL["put child"], step)
        before = await self.production()
        result = await self.promote_once()
        if len(result.tenants[0].batches) != 1:
            return
        batch = result.tenants[0].batches[0]
        promoted = await self.production()
        await self.check(before)
        taken = await self.engine.rollback(batch)
        self.check_result(taken)
        if not taken.tenants[0].left_alone:
            assert await self.production() == before
        await self.engine.requeue(batch)
        self.check_result(await self.engine.push(self.mine, promote=True))
        if not taken.tenants[0].left_alone:
            assert await self.production() == promoted
        self.batches.remove(batch)

    async def requeue(self, _step: Step) -> None:
        """Put the last batch that was taken back in line again."""
        if self.rolled_back:
            self.check_result(await self.engine.requeue(self.rolled_back.pop()))

    async def withdraw(self, _step: Step) -> None:
        """Give up what is staged."""
        staged = await self.engine.push(self.mine)
        self.check_result(staged)
        batch = staged.tenants[0].batch
        if batch is not None:
            self.check_result(await self.engine.withdraw(batch))

    async def resolve_local(self, step: Step) -> None:
        """Decide a conflict for the file's values, having seen production's."""
        item = self.pick(await self.mirrored("conflict"), step)
        if item is not None:
            self.see(item)
            await self.engine.conflicts.resolve(item.address, "local", self.mine)

    async def resolve_production(self, step: Step) -> None:
        """Decide a conflict for production's values, unless the file's own constraints forbid that."""
        item = self.pick(await self.mirrored("conflict"), step)
        if item is not None:
            self.see(item)
            with suppress(InvalidRow):
                await self.engine.conflicts.resolve(item.address, "production", self.mine)

    async def fix(self, _step: Step) -> None:
        """Mend a value that production refused, unless the file has dropped the row meanwhile."""
        for item in await self.mirrored("value"):
            assert item.column == "note"
            if (item.table, tuple(item.key.values())) not in await self.file():
                continue
            await self.engine.quarantine.fix(item.address, "note", "mended", self.mine)

    async def retry(self, step: Step) -> None:
        """Try a held row again."""
        item = self.pick(await self.mirrored("value", "constraint", "waits", "rolled_back"), step)
        if item is not None:
            await self.engine.quarantine.retry(item.address, self.mine)

    async def discard(self, step: Step) -> None:
        """Give up a held change, unless the file's own constraints forbid that."""
        item = self.pick(await self.mirrored("value", "constraint", "waits", "rolled_back"), step)
        if item is not None:
            with suppress(InvalidRow):
                await self.engine.quarantine.discard(item.address, self.mine)

    @staticmethod
    def pick(items: list[HeldItem], step: Step) -> HeldItem | None:
        """Return one of the items."""
        return items[step.two % len(items)] if items else None

    def see(self, item: HeldItem) -> None:
        """Remember that a decision about this row was made with these values of production on the table."""
        key = (item.table, tuple(item.key.values()))
        for column in MANUAL[item.table]:
            values = self.seen.setdefault((*key, column), set())
            if item.production is not None and column in item.production:
                values.add(item.production[column])

    async def mirrored(self, *reasons: str) -> list[HeldItem]:
        """Return what the file knows to be held."""
        tables = {table.name: table for table in self.database.tables}
        items = await self.database.read(lambda file: held_in_file(file, self.company, tables))
        return [item for item in items if item.reason in reasons] if reasons else items

    # -- what must hold -------------------------------------------------------------------------------------------

    def check_result(self, result: Any) -> None:
        """Nothing fails: what production cannot take is held."""
        for tenant in result.tenants:
            assert tenant.failure is None, tenant.failure
        assert result.exit_code in (0, 3)

    async def check(self, before: Rows, *, pending: bool = False) -> None:
        """Compare both sides after a contact; `before` is production as it was when the contact began."""
        ours, theirs = await self.file(), await self.production()
        held = await self.engine.held(self.mine)
        assert sorted(map(repr, await self.mirrored())) == sorted(map(repr, held)), "the mirror lags behind"
        keys = [(item.table, tuple(item.key.values())) for item in held]
        assert len(set(keys)) == len(keys), f"held twice: {keys}"
        if not pending:
            for row in ours.keys() | theirs.keys():
                if row not in self.touched and row not in set(keys):
                    assert ours.get(row) == theirs.get(row), f"{row} differs and is not held"
            for verified in await self.engine.verify(self.mine):
                for name, compared in verified.tables.items():
                    for difference in compared.differences:
                        assert difference.why in (Why.HELD, Why.FOREIGN_EDIT), (name, difference)
                        if difference.why is Why.FOREIGN_EDIT:
                            assert (name, difference.key) in self.touched, (name, difference)
        for cell, value in list(self.written.items()):
            table, key, column = cell
            was, now = before.get((table, key)), theirs.get((table, key))
            if was is None or was[column] != value:
                continue
            if now is None or now[column] != value:
                assert value in self.seen.get(cell, set()), f"{cell} = {value} of an application was overwritten unseen"
                del self.written[cell]

    async def production(self) -> Rows:
        """Return every row that production has of the tenant, as text."""
        found: Rows = {}
        for table, key in KEYS.items():
            for record in await self.app.fetch(f"SELECT * FROM {table} WHERE company_id = $1", self.company):
                row = {name: _text(name, value) for name, value in record.items() if name != "company_id"}
                found[table, tuple(str(row[part]) for part in key)] = row
        return found

    async def file(self) -> Rows:
        """Return every row that the file has, as text."""

        def read(file: sqlite3.Connection) -> Rows:
            found: Rows = {}
            for table, key in KEYS.items():
                cursor = file.execute(f"SELECT * FROM {table}")
                names = [part[0] for part in cursor.description]
                for values in cursor:
                    row = {n: _text(n, v) for n, v in zip(names, values, strict=True) if n != "company_id"}
                    found[table, tuple(str(row[part]) for part in key)] = row
            return found

        return await self.database.read(read)


def _text(name: str, value: Any) -> str | None:
    if value is None:
        return None
    return orjson.dumps(orjson.loads(value)).decode() if name == "doc" else str(value)


class Stage:
    """One store and one production for all stories of a test; each story has a tenant of its own."""

    def __init__(self, production: str) -> None:
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory(prefix="stories-")
        self.production = production
        self.companies = (f"story{number}" for number in count(1))
        self.runner.run(self.open())

    async def open(self) -> None:
        """Open everything."""
        self.store = LocalStore(Path(self.folder.name) / "data", models=[])
        self.engine = SyncEngine(self.store, to=self.production)
        self.app = await asyncpg.connect(self.production)

    def close(self) -> None:
        """Close everything."""

        async def close() -> None:
            await self.app.close()
            await self.engine.close()
            await self.store.close()

        self.runner.run(close())
        self.runner.close()
        self.folder.cleanup()

    def tell(self, story: list[Step]) -> None:
        """Tell one story from its beginning."""
        self.runner.run(self.told(story))

    async def told(self, story: list[Step]) -> None:
        """Let every step happen, and end with a promotion."""
        company = next(self.companies)
        tenant = await self.store.tenant(company).open()
        await tenant.database.write(make_tables)
        await tenant.database.refresh()
        await self.engine.init([company])
        world = World(self.engine, tenant.database, self.app, company)
        for one in (*BEGINNING, *story):
            await world.run(one)
        await world.promote(Step("promote", 1, 1, None))


def make_tables(file: sqlite3.Connection) -> None:
    """Make the tables of the stories, with a policy of each kind, and track them."""
    tables: list[Table] = []
    for statement in SCHEMA:
        file.execute(statement)
        table = table_from_sqlite(file, statement.split()[2])
        assert table is not None
        columns = tuple(replace(column, policy=POLICIES.get(column.name, column.policy)) for column in table.columns)
        tables.append(replace(table, columns=columns))
    install(file, tables)


@pytest.fixture
def stage(production: str) -> Iterator[Stage]:
    """Return a stage for stories."""
    opened = Stage(production)
    yield opened
    opened.close()


def bounded(examples: int) -> settings:
    """Return the settings of stories. What varies around a failure is not looked for: each story takes a while."""
    return settings(
        max_examples=examples,
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
        print_blob=True,
    )


def stories(strategy: st.SearchStrategy[list[Step]]) -> Callable[[Any], Any]:
    """Return the decorators of a test over stories."""
    return lambda test: bounded(EXAMPLES)(given(story=strategy)(test))


@pytest.mark.timeout(900)
@stories(rounds(alone=True))
def test_where_nobody_else_writes_production_follows_the_file(stage: Stage, story: list[Step]) -> None:
    """Every local story ends with production equal to the file, held rows aside by name."""
    stage.tell(story)


@pytest.mark.timeout(900)
@stories(rounds(alone=False))
def test_no_application_is_overwritten_unseen(stage: Stage, story: list[Step]) -> None:
    """Among writes of both sides, decisions and rollbacks, no write is lost and each difference has its cause."""
    stage.tell(story)
