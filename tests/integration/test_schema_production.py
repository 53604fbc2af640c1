"""Claims about schema changes of production: additions by themselves, losses only when asked for, old shapes go on."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest

from localstore.errors import MissingRights
from localstore.schema.sqlite import table_from_sqlite
from localstore.sqlite import capture
from localstore.store import LocalStore
from sync import SyncEngine
from sync.errors import SyncRefused
from sync.schema import ProductionChange
from tests.conftest import Login
from tests.integration.command import command, sync

ITEMS = (
    "CREATE TABLE items (company_id TEXT NOT NULL, number INTEGER NOT NULL, title TEXT NOT NULL, extra TEXT, "
    "PRIMARY KEY (company_id, number))"
)


@pytest.fixture
async def owner(production: str) -> AsyncIterator[asyncpg.Connection]:
    """Give a superuser's connection to production."""
    connection = await asyncpg.connect(production)
    yield connection
    await connection.close()


async def made(root: Path, *tenants: str, statement: str = ITEMS) -> None:
    """Make tenants that track a table which the sqlite3 shell made."""
    async with LocalStore(root, models=()) as store:
        for tenant in tenants:
            await store.create_tenant(tenant)
    for tenant in tenants:
        shell(root, tenant, statement)
        track(root, tenant)
        shell(root, tenant, f"INSERT INTO items (company_id, number, title) VALUES ('{tenant}', 1, 'one')")


def track(root: Path, tenant: str) -> None:
    """Track `items` as it is by now, as if nobody had missed a write of it."""
    with closing(sqlite3.connect(root / tenant / "store.db", isolation_level=None)) as connection:
        table = table_from_sqlite(connection, "items")
        assert table is not None
        capture.uninstall(connection, "items")
        capture.install(connection, [table])
        connection.execute("UPDATE localstore_tables SET snapshot_due = 0")


def shell(root: Path, tenant: str, *statements: str) -> None:
    """Write to a tenant's file as the sqlite3 shell does."""
    with closing(sqlite3.connect(root / tenant / "store.db", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def altered(root: Path, tenant: str, *statements: str) -> None:
    """Change a tenant's table by hand; capture's triggers stand in the way of some statements and go first."""
    with closing(sqlite3.connect(root / tenant / "store.db", isolation_level=None)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        for statement in statements:
            connection.execute(statement)


async def pushed(root: Path, to: str, tenant: str) -> int:
    """Push and promote one tenant; return the exit code."""
    async with LocalStore(root, models=()) as store, SyncEngine(store, to=to) as engine:
        result = await engine.push([tenant], promote=True)
        return result.exit_code


async def changed(root: Path, to: str, *, destructive: bool = False, apply: bool = True) -> ProductionChange:
    """Plan or apply all tenants' tables."""
    async with LocalStore(root, models=()) as store, SyncEngine(store, to=to) as engine:
        return await (engine.schema.apply(destructive=destructive) if apply else engine.schema.plan())


async def test_additions_are_applied_and_the_old_shape_goes_on(
    tmp_path: Path, production: str, owner: asyncpg.Connection
) -> None:
    """A new column is refused by push until schema apply; then it arrives, and a tenant without it still pushes."""
    root = tmp_path / "data"
    await made(root, "acme", "zeta")
    assert [await pushed(root, production, tenant) for tenant in ("acme", "zeta")] == [0, 0]
    altered(root, "acme", "ALTER TABLE items ADD COLUMN stars INTEGER", "CREATE INDEX by_title ON items (title)")
    track(root, "acme")
    shell(root, "acme", "UPDATE items SET stars = 5")
    assert await pushed(root, production, "acme") == 6
    planned = await changed(root, production, apply=False)
    statements = [statement for step in planned.targets[0].steps for statement in step.sql]
    assert statements == [
        "ALTER TABLE public.items ADD COLUMN stars BIGINT",
        "CREATE INDEX items_company_id_title_idx ON public.items (company_id, title)",
    ]
    assert "stars" not in await columns(owner)
    done = await changed(root, production)
    assert (done.exit_code, done.targets[0].steps) == (0, planned.targets[0].steps)
    assert (await changed(root, production)).targets[0].steps == ()
    assert await pushed(root, production, "acme") == 0
    shell(root, "zeta", "UPDATE items SET title = 'old shape'")
    assert await pushed(root, production, "zeta") == 0
    rows = await owner.fetch("SELECT company_id, title, stars FROM items ORDER BY 1")
    assert [tuple(row) for row in rows] == [("acme", "one", 5), ("zeta", "old shape", None)]


async def columns(owner: asyncpg.Connection) -> list[str]:
    """Return production's columns of items."""
    rows = await owner.fetch("SELECT column_name FROM information_schema.columns WHERE table_name = 'items'")
    return [row["column_name"] for row in rows]


async def test_an_index_that_gains_a_column_is_made_beside_the_old_one(
    tmp_path: Path, production: str, owner: asyncpg.Connection
) -> None:
    """A push goes on as before, with a new shape that differs in an index only; schema apply makes the new index."""
    root = tmp_path / "data"
    await made(root, "acme", statement=ITEMS)
    altered(root, "acme", "CREATE INDEX by_title ON items (title)")
    track(root, "acme")
    shell(root, "acme", "INSERT INTO items (company_id, number, title) VALUES ('acme', 2, 'two')")
    assert await pushed(root, production, "acme") == 0
    altered(root, "acme", "DROP INDEX by_title", "CREATE INDEX by_title ON items (title, extra)")
    track(root, "acme")
    shell(root, "acme", "UPDATE items SET extra = 'new' WHERE number = 2")
    assert await pushed(root, production, "acme") == 0
    done = await changed(root, production)
    assert [statement for step in done.targets[0].steps for statement in step.sql] == [
        "CREATE INDEX items_company_id_title_extra_idx ON public.items (company_id, title, extra)"
    ]
    assert (await changed(root, production)).targets[0].steps == ()
    assert await owner.fetchval("SELECT extra FROM items") == "new"


async def test_new_tables_are_made_with_all_that_keeps_tenants_apart(
    tmp_path: Path, production: str, owner: asyncpg.Connection
) -> None:
    """On a database nobody prepared, apply prepares it, makes the tables and registers their shapes."""
    root = tmp_path / "data"
    await made(root, "acme")
    change = await changed(root, production)
    assert [str(step) for step in change.targets[0].steps] == ["items: create table"]
    assert await owner.fetchval("SELECT relforcerowsecurity FROM pg_class WHERE relname = 'items'")
    assert await owner.fetchval("SELECT count(*) FROM localstore.tables WHERE name = 'items'") == 1


async def test_a_dropped_column_needs_the_flag_and_shuts_the_old_shape_out(
    tmp_path: Path, production: str, owner: asyncpg.Connection
) -> None:
    """Without the flag the SQL is shown and nothing dropped (exit 6); with it an old tenant is refused by name."""
    root = tmp_path / "data"
    await made(root, "acme", "zeta")
    assert [await pushed(root, production, tenant) for tenant in ("acme", "zeta")] == [0, 0]
    altered(root, "acme", "ALTER TABLE items DROP COLUMN extra")
    track(root, "acme")
    async with LocalStore(root, models=()) as store, SyncEngine(store, to=production) as engine:
        refused = await engine.schema.apply(["acme"])
        assert refused.exit_code == 6
        assert [step.sql for step in refused.undone] == [("ALTER TABLE public.items DROP COLUMN extra",)]
        assert "extra" in await columns(owner)
        assert (await engine.push(["acme"], promote=True)).exit_code == 0
        done = await engine.schema.apply(["acme"], destructive=True)
        assert done.exit_code == 0
        assert "extra" not in await columns(owner)
        assert (await engine.push(["acme"], promote=True)).exit_code == 0
        shell(root, "zeta", "UPDATE items SET title = 'two'")
        result = await engine.push(["zeta"], promote=True)
    assert result.exit_code == 6
    failure = result.tenants[0].failure
    assert failure is not None
    assert '"extra" is missing' in failure.message
    assert "sync schema apply" in failure.hint


async def test_a_staged_batch_keeps_its_columns(tmp_path: Path, production: str, owner: asyncpg.Connection) -> None:
    """What is staged under a shape could never be promoted without its columns, so the change is refused whole."""
    root = tmp_path / "data"
    await made(root, "acme", "zeta")
    assert await pushed(root, production, "acme") == 0
    async with LocalStore(root, models=()) as store, SyncEngine(store, to=production) as engine:
        await engine.push(["zeta"])
        altered(root, "acme", "ALTER TABLE items DROP COLUMN extra")
        track(root, "acme")
        with pytest.raises(SyncRefused, match="staged") as caught:
            await engine.schema.apply(["acme"], destructive=True)
        assert "sync promote" in caught.value.hint
        assert "extra" in await columns(owner)
        assert (await engine.promote(tenants=["zeta"])).exit_code == 0


async def test_whole_numbers_widen_to_decimals_under_old_tenants(
    tmp_path: Path, production: str, owner: asyncpg.Connection
) -> None:
    """A bigint column becomes numeric when asked for; a tenant that still sends whole numbers goes on with updates.

    It is asked for because PostgreSQL rewrites every row, which nothing can tell from an application's write.
    """
    root = tmp_path / "data"
    statement = ITEMS.replace("extra TEXT", "extra INTEGER")
    await made(root, "acme", "zeta", statement=statement)
    assert [await pushed(root, production, tenant) for tenant in ("acme", "zeta")] == [0, 0]
    altered(
        root,
        "acme",
        "ALTER TABLE items RENAME TO before",
        statement.replace("extra INTEGER", "extra DECIMAL"),
        "INSERT INTO items SELECT * FROM before",
        "DROP TABLE before",
    )
    track(root, "acme")
    shell(root, "acme", "UPDATE items SET extra = 1.5")
    assert (await changed(root, production)).exit_code == 6
    change = await changed(root, production, destructive=True)
    assert change.exit_code == 0, change.to_json()
    assert [step.sql for step in change.targets[0].steps] == [
        ('ALTER TABLE public.items ALTER COLUMN extra TYPE NUMERIC USING "extra"::numeric',)
    ]
    assert await pushed(root, production, "acme") == 0
    for value in (7, 8):
        shell(root, "zeta", f"UPDATE items SET extra = {value}")
        assert await pushed(root, production, "zeta") == 0
    rows = await owner.fetch("SELECT company_id, extra::text FROM items ORDER BY 1")
    assert [tuple(row) for row in rows] == [("acme", "1.5"), ("zeta", "8")]


async def test_what_only_production_has_is_left_alone(
    tmp_path: Path, production: str, owner: asyncpg.Connection
) -> None:
    """Columns, indexes and constraints that others made in production are no difference."""
    root = tmp_path / "data"
    await made(root, "acme")
    assert await pushed(root, production, "acme") == 0
    await owner.execute("ALTER TABLE items ADD COLUMN searched text; CREATE INDEX theirs ON items (lower(title))")
    await owner.execute("ALTER TABLE items ADD CONSTRAINT short CHECK (length(title) < 1000)")
    assert (await changed(root, production, destructive=True)).targets[0].steps == ()


async def test_names_of_any_kind_are_changed_as_they_are(
    tmp_path: Path, production: str, owner: asyncpg.Connection
) -> None:
    """N6: quotes, percent signs, dots and reserved words in names reach production as they are."""
    root = tmp_path / "data"
    await made(root, "acme")
    async with LocalStore(root, models=()) as store, SyncEngine(store, to=production) as engine:
        await engine.schema.apply()
        names = ['a "b"', "50 %", "x;--.y", "user", "é"]
        for name in names:
            quoted = name.replace('"', '""')
            altered(root, "acme", f'ALTER TABLE items ADD COLUMN "{quoted}" TEXT')
    track(root, "acme")
    change = await changed(root, production)
    assert change.exit_code == 0
    assert set(names) <= set(await columns(owner))
    assert await pushed(root, production, "acme") == 0


async def test_a_login_that_may_not_gets_the_sql_for_who_may(
    tmp_path: Path, production: str, owner: asyncpg.Connection, login: Login
) -> None:
    """Whoever may push but not alter is told what an owner runs (exit 6), and nothing has changed."""
    root = tmp_path / "data"
    await made(root, "acme")
    assert await pushed(root, production, "acme") == 0
    altered(root, "acme", "ALTER TABLE items ADD COLUMN stars INTEGER")
    track(root, "acme")
    pusher = login("localstore_stager", "localstore_promoter", "localstore_reader")
    with pytest.raises(MissingRights) as caught:
        await changed(root, pusher)
    assert "ALTER TABLE public.items ADD COLUMN stars BIGINT" in caught.value.hint
    assert "stars" not in await columns(owner)


async def test_the_commands_tell_it_step_by_step(tmp_path: Path, production: str) -> None:
    """The plan prints the type mapping and the SQL and changes nothing; apply does it; exit codes hold."""
    root = tmp_path / "data"
    await made(root, "acme")
    unprepared = sync("schema", "plan", "--to", production, "--data", root)
    assert (unprepared.code, "Try: " in unprepared.err) == (6, True)
    assert sync("push", "--promote", "--to", production, "--data", root).code == 0
    altered(root, "acme", "ALTER TABLE items ADD COLUMN stars INTEGER")
    track(root, "acme")
    shell(root, "acme", "UPDATE items SET stars = 1")
    refused = sync("push", "--to", production, "--data", root)
    assert (refused.code, "localstore sync schema apply" in refused.err) == (6, True)
    planned = sync("schema", "plan", "--to", production, "--data", root)
    assert planned.code == 0, planned.all
    assert "ALTER TABLE public.items ADD COLUMN stars BIGINT;" in planned.out
    assert "bigint" in planned.out
    done = sync("schema", "apply", "--to", production, "--data", root, "--json")
    assert (done.code, done.json["exit"], done.json["schemas"][0]["schema"]) == (0, 0, "public")
    assert sync("push", "--promote", "--to", production, "--data", root).code == 0
    assert sync("verify", "--to", production, "--data", root).code == 0


async def test_a_file_seals_under_its_old_shape_before_it_changes(tmp_path: Path, production: str) -> None:
    """What was written before `localstore schema apply` is sealed as production knows it, and can be pushed at once."""
    root = tmp_path / "data"
    models = tmp_path / "app_models_v2.py"
    models.write_text(
        "from typing import ClassVar, Any\nfrom sqlmodel import Field, SQLModel\n"
        "class Item(SQLModel, table=True):\n"
        '    __tablename__: ClassVar[Any] = "items"\n'
        "    company_id: str = Field(primary_key=True)\n    number: int = Field(primary_key=True)\n"
        "    title: str\n    extra: str | None = None\n    stars: int | None = None\n"
    )
    await made(root, "acme")
    assert sync("push", "--promote", "--to", production, "--data", root).code == 0
    shell(root, "acme", "UPDATE items SET title = 'before'")
    applied = command(
        "schema", "apply", "--models", "app_models_v2", "--data", root, cwd=tmp_path, PYTHONPATH=str(tmp_path)
    )
    assert applied.code == 0, applied.all
    assert "items: add column stars INTEGER" in applied.out
    assert len(list((root / "acme" / "outbox").glob("*.bundle"))) == 1
    pushed = sync("push", "--promote", "--to", production, "--data", root, "--json")
    assert pushed.json["tenants"][0]["tables"]["items"]["updated"] == 1, pushed.all
