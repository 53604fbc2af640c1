"""Claims about schema changes of tenants' files: what is done, what is refused, and what stays as it was."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Index, UniqueConstraint
from sqlmodel import Field, SQLModel

from localstore import LocalStore
from localstore.errors import StoreError
from localstore.evolution import Evolution, SchemaChange
from localstore.helpdesk.models import Conversation, KnowledgeArticle, ProcessingProgress, Ticket
from localstore.models import TenantModel
from localstore.schema.steps import Action
from localstore.sqlite import capture, marks
from localstore.sqlite.backup import FOLDER, backups, check_backup
from localstore.sqlite.layout import read_catalogue
from localstore.sqlite.prepare import Models

_number = count()

HELPDESK = (Ticket, Conversation, KnowledgeArticle, ProcessingProgress)


@pytest.fixture(autouse=True)
def _forget_models() -> Iterable[None]:
    """Let every test define its models anew, under one table name."""
    before = set(SQLModel.metadata.tables)
    yield
    for name in set(SQLModel.metadata.tables) - before:
        SQLModel.metadata.remove(SQLModel.metadata.tables[name])


def note(*args: Any, **fields: Any) -> type[Any]:
    """Return a model of the table `evolving_notes` with these fields: a type, or a type and its Field."""
    if "evolving_notes" in SQLModel.metadata.tables:
        SQLModel.metadata.remove(SQLModel.metadata.tables["evolving_notes"])
    name = f"Note{next(_number)}"
    annotations = {name: field[0] if isinstance(field, tuple) else field for name, field in fields.items()}
    values = {name: field[1] for name, field in fields.items() if isinstance(field, tuple)}
    body = {
        "__module__": __name__,
        "__qualname__": name,
        "__annotations__": annotations,
        "__tablename__": "evolving_notes",
        "__table_args__": args,
        **values,
    }
    metaclass: Any = type(TenantModel)
    model: type[Any] = metaclass(name, (TenantModel,), body, table=True)
    return model


async def made(root: Path, model: type[Any], *rows: dict[str, Any], tenant: str = "acme") -> None:
    """Make a tenant of the old shape with these rows."""
    async with LocalStore(root, models=[model]) as store:
        await store.tenant(tenant).open()
        await store.tenant(tenant).put_many([model(**row) for row in rows])


def connected(root: Path, tenant: str = "acme") -> closing[sqlite3.Connection]:
    """Open a tenant's file as the sqlite3 shell does."""
    return closing(sqlite3.connect(root / tenant / "store.db", isolation_level=None))


def columns(root: Path, table: str = "evolving_notes", tenant: str = "acme") -> list[str]:
    """Return a table's columns."""
    with connected(root, tenant) as connection:
        return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]


def due(root: Path, tenant: str = "acme") -> dict[str, bool]:
    """Return which tables are due for a snapshot."""
    with connected(root, tenant) as connection:
        return {entry.table.name: entry.snapshot_due for entry in read_catalogue(connection)}


def settled(root: Path) -> None:
    """Do as if production had everything: an acknowledged batch that covers every mark."""
    with connected(root) as connection:
        connection.execute("UPDATE localstore_tables SET snapshot_due = 0")
        connection.execute(
            "INSERT INTO localstore_batches (batch, seq, hash, marks_to, state, sealed_at) "
            "VALUES ('b', 1, 'h', ?, 'acknowledged', 'now')",
            (marks.newest(connection),),
        )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Give a folder for a store."""
    return tmp_path / "data"


async def applied(root: Path, *models: type[Any], destructive: bool = False) -> SchemaChange:
    """Apply models to every tenant of a store."""
    async with LocalStore(root, models=()) as store:
        return await Evolution(store, Models(models)).apply(destructive=destructive)


async def test_the_help_desks_own_tables_are_current(root: Path) -> None:
    """A file that was just made differs from its models in nothing, so that a plan of no change is empty."""
    async with LocalStore(root, models=HELPDESK) as store:
        await store.tenant("acme").open()
    async with LocalStore(root, models=()) as store:
        change = await Evolution(store, Models(HELPDESK)).plan()
    assert [(tenant.state, tenant.steps) for tenant in change.tenants] == [("current", ())]


async def test_C13_an_added_column_is_captured_at_once(root: Path) -> None:
    """A nullable column arrives with its trigger: no row changes, no snapshot is due, the next write is marked."""
    await made(root, note(text=str), {"text": "kept"})
    settled(root)
    change = await applied(root, note(text=str, stars=(int | None, None)))
    assert [(tenant.state, [str(step) for step in tenant.steps]) for tenant in change.tenants] == [
        ("changed", ["evolving_notes: add column stars INTEGER"])
    ]
    assert due(root) == {"evolving_notes": False}
    with connected(root) as connection:
        before = marks.newest(connection)
        connection.execute("UPDATE evolving_notes SET stars = 5")
        entry = read_catalogue(connection)[0]
        written = connection.execute("SELECT op, col, v0 FROM localstore_marks WHERE seq > ?", (before,)).fetchall()
        assert written == [(marks.UPDATE, entry.table.ordinal["stars"], None)]
        assert capture.check(connection) == []


async def test_marks_from_before_stay_valid(root: Path) -> None:
    """What was captured under the old shape is pending under the new one, row for row."""
    await made(root, note(text=str), {"text": "one"}, {"text": "two"})
    await applied(root, note(text=str, stars=(int | None, None)))
    with connected(root) as connection:
        assert marks.pending(connection, 0) == {"evolving_notes": 2}


async def test_a_required_column_gets_its_default_and_travels(root: Path) -> None:
    """Rows that are there take the model's plain default, which is marked as a change from NULL, column by column."""
    await made(root, note(text=str), {"text": "one"})
    settled(root)
    with connected(root) as connection:
        before = marks.newest(connection)
    later = note(text=str, kind=(str, "it's: 100 %"), rank=(int, -3), done=(bool, False))
    change = await applied(root, later)
    assert change.exit_code == 0, change.to_json()
    assert due(root) == {"evolving_notes": False}
    with connected(root) as connection:
        assert marks.pending(connection, before) == {"evolving_notes": 1}
        (entry,) = read_catalogue(connection)
        written = connection.execute("SELECT op, col, v0 FROM localstore_marks WHERE seq > ?", (before,)).fetchall()
        assert written == [(marks.UPDATE, entry.table.ordinal[name], None) for name in ("kind", "rank", "done")]
    async with LocalStore(root, models=[later]) as store:
        (row,) = await store.tenant("acme").find(later)
        assert (row.kind, row.rank, row.done) == ("it's: 100 %", -3, False)


async def test_a_required_column_without_a_default_is_refused(root: Path) -> None:
    """The rows that are there would have no value for it; the file stays as it was and the reason is said."""
    await made(root, note(text=str), {"text": "one"})
    change = await applied(root, note(text=str, kind=str))
    (tenant,) = change.tenants
    assert (change.exit_code, tenant.state, tenant.backup) == (6, "refused", None)
    assert "plain default" in tenant.steps[0].refused
    assert "kind" not in columns(root)


async def test_new_tables_and_indexes_are_made(root: Path) -> None:
    """A table that no file has and an index that the table lacks are made, and the table is tracked."""
    await made(root, note(text=str), {"text": "one"})
    settled(root)
    change = await applied(root, note(Index("by_text", "company_id", "text"), text=str), ProcessingProgress)
    assert {step.action for step in change.tenants[0].steps} == {Action.CREATE_TABLE, Action.ADD_INDEX}
    with connected(root) as connection:
        assert [entry.table.name for entry in read_catalogue(connection)] == ["evolving_notes", "processing_progress"]
        assert connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'by_text'").fetchone()
    assert due(root)["evolving_notes"] is False


async def test_an_index_goes_only_if_it_was_ours(root: Path) -> None:
    """An index that the model gave up is dropped; one that somebody made by hand is left alone."""
    await made(root, note(Index("by_text", "company_id", "text"), text=str), {"text": "one"})
    with connected(root) as connection:
        connection.execute("CREATE INDEX by_hand ON evolving_notes (text)")
        connection.execute("CREATE INDEX by_expression ON evolving_notes (lower(text))")
    change = await applied(root, note(text=str))
    assert [str(step) for step in change.tenants[0].steps] == ["evolving_notes: drop index by_text"]
    with connected(root) as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'index'")}
    assert {"by_hand", "by_expression"} <= names
    assert "by_text" not in names


async def test_an_index_that_gains_a_column_is_made_again(root: Path) -> None:
    """A file goes on with the index it has; apply gives it the model's, and the rows are due for nothing."""
    name = "by_text"
    await made(root, note(Index(name, "company_id", "text"), text=str), {"text": "one"})
    settled(root)
    longer = note(Index(name, "company_id", "text", "created_at"), text=str)
    async with LocalStore(root, models=[longer]) as store:
        assert [row.text for row in await store.tenant("acme").find(longer)] == ["one"]
    change = await applied(root, longer)
    assert sorted(str(step) for step in change.tenants[0].steps) == [
        "evolving_notes: add index by_text",
        "evolving_notes: drop index by_text",
    ]
    with connected(root) as connection:
        assert [row[2] for row in connection.execute(f"PRAGMA index_info({name})")] == [
            "company_id",
            "text",
            "created_at",
        ]
        assert connection.execute("SELECT text FROM evolving_notes").fetchall() == [("one",)]
    assert due(root)["evolving_notes"] is False
    assert (await applied(root, longer)).tenants[0].state == "current"


async def test_a_widened_column_keeps_its_values_and_what_is_attached(root: Path) -> None:
    """Whole numbers become decimals by a rebuild of the table: rows, others' triggers and indexes are all there after.

    Nothing is due for a snapshot, because no value changed and no write went unseen.
    """
    await made(root, note(text=str, price=int), {"text": "one", "price": 2**53 + 1})
    settled(root)
    with connected(root) as connection:
        connection.execute("CREATE INDEX by_hand ON evolving_notes (lower(text)) WHERE text <> ''")
        connection.execute("CREATE TABLE seen (id)")
        connection.execute(
            "CREATE TRIGGER others AFTER DELETE ON evolving_notes BEGIN INSERT INTO seen VALUES (OLD.id); END"
        )
    change = await applied(root, note(text=str, price=(Decimal | None, None)))
    assert change.exit_code == 0, change.to_json()
    assert {step.destructive for step in change.tenants[0].steps} == {False}
    assert due(root) == {"evolving_notes": False}
    with connected(root) as connection:
        assert connection.execute("SELECT text, CAST(price AS TEXT) FROM evolving_notes").fetchall() == [
            ("one", "9007199254740993")
        ]
        connection.execute("UPDATE evolving_notes SET price = NULL")
        connection.execute("DELETE FROM evolving_notes")
        assert connection.execute("SELECT count(*) FROM seen").fetchone() == (1,)
        assert connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'by_hand'").fetchone()
        assert capture.check(connection) == []


async def test_C14_a_column_is_dropped_only_when_asked_for(root: Path) -> None:
    """Without the flag the drop is listed and left undone (exit 6); with it the column and its trigger are gone."""
    await made(root, note(text=str, extra=(str | None, None)), {"text": "one", "extra": "x"})
    settled(root)
    refused = await applied(root, note(text=str))
    assert (refused.exit_code, refused.tenants[0].state) == (6, "refused")
    assert "extra" in columns(root)
    done = await applied(root, note(text=str), destructive=True)
    assert (done.exit_code, done.tenants[0].state) == (0, "changed")
    assert "extra" not in columns(root)
    assert due(root) == {"evolving_notes": False}
    with connected(root) as connection:
        assert capture.check(connection) == []
        connection.execute("UPDATE evolving_notes SET text = 'two'")
        assert connection.execute("SELECT count(*) FROM localstore_marks WHERE op = 2").fetchone() == (1,)


async def test_a_column_with_pending_changes_is_not_dropped(root: Path) -> None:
    """A mark cannot be read without its column: the tenant fails with the command to run, and its file is as it was."""
    await made(root, note(text=str, extra=(str | None, None)), {"text": "one", "extra": "x"})
    change = await applied(root, note(text=str), destructive=True)
    (tenant,) = change.tenants
    assert tenant.error is not None
    assert "push --promote" in tenant.error.hint
    assert "extra" in columns(root)
    with connected(root) as connection:
        assert marks.pending(connection, 0) == {"evolving_notes": 1}
        assert capture.check(connection) == []


async def test_what_looks_like_a_rename_is_refused_even_when_asked_for(root: Path) -> None:
    """The new column is added and the old one kept with its values; once nothing is added beside it, it may go."""
    await made(root, note(text=str, old=(str | None, None)), {"text": "one", "old": "x"})
    settled(root)
    renamed = note(text=str, new=(str | None, None))
    change = await applied(root, renamed, destructive=True)
    assert change.exit_code == 6
    assert "rename" in next(step.refused for step in change.tenants[0].steps if step.action is Action.DROP_COLUMN)
    assert {"old", "new"} <= set(columns(root))
    again = await applied(root, renamed, destructive=True)
    assert again.exit_code == 0, again.to_json()
    assert "old" not in columns(root)


async def test_a_new_key_is_refused(root: Path) -> None:
    """A key is how production knows a row, so no command changes one."""
    await made(root, note(text=str), {"text": "one"})
    change = await applied(root, note(text=(str, Field(primary_key=True))), destructive=True)
    assert [step.action for step in change.tenants[0].steps] == [Action.CHANGE_KEY]
    assert (change.exit_code, change.tenants[0].state) == (6, "refused")


async def test_a_rebuild_that_would_lose_something_is_refused(root: Path) -> None:
    """A CHECK that the model does not know would be gone after a rebuild, so the table is left alone."""
    await made(root, note(text=str, price=int), {"text": "one", "price": 1})
    with connected(root) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, 'price INTEGER NOT NULL', "
            "'price INTEGER NOT NULL CHECK (price > 0)') WHERE name = 'evolving_notes'"
        )
        assert connection.execute("SELECT sql LIKE '%CHECK%' FROM sqlite_schema").fetchone()
    change = await applied(root, note(text=str, price=(Decimal, Decimal(0))))
    assert change.tenants[0].state == "refused"
    assert "CHECK" in change.tenants[0].steps[0].refused


async def test_a_rebuilt_parent_keeps_its_children(root: Path) -> None:
    """Rebuilding a table drops the old one, which with foreign keys on would delete what refers to it."""
    async with LocalStore(root, models=HELPDESK) as store:
        tenant = store.tenant("acme")
        await tenant.put(Ticket(platform="jira", ticket_id="1", title="a"))
        await tenant.put(Conversation(platform="jira", ticket_id="1", conversation_id="c"))
    with connected(root) as connection:
        connection.execute("ALTER TABLE tickets ADD COLUMN surplus TEXT")
    settled(root)
    change = await applied(root, *HELPDESK, destructive=True)
    assert [str(step) for step in change.tenants[0].steps] == ["tickets: drop column surplus (destructive)"]
    assert change.exit_code == 0, change.to_json()
    with connected(root) as connection:
        assert connection.execute("SELECT count(*) FROM conversations").fetchone() == (1,)
        connection.execute("DELETE FROM tickets")
        assert connection.execute("SELECT count(*) FROM conversations").fetchone() == (0,)


async def test_a_key_that_rows_break_leaves_the_file_as_it_was(root: Path) -> None:
    """A unique key over values that are there twice fails that tenant, which keeps its table and its triggers."""
    await made(root, note(text=str), {"text": "same"}, {"text": "same"})
    change = await applied(root, note(UniqueConstraint("company_id", "text"), text=str))
    assert (change.exit_code, change.tenants[0].state) == (1, "failed")
    with connected(root) as connection:
        assert capture.check(connection) == []
        assert connection.execute("SELECT count(*) FROM evolving_notes").fetchone() == (2,)


async def test_C16_a_rebuild_behind_our_back_is_seen(root: Path) -> None:
    """A table that another tool rebuilt has no triggers: they come back, and the whole table travels once."""
    await made(root, note(text=str), {"text": "one"})
    settled(root)
    with connected(root) as connection:
        (statement,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'evolving_notes'").fetchone()
        connection.execute(statement.replace("evolving_notes", "rebuilt", 1))
        connection.execute("INSERT INTO rebuilt SELECT * FROM evolving_notes")
        connection.execute("DROP TABLE evolving_notes")
        connection.execute("ALTER TABLE rebuilt RENAME TO evolving_notes")
        assert capture.check(connection) != []
    change = await applied(root, note(text=str, stars=(int | None, None)))
    assert change.exit_code == 0, change.to_json()
    assert due(root) == {"evolving_notes": True}
    with connected(root) as connection:
        assert capture.check(connection) == []


async def test_a_backup_is_made_before(root: Path) -> None:
    """The file as it was lies beside the changed one, whole and checked."""
    await made(root, note(text=str), {"text": "one"})
    change = await applied(root, note(text=str, stars=(int | None, None)))
    (backup,) = backups(root / "acme" / FOLDER)
    assert change.tenants[0].backup == backup.path
    assert check_backup(backup.path, "acme").reason == "schema"
    with closing(sqlite3.connect(backup.path)) as connection:
        assert "stars" not in [row[1] for row in connection.execute("PRAGMA table_info(evolving_notes)")]


async def test_a_plan_writes_nothing_and_names_what_apply_does(root: Path) -> None:
    """The plan's steps are those that apply then reports, and the file's bytes are the same after the plan."""
    await made(root, note(text=str), {"text": "one"})
    later = note(text=str, stars=(int | None, None))
    before = (root / "acme" / "store.db").read_bytes()
    async with LocalStore(root, models=()) as store:
        planned = await Evolution(store, Models((later,))).plan()
    assert (root / "acme" / "store.db").read_bytes() == before
    assert (await applied(root, later)).tenants[0].steps == planned.tenants[0].steps


async def test_two_hundred_tenants_change_and_one_that_cannot_is_named(root: Path) -> None:
    """The others are changed all the same; a second run leaves every current file at once, without a backup."""
    old = note(text=str)
    async with LocalStore(root, models=[old]) as store:
        await asyncio.gather(*(store.tenant(f"t{number:03}").open() for number in range(200)))
    (root / "t100" / "store.db").write_bytes(b"not a database, but long enough to be taken for one" * 99)
    later = note(text=str, stars=(int | None, None))
    change = await applied(root, later)
    states = {tenant.tenant: tenant.state for tenant in change.tenants}
    assert change.exit_code == 1
    assert [name for name, state in states.items() if state != "changed"] == ["t100"]
    assert states["t100"] == "failed"
    again = await applied(root, later)
    assert {tenant.state for tenant in again.tenants} == {"current", "failed"}
    assert len(backups(root / "t000" / FOLDER)) == 1


async def test_columns_that_only_the_file_has_survive_a_rebuild(root: Path) -> None:
    """Their declared types, defaults and values are what they were, whatever SQLAlchemy thinks of them."""
    await made(root, note(text=str, price=int), {"text": "one", "price": 1})
    with connected(root) as connection:
        connection.execute("ALTER TABLE evolving_notes ADD COLUMN odd STRING(3) NOT NULL DEFAULT 'a:b'")
        connection.execute("ALTER TABLE evolving_notes ADD COLUMN bare")
        connection.execute("UPDATE evolving_notes SET bare = x'00ff', odd = 'x'")
        before = connection.execute(
            'SELECT name, type, "notnull", dflt_value FROM pragma_table_info(?)', ("evolving_notes",)
        ).fetchall()
    change = await applied(root, note(text=str, price=(int | None, None)))
    assert [step.subject for step in change.tenants[0].steps if step.allowed(destructive=False)] == ["price"]
    with connected(root) as connection:
        assert connection.execute("SELECT odd, bare, price FROM evolving_notes").fetchall() == [("x", b"\x00\xff", 1)]
        after = connection.execute(
            'SELECT name, type, "notnull", dflt_value FROM pragma_table_info(?)', ("evolving_notes",)
        ).fetchall()
    assert set(before) - set(after) == {("price", "INTEGER", 1, None)}


@pytest.mark.parametrize("wanted", [True, False])
async def test_C14_a_column_that_somebody_dropped_by_hand_is_mended(root: Path, wanted: bool) -> None:
    """A store refuses such a file; apply brings the column back or stops tracking it, and the table travels once."""
    model = note(UniqueConstraint("company_id", "text"), text=str, extra=(str | None, None))
    await made(root, model, {"text": "one", "extra": "x"})
    settled(root)
    with connected(root) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        connection.execute("ALTER TABLE evolving_notes DROP COLUMN extra")
    with pytest.raises(StoreError, match="no column extra") as caught:
        await LocalStore(root, models=()).tenant("acme").open()
    assert "localstore schema" in caught.value.hint
    change = await applied(root, model if wanted else note(UniqueConstraint("company_id", "text"), text=str))
    assert change.exit_code == 0, change.to_json()
    assert due(root) == {"evolving_notes": True}
    with connected(root) as connection:
        (entry,) = read_catalogue(connection)
        assert ("extra" in entry.table.by_name) is wanted
        assert capture.check(connection) == []
