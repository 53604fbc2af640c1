"""Verification of every kind of column and key: equal where production says equal, in whatever order keys come."""

from __future__ import annotations

import asyncio
import sqlite3
import tracemalloc
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from localstore import LocalStore
from localstore.schema.sqlite import table_from_sqlite
from localstore.sqlite.capture import install
from localstore.sqlite.database import Database
from sync.production import prepare, register, registered
from sync.steps.verify import DIFFERENCES_MAX, TableVerified, Verified, Why, verify
from sync.verify.compare import Comparison


class Pair:
    """A tenant's file and a production with one table, written by SQL on both sides."""

    def __init__(self, database: Database, connection: asyncpg.Connection) -> None:
        self.database = database
        self.connection = connection

    async def track(self, *statements: str, shape_only: bool = False) -> None:
        """Make tables in the file, track them, and register them in production unless only the shape is wanted."""

        def make(file: sqlite3.Connection) -> None:
            for statement in statements:
                file.execute(statement)
            names = [statement.split()[2] for statement in statements if statement.startswith("CREATE TABLE")]
            tables = [table for name in names if (table := table_from_sqlite(file, name)) is not None]
            assert len(tables) == len(names)
            install(file, tables)

        await self.database.write(make)
        await self.database.refresh()
        if not shape_only:
            await register(self.connection, "public", self.database.tables)

    async def local(self, statement: str, rows: Iterable[tuple[object, ...]] = ((),)) -> None:
        """Write to the file, as something that production is known to hold already."""

        def write(file: sqlite3.Connection) -> None:
            file.executemany(statement, rows)
            file.execute("DELETE FROM localstore_marks")

        await self.database.write(write)

    async def theirs(self, statement: str, rows: Iterable[tuple[object, ...]] = ((),)) -> None:
        """Write to production, unseen by the feed."""
        async with self.connection.transaction():
            await self.connection.execute("SET LOCAL session_replication_role = replica")
            await self.connection.executemany(statement, list(rows))

    async def verified(self) -> Verified:
        """Compare both sides."""
        known = await registered(self.connection, "public")
        return await verify(self.connection, self.database, "public", known)

    async def table(self, name: str = "t") -> TableVerified:
        """Compare both sides and return one table."""
        return (await self.verified()).tables[name]


@asynccontextmanager
async def opened(folder: Path, url: str) -> AsyncIterator[Pair]:
    """Open an empty tenant and a prepared production."""
    async with LocalStore(folder, models=[]) as store, store.tenant("acme") as tenant:
        connection = await asyncpg.connect(url)
        try:
            await prepare(connection)
            yield Pair(tenant.database, connection)
        finally:
            await connection.close(timeout=5)


@pytest.fixture
async def pair(tmp_path: Path, production: str) -> AsyncIterator[Pair]:
    """Return both sides, empty."""
    async with opened(tmp_path / "data", production) as both:
        yield both


EQUAL = [
    ("TEXT", "it's ✓\n\\N", "text", "it's ✓\n\\N"),
    ("INTEGER", -(2**63), "bigint", str(-(2**63))),
    ("REAL", 3, "double precision", "3"),
    ("NUMERIC", 1.5, "numeric", "1.500"),
    ("DECIMAL", "1e3", "numeric", "1000.00"),
    ("BOOLEAN", 1, "boolean", "t"),
    ("DATETIME", "2024-02-29T13:00:00+01:00", "timestamptz", "2024-02-29 12:00:00Z"),
    ("DATETIME", "2024-02-29 12:00:00", "timestamptz", "2024-02-29 12:00:00Z"),
    ("DATE", "2024-02-29", "date", "2024-02-29"),
    ("TIME", "23:59", "time", "23:59:00"),
    ("UUID", "{12345678-9ABC-DEF0-1234-56789abcdef0}", "uuid", "123456789abcdef0123456789abcdef0"),
    ("JSON", '{"b":1.0,"a":[1,2],"c":"\\u00e9"}', "jsonb", '{"c": "é", "a": [1, 2.00], "b": 1}'),
    ("BLOB", b"\x00\xff", "bytea", "\\x00ff"),
]


@pytest.mark.parametrize(("declared", "ours", "cast", "theirs"), EQUAL, ids=[f"{one[0]}-{one[3]}" for one in EQUAL])
async def test_another_spelling_of_a_value_is_equal(
    pair: Pair, declared: str, ours: object, cast: str, theirs: str
) -> None:
    """V18, V30, V40, V43: what is the same value to production is no difference, however the file spells it."""
    await pair.track(f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {declared})")
    await pair.local("INSERT INTO t VALUES (1, ?), (2, NULL)", [(ours,)])
    await pair.theirs(f"INSERT INTO t VALUES ('acme', 1, $1::text::{cast}), ('acme', 2, NULL)", [(theirs,)])
    found = await pair.verified()
    assert found.equal, found.tables["t"].differences
    assert found.tables["t"].rows == 2


DIFFERENT = [
    ("TEXT", "a ", "text", "a"),
    ("TEXT", "", "text", None),
    ("INTEGER", 2**53 + 1, "bigint", str(2**53)),
    ("REAL", 0.1, "double precision", "0.10000000000000002"),
    ("DECIMAL", "1.10", "numeric", "1.101"),
    ("BOOLEAN", 0, "boolean", "t"),
    ("DATETIME", "2024-02-29 12:00:00.000001", "timestamptz", "2024-02-29 12:00:00Z"),
    ("DATE", "2024-02-29", "date", "2024-03-01"),
    ("UUID", "12345678-9abc-def0-1234-56789abcdef0", "uuid", "123456789abcdef0123456789abcdef1"),
    ("JSON", '{"a":1}', "jsonb", '{"a":"1"}'),
    ("JSON", "null", "jsonb", None),
    ("BLOB", b"", "bytea", None),
]


@pytest.mark.parametrize(("declared", "ours", "cast", "theirs"), DIFFERENT, ids=[str(one[:2]) for one in DIFFERENT])
async def test_the_least_difference_is_named_by_its_column(
    pair: Pair, declared: str, ours: object, cast: str, theirs: str | None
) -> None:
    """V23: values that are not equal to production are named, NULL against empty among them."""
    await pair.track(f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {declared}, w TEXT)")
    await pair.local("INSERT INTO t VALUES (1, ?, 'same')", [(ours,)])
    await pair.theirs(f"INSERT INTO t VALUES ('acme', 1, $1::text::{cast}, 'same')", [(theirs,)])
    (only,) = (await pair.table()).differences
    assert (only.key, only.column, only.why) == (("1",), "v", Why.DRIFT)
    assert only.local is not None
    assert (only.production is None) == (theirs is None)
    assert only.local != only.production


async def test_what_sqlite_cannot_hold_is_shown_and_not_equal(pair: Pair) -> None:
    """V33: NaN and infinity in production are differences that can be shown, also in a key."""
    await pair.track("CREATE TABLE t (id REAL PRIMARY KEY, v DATETIME) WITHOUT ROWID")
    await pair.local("INSERT INTO t VALUES (1, '2024-01-01 00:00:00')")
    await pair.theirs("INSERT INTO t VALUES ('acme', 1, 'infinity'), ('acme', 'NaN', '-infinity')")
    found = await pair.table()
    assert [(one.key, one.column) for one in found.differences] == [(("1",), "v"), (("NaN",), None)]


async def test_a_value_that_cannot_be_encoded_is_a_difference(pair: Pair) -> None:
    """V4: a text in an integer column never equals production's value, nor its NULL."""
    await pair.track("CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER)")
    await pair.local("INSERT INTO t VALUES (1, '12abc'), (2, 'x')")
    await pair.theirs("INSERT INTO t VALUES ('acme', 1, 12), ('acme', 2, NULL)")
    found = await pair.table()
    assert [(one.key, one.column, one.local) for one in found.differences] == [
        (("1",), "v", "12abc"),
        (("2",), "v", "x"),
    ]
    assert "integer column" in found.differences[0].detail


UUIDS = [UUID(int=number << 96) for number in (0xA1000000, 0x0B000000, 0xA0000000, 0x0C000000)]


async def test_V43_keys_that_sort_by_spelling_are_sorted_by_value(pair: Pair) -> None:
    """V43: UUIDs in upper case, in lower case and as bytes meet production's rows; SQLite orders them otherwise."""
    spellings = [str(UUIDS[0]).upper(), UUIDS[1].hex, "{" + str(UUIDS[2]) + "}", UUIDS[3].bytes]
    await pair.track("CREATE TABLE t (id UUID PRIMARY KEY, v TEXT)")
    await pair.local("INSERT INTO t VALUES (?, 'x')", [(spelling,) for spelling in spellings])
    await pair.theirs("INSERT INTO t VALUES ('acme', $1, 'x')", [(one,) for one in UUIDS])
    found = await pair.table()
    assert found.causes == {}
    assert found.rows == 4


async def test_V43_two_spellings_of_one_key_are_one_row_too_many(pair: Pair) -> None:
    """V43: of two rows that are one to production the second is named."""
    await pair.track("CREATE TABLE t (id UUID PRIMARY KEY, v TEXT)")
    await pair.local("INSERT INTO t VALUES (?, 'x')", [(str(UUIDS[0]),), (UUIDS[0].hex,), (UUIDS[1].hex,)])
    await pair.theirs("INSERT INTO t VALUES ('acme', $1, 'x')", [(one,) for one in UUIDS[:2]])
    (only,) = (await pair.table()).differences
    assert "same key in production's types" in only.detail


TEXTS = ["a", "B", "é", "z", "\U0001f600", "\uffff", "ab", ""]


@pytest.mark.parametrize(
    ("declared", "ours", "cast", "theirs"),
    [
        (
            "DECIMAL",
            ["-2", "10", "9.5", "0.001", "-10.25", "100"],
            "numeric",
            ["-2.0", "10", "9.50", "0.001", "-10.25", "1e2"],
        ),
        ("REAL", [-1.5, 0.0, 2.5, -100.0, 1e300], "double precision", ["-1.5", "-0", "2.5", "-100", "1e300"]),
        (
            "DATETIME",
            ["2024-01-02T00:00:00Z", "2024-01-02 00:00:01", "2023-01-01 01:00:00+01"],
            "timestamptz",
            ["2024-01-02 00:00Z", "2024-01-02 00:00:01Z", "2023-01-01 00:00Z"],
        ),
        ("JSON", ['{"b":1,"a":2}', "[1.0]", '"x"'], "jsonb", ['{"a": 2, "b": 1}', "[1]", '"x"']),
        ("TEXT", TEXTS, "text", TEXTS),
        ("TEXT COLLATE NOCASE", ["b", "A", "c"], "text", ["b", "A", "c"]),
        ("BLOB", [b"\xff", b"", b"a\x00"], "bytea", ["\\xff", "\\x", "\\x6100"]),
    ],
    ids=["decimal", "real", "datetime", "json", "text", "nocase", "blob"],
)
async def test_keys_of_every_kind_meet(
    pair: Pair, declared: str, ours: list[object], cast: str, theirs: list[str]
) -> None:
    """Rows are matched by the key's value, whatever order either side gives them; what is missing is named."""
    await pair.track(f"CREATE TABLE t (id {declared} PRIMARY KEY, v INTEGER)")
    await pair.local("INSERT INTO t VALUES (?, ?)", [(key, number) for number, key in enumerate(ours)])
    insert = f"INSERT INTO t VALUES ('acme', $1::text::{cast}, $2)"
    await pair.theirs(insert, [(key, number) for number, key in enumerate(theirs)])
    found = await pair.table()
    assert found.causes == {}
    assert found.rows == len(ours)
    await pair.theirs(f"DELETE FROM t WHERE id = $1::text::{cast}", [(theirs[1],)])
    await pair.theirs(f"UPDATE t SET v = 77 WHERE id = $1::text::{cast}", [(theirs[2],)])
    await pair.local("UPDATE t SET v = 78 WHERE v = 0")
    seen = sorted((one.column or "", one.local or "", one.production or "") for one in (await pair.table()).differences)
    assert seen == [("", "v=1", ""), ("v", "2", "77"), ("v", "78", "0")]


async def test_N12_composite_keys_meet(pair: Pair) -> None:
    """N12, N13: keys of several parts of several kinds are compared part by part."""
    await pair.track("CREATE TABLE t (a TEXT, b INTEGER, c UUID, v TEXT, PRIMARY KEY (a, b, c)) WITHOUT ROWID")
    keys = [(a, b, c) for a in ("x", "xy", "") for b in (-1, 0, 10, 9) for c in UUIDS]
    await pair.local("INSERT INTO t VALUES (?, ?, ?, 'v')", [(a, b, str(c)) for a, b, c in keys])
    await pair.theirs("INSERT INTO t VALUES ('acme', $1, $2, $3, 'v')", keys)
    assert (await pair.table()).causes == {}
    await pair.theirs("DELETE FROM t WHERE a = 'xy' AND b = 9")
    assert (await pair.table()).causes == {Why.DRIFT: 4}


async def test_N11_a_key_with_null_is_only_here(pair: Pair) -> None:
    """N11: rows whose key has a NULL exist in the file alone; each is counted and none disturbs the others."""
    await pair.track("CREATE TABLE t (id TEXT PRIMARY KEY, v TEXT)")
    await pair.local("INSERT INTO t VALUES (?, 'x')", [(None,), ("a",), (None,), ("b",)])
    await pair.theirs("INSERT INTO t VALUES ('acme', $1, 'x')", [("a",), ("b",)])
    found = await pair.table()
    assert found.rows == 4
    assert [one.local for one in found.differences] == ["v=x", "v=x"]
    assert all("NULL" in one.detail for one in found.differences)


async def test_a_row_of_another_company_is_only_here(pair: Pair) -> None:
    """A row of the file that names another company is a difference and no match of production's row."""
    await pair.track("CREATE TABLE t (company_id TEXT, id INTEGER, v TEXT, PRIMARY KEY (company_id, id))")
    await pair.local("INSERT INTO t VALUES (?, ?, 'x')", [("acme", 1), ("other", 1), ("acme", 2)])
    await pair.theirs("INSERT INTO t VALUES ($1, $2, 'x')", [("acme", 1), ("other", 1), ("acme", 2)])
    (only,) = (await pair.table()).differences
    assert only.production is None
    assert "another company" in only.detail


async def test_a_table_with_one_row_a_company_is_compared(pair: Pair) -> None:
    """A table whose key is the company alone has nothing to sort by and is compared all the same."""
    await pair.track("CREATE TABLE t (company_id TEXT PRIMARY KEY, v TEXT)")
    await pair.local("INSERT INTO t VALUES ('acme', 'ours')")
    await pair.theirs("INSERT INTO t VALUES ('acme', 'theirs')")
    (only,) = (await pair.table()).differences
    assert (only.key, only.column, only.local, only.production) == ((), "v", "ours", "theirs")


async def test_N6_names_with_quotes_are_compared(pair: Pair) -> None:
    """N6: a column's name may hold anything."""
    await pair.track('CREATE TABLE t (id INTEGER PRIMARY KEY, "a "";-- é" TEXT)')
    await pair.local("INSERT INTO t VALUES (1, 'x')")
    await pair.theirs("INSERT INTO t VALUES ('acme', 1, 'y')")
    (only,) = (await pair.table()).differences
    assert only.column == 'a ";-- é'


async def test_N15_computed_columns_are_not_compared(pair: Pair) -> None:
    """N15: what SQLite computes is neither sent nor compared."""
    await pair.track("CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, twice INTEGER AS (a * 2))")
    await pair.local("INSERT INTO t (id, a) VALUES (1, 2)")
    await pair.theirs("INSERT INTO t VALUES ('acme', 1, 2)")
    assert (await pair.verified()).equal


async def test_long_texts_are_shown_where_they_part(pair: Pair) -> None:
    """A difference at the end of a long text, or of a long document, is in what is shown of it."""
    await pair.track("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, d JSON)")
    long = "lorem " * 20_000
    await pair.local("INSERT INTO t VALUES (1, ?, ?)", [(long + "ours", f'{{"z":"{long}ours","a":1}}')])
    await pair.theirs("INSERT INTO t VALUES ('acme', 1, $1, $2)", [(long + "theirs", f'{{"a":1,"z":"{long}theirs"}}')])
    for one in (await pair.table()).differences:
        assert one.local is not None
        assert one.production is not None
        assert "ours" in one.local
        assert "theirs" in one.production
        assert len(one.local) <= 81


async def test_a_table_production_does_not_know_is_pending(pair: Pair) -> None:
    """A table that was never registered, and a new shape of one that was, are pending row by row."""
    await pair.track("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    await pair.track("CREATE TABLE u (id INTEGER PRIMARY KEY)", shape_only=True)
    await pair.local("INSERT INTO u VALUES (?)", [(number,) for number in range(DIFFERENCES_MAX + 7)])
    found = await pair.verified()
    assert found.explained
    assert not found.equal
    assert found.tables["u"].causes == {Why.PENDING: DIFFERENCES_MAX + 7}
    assert len(found.tables["u"].differences) == DIFFERENCES_MAX


async def test_every_difference_is_counted_and_the_first_are_kept(pair: Pair) -> None:
    """Of many differences the first are kept, and all are explained and counted."""
    await pair.track("CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER)")
    count = 5_000
    await pair.local("INSERT INTO t VALUES (?, 0)", [(number,) for number in range(count)])
    await pair.connection.execute(f"INSERT INTO t SELECT 'acme', n, 0 FROM generate_series(0, {count - 1}) n")
    await pair.theirs("UPDATE t SET v = 1 WHERE id % 2 = 0")
    await pair.connection.execute("DELETE FROM t WHERE id % 2 = 1")
    await pair.connection.execute("DELETE FROM localstore.feed WHERE key[1]::int % 4 = 1")
    found = await pair.table()
    # The insert wrote to the feed as well, so that an edit by others explains the changed rows.
    assert found.causes == {Why.FOREIGN_EDIT: 2_500 + 1_250, Why.DRIFT: 1_250}
    assert found.different == 5_000
    assert len(found.differences) == DIFFERENCES_MAX
    assert [int(one.key[0]) for one in found.differences] == list(range(DIFFERENCES_MAX))


async def test_20000_rows_are_equal_in_bounded_memory(pair: Pair) -> None:
    """Rows are streamed: what is held of twenty thousand wide rows at a time is a small part of them."""
    await pair.track("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT, d JSON)")
    count, width = 20_000, 3_000
    await pair.local(
        "INSERT INTO t VALUES (?, ?, ?)",
        ((number, f"{number:08}" * (width // 8), f'{{"n":{number}}}') for number in range(count)),
    )
    await pair.connection.execute(
        f"INSERT INTO t SELECT 'acme', n, repeat(lpad(n::text, 8, '0'), {width // 8}), jsonb_build_object('n', n) "
        f"FROM generate_series(0, {count - 1}) n"
    )
    tracemalloc.start()
    try:
        found = await pair.verified()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.equal
    assert found.tables["t"].rows == count
    assert peak < count * width // 4


async def test_large_rows_pass_in_pieces(pair: Pair) -> None:
    """Rows larger than any buffer on the way are put together again, whether they are equal or not."""
    await pair.track("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB, other TEXT)")
    bodies = [bytes([number]) * (3_000_000 + number) for number in range(5)]
    await pair.local("INSERT INTO t VALUES (?, ?, 'ours')", enumerate(bodies))
    await pair.theirs("INSERT INTO t VALUES ('acme', $1, $2, 'ours')", enumerate(bodies))
    assert (await pair.verified()).equal
    await pair.theirs("UPDATE t SET other = 'theirs' WHERE id = 3")
    (only,) = (await pair.table()).differences
    assert (only.key, only.column) == (("3",), "other")


async def test_nothing_is_written_on_either_side(pair: Pair) -> None:
    """A verification leaves no mark, no row and no setting behind, and its connection is as it was."""
    await pair.track("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    await pair.local("INSERT INTO t VALUES (1, 'a')")
    await pair.theirs("INSERT INTO t VALUES ('acme', 1, 'b')")
    before = await pair.database.read(lambda file: list(file.iterdump()))
    await pair.verified()
    assert await pair.database.read(lambda file: list(file.iterdump())) == before
    role, company, transaction = await pair.connection.fetchrow(
        "SELECT current_user = session_user, coalesce(current_setting('app.current_company_id', true), ''), "
        "pg_current_xact_id_if_assigned() IS NULL"
    )
    assert (role, company, transaction) == (True, "", True)


@pytest.mark.parametrize("rows", [3, 50_000])
async def test_a_cancelled_verification_ends(pair: Pair, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """F24: a cancellation in the middle of a COPY ends the verification instead of waiting for the COPY's end."""
    await pair.track("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    await pair.connection.execute(
        f"INSERT INTO t SELECT 'acme', n, repeat('x', 1000) FROM generate_series(1, {rows}) n"
    )
    begun = asyncio.Event()
    take = Comparison.take

    async def stop(self: Comparison, piece: bytes) -> None:
        await take(self, piece)
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Comparison, "take", stop)
    task = asyncio.create_task(pair.verified())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_in_the_middle_leaves_a_usable_connection(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while rows are compared reaches the caller, and the connection goes on to work."""
    await pair.track("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    await pair.connection.execute("INSERT INTO t SELECT 'acme', n, repeat('x', 1000) FROM generate_series(1, 5000) n")

    async def fail(_self: Comparison, _piece: bytes) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Comparison, "take", fail)
        with pytest.raises(OSError, match="disk is full"):
            await pair.verified()
    assert (await pair.table()).causes == {Why.FOREIGN_EDIT: 5000}
