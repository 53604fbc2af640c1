"""Whatever SQL does to a file, its sealed changes lead from one sealed state to the next."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from localstore.postgres.quoting import quote_identifier
from localstore.schema.sqlite import table_from_sqlite
from localstore.sqlite import capture, layout, marks
from sync.changes import changes, undecoded

SCHEMAS: Final[dict[str, tuple[str, ...]]] = {
    "natural keys": (
        """CREATE TABLE one (company_id TEXT, code TEXT, a, b TEXT UNIQUE, c INTEGER NOT NULL DEFAULT 1,
           total AS (c + 1), PRIMARY KEY (company_id, code), UNIQUE (c, a))""",
    ),
    "rowid keys and cascades": (
        "CREATE TABLE one (id INTEGER PRIMARY KEY, a UNIQUE, b TEXT COLLATE NOCASE, c REAL)",
        "CREATE UNIQUE INDEX one_b ON one (b COLLATE NOCASE)",
        """CREATE TABLE two (code TEXT PRIMARY KEY, a REFERENCES one (id) ON DELETE CASCADE ON UPDATE CASCADE,
           b REFERENCES one (a) ON DELETE SET NULL ON UPDATE SET NULL,
           c REFERENCES two (code) ON DELETE CASCADE ON UPDATE CASCADE)""",
    ),
    "without rowid": (
        "CREATE TABLE one (a, b, c INTEGER, d UNIQUE, PRIMARY KEY (b DESC, a COLLATE NOCASE)) WITHOUT ROWID",
    ),
    "untyped and null keys": ("CREATE TABLE one (k PRIMARY KEY, a, b, c UNIQUE)",),
    "keys that ignore case": (
        'CREATE TABLE one ("the ""key" TEXT COLLATE NOCASE PRIMARY KEY, a, "order" INT, "ü" BLOB)',
    ),
    "rowid under a taken name": ("CREATE TABLE one (rowid TEXT PRIMARY KEY, a UNIQUE, b, c)",),
}

# A trigger that sets a column again hides older values from every trigger that runs after the write.
TOUCH: Final = """CREATE TRIGGER touch AFTER UPDATE OF a ON one WHEN NEW.a IS 'A'
BEGIN UPDATE one SET a = 'touched' WHERE a IS 'A'; END"""

TEXTS: Final = ("1", "a", "A", "", "é", "a\0b", "raw")
VALUES: Final = (*TEXTS, None, 0, 1, 1.0, 1.5, b"1", b"", 2**53 + 1, -(2**63), 1e300)

# Mostly few values, so that rows meet; sometimes any.
values = st.sampled_from(("a", "A", 1, 1.0, "1") * 4 + VALUES)
verbs = st.sampled_from(("", " OR REPLACE", " OR REPLACE", " OR IGNORE", " OR FAIL", " OR ABORT", " OR ROLLBACK"))
numbers = st.integers(0, 30)
shares = {"insert": 6, "upsert": 2, "update": 6, "delete": 2, "turn": 5, "seal": 3}
words = st.sampled_from([word for word, share in shares.items() for _ in range(share)])
pragmas = [f"PRAGMA {name} = {value}" for name in ("recursive_triggers", "foreign_keys") for value in (0, 1)]
turns = st.sampled_from(
    ["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT s", "ROLLBACK TO s", "RELEASE s", "VACUUM", *pragmas]
)

ROW: Final[list[Any]] = [1, "a", 1, 2, "a"]
PLAIN: Final[list[tuple[Any, ...]]] = [
    ("insert", "", 0, 0, 20, ROW),
    ("seal", False),
    ("update", "", 0, 2, 20, [0, *ROW[1:]]),
    ("seal", True),
    ("delete", "", 0, 0, 20, ROW),
]
"""A story with a change of each kind, which chance may leave out."""


@st.composite
def steps(draw: st.DrawFn) -> tuple[Any, ...]:
    """Draw one step: a write, a turn of a transaction, a seal, or a change of pragmas."""
    word = draw(words)
    if word == "turn":
        return word, draw(turns)
    if word == "seal":
        return word, draw(st.booleans())
    row = draw(st.lists(values, min_size=5, max_size=5))
    return word, draw(verbs), draw(numbers), draw(numbers), draw(numbers), row


class File:
    """A file with capture, and a shadow of it that learns of writes by sealed changes alone."""

    def __init__(self, schema: str, touch: bool, path: str = ":memory:") -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        layout.create(self.connection)
        for statement in SCHEMAS[schema]:
            self.connection.execute(statement)
        found = self.connection.execute("SELECT name FROM sqlite_schema WHERE name IN ('one', 'two')").fetchall()
        names = [row[0] for row in found]
        tables = [table_from_sqlite(self.connection, name) for name in names]
        assert capture.install(self.connection, [table for table in tables if table]) == []
        if touch:
            self.connection.execute(TOUCH)
        self.entries = layout.read_catalogue(self.connection)
        self.shadow: dict[str, dict[Any, Any]] = {name: {} for name in names}
        self.nameless: dict[str, Counter[Any]] = {name: Counter() for name in names}
        self.sealed_to = 0
        self.seen: Counter[str] = Counter()

    def write(self, word: str, verb: str, which: int, place: int, where: int, row: list[Any]) -> None:
        """Run one write; what a constraint refuses is part of the game."""
        table = self.entries[which % len(self.entries)].table
        columns = [column.name for column in table.sent]
        names = [quote_identifier(name) for name in columns]
        holes = ", ".join(hole(value) for value in row[: len(names)])
        bound = [b"\xffa" if value == "raw" else value for value in row[: len(names)]]
        target = names[place % len(names)]
        if place == 30 and columns[0] != "rowid":
            target = "rowid"
        condition = f"{names[where % len(names)]} IS {hole(row[-1])}" if where < 15 else "1"
        last = b"\xffa" if row[-1] == "raw" else row[-1]
        tail = [last] if where < 15 else []
        if word == "insert":
            into = "rowid, " if place == 30 and columns[0] != "rowid" else ""
            extra = f"{where % 4}, " if into else ""
            statement = f"INSERT{verb} INTO {table.name} ({into}{', '.join(names)}) VALUES ({extra}{holes})"
            self._run(statement, bound)
        elif word == "upsert":
            action = f"UPDATE SET {target} = {hole(row[-1])}" if place % 3 else "NOTHING"
            statement = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({holes}) ON CONFLICT DO {action}"
            self._run(statement, bound + ([last] if place % 3 else []))
        elif word == "update":
            second = names[(place + 1) % len(names)]
            assignments = f"{target} = {hole(row[0])}" + (f", {second} = {hole(row[1])}" if place % 2 else "")
            used = bound[:2] if place % 2 else bound[:1]
            self._run(f"UPDATE{verb} {table.name} SET {assignments} WHERE {condition}", used + tail)
        else:
            self._run(f"DELETE FROM {table.name} WHERE {condition}", tail)

    def turn(self, statement: str) -> None:
        """Run a turn of a transaction, or a pragma."""
        self._run(statement, [])

    def seal(self, trims: bool) -> None:
        """Apply the changes since the last seal to the shadow: bases must fit, and the result must be the file."""
        if self.connection.in_transaction:
            self._run("COMMIT", [])
        if self.connection.in_transaction:
            self._run("ROLLBACK", [])
        up_to = marks.newest(self.connection)
        counts = marks.pending(self.connection, self.sealed_to)
        for entry in self.entries:
            rows = self.shadow[entry.table.name]
            found = list(changes(self.connection, entry, self.sealed_to, up_to))
            self.seen.update(change.op for change in found)
            assert counts.get(entry.table.name, 0) >= len({typed(change.key) for change in found})
            for change in found:
                key = typed(change.key)
                if None in change.key:
                    assert change.op in ("i", "d")
                elif change.op == "i":
                    assert key not in rows
                    rows[key] = typed(change.row)
                elif change.op == "u":
                    assert change.row is not None
                    assert change.base is not None
                    assert change.changed
                    for place in change.changed:
                        assert rows[key][place] == typed(change.base)[place] != typed(change.row)[place]
                    untouched = set(range(len(change.row))) - set(change.changed)
                    assert all(rows[key][place] == typed(change.row)[place] for place in untouched)
                    rows[key] = typed(change.row)
                else:
                    assert change.op == "d"
                    assert rows.pop(key) == typed(change.base)
            state, nameless = self.state(entry)
            assert rows == state, "the sealed changes lead to another state than the file's"
            shown = Counter(typed(change.row) for change in found if None in change.key and change.row is not None)
            assert shown <= nameless
            assert nameless - self.nameless[entry.table.name] <= shown, "a row without a whole key was not shown"
            self.nameless[entry.table.name] = nameless
        self.sealed_to = up_to
        if trims:
            marks.trim(self.connection, up_to)
            assert marks.newest(self.connection) == up_to

    def state(self, entry: layout.CatalogueEntry) -> tuple[dict[Any, Any], Counter[Any]]:
        """Return the rows with a whole key, by that key, and the others, in their storage classes."""
        columns = [column.name for column in entry.table.sent]
        places = [columns.index(name) for name in entry.table.key]
        with undecoded(self.connection):
            listed = ", ".join(quote_identifier(name) for name in columns)
            rows = self.connection.execute(f"SELECT {listed} FROM {entry.table.name}").fetchall()
        keyed: dict[Any, Any] = {}
        nameless: Counter[Any] = Counter()
        for row in rows:
            key = tuple(row[place] for place in places)
            if None in key:
                nameless[typed(row)] += 1
            else:
                keyed[typed(key)] = typed(row)
        return keyed, nameless

    def _run(self, statement: str, bound: list[Any]) -> None:
        with contextlib.suppress(sqlite3.IntegrityError, sqlite3.OperationalError):
            self.connection.execute(statement, bound)


def hole(value: Any) -> str:
    """Return the placeholder of a value; text that is not UTF-8 cannot be bound."""
    return "CAST(? AS TEXT)" if value == "raw" else "?"


def typed(row: Any) -> Any:
    """Return values with their types, so that 1 differs from 1.0 and text from a blob."""
    return tuple((type(value).__name__, value) for value in row)


class OutsideFile(File):
    """A file that another program writes: the sqlite3 shell, or a bare Python where there is none."""

    def __init__(self, schema: str, touch: bool, path: str) -> None:
        super().__init__(schema, touch, path)
        self.path = path
        self.script: list[str] = []

    def seal(self, trims: bool) -> None:
        """Let the other program run what has gathered, then seal."""
        shell = shutil.which("sqlite3")
        command = [shell] if shell else [sys.executable, "-c", BARE]
        subprocess.run([*command, self.path], input="\n".join(self.script), text=True, capture_output=True, check=False)
        self.script.clear()
        super().seal(trims)

    def _run(self, statement: str, bound: list[Any]) -> None:
        for value in bound:
            statement = statement.replace("?", literal(value), 1)
        self.script.append(f"{statement};")


BARE: Final = """
import contextlib, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for line in sys.stdin:
    with contextlib.suppress(sqlite3.Error):
        connection.execute(line)
"""


def literal(value: Any) -> str:
    """Return a value as SQL text that a shell reads on one line."""
    if isinstance(value, str):
        return f"CAST(x'{value.encode().hex()}' AS TEXT)"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return "NULL" if value is None else repr(value)


def play(file: File, story: list[tuple[Any, ...]]) -> Counter[str]:
    """Run a story on a file and close it; return how many changes of each kind were sealed."""
    try:
        for step in story:
            if step[0] == "seal":
                file.seal(step[1])
            elif step[0] == "turn":
                file.turn(step[1])
            else:
                file.write(*step)
        file.seal(trims=False)
    finally:
        file.connection.close()
    return file.seen


@pytest.mark.parametrize("schema", SCHEMAS)
def test_sealed_changes_lead_from_state_to_state(schema: str) -> None:
    """Changes applied in order reproduce the file at every seal, storage classes included, and every base is true."""
    seen: Counter[str] = Counter()

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @example(story=PLAIN, touch=False)
    @given(story=st.lists(steps(), min_size=15, max_size=60), touch=st.booleans())
    def stories(story: list[tuple[Any, ...]], touch: bool) -> None:
        seen.update(play(File(schema, touch), story))

    stories()
    assert set(seen) == {"i", "u", "d"}, "the stories did not get far enough to tell anything"


def test_another_program_may_write_the_story() -> None:
    """What a program that knows nothing of the toolkit writes to the file is sealed as truly as our own writes."""
    seen: Counter[str] = Counter()

    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        schema=st.sampled_from(list(SCHEMAS)),
        story=st.lists(steps(), min_size=30, max_size=80),
        touch=st.booleans(),
    )
    def stories(schema: str, story: list[tuple[Any, ...]], touch: bool) -> None:
        with tempfile.TemporaryDirectory() as folder:
            seen.update(play(OutsideFile(schema, touch, str(Path(folder, "store.db"))), story))

    stories()
    assert seen["i"] > 0, "the stories did not get far enough to tell anything"
