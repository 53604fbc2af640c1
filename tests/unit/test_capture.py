"""Claims about capture: which writes leave marks, and how a gap is noticed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localstore.errors import StoreError
from localstore.schema.sqlite import Shape, read_shape, table_from_sqlite
from localstore.schema.tables import Column, Kind, Table
from localstore.sqlite import capture, layout, marks
from localstore.sqlite.triggers import triggers

INSERT, UPDATE, DELETE, FREE = marks.INSERT, marks.UPDATE, marks.DELETE, marks.FREE

NOTES = "CREATE TABLE notes (company_id TEXT, id INTEGER, title TEXT UNIQUE, body, PRIMARY KEY (company_id, id))"


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """Open an empty file with the layout."""
    opened = sqlite3.connect(":memory:", isolation_level=None)
    layout.create(opened)
    yield opened
    opened.close()


def reflected(connection: sqlite3.Connection, name: str) -> Table:
    """Return the table as the file declares it."""
    table = table_from_sqlite(connection, name)
    assert table is not None
    return table


def track(connection: sqlite3.Connection, *statements: str) -> layout.CatalogueEntry:
    """Create a table by the first statement, run the rest, and track the table."""
    for statement in statements:
        connection.execute(statement)
    found = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY rowid DESC LIMIT 1"
    ).fetchone()
    assert capture.install(connection, [reflected(connection, found[0])]) == []
    return layout.read_catalogue(connection)[-1]


def written(connection: sqlite3.Connection, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements and return the marks they left: op, column, then the values up to the last that is set."""
    before = marks.newest(connection)
    for statement in statements:
        connection.execute(statement)
    found = []
    for _, _, op, col, *values in connection.execute(
        "SELECT * FROM localstore_marks WHERE seq > ? ORDER BY seq", (before,)
    ):
        while values and values[-1] is None:
            values.pop()
        found.append((op, col, *values))
    return found


def due(connection: sqlite3.Connection) -> dict[str, bool]:
    """Return which tables are due for a snapshot."""
    return {entry.table.name: entry.snapshot_due for entry in layout.read_catalogue(connection)}


def test_each_write_leaves_its_mark(connection: sqlite3.Connection) -> None:
    """An insert leaves the key, an update one old value a column, a delete the old row."""
    track(connection, NOTES)
    assert written(connection, "INSERT INTO notes VALUES ('acme', 1, 'a', 'b')") == [(INSERT, None, "acme", 1)]
    found = written(connection, "UPDATE notes SET title = 'c', body = 'd'")
    assert sorted(found) == [(UPDATE, 2, "a", "acme", 1), (UPDATE, 3, "b", "acme", 1)]
    assert written(connection, "DELETE FROM notes") == [(DELETE, None, "acme", 1, "c", "d")]


@pytest.mark.parametrize("recursive", [0, 1])
def test_C1_replacing_a_row_marks_the_old_one(connection: sqlite3.Connection, recursive: int) -> None:
    """REPLACE of one's own key leaves the old row's mark, whether recursive triggers are on or off."""
    track(connection, NOTES)
    connection.execute(f"PRAGMA recursive_triggers = {recursive}")
    connection.execute("INSERT INTO notes VALUES ('acme', 1, 'a', 'b')")
    found = written(connection, "REPLACE INTO notes VALUES ('acme', 1, 'c', 'd')")
    assert found[0] == (DELETE, None, "acme", 1, "a", "b")
    assert found[-1] == (INSERT, None, "acme", 1)


@pytest.mark.parametrize("recursive", [0, 1])
def test_C2_replacing_another_unique_row_marks_it(connection: sqlite3.Connection, recursive: int) -> None:
    """A row that an INSERT OR REPLACE pushes out by another unique value leaves its mark."""
    track(connection, NOTES)
    connection.execute(f"PRAGMA recursive_triggers = {recursive}")
    connection.execute("INSERT INTO notes VALUES ('acme', 1, 'a', 'b')")
    found = written(connection, "INSERT OR REPLACE INTO notes VALUES ('acme', 2, 'a', 'd')")
    assert (DELETE, None, "acme", 1, "a", "b") in found
    assert connection.execute("SELECT id FROM notes").fetchall() == [(2,)]


@pytest.mark.parametrize("recursive", [0, 1])
@pytest.mark.parametrize("assignment", ["title = 'a'", "id = 1", "rowid = 1"])
def test_C3_update_or_replace_marks_the_row_pushed_out(
    connection: sqlite3.Connection, recursive: int, assignment: str
) -> None:
    """A row that an UPDATE OR REPLACE pushes out, by key, unique value or rowid, leaves its mark."""
    track(connection, NOTES)
    connection.execute(f"PRAGMA recursive_triggers = {recursive}")
    connection.execute("INSERT INTO notes VALUES ('acme', 1, 'a', 'b'), ('acme', 2, 'c', 'd')")
    found = written(connection, f"UPDATE OR REPLACE notes SET {assignment} WHERE title = 'c'")
    assert (DELETE, None, "acme", 1, "a", "b") in found
    assert connection.execute("SELECT count(*) FROM notes").fetchone() == (1,)


def test_C3_a_default_in_place_of_null_still_finds_the_row_pushed_out(connection: sqlite3.Connection) -> None:
    """OR REPLACE puts a default where NULL is not allowed; the row which that pushes out leaves its mark."""
    track(connection, "CREATE TABLE seats (id TEXT PRIMARY KEY, place TEXT NOT NULL DEFAULT 'front' UNIQUE)")
    connection.execute("PRAGMA recursive_triggers = 0")
    connection.execute("INSERT INTO seats VALUES ('a', 'front')")
    assert (DELETE, None, "a", "front") in written(connection, "INSERT OR REPLACE INTO seats VALUES ('b', NULL)")
    assert connection.execute("SELECT id FROM seats").fetchall() == [("b",)]


@pytest.mark.parametrize(
    "statement", ["UPDATE items SET id = 5", "UPDATE items SET rowid = 5", "UPDATE items SET _rowid_ = 5"]
)
def test_C5_a_change_of_key_is_an_old_row_and_a_new_key(connection: sqlite3.Connection, statement: str) -> None:
    """A new key marks the old row, that the key was free, and the insert, also through the rowid's other names."""
    track(connection, "CREATE TABLE items (id INTEGER PRIMARY KEY, body)")
    connection.execute("INSERT INTO items VALUES (1, 'a')")
    assert written(connection, statement) == [(DELETE, None, 1, "a"), (FREE, None, 5), (INSERT, None, 5)]


def test_C6_an_update_that_changes_nothing_leaves_no_mark(connection: sqlite3.Connection) -> None:
    """Setting columns and keys to what they hold is no change."""
    track(connection, NOTES)
    connection.execute("INSERT INTO notes VALUES ('acme', 1, NULL, 1.0)")
    same = "UPDATE notes SET company_id = 'acme', id = 1, title = NULL, body = 1.0, rowid = rowid"
    assert written(connection, same) == []


def test_a_change_of_case_or_storage_class_alone_is_a_change(connection: sqlite3.Connection) -> None:
    """Values that compare as equal but are stored otherwise leave a mark."""
    track(connection, "CREATE TABLE words (word TEXT COLLATE NOCASE PRIMARY KEY, other TEXT COLLATE NOCASE, loose)")
    connection.execute("INSERT INTO words VALUES ('a', 'b', 1)")
    assert written(connection, "UPDATE words SET loose = 1.0") == [(UPDATE, 2, 1, "a")]
    assert written(connection, "UPDATE words SET other = 'B'") == [(UPDATE, 1, "b", "a")]
    assert written(connection, "UPDATE words SET word = 'A'") == [
        (DELETE, None, "a", "B", 1.0),
        (FREE, None, "A"),
        (INSERT, None, "A"),
    ]


def test_an_older_value_is_not_hidden_by_another_trigger(connection: sqlite3.Connection) -> None:
    """A trigger that sets the same column again, and runs first, leaves the first mark with the oldest value."""
    track(connection, "CREATE TABLE times (id TEXT PRIMARY KEY, at TEXT)")
    connection.execute(
        "CREATE TRIGGER touch AFTER UPDATE ON times WHEN NEW.at <> 'now' BEGIN UPDATE times SET at = 'now'; END"
    )
    connection.execute("INSERT INTO times VALUES ('a', 'then')")
    assert written(connection, "UPDATE times SET at = 'soon'")[0] == (UPDATE, 1, "then", "a")


PARENTS = "CREATE TABLE parents (id TEXT PRIMARY KEY)"
CHILDREN = """CREATE TABLE children (id TEXT PRIMARY KEY, mother REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE,
              father REFERENCES parents ON DELETE SET NULL)"""


def test_C8_cascades_leave_the_marks_of_the_children(connection: sqlite3.Connection) -> None:
    """What foreign keys do to children is captured like any write."""
    for statement in (PARENTS, CHILDREN, "PRAGMA foreign_keys = ON"):
        connection.execute(statement)
    capture.install(connection, [reflected(connection, "parents"), reflected(connection, "children")])
    connection.execute("INSERT INTO parents VALUES ('m'), ('f')")
    connection.execute("INSERT INTO children VALUES ('a', 'm', 'f')")
    assert (UPDATE, 2, "f", "a") in written(connection, "DELETE FROM parents WHERE id = 'f'")
    assert (UPDATE, 1, "m", "a") in written(connection, "UPDATE parents SET id = 'n' WHERE id = 'm'")
    assert (DELETE, None, "a", "n") in written(connection, "DELETE FROM parents")


def test_C9_without_foreign_keys_the_marks_tell_what_happened(connection: sqlite3.Connection) -> None:
    """With foreign keys off a child stays as an orphan, and has no mark."""
    for statement in (PARENTS, CHILDREN, "PRAGMA foreign_keys = OFF"):
        connection.execute(statement)
    capture.install(connection, [reflected(connection, "parents"), reflected(connection, "children")])
    connection.execute("INSERT INTO parents VALUES ('m')")
    connection.execute("INSERT INTO children VALUES ('a', 'm', NULL)")
    assert written(connection, "DELETE FROM parents") == [(DELETE, None, "m")]
    assert len(connection.execute("PRAGMA foreign_key_check").fetchall()) == 1


def test_C10_a_reused_rowid_has_the_marks_of_both_rows(connection: sqlite3.Connection) -> None:
    """A deleted id that comes back is an old row and a new key."""
    track(connection, "CREATE TABLE items (id INTEGER PRIMARY KEY, body)")
    connection.execute("INSERT INTO items (body) VALUES ('a')")
    found = written(connection, "DELETE FROM items", "INSERT INTO items (body) VALUES ('b')")
    assert found == [(DELETE, None, 1, "a"), (INSERT, None, 1)]


def test_C12_marks_outlive_a_vacuum(connection: sqlite3.Connection) -> None:
    """VACUUM may renumber rowids; marks name rows by their declared keys, and keep their own numbers."""
    track(connection, NOTES)
    connection.execute("INSERT INTO notes VALUES ('acme', 1, 'a', 'b'), ('acme', 2, 'c', 'd')")
    before = connection.execute("SELECT * FROM localstore_marks").fetchall()
    connection.execute("DELETE FROM localstore_marks WHERE seq = 1")
    connection.execute("VACUUM")
    assert connection.execute("SELECT * FROM localstore_marks").fetchall() == before[1:]
    assert capture.install(connection, []) == []
    assert capture.check(connection) == []


def test_C13_an_added_column_is_captured_from_the_next_open_on(connection: sqlite3.Connection) -> None:
    """A new column is appended to the catalogue and gets its trigger; as long as it is empty that is no gap."""
    entry = track(connection, NOTES)
    connection.execute("ALTER TABLE notes ADD COLUMN mood TEXT")
    assert capture.install(connection, [entry.table]) == []
    table = layout.read_catalogue(connection)[0].table
    assert table.columns == (*entry.table.columns, Column("mood", Kind.TEXT, declared="TEXT"))
    connection.execute("INSERT INTO notes VALUES ('acme', 1, 'a', 'b', 'c')")
    assert written(connection, "UPDATE notes SET mood = 'd'") == [(UPDATE, 4, "c", "acme", 1)]


def test_C13_an_added_column_with_values_is_a_gap(connection: sqlite3.Connection) -> None:
    """What a new column holds before it is tracked went unmarked, so the whole table is due."""
    track(connection, NOTES)
    connection.execute("INSERT INTO notes VALUES ('acme', 1, 'a', 'b')")
    connection.execute("ALTER TABLE notes ADD COLUMN mood TEXT DEFAULT 'fine'")
    assert [gap.reason for gap in capture.check(connection)] == ["the column mood was added and holds values"]
    assert capture.install(connection, []) == ["notes"]
    assert due(connection) == {"notes": True}
    assert capture.check(connection) == []


def test_C14_a_tracked_column_cannot_be_dropped_unseen(connection: sqlite3.Connection) -> None:
    """DROP COLUMN fails while triggers name the column, and says so."""
    track(connection, NOTES)
    with pytest.raises(sqlite3.OperationalError, match="localstore_capture"):
        connection.execute("ALTER TABLE notes DROP COLUMN body")


def test_C14_a_column_lost_in_a_rebuild_is_refused(connection: sqlite3.Connection) -> None:
    """A table that has lost a tracked column is a gap, and is not tracked on as if nothing had happened."""
    track(connection, NOTES)
    connection.execute("DROP TABLE notes")
    connection.execute("CREATE TABLE notes (company_id TEXT, id INTEGER, title TEXT, PRIMARY KEY (company_id, id))")
    assert [gap.reason for gap in capture.check(connection)] == ["the column body is missing"]
    with pytest.raises(StoreError, match="no column body"):
        capture.install(connection, [])


def test_C16_a_rebuilt_table_is_a_gap(connection: sqlite3.Connection) -> None:
    """A table made anew has lost its triggers: they come back, and the whole table is due."""
    entry = track(connection, NOTES)
    connection.execute("INSERT INTO notes VALUES ('acme', 1, 'a', 'b')")
    connection.execute(NOTES.replace("notes", "fresh"))
    for statement in ("INSERT INTO fresh SELECT * FROM notes", "DROP TABLE notes", "ALTER TABLE fresh RENAME TO notes"):
        connection.execute(statement)
    assert {gap.table for gap in capture.check(connection)} == {"notes"}
    assert capture.install(connection, [entry.table]) == ["notes"]
    assert due(connection) == {"notes": True}
    assert capture.check(connection) == []
    assert written(connection, "DELETE FROM notes") == [(DELETE, None, "acme", 1, "a", "b")]


@pytest.mark.parametrize("change", ["drop", "replace"])
def test_C16_a_missing_or_altered_trigger_is_a_gap(connection: sqlite3.Connection, change: str) -> None:
    """Each trigger is needed as it is: without it, or with another under its name, the table is due."""
    entry = track(connection, NOTES)
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'")]
    assert len(names) == 7
    for name in names:
        connection.execute("UPDATE localstore_tables SET snapshot_due = 0")
        connection.execute(f'DROP TRIGGER "{name}"')
        if change == "replace":
            connection.execute(f'CREATE TRIGGER "{name}" AFTER DELETE ON notes BEGIN SELECT 1; END')
        assert len(capture.check(connection)) == 1
        assert capture.install(connection, [entry.table]) == ["notes"]
        assert due(connection) == {"notes": True}
        assert capture.check(connection) == []


def test_C16_a_new_unique_index_is_a_gap(connection: sqlite3.Connection) -> None:
    """Rows that a new unique index pushed out before the triggers knew it went unmarked."""
    track(connection, NOTES)
    connection.execute("CREATE UNIQUE INDEX late ON notes (body)")
    assert capture.install(connection, []) == ["notes"]


def test_C16_a_dropped_table_is_a_gap_until_it_is_back(connection: sqlite3.Connection) -> None:
    """A tracked table that is gone is reported and does not keep the file from opening."""
    entry = track(connection, NOTES)
    connection.execute("DROP TABLE notes")
    assert [gap.reason for gap in capture.check(connection)] == ["the table is missing"]
    assert capture.install(connection, []) == ["notes"]
    connection.execute(NOTES)
    assert capture.install(connection, [entry.table]) == ["notes"]
    assert capture.check(connection) == []


def test_C17_writes_through_an_attached_name_are_captured(tmp_path: Path) -> None:
    """A file that another connection attaches keeps its own marks."""
    path = tmp_path / "store.db"
    with_layout = sqlite3.connect(path, isolation_level=None)
    layout.create(with_layout)
    track(with_layout, NOTES)
    outside = sqlite3.connect(":memory:", isolation_level=None)
    outside.execute("ATTACH ? AS tenant", (str(path),))
    outside.execute("CREATE TABLE localstore_marks (tbl)")
    outside.execute("INSERT INTO tenant.notes VALUES ('acme', 1, 'a', 'b')")
    assert outside.execute("SELECT count(*) FROM localstore_marks").fetchone() == (0,)
    assert with_layout.execute("SELECT op, v0, v1 FROM localstore_marks").fetchall() == [(INSERT, "acme", 1)]
    outside.close()
    with_layout.close()


@pytest.mark.parametrize("verb", ["OR IGNORE", "OR REPLACE", "OR ROLLBACK", "OR ABORT", "OR FAIL"])
def test_C18_a_conflict_policy_loses_no_mark(connection: sqlite3.Connection, verb: str) -> None:
    """The policy of a caller's statement reaches into triggers; marks have nothing that could conflict."""
    track(connection, NOTES)
    for _ in range(3):
        found = written(connection, f"INSERT {verb} INTO notes VALUES ('acme', 1, 'a', 'b')", "DELETE FROM notes")
        assert found == [(INSERT, None, "acme", 1), (DELETE, None, "acme", 1, "a", "b")]
    unique = connection.execute("SELECT count(*) FROM pragma_index_list('localstore_marks')").fetchone()
    assert unique == (0,)


def test_C18_a_blob_written_in_place_leaves_no_mark(connection: sqlite3.Connection) -> None:
    """Incremental blob writes run no trigger in SQLite; only a comparison of whole tables finds them."""
    track(connection, NOTES)
    connection.execute("INSERT INTO notes VALUES ('acme', 1, 'a', x'00')")
    before = marks.newest(connection)
    with connection.blobopen("notes", "body", 1) as blob:
        blob.write(b"\x01")
    assert marks.newest(connection) == before


def test_C20_nothing_commits_what_the_caller_has_begun(connection: sqlite3.Connection) -> None:
    """Layout and capture run inside the caller's transaction, and go with it."""
    connection.execute(NOTES)
    table = reflected(connection, "notes")
    before = connection.execute("SELECT name FROM sqlite_schema ORDER BY 1").fetchall()
    connection.execute("BEGIN IMMEDIATE")
    layout.create(connection)
    capture.install(connection, [table])
    capture.uninstall(connection, "notes")
    capture.install(connection, [table])
    assert connection.in_transaction
    connection.execute("ROLLBACK")
    assert connection.execute("SELECT name FROM sqlite_schema ORDER BY 1").fetchall() == before
    assert layout.read_catalogue(connection) == []


def test_a_failed_install_leaves_the_callers_work_alone(connection: sqlite3.Connection) -> None:
    """One table that cannot be tracked undoes the whole installation, and only that."""
    connection.execute(NOTES)
    connection.execute("CREATE TABLE heap (a)")
    connection.execute("BEGIN")
    connection.execute("INSERT INTO notes VALUES ('acme', 1, 'a', 'b')")
    with pytest.raises(StoreError, match="heap has no primary key"):
        capture.install(connection, [reflected(connection, "notes"), reflected(connection, "heap")])
    connection.execute("COMMIT")
    assert connection.execute("SELECT count(*) FROM notes").fetchone() == (1,)
    assert layout.read_catalogue(connection) == []


def test_installing_twice_changes_nothing(connection: sqlite3.Connection) -> None:
    """A second installation writes nothing at all."""
    entry = track(connection, NOTES)
    changes = connection.total_changes
    version = connection.execute("PRAGMA schema_version").fetchone()
    assert capture.install(connection, [entry.table]) == []
    assert connection.total_changes == changes
    assert connection.execute("PRAGMA schema_version").fetchone() == version


def test_rows_from_before_are_due_for_a_snapshot(connection: sqlite3.Connection) -> None:
    """A table that has rows when it is first tracked is due, an empty one is not."""
    connection.execute(NOTES)
    connection.execute(NOTES.replace("notes", "old"))
    connection.execute("INSERT INTO old VALUES ('acme', 1, 'a', 'b')")
    assert capture.install(connection, [reflected(connection, "notes"), reflected(connection, "old")]) == []
    assert due(connection) == {"notes": False, "old": True}


def test_known_columns_keep_their_places(connection: sqlite3.Connection) -> None:
    """A definition with its columns in another order leaves the catalogue's order as it is."""
    entry = track(connection, NOTES)
    turned = Table("notes", tuple(reversed(entry.table.columns)), entry.table.key, uniques=entry.table.uniques)
    assert capture.install(connection, [turned]) == []
    assert layout.read_catalogue(connection)[0].table == entry.table


def test_another_key_starts_the_table_over(connection: sqlite3.Connection) -> None:
    """Marks under an old key cannot be read with a new one: they are let go, and the table is due."""
    entry = track(connection, NOTES)
    connection.execute("INSERT INTO notes VALUES ('acme', 1, 'a', 'b')")
    capture.install(connection, [Table("notes", entry.table.columns, ("title",))])
    assert due(connection) == {"notes": True}
    assert marks.pending(connection, 0) == {}
    assert written(connection, "UPDATE notes SET body = 'c'") == [(UPDATE, 3, "b", "a")]


def test_triggers_of_an_older_version_are_no_gap(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer version brings its own triggers; as long as the older ones were whole, nothing went unmarked."""
    entry = track(connection, NOTES)
    name = "localstore_capture_1_delete"
    monkeypatch.setattr(capture, "CAPTURE_FORMAT", 2)

    def newer(table_id: int, table: Table, shape: Shape) -> dict[str, str]:
        found = triggers(table_id, table, shape)
        return {**found, name: found[name].replace("END", " SELECT 1; END")}

    monkeypatch.setattr(capture, "triggers", newer)
    assert capture.check(connection) == []
    assert capture.install(connection, [entry.table]) == []
    assert "SELECT 1" in connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (name,)).fetchone()[0]
    connection.execute(f"DROP TRIGGER {name}")
    monkeypatch.setattr(capture, "CAPTURE_FORMAT", 3)
    assert capture.install(connection, [entry.table]) == ["notes"]


def test_a_table_that_is_no_longer_tracked_leaves_no_marks(connection: sqlite3.Connection) -> None:
    """Uninstalling removes triggers and catalogue row, keeps the rows, and keeps the marks' numbers growing."""
    entry = track(connection, NOTES)
    connection.execute("INSERT INTO notes VALUES ('acme', 1, 'a', 'b')")
    newest = marks.newest(connection)
    capture.uninstall(connection, "notes")
    assert written(connection, "DELETE FROM notes") == []
    assert layout.read_catalogue(connection) == []
    capture.install(connection, [entry.table])
    assert marks.pending(connection, 0) == {}
    assert marks.newest(connection) == newest


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("CREATE UNIQUE INDEX part ON notes (body) WHERE id > 1", "its unique index part is partial"),
        ("CREATE UNIQUE INDEX word ON notes (lower(body))", "its unique index word is on an expression"),
        ("CREATE INDEX plain ON notes (lower(body)) WHERE id > 1", None),
    ],
)
def test_unique_indexes_that_triggers_cannot_follow_are_named(
    connection: sqlite3.Connection, statement: str, reason: str | None
) -> None:
    """A partial or computed unique index makes a table due at each seal; other indexes do not."""
    entry = track(connection, NOTES)
    connection.execute(statement)
    assert capture.unmarkable(connection, entry.table) == reason
    capture.install(connection, [])
    assert due(connection) == {"notes": reason is not None}


def test_reserved_names_are_refused(connection: sqlite3.Connection) -> None:
    """The toolkit's own tables cannot be tracked."""
    with pytest.raises(StoreError, match="reserved"):
        capture.install(connection, [reflected(connection, "localstore_state")])


def test_N6_any_name_can_be_tracked(connection: sqlite3.Connection) -> None:
    """Quotes, spaces, reserved words and any script may stand in the names of tables and columns."""
    name = 'order "by"; --'
    quoted = '"order ""by""; --"'
    track(connection, f'CREATE TABLE {quoted} ("select" TEXT PRIMARY KEY, "a""b" UNIQUE, "é", "É", [x y], `rowid`)')
    found = written(
        connection,
        f"INSERT INTO {quoted} VALUES ('k', 1, 2, 3, 4, 5)",
        f"UPDATE {quoted} SET É = 9",
        f"INSERT OR REPLACE INTO {quoted} VALUES ('l', 1, 2, 3, 4, 5)",
    )
    assert (UPDATE, 3, 3, "k") in found
    assert (DELETE, None, "k", 1, 2, 9, 4, 5) in found
    assert marks.pending(connection, 0) == {name: 2}


def test_N5_the_widest_table_can_be_tracked(connection: sqlite3.Connection) -> None:
    """A table with as many columns as marks can hold is captured; a wider one is due at each seal instead."""
    count = capture.MARKED_COLUMNS_MAX
    track(connection, f"CREATE TABLE wide (c0 TEXT PRIMARY KEY, {', '.join(f'c{n}' for n in range(1, count))})")
    found = written(connection, "INSERT INTO wide (c0, c9) VALUES ('k', 'v')", f"UPDATE wide SET c{count - 1} = 1")
    assert found == [(INSERT, None, "k"), (UPDATE, count - 1, None, "k")]
    assert written(connection, "DELETE FROM wide")[0][-1] == 1
    connection.execute(f"CREATE TABLE wider (c0 TEXT PRIMARY KEY, {', '.join(f'c{n}' for n in range(1, 2000))})")
    capture.install(connection, [reflected(connection, "wider")])
    assert capture.unmarkable(connection, reflected(connection, "wider")) == f"it has more than {count} columns"
    assert due(connection) == {"wide": False, "wider": True}
    assert capture.check(connection) == []


def test_N13_tables_without_rowid_are_captured_by_their_declared_key(connection: sqlite3.Connection) -> None:
    """A WITHOUT ROWID table with a composite key has the same marks as any other."""
    track(connection, "CREATE TABLE pairs (a, b TEXT, c, PRIMARY KEY (b DESC, a)) WITHOUT ROWID")
    connection.execute("INSERT INTO pairs VALUES (1, 'x', 2)")
    assert written(connection, "UPDATE pairs SET c = 3") == [(UPDATE, 2, 2, "x", 1)]
    assert written(connection, "UPDATE pairs SET a = 2") == [
        (DELETE, None, 1, "x", 3),
        (FREE, None, "x", 2),
        (INSERT, None, "x", 2),
    ]


def test_N14_a_descending_integer_key_is_no_rowid_alias(connection: sqlite3.Connection) -> None:
    """Only `INTEGER PRIMARY KEY` itself is the rowid under another name."""
    connection.execute("CREATE TABLE ascending (id INTEGER PRIMARY KEY)")
    connection.execute("CREATE TABLE descending (id INTEGER PRIMARY KEY DESC)")
    connection.execute("CREATE TABLE near (id INT PRIMARY KEY)")
    shapes = [read_shape(connection, name) for name in ("ascending", "descending", "near")]
    assert [shape.rowid_alias for shape in shapes if shape] == ["id", None, None]


def test_N15_generated_columns_are_left_out(connection: sqlite3.Connection) -> None:
    """A generated column is known as computed; no mark holds it, whatever it is made from."""
    entry = track(
        connection, "CREATE TABLE sums (id TEXT PRIMARY KEY, twice AS (n * 2) UNIQUE, n INT, thrice AS (n * 3) STORED)"
    )
    assert [column.name for column in entry.table.sent] == ["id", "n"]
    connection.execute("PRAGMA recursive_triggers = 0")
    connection.execute("INSERT INTO sums (id, n) VALUES ('a', 1)")
    assert written(connection, "UPDATE sums SET n = 2") == [(UPDATE, 2, 1, "a")]
    assert (DELETE, None, "a", None, 2) in written(connection, "INSERT OR REPLACE INTO sums (id, n) VALUES ('b', 2)")


def test_trimming_keeps_the_newest_mark(connection: sqlite3.Connection) -> None:
    """Trimmed marks go, the newest stays, and the next one has a higher number."""
    track(connection, NOTES)
    for number in range(4):
        connection.execute("INSERT INTO notes VALUES ('acme', ?, NULL, NULL)", (number,))
    assert marks.trim(connection, 2) == 2
    assert marks.trim(connection, 4) == 1
    assert marks.trim(connection, 4) == 0
    assert marks.newest(connection) == 4
    connection.execute("DELETE FROM notes WHERE id = 0")
    assert marks.newest(connection) == 5


def test_pending_counts_rows_not_marks(connection: sqlite3.Connection) -> None:
    """A row with many marks is one pending row; 1 and '1' and x'31' and 1.0 are four."""
    track(connection, "CREATE TABLE loose (k PRIMARY KEY, v)")
    assert marks.newest(connection) == 0
    for key in (1, "1", b"1"):
        connection.execute("INSERT INTO loose VALUES (?, 0)", (key,))
        connection.execute("UPDATE loose SET v = v + 1")
    assert marks.pending(connection, 0) == {"loose": 3}
    connection.execute("UPDATE loose SET k = 1.0 WHERE k = 1")
    assert marks.pending(connection, 0) == {"loose": 4}
    assert marks.pending(connection, marks.newest(connection)) == {}


def test_an_ordinary_tool_can_write(tmp_path: Path) -> None:
    """A program that knows nothing of the toolkit writes as ever, and its writes are captured."""
    path = tmp_path / "store.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    layout.create(connection)
    track(connection, NOTES)
    script = "INSERT INTO notes VALUES ('acme', 1, 'a', 'b'); REPLACE INTO notes VALUES ('acme', 2, 'a', 'c');"
    plain = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.executescript(sys.argv[2])"
    shell = shutil.which("sqlite3")
    command = [shell] if shell else [sys.executable, "-c", plain]
    subprocess.run([*command, str(path), script], check=True, env={"PATH": os.environ["PATH"]})
    found = connection.execute("SELECT op, v1, v2 FROM localstore_marks ORDER BY seq").fetchall()
    assert (DELETE, 1, "a") in found
    assert found[0] == (INSERT, 1, None)
    assert found[-1] == (INSERT, 2, None)
    connection.close()
