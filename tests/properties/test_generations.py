"""Generations under any history of a file: equal ones mean equal rows, and every reader sees the same ones."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from hypothesis import given, settings
from hypothesis import strategies as st

from localstore.schema.sqlite import table_from_sqlite
from localstore.sqlite import generations, identity, layout, marks
from localstore.sqlite.alchemy import add_functions
from localstore.sqlite.capture import install
from localstore.sqlite.generations import Generations

TABLES = ("one", "two")

ACTIONS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(TABLES), st.integers(0, 3), st.integers(0, 2)),
    st.tuples(st.just("delete"), st.sampled_from(TABLES), st.integers(0, 3)),
    st.tuples(st.just("trim"), st.integers(0, 4)),
    st.tuples(st.just("emptied")),
    st.tuples(st.just("pull"), st.sampled_from(TABLES), st.integers(0, 3), st.integers(0, 2)),
    st.tuples(st.just("agree")),
    st.tuples(st.just("look")),
)


@contextmanager
def tracked() -> Iterator[sqlite3.Connection]:
    """Give a tenant's file, in memory, with two tracked tables."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as file:
        add_functions(file)
        file.execute("PRAGMA recursive_triggers = ON")
        file.execute(f"PRAGMA application_id = {identity.APPLICATION_ID}")
        layout.create(file)
        identity.write(file, "acme")
        for name in TABLES:
            file.execute(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, a INTEGER)")
        install(file, [table for name in TABLES if (table := table_from_sqlite(file, name)) is not None])
        yield file


def act(file: sqlite3.Connection, kind: str, *given: object) -> None:
    """Do to the file what applications, a push or a pull do."""
    if kind == "put":
        file.execute(f"INSERT OR REPLACE INTO {given[0]} VALUES (?, ?)", given[1:])
    elif kind == "delete":
        file.execute(f"DELETE FROM {given[0]} WHERE id = ?", given[1:])
    elif kind == "trim":
        assert isinstance(given[0], int)
        marks.trim(file, marks.newest(file) - given[0])
    elif kind == "emptied":
        # A seal that found nothing but spurious marks: the newest stays, and stops being a table's.
        marks.trim(file, marks.newest(file))
        file.execute("UPDATE localstore_marks SET tbl = NULL")
    elif kind == "pull":
        # A pull writes rows, says so, and takes the marks that it made itself away again.
        newest = marks.newest(file)
        file.execute(f"INSERT OR REPLACE INTO {given[0]} VALUES (?, ?)", given[1:])
        made = file.execute("SELECT DISTINCT tbl FROM localstore_marks WHERE seq > ?", (newest,)).fetchall()
        generations.move(file, [table for (table,) in made])
        file.execute("DELETE FROM localstore_marks WHERE seq > ?", (newest,))
    elif kind == "agree":
        # A pull that finds production to agree with all that is pending: every mark goes but an empty one.
        newest = marks.newest(file)
        generations.keep(file, newest)
        file.execute("DELETE FROM localstore_marks")
        if newest:
            file.execute("INSERT INTO localstore_marks (seq) VALUES (?)", (newest,))


@settings(deadline=None, max_examples=150)
@given(st.lists(ACTIONS, max_size=25))
def test_equal_generations_mean_equal_rows(history: list[tuple[object, ...]]) -> None:
    """Whatever happens, a generation that was seen before stands for the rows that it stood for then."""
    with tracked() as file:
        reader, rarely = Generations(), Generations()
        seen: dict[tuple[str, str], list[object]] = {}
        for kind, *given in history:
            act(file, str(kind), *given)
            found = reader.read(file, TABLES)
            # Another process looks for the first time, or for the first time in a while.
            assert Generations().read(file, TABLES) == found
            if kind == "look":
                assert rarely.read(file, TABLES) == found
            for name in TABLES:
                rows = file.execute(f"SELECT * FROM {name} ORDER BY id").fetchall()
                assert seen.setdefault((name, found[name]), rows) == rows
        assert rarely.read(file, TABLES) == reader.read(file, TABLES)


def _unchanged(file: sqlite3.Connection, act: Callable[[], object]) -> bool:
    before = Generations().read(file, TABLES)
    act()
    return Generations().read(file, TABLES) == before


def test_what_changes_no_row_moves_no_generation() -> None:
    """Trimming acknowledged marks and a write that writes nothing leave every generation as it is."""
    with tracked() as file:
        file.execute("INSERT INTO one VALUES (1, 1), (2, 2)")
        file.execute("INSERT INTO two VALUES (1, 1)")
        assert _unchanged(file, lambda: act(file, "trim", 0))
        assert _unchanged(file, lambda: act(file, "emptied"))
        assert _unchanged(file, lambda: act(file, "agree"))
        assert _unchanged(file, lambda: file.execute("UPDATE one SET a = a"))
        assert not _unchanged(file, lambda: file.execute("UPDATE one SET a = 3 WHERE id = 1"))
