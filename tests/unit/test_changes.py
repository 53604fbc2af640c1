"""Claims about changes: how a table's marks become at most one change a row."""

from __future__ import annotations

import sqlite3
import tracemalloc
from collections.abc import Iterator

import pytest

from localstore.codec import Text
from localstore.errors import StoreError
from localstore.schema.sqlite import table_from_sqlite
from localstore.sqlite import capture, layout, marks
from sync.changes import Change, _Queries, changes, snapshot_rows, undecoded

NOTES = "CREATE TABLE notes (company_id TEXT, id INTEGER, title TEXT, body, PRIMARY KEY (company_id, id))"


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """Open an empty file with the layout."""
    opened = sqlite3.connect(":memory:", isolation_level=None)
    layout.create(opened)
    yield opened
    opened.close()


def track(connection: sqlite3.Connection, statement: str) -> layout.CatalogueEntry:
    """Create one table and track it."""
    connection.execute(statement)
    name = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY rowid DESC").fetchone()[0]
    table = table_from_sqlite(connection, name)
    assert table is not None
    capture.install(connection, [table])
    return layout.read_catalogue(connection)[-1]


class Seals:
    """Seal a table again and again."""

    def __init__(self, connection: sqlite3.Connection, entry: layout.CatalogueEntry) -> None:
        self.connection = connection
        self.entry = entry
        self.sealed_to = 0

    def __call__(self, *statements: str) -> list[Change]:
        """Run statements, and return the changes since the last seal."""
        for statement in statements:
            self.connection.execute(statement)
        after, self.sealed_to = self.sealed_to, marks.newest(self.connection)
        return list(changes(self.connection, self.entry, after, self.sealed_to))


def text(value: str) -> Text:
    """Return a text as it is stored."""
    return Text(value.encode())


ACME = text("acme")


def test_many_writes_of_a_row_are_one_change(connection: sqlite3.Connection) -> None:
    """Inserts, updates and deletes of one row compose into what came of them."""
    seals = Seals(connection, track(connection, NOTES))
    row = (ACME, 1, text("b"), 2)
    assert seals(
        "INSERT INTO notes VALUES ('acme', 1, 'a', 1)", "UPDATE notes SET title = 'b'", "UPDATE notes SET body = 2"
    ) == [Change("i", (ACME, 1), row, (), None)]
    assert seals("UPDATE notes SET body = 3", "UPDATE notes SET body = 4") == [
        Change("u", (ACME, 1), (ACME, 1, text("b"), 4), (3,), (None, None, None, 2))
    ]
    assert seals("UPDATE notes SET body = 5", "DELETE FROM notes") == [
        Change("d", (ACME, 1), None, (), (ACME, 1, text("b"), 4))
    ]
    assert seals("INSERT INTO notes VALUES ('acme', 1, 'a', 1)", "DELETE FROM notes") == []


def test_a_row_that_is_as_it_was_gives_no_change(connection: sqlite3.Connection) -> None:
    """Marks without effect are harmless: changed and changed back, deleted and put back, ignored, rolled back."""
    seals = Seals(connection, track(connection, NOTES))
    seals("INSERT INTO notes VALUES ('acme', 1, 'a', 1)")
    assert seals("UPDATE notes SET body = 2", "UPDATE notes SET body = 1") == []
    assert seals("DELETE FROM notes", "INSERT INTO notes VALUES ('acme', 1, 'a', 1)") == []
    assert seals("INSERT OR IGNORE INTO notes VALUES ('acme', 1, 'z', 9)") == []
    assert seals("INSERT INTO notes VALUES ('acme', 1, 'z', 9) ON CONFLICT DO NOTHING") == []
    assert seals("REPLACE INTO notes VALUES ('acme', 1, 'a', 1)") == []
    assert seals("UPDATE notes SET id = 7", "UPDATE notes SET id = 1") == []
    assert seals("BEGIN", "DELETE FROM notes", "ROLLBACK") == []


def test_a_deleted_row_that_comes_back_is_an_update(connection: sqlite3.Connection) -> None:
    """C10: the same key with other values names the changed columns alone, with the values from before."""
    seals = Seals(connection, track(connection, NOTES))
    seals("INSERT INTO notes VALUES ('acme', 1, 'a', 1)")
    found = seals("UPDATE notes SET body = 2", "DELETE FROM notes", "INSERT INTO notes VALUES ('acme', 1, 'a', 3)")
    assert found == [Change("u", (ACME, 1), (ACME, 1, text("a"), 3), (3,), (None, None, None, 1))]


def test_C5_a_change_of_key_is_a_delete_and_an_insert(connection: sqlite3.Connection) -> None:
    """The old key goes with its whole row, the new one comes with its whole row."""
    seals = Seals(connection, track(connection, NOTES))
    seals("INSERT INTO notes VALUES ('acme', 1, 'a', 1)")
    assert seals("UPDATE notes SET body = 2", "UPDATE notes SET id = 2, title = 'b'") == [
        Change("d", (ACME, 1), None, (), (ACME, 1, text("a"), 1)),
        Change("i", (ACME, 2), (ACME, 2, text("b"), 2), (), None),
    ]


def test_a_new_key_that_another_trigger_takes_away_again_never_was(connection: sqlite3.Connection) -> None:
    """A key that was free before and is free after gives no change, whatever triggers did in between."""
    seals = Seals(connection, track(connection, "CREATE TABLE words (word TEXT PRIMARY KEY, n INT)"))
    for event in ("INSERT", "UPDATE"):
        connection.execute(
            f"CREATE TRIGGER lower_{event} AFTER {event} ON words WHEN NEW.word <> lower(NEW.word)"
            " BEGIN UPDATE words SET word = lower(NEW.word) WHERE word = NEW.word; END"
        )
    assert seals("INSERT INTO words VALUES ('A', 1)") == [Change("i", (text("a"),), (text("a"), 1), (), None)]
    assert seals("UPDATE words SET word = 'B'") == [
        Change("d", (text("a"),), None, (), (text("a"), 1)),
        Change("i", (text("b"),), (text("b"), 1), (), None),
    ]


def test_a_row_that_another_trigger_brings_back_was_there_before(connection: sqlite3.Connection) -> None:
    """A trigger that answers a delete by an insert leaves an update of the row that production has."""
    seals = Seals(connection, track(connection, "CREATE TABLE words (word TEXT PRIMARY KEY, n INT)"))
    connection.execute("CREATE TRIGGER back AFTER DELETE ON words BEGIN INSERT INTO words VALUES (OLD.word, 0); END")
    seals("INSERT INTO words VALUES ('a', 1)")
    assert seals("DELETE FROM words") == [Change("u", (text("a"),), (text("a"), 0), (1,), (None, 1))]


def test_C18_a_blob_written_in_place_is_in_the_next_snapshot(connection: sqlite3.Connection) -> None:
    """Incremental blob writes leave no mark, but a snapshot reads them."""
    seals = Seals(connection, track(connection, NOTES))
    seals("INSERT INTO notes VALUES ('acme', 1, 'a', x'00')")
    with connection.blobopen("notes", "body", 1) as blob:
        blob.write(b"\x01")
    assert seals() == []
    assert list(snapshot_rows(connection, seals.entry)) == [
        Change("s", (ACME, 1), (ACME, 1, text("a"), b"\x01"), (), None)
    ]


def test_V3_text_that_is_not_utf8_arrives_as_its_bytes(connection: sqlite3.Connection) -> None:
    """Text is read as it is stored, so one bad value ends nothing, in keys, rows and bases."""
    seals = Seals(connection, track(connection, NOTES))
    bad = Text(b"\xffa")
    found = seals("INSERT INTO notes VALUES (CAST(x'ff61' AS TEXT), 1, CAST(x'ff61' AS TEXT), x'ff61')")
    assert found == [Change("i", (bad, 1), (bad, 1, bad, b"\xffa"), (), None)]
    assert [type(value) for value in found[0].row or ()] == [Text, int, Text, bytes]
    assert seals("UPDATE notes SET title = x'ff61'")[0].base == (None, None, bad, None)
    assert connection.text_factory is str


@pytest.mark.parametrize("value", ["'a' || char(0) || 'b'", "1e999", "-9223372036854775808", "''", "x''", "'\\N'"])
def test_V1_values_keep_their_storage_class(connection: sqlite3.Connection, value: str) -> None:
    """Whatever SQLite stores comes out as it was stored, as a row and as a base."""
    seals = Seals(connection, track(connection, "CREATE TABLE loose (k TEXT PRIMARY KEY, v)"))
    (inserted,) = seals(f"INSERT INTO loose VALUES ('k', {value})")
    with undecoded(connection):
        stored = connection.execute(f"SELECT {value}").fetchone()[0]
    assert inserted.row is not None
    assert (type(inserted.row[1]), inserted.row[1]) == (type(stored), stored)
    (updated,) = seals("UPDATE loose SET v = NULL")
    assert updated.base is not None
    assert (type(updated.base[1]), updated.base[1]) == (type(stored), stored)


def test_N11_rows_with_a_null_in_their_key_are_always_shown(connection: sqlite3.Connection) -> None:
    """A row that no key names comes as an insert each time one of its like is touched, and a delete ends them all."""
    seals = Seals(connection, track(connection, NOTES))
    found = seals("INSERT INTO notes VALUES ('acme', NULL, 'a', 1), ('acme', NULL, 'b', 2)")
    assert [(change.op, change.row) for change in found] == [
        ("i", (ACME, None, text("a"), 1)),
        ("i", (ACME, None, text("b"), 2)),
    ]
    assert [change.op for change in seals("UPDATE notes SET body = 3 WHERE title = 'a'")] == ["i", "i"]
    assert [(change.op, change.row) for change in seals("DELETE FROM notes WHERE title = 'a'")] == [
        ("i", (ACME, None, text("b"), 2))
    ]
    assert [(change.op, change.key) for change in seals("DELETE FROM notes")] == [("d", (ACME, None))]


def test_N12_keys_are_told_apart_as_they_are_stored(connection: sqlite3.Connection) -> None:
    """1, '1' and x'31' are three rows, and 1 is not 1.0."""
    seals = Seals(connection, track(connection, "CREATE TABLE loose (k PRIMARY KEY, v)"))
    found = seals("INSERT INTO loose VALUES (x'31', 'c'), ('1', 'b'), (1, 'a')")
    assert [(type(change.key[0]), change.key) for change in found] == [(int, (1,)), (Text, (b"1",)), (bytes, (b"1",))]
    found = seals("UPDATE loose SET k = 1.0 WHERE v = 'a'")
    assert [(change.op, type(change.key[0])) for change in found] == [("d", int), ("i", float)]


def test_N15_generated_columns_do_not_travel(connection: sqlite3.Connection) -> None:
    """Rows, bases and places count the sent columns alone."""
    seals = Seals(connection, track(connection, "CREATE TABLE sums (id TEXT PRIMARY KEY, twice AS (n * 2), n INT)"))
    seals("INSERT INTO sums (id, n) VALUES ('a', 1)")
    assert seals("UPDATE sums SET n = 2") == [Change("u", (text("a"),), (text("a"), 2), (1,), (None, 1))]
    assert seals("DELETE FROM sums") == [Change("d", (text("a"),), None, (), (text("a"), 2))]


def test_changes_come_in_the_order_of_their_keys(connection: sqlite3.Connection) -> None:
    """Keys are ordered byte by byte, so two readings of one snapshot give the same bytes."""
    seals = Seals(connection, track(connection, "CREATE TABLE words (word TEXT COLLATE NOCASE PRIMARY KEY)"))
    found = seals("INSERT INTO words VALUES ('b'), ('C'), ('a'), ('é'), ('D')")
    assert [change.key for change in found] == [(text(word),) for word in ("C", "D", "a", "b", "é")]


def test_the_window_of_marks_is_half_open(connection: sqlite3.Connection) -> None:
    """Marks up to `after` are sealed already, marks beyond `up_to` wait for the next seal."""
    entry = track(connection, NOTES)
    for number in range(3):
        connection.execute("INSERT INTO notes VALUES ('acme', ?, NULL, NULL)", (number,))
    assert [change.key for change in changes(connection, entry, 1, 2)] == [(ACME, 1)]


def test_other_tables_marks_are_not_read(connection: sqlite3.Connection) -> None:
    """Two tables with the same keys keep their changes apart."""
    first = track(connection, NOTES)
    second = track(connection, NOTES.replace("notes", "others"))
    connection.execute("INSERT INTO others VALUES ('acme', 1, 'a', 1)")
    assert list(changes(connection, first, 0, 9)) == []
    assert [change.op for change in changes(connection, second, 0, 9)] == ["i"]


def test_a_snapshot_has_every_row_in_the_order_of_its_key(connection: sqlite3.Connection) -> None:
    """Rows from before the capture are read like any other."""
    connection.execute(NOTES)
    connection.execute("INSERT INTO notes VALUES ('b', 1, 'x', 1), ('a', 2, 'y', 2), ('a', 1, NULL, x'00')")
    connection.execute("ALTER TABLE notes RENAME TO renamed")
    entry = track(connection, NOTES)
    connection.execute("DROP TABLE notes")
    connection.execute("ALTER TABLE renamed RENAME TO notes")
    found = list(snapshot_rows(connection, entry))
    assert [change.key for change in found] == [(text("a"), 1), (text("a"), 2), (text("b"), 1)]
    assert found[0] == Change("s", (text("a"), 1), (text("a"), 1, None, b"\x00"), (), None)


def test_a_missing_table_says_so(connection: sqlite3.Connection) -> None:
    """Reading the changes of a table that is gone is an error with a next command."""
    entry = track(connection, NOTES)
    connection.execute("DROP TABLE notes")
    with pytest.raises(StoreError, match="no table notes"):
        list(changes(connection, entry, 0, 9))


def test_reading_needs_no_right_to_write(connection: sqlite3.Connection) -> None:
    """A connection that refuses to write reads changes and snapshots."""
    seals = Seals(connection, track(connection, NOTES))
    connection.execute("INSERT INTO notes VALUES ('acme', 1, 'a', 1)")
    connection.execute("PRAGMA query_only = ON")
    assert [change.op for change in seals()] == ["i"]
    assert [change.op for change in snapshot_rows(connection, seals.entry)] == ["s"]


def test_two_tables_can_be_read_in_turns(connection: sqlite3.Connection) -> None:
    """Between two changes the connection decodes text as its owner wants it, and other readings may go on."""
    entry = track(connection, NOTES)
    connection.executemany("INSERT INTO notes VALUES ('acme', ?, 'a', 1)", ((number,) for number in range(100)))
    pairs = zip(changes(connection, entry, 0, 1000), snapshot_rows(connection, entry), strict=True)
    for one, other in pairs:
        assert one.row == other.row
        assert connection.execute("SELECT 'text'").fetchone() == ("text",)


@pytest.mark.parametrize(
    "statement",
    [
        NOTES,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a)",
        "CREATE TABLE t (id PRIMARY KEY, a)",
        "CREATE TABLE t (id TEXT COLLATE NOCASE PRIMARY KEY, a)",
        "CREATE TABLE t (a, b, c, PRIMARY KEY (b DESC, a COLLATE NOCASE)) WITHOUT ROWID",
    ],
)
def test_each_row_is_found_through_its_key(connection: sqlite3.Connection, statement: str) -> None:
    """The reading query scans no table: marks by number, rows by their key's index."""
    entry = track(connection, statement)
    query = _Queries(connection, entry.table).keys
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", (0, 9, entry.id))]
    assert any(step.startswith("SEARCH t USING") and "AUTOMATIC" not in step for step in plan)
    assert not any(step.startswith("SCAN") and step != "SCAN g" for step in plan)


def test_memory_does_not_grow_with_the_marks(connection: sqlite3.Connection) -> None:
    """Reading ten times the marks needs no more Python memory."""
    entry = track(connection, NOTES)
    peaks: list[int] = []
    for count in (1_000, 10_000):
        after = marks.newest(connection)
        connection.executemany(
            "INSERT INTO notes VALUES (?, ?, 'a', 1)", ((str(count), number) for number in range(count))
        )
        connection.execute("UPDATE notes SET body = body + 1, title = title || 'b'")
        tracemalloc.start()
        total = sum(1 for _ in changes(connection, entry, after, marks.newest(connection)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert total >= count
    assert peaks[1] < 2 * peaks[0]
