"""The codec against the real thing: what it accepts arrives unchanged, what PostgreSQL refuses it refuses first."""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

import asyncpg
import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from localstore.codec import (
    DefectCode,
    Text,
    Value,
    ValueDefect,
    decode_binary,
    decode_text,
    encoder,
    equal,
    to_text,
)
from localstore.codec.parse import DEPTH_MAX
from localstore.postgres.connect import Server
from localstore.schema.tables import Kind
from localstore.schema.types import travelling_type, type_oid
from tests.conftest import database_like

T = TypeVar("T")

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"

many = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))


class Column:
    """A connection to production that moves single values in and out of a column of one kind."""

    def __init__(self, url: str) -> None:
        self.runner = asyncio.Runner()
        self.connection: asyncpg.Connection = self.run(asyncpg.connect(url))
        self.run(self.connection.execute("SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'"))
        for kind in Kind:
            self.run(self.connection.execute(f'CREATE TABLE "{kind}" (place bigint, held {travelling_type(kind)})'))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for work on the connection."""
        return self.runner.run(work)

    def close(self) -> None:
        """Give the connection up."""
        self.connection.terminate()
        self.runner.close()

    def send(self, kind: Kind, values: list[bytes]) -> None:
        """Put the values into the empty column by a binary COPY."""

        async def rows() -> AsyncIterator[bytes]:
            yield HEADER
            for place, value in enumerate(values):
                yield struct.pack(">hiqi", 2, 8, place, len(value)) + value
            yield TRAILER

        async def copy() -> None:
            await self.connection.execute(f'TRUNCATE "{kind}"')
            await self.connection.copy_to_table(kind.value, source=rows(), format="binary")

        self.run(copy())

    def receive(self, kind: Kind) -> list[bytes]:
        """Return the column by a binary COPY."""
        received = bytearray()

        async def collect(data: bytes) -> None:
            received.extend(data)

        query = f'SELECT held FROM "{kind}" ORDER BY place'
        self.run(self.connection.copy_from_query(query, output=collect, format="binary"))
        assert received.startswith(HEADER)
        place = len(HEADER)
        values = []
        while received[place : place + 2] == b"\x00\x01":
            (length,) = struct.unpack_from(">i", received, place + 2)
            values.append(bytes(received[place + 6 : place + 6 + length]))
            place += 6 + length
        assert received[place:] == TRAILER
        return values

    def texts(self, kind: Kind) -> list[str]:
        """Return the column in production's text form."""
        rows = self.run(self.connection.fetch(f'SELECT held::text FROM "{kind}" ORDER BY place'))
        return [row[0] for row in rows]

    def read(self, kind: Kind, text: str) -> bytes | None:
        """Return what production makes of a text, in binary, or None where it refuses the text."""
        try:
            self.run(self.connection.execute(f'TRUNCATE "{kind}"'))
            query = f'INSERT INTO "{kind}" VALUES (0, $1::text::{travelling_type(kind)})'
            self.run(self.connection.execute(query, text))
        except (asyncpg.DataError, asyncpg.StatementTooComplexError, asyncpg.ProgramLimitExceededError):
            return None
        return self.receive(kind)[0]

    def judge(self, kind: Kind, one: bytes, other: bytes) -> bool:
        """Return whether production finds two values equal."""
        self.send(kind, [one, other])
        query = f'SELECT a.held = b.held FROM "{kind}" a, "{kind}" b WHERE a.place = 0 AND b.place = 1'
        return bool(self.run(self.connection.fetchval(query)))


@pytest.fixture(scope="module")
def column(postgres_server: Server) -> Iterator[Column]:
    """A column of every kind in a fresh database; whoever uses it empties it first."""
    with database_like(postgres_server) as database:
        column = Column(database.url)
        yield column
        column.close()


def text(string: str) -> Text:
    """Return a text as SQLite's driver gives it."""
    return Text(string.encode())


def encoded(kind: Kind, value: Value) -> bytes | None:
    """Return a value in binary, or None for a defect."""
    try:
        return encoder(kind)(value)
    except ValueDefect:
        return None


def assembled(*patterns: str) -> SearchStrategy[Text]:
    """Texts that match a pattern, and the same with one character put in, taken out or changed."""

    @st.composite
    def draw_text(draw: st.DrawFn) -> Text:
        string = draw(st.sampled_from(patterns).flatmap(lambda pattern: st.from_regex(pattern, fullmatch=True)))
        if draw(st.integers(0, 3)) == 0:
            place = draw(st.integers(0, len(string)))
            taken = draw(st.integers(0, 1))
            string = (
                string[:place]
                + draw(st.sampled_from(["", " ", "0", "9", "-", "e", ".", "Z"]))
                + string[place + taken :]
            )
        return text(string)

    return draw_text()


DIGIT, SIGN = "[0-9]", "[+-]?"
DAY = "(0000|0001|1[0-9]{3}|19[0-9]{2}|20[0-9]{2}|9999|10000)-(0[0-9]|1[0-3])-([0-2][0-9]|3[0-2])"
CLOCK = "([01][0-9]|2[0-5]):([0-5][0-9]|60):([0-5][0-9]|60|61)"
FRACTION = r"(\.[0-9]{1,6}|\.[0-9]{6}0{1,3}|\.[0-9]{7,9})"
OFFSET = "(Z|[+-](0[0-9]|1[0-7]|24)|[+-](0[0-9]|1[0-6]):?([0-5][0-9]|60)|[+-]15:59:59| [+-]01:00)"

SCALARS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.binary(max_size=20),
    st.binary(min_size=16, max_size=16),
    st.binary(max_size=20).map(Text),
    st.text(max_size=20).filter(lambda string: "\x00" not in string).map(text),
    st.sampled_from(
        ["", "now", "today", "infinity", "-infinity", "epoch", "NaN", "Infinity", "1e999", "t", "true", "yes"]
    ).map(text),
    st.sampled_from(["01/02/2024", "\\N", "\\.", "\t", "\n", "\\", "1_000", "0x1F", "0b1", "0o7", " 5 ", "007"]).map(
        text
    ),
)

NUMBERS = assembled(
    f"{SIGN}{DIGIT}{{1,9}}",
    f"{SIGN}{DIGIT}{{0,30}}\\.{DIGIT}{{0,30}}",
    f"{SIGN}{DIGIT}{{1,9}}(\\.{DIGIT}{{0,9}})?[eE]{SIGN}{DIGIT}{{1,3}}",
    f"{SIGN}{DIGIT}\\.?{DIGIT}{{0,3}}[eE]{SIGN}(16[0-9]{{3}}|131[0-9]{{3}})",
    "0{1,9}(\\.0{0,9})?",
)

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8).filter(lambda string: "\x00" not in string),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text('ab:\\"é', max_size=2), inner, max_size=4)
    ),
    max_leaves=12,
)


def written(tree: object, draw: st.DrawFn) -> str:
    """Write a tree in one of the many ways that JSON leaves open, some of which jsonb does not take."""
    space = st.sampled_from(["", "", "", " ", "\n", "\t\r"])
    if isinstance(tree, dict):
        pairs = [(key, inner) for key, inner in tree.items()]
        if pairs and draw(st.integers(0, 5)) == 0:
            pairs.append(draw(st.sampled_from(pairs)))
        inside = ",".join(
            f"{draw(space)}{written(key, draw)}{draw(space)}:{draw(space)}{written(inner, draw)}"
            for key, inner in pairs
        )
        return "{" + inside + draw(space) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(draw(space) + written(inner, draw) + draw(space) for inner in tree) + "]"
    if isinstance(tree, str):
        how = draw(st.integers(0, 7))
        if how == 0:
            units = tree.encode("utf-16-be")
            return '"' + "".join(f"\\u{units[at]:02x}{units[at + 1]:02X}" for at in range(0, len(units), 2)) + '"'
        if how == 1:
            trap = draw(
                st.sampled_from(
                    ["\\u0000", "\\\\u0000", "\\ud800", "\\udc00\\ud800", "\\u003a", "90e1234", "\\x", "\x01", "\x7f"]
                )
            )
            return '"' + trap + '"'
        return orjson.dumps(tree).decode()
    if isinstance(tree, float | int) and not isinstance(tree, bool):
        literals = [
            "NaN",
            "01",
            "1.",
            ".5",
            "+1",
            "-0",
            "-0.0",
            "1e400",
            "1E-400",
            "1e-20000",
            "1e131071",
            "1e131072",
            "1e0001",
            "1.10",
        ]
        return draw(st.sampled_from(literals)) if draw(st.integers(0, 3)) == 0 else repr(tree)
    return orjson.dumps(tree).decode()


@st.composite
def documents(draw: st.DrawFn) -> Text:
    """Documents in all spellings, some of them broken."""
    string = written(draw(TREES), draw)
    if draw(st.integers(0, 4)) == 0:
        place = draw(st.integers(0, len(string)))
        string = (
            string[:place]
            + draw(st.sampled_from(["", ",", "]", "}", '"', "{", "[", ":", "\ufeff", "\x0b", "1"]))
            + string[place + 1 :]
        )
    return text(string)


NEAR_DOCUMENTS = [
    *("1", "1.0", "true", '"1"', "10e-1", "0.1", "0.1000000000000000055", "[]", "{}", "[[]]", "-0", "0", "-0.0"),
    *('{"a":1,"b":true}', '{"b":true, "a":1.0}', '{"b":1,"a":1}', '{"\\u0061":1,"b":true}', "null", '""'),
    *("12345678901234567890123", "12345678901234567890124", "1.2345678901234567890123e22", "1e-400", "2e-400"),
    *(
        "[" * 300 + "1" + "]" * 300,
        "[" * 300 + "1.0" + "]" * 300,
        "[" * 1500 + "]" * 1500,
        " " + "[" * 1500 + "]" * 1500,
    ),
]

STRATEGIES: dict[Kind, SearchStrategy[Value]] = {
    Kind.TEXT: SCALARS,
    Kind.INTEGER: SCALARS | NUMBERS,
    Kind.REAL: SCALARS | st.floats(allow_nan=False),
    Kind.NUMERIC: SCALARS | NUMBERS | NUMBERS,
    Kind.BOOLEAN: SCALARS | st.integers(-1, 2),
    Kind.TIMESTAMP: SCALARS
    | assembled(f"{DAY}[ T]{CLOCK}{FRACTION}?{OFFSET}?", f"{DAY}[ T]{CLOCK}", f"{DAY}([ T][0-9]{{2}}:[0-9]{{2}})?"),
    Kind.DATE: SCALARS | assembled(DAY),
    Kind.TIME: SCALARS | assembled(f"{CLOCK}{FRACTION}?", "[0-9]{2}:[0-9]{2}"),
    Kind.UUID: SCALARS
    | assembled(r"\{?[0-9a-fA-F]{32}\}?", r"\{?[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\}?"),
    Kind.JSON: SCALARS | documents() | documents(),
    Kind.BLOB: SCALARS,
    Kind.VECTOR: SCALARS
    | st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=9).map(
        lambda numbers: struct.pack(f"<{len(numbers)}f", *numbers)
    ),
}


@pytest.mark.parametrize("kind", Kind)
def test_types_have_the_oids_and_names_that_production_says(column: Column, kind: Kind) -> None:
    """The type map names each type as production's catalogue does."""
    query = "SELECT oid::integer, format_type(oid, NULL) FROM pg_type WHERE oid = $1::regtype"
    row = column.run(column.connection.fetchrow(query.replace("$1", f"'{travelling_type(kind)}'")))
    assert tuple(row) == (type_oid(kind), travelling_type(kind))


@pytest.mark.parametrize("kind", Kind)
def test_what_is_accepted_arrives_unchanged_and_comes_back(column: Column, kind: Kind) -> None:
    """A binary COPY takes every accepted value, and decoding and encoding what it stored gives an equal value."""

    @many
    @given(st.lists(STRATEGIES[kind], min_size=1, max_size=40))
    def check(values: list[Value]) -> None:
        accepted = [(value, data) for value in values if (data := encoded(kind, value)) is not None]
        sent = [data for _, data in accepted]
        column.send(kind, sent)
        for (value, data), received, shown in zip(accepted, column.receive(kind), column.texts(kind), strict=True):
            assert equal(kind, data, received)
            assert kind is Kind.JSON or data == received
            local = decode_binary(kind, received)
            assert decode_text(kind, shown) == local
            again = encoder(kind)(text(local) if isinstance(local, str) else local)
            assert equal(kind, again, data)
            if kind is Kind.REAL:
                assert float(to_text(kind, value)) == float(shown)
            elif kind is Kind.VECTOR:
                assert decode_text(kind, to_text(kind, value)) == local
            elif kind is not Kind.JSON:
                assert to_text(kind, value) == shown

    check()


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.BLOB])
def test_what_production_refuses_or_reads_otherwise_is_a_defect(column: Column, kind: Kind) -> None:
    """Of a text that is accepted, production's own reading is equal; a text that it refuses is never accepted."""

    @many
    @given(STRATEGIES[kind].filter(lambda value: isinstance(value, Text)))
    def check(value: Value) -> None:
        data = encoded(kind, value)
        if data is None or not isinstance(value, Text):
            return
        reading = column.read(kind, value.decode())
        assert reading is not None
        assert equal(kind, data, reading)

    check()


@pytest.mark.parametrize(
    "kind", [Kind.REAL, Kind.NUMERIC, Kind.JSON, Kind.UUID, Kind.TIMESTAMP, Kind.TEXT, Kind.VECTOR]
)
def test_equality_is_production_s(column: Column, kind: Kind) -> None:
    """Two values are equal to the codec exactly when production's `=` says so."""
    near = {
        Kind.REAL: st.sampled_from([0.0, -0.0, 1.0, 1, float("inf"), float("-inf"), 5e-324]),
        Kind.NUMERIC: st.sampled_from(
            ["0", "-0.00", "1", "1.0", "1.00", "10e-1", "1.01", "-1", "10000", "1e4", "0.0001"]
        ).map(text),
        Kind.JSON: st.sampled_from(NEAR_DOCUMENTS).map(text),
        Kind.UUID: st.sampled_from(["a" * 32, "A" * 32, "b" * 32]).map(text),
        Kind.VECTOR: st.lists(st.sampled_from([0.0, -0.0, 1.0, 1e-45]), min_size=1, max_size=2).map(
            lambda numbers: struct.pack(f"<{len(numbers)}f", *numbers)
        ),
        Kind.TIMESTAMP: st.sampled_from(
            ["2024-01-01T00:00:00Z", "2024-01-01", "2024-01-01 01:00+01", "2024-01-02"]
        ).map(text),
        Kind.TEXT: st.sampled_from(["a", "A", "a ", "", "é", "e\u0301"]).map(text),
    }

    @many
    @given(near[kind], near[kind])
    def check(one: Value, other: Value) -> None:
        a, b = encoder(kind)(one), encoder(kind)(other)
        assert equal(kind, a, b) == column.judge(kind, a, b)

    check()


def test_equality_of_documents_survives_production_s_spelling(column: Column) -> None:
    """A document equals what jsonb made of it, and one that differs in a leaf does not."""

    @many
    @given(documents(), documents())
    @example(text('{"a":1}'), text('{"a":true}'))
    def check(one: Text, other: Text) -> None:
        a, b = encoded(Kind.JSON, one), encoded(Kind.JSON, other)
        if a is not None and b is not None:
            column.send(Kind.JSON, [a, b])
            received_a, received_b = column.receive(Kind.JSON)
            assert equal(Kind.JSON, a, received_a)
            assert equal(Kind.JSON, a, received_b) == column.judge(Kind.JSON, a, b)

    check()


@pytest.mark.parametrize(
    "string",
    [
        "1e131071",
        "-1e131071",
        "1e-16383",
        "9" * 131_072 + "." + "9" * 16_383,
        "0." + "0" * 16_383,
        "5.",
        ".5",
        "5.e3",
        "0e100",
    ],
    ids=lambda string: re.sub(r"(.{12}).+", r"\1...", string),
)
def test_V20_the_limits_of_numeric_are_reached(column: Column, string: str) -> None:
    """The longest numbers that production takes are sent, digit by digit."""
    column.send(Kind.NUMERIC, [encoder(Kind.NUMERIC)(text(string))])
    (received,) = column.receive(Kind.NUMERIC)
    assert received == column.read(Kind.NUMERIC, string)


@pytest.mark.parametrize("document", ["[" * DEPTH_MAX + "]" * DEPTH_MAX, '{"a":' * DEPTH_MAX + "1" + "}" * DEPTH_MAX])
def test_V42_the_deepest_document_is_taken(column: Column, document: str) -> None:
    """Production takes, stores and writes a document of the greatest depth that the codec lets through."""
    data = encoder(Kind.JSON)(text(document))
    column.send(Kind.JSON, [data])
    (received,) = column.receive(Kind.JSON)
    assert equal(Kind.JSON, data, received)


@pytest.mark.parametrize("string", ["1e131072", "1e-16384", "1e-20000", "0." + "0" * 16_384 + "1"], ids=range(4))
def test_V20_beyond_the_limits_of_numeric_is_a_defect(column: Column, string: str) -> None:
    """What production refuses or rounds is out of range, as a number and inside a document."""
    reading = column.read(Kind.NUMERIC, string)
    for kind, value in ((Kind.NUMERIC, text(string)), (Kind.JSON, text(f"[{string}]"))):
        with pytest.raises(ValueDefect) as caught:
            encoder(kind)(value)
        assert caught.value.code == DefectCode.OUT_OF_RANGE
    assert reading is None or decode_binary(Kind.NUMERIC, reading) != string


@pytest.mark.parametrize(
    ("kind", "literal"),
    [
        (Kind.REAL, "NaN"),
        (Kind.NUMERIC, "NaN"),
        (Kind.NUMERIC, "-Infinity"),
        (Kind.TIMESTAMP, "infinity"),
        (Kind.TIMESTAMP, "0044-03-15 12:00:00+00 BC"),
        (Kind.TIMESTAMP, "10000-01-01 00:00:00+00"),
        (Kind.DATE, "-infinity"),
        (Kind.DATE, "10000-01-01"),
        (Kind.TIME, "24:00:00"),
    ],
)
def test_what_the_local_file_cannot_hold_is_a_defect_on_the_way_back(column: Column, kind: Kind, literal: str) -> None:
    """A value of production that SQLite would change, or that could not be sent again, is refused in both forms."""
    data = column.read(kind, literal)
    assert data is not None
    with pytest.raises(ValueDefect):
        decode_binary(kind, data)
    with pytest.raises(ValueDefect):
        decode_text(kind, column.texts(kind)[0])


def test_V45_what_COPY_treats_specially_arrives(column: Column) -> None:
    """Backslashes, tabs, line ends and the end-of-data mark of a text COPY are ordinary characters."""
    strings = ["\\N", "\\.", "a\tb", "a\nb", "a\r\nb", "\\", "\\\\", ""]
    column.send(Kind.TEXT, [encoder(Kind.TEXT)(text(string)) for string in strings])
    assert column.texts(Kind.TEXT) == strings


def test_V14_V21_a_float_is_written_in_production_s_notation(column: Column) -> None:
    """Infinities and every order of magnitude arrive, and production writes them the way the codec does."""
    floats = [float(f"{digits}e{power}") for digits in ("1", "-1.5", "1234") for power in range(-20, 15)]
    floats += [0.0, -0.0, 5e-324, 1.7976931348623157e308, 2.0**53, 123456789012345.6, float("inf"), float("-inf")]
    column.send(Kind.REAL, [encoder(Kind.REAL)(value) for value in floats])
    assert column.texts(Kind.REAL) == [to_text(Kind.REAL, value) for value in floats]
