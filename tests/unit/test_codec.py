"""Which values of SQLite each kind of column takes, and the reason that is given for the others."""

from __future__ import annotations

import sqlite3
import struct
from uuid import UUID

import pytest

from localstore.codec import (
    FIELD_BYTES_MAX,
    DefectCode,
    Text,
    Value,
    ValueDefect,
    decode_binary,
    decode_text,
    encoder,
    equal,
    equality,
    field_encoders,
    preview,
    to_text,
)
from localstore.codec.parse import DEPTH_MAX, TOKEN_BYTES_MAX, parse
from localstore.schema.tables import Column, Kind, Table
from localstore.schema.types import kind_of_declared, production_type, type_oid


def text(string: str) -> Text:
    """Return a text as SQLite's driver gives it."""
    return Text(string.encode())


def code_of(kind: Kind, value: Value) -> str | None:
    """Return the code of a value's defect, or None when it is accepted."""
    try:
        encoder(kind)(value)
    except ValueDefect as found:
        return found.code
    return None


def stored(kind: Kind, value: Value | str) -> object:
    """Return what comes back of a value that went to production's format."""
    return decode_binary(kind, encoder(kind)(text(value) if isinstance(value, str) else value))


def from_sqlite(declared: str, expression: str) -> Value:
    """Return a value as a column of a real SQLite table keeps it."""
    connection = sqlite3.connect(":memory:")
    connection.text_factory = Text
    connection.execute(f"CREATE TABLE t (c {declared})")
    connection.execute(f"INSERT INTO t VALUES ({expression})")
    (value,) = connection.execute("SELECT c FROM t").fetchone()
    connection.close()
    return value  # type: ignore[no-any-return]


def test_V1_nul_in_text_is_quarantined() -> None:
    """U+0000, which SQLite keeps, is a defect wherever it stands."""
    assert code_of(Kind.TEXT, from_sqlite("TEXT", "'a' || char(0) || 'b'")) == DefectCode.NUL
    assert code_of(Kind.TEXT, text("é\x00")) == DefectCode.NUL


def test_V3_text_that_is_not_utf8_is_quarantined() -> None:
    """Bytes that no decoder takes, halves of surrogate pairs among them, are read and named."""
    assert code_of(Kind.TEXT, from_sqlite("TEXT", "CAST(x'ff61' AS TEXT)")) == DefectCode.INVALID_UTF8
    assert code_of(Kind.TEXT, from_sqlite("TEXT", "CAST(x'eda080' AS TEXT)")) == DefectCode.INVALID_UTF8
    assert code_of(Kind.JSON, from_sqlite("TEXT", "CAST(x'22ff22' AS TEXT)")) == DefectCode.INVALID_UTF8


@pytest.mark.parametrize("expression", ["'abc'", "'12abc'", "''", "1.5", "x'01'", "9e999"])
def test_V4_V5_V23_only_integers_are_integers(expression: str) -> None:
    """What INTEGER affinity could not turn into an integer is a defect, never rounded or read as zero."""
    assert code_of(Kind.INTEGER, from_sqlite("INTEGER", expression)) == DefectCode.STORAGE_CLASS


def test_V4_digits_in_a_text_are_not_an_integer() -> None:
    """A text of digits, which a column without affinity keeps, is a defect of an integer column."""
    assert code_of(Kind.INTEGER, from_sqlite("", "'12'")) == DefectCode.STORAGE_CLASS


def test_V10_an_integer_beyond_64_bits_is_quarantined() -> None:
    """SQLite keeps the literal as a float, and that is a defect of an integer column."""
    assert code_of(Kind.INTEGER, from_sqlite("INTEGER", "'9223372036854775808'")) == DefectCode.STORAGE_CLASS
    assert code_of(Kind.INTEGER, 2**63) == DefectCode.OUT_OF_RANGE


def test_V11_integers_of_64_bits_are_taken() -> None:
    """The ends of SQLite's range come back as they went."""
    for value in (2**31, 2**63 - 1, -(2**63)):
        assert stored(Kind.INTEGER, value) == value


def test_V14_infinity_is_a_float_but_not_a_numeric() -> None:
    """The infinities go into a REAL column and are a defect of a NUMERIC one."""
    assert stored(Kind.REAL, from_sqlite("REAL", "9e999")) == float("inf")
    assert code_of(Kind.NUMERIC, from_sqlite("REAL", "9e999")) == DefectCode.OUT_OF_RANGE
    assert code_of(Kind.JSON, float("-inf")) == DefectCode.OUT_OF_RANGE


def test_V15_zeros_are_equal() -> None:
    """SQLite loses the sign of a zero, so that its sign is no difference."""
    assert equal(Kind.REAL, encoder(Kind.REAL)(0.0), encoder(Kind.REAL)(-0.0))


def test_V16_an_integer_that_no_float_holds_is_quarantined() -> None:
    """An integer in a column of floats is taken exactly or not at all."""
    assert stored(Kind.REAL, 2**53) == 2.0**53
    assert code_of(Kind.REAL, 2**53 + 1) == DefectCode.INEXACT
    assert code_of(Kind.REAL, 10**400) == DefectCode.OUT_OF_RANGE


@pytest.mark.parametrize(
    ("value", "comes_back"),
    [
        (text("1.10"), "1.10"),
        (text("123456789012345678.99"), "123456789012345678.99"),
        (text("-0.00"), "0.00"),
        (text("+007"), "7"),
        (text("1e3"), "1000"),
        (text("15e-1"), "1.5"),
        (text("12300e-4"), "1.2300"),
        (text(".5"), "0.5"),
        (0, "0"),
        (-10_000, "-10000"),
        (9_999, "9999"),
        (2**63 - 1, "9223372036854775807"),
        (1.1, "1.1"),
        (1e22, "10000000000000000000000"),
        (5e-7, "0.0000005"),
    ],
)
def test_V17_V18_numbers_keep_their_digits(value: Value, comes_back: str) -> None:
    """A decimal keeps every digit and its scale, whatever SQLite stored it as."""
    assert stored(Kind.NUMERIC, value) == comes_back


@pytest.mark.parametrize(
    "string", ["", "NaN", "Infinity", " 5", "5 ", "1_000", "0x1F", "1,5", "e5", ".", "-", "1e", "٣"]
)
def test_V20_what_is_no_plain_decimal_is_quarantined(string: str) -> None:
    """Other spellings, which some versions of PostgreSQL read, are defects."""
    assert code_of(Kind.NUMERIC, text(string)) == DefectCode.MALFORMED


@pytest.mark.parametrize("string", ["1e131072", "1e-16384", "1e-20000", "1e999999999", "-1e999999999", "0e-99999"])
def test_V20_what_numeric_cannot_hold_is_quarantined(string: str) -> None:
    """Numbers beyond PostgreSQL's limits are found without writing them out."""
    assert code_of(Kind.NUMERIC, text(string)) == DefectCode.OUT_OF_RANGE
    assert code_of(Kind.JSON, text(f'{{"a":[0,{string}]}}')) == DefectCode.OUT_OF_RANGE


@pytest.mark.parametrize("expression", ["2", "-1", "'t'", "'true'", "''", "1.5", "x'01'"])
def test_V22_only_zero_and_one_are_booleans(expression: str) -> None:
    """Words that PostgreSQL would read as a boolean are defects like all others."""
    assert code_of(Kind.BOOLEAN, from_sqlite("BOOLEAN", expression)) is not None
    assert (stored(Kind.BOOLEAN, 0), stored(Kind.BOOLEAN, 1)) == (0, 1)


def test_V24_a_declared_length_cuts_nothing() -> None:
    """A text longer than its declaration, and spaces at its end, are kept."""
    assert stored(Kind.TEXT, from_sqlite("VARCHAR(3)", "'abcdefgh   '")) == "abcdefgh   "


@pytest.mark.parametrize("string", ["2024-02-30", "0000-00-00", "0000-01-01", "2023-02-29", "2024-13-01"])
def test_V25_V26_days_that_do_not_exist_are_quarantined(string: str) -> None:
    """Neither a date nor a timestamp names a day that the calendar lacks."""
    assert code_of(Kind.DATE, text(string)) == DefectCode.OUT_OF_RANGE
    assert code_of(Kind.TIMESTAMP, text(f"{string} 00:00:00")) == DefectCode.OUT_OF_RANGE


@pytest.mark.parametrize("clock", ["24:00:00", "23:59:60", "12:60:00", "25:00:00", "23:59:61"])
def test_V27_V28_times_that_would_move_on_are_quarantined(clock: str) -> None:
    """Hour 24 and leap seconds are defects of times and timestamps."""
    assert code_of(Kind.TIME, text(clock)) == DefectCode.OUT_OF_RANGE
    assert code_of(Kind.TIMESTAMP, text(f"2024-01-01 {clock}")) == DefectCode.OUT_OF_RANGE
    assert code_of(Kind.TIMESTAMP, text(f"2024-01-01T{clock}Z")) == DefectCode.OUT_OF_RANGE


@pytest.mark.parametrize(
    ("string", "comes_back"),
    [
        ("2024-01-02 03:04:05.678901", "2024-01-02 03:04:05.678901"),
        ("2024-01-02T03:04:05", "2024-01-02 03:04:05.000000"),
        ("2024-01-02T03:04:05.678Z", "2024-01-02 03:04:05.678000"),
        ("2024-01-02T03:04:05.6Z", "2024-01-02 03:04:05.600000"),
        ("2024-01-02 03:04:05.678901000", "2024-01-02 03:04:05.678901"),
        ("2024-01-02T03:04:05.000+0530", "2024-01-01 21:34:05.000000"),
        ("2024-01-02 03:04:05 -00:30", "2024-01-02 03:34:05.000000"),
        ("2024-01-02 03:04:05+15:59:59", "2024-01-01 11:04:06.000000"),
        ("2024-01-02 03:04", "2024-01-02 03:04:00.000000"),
        ("2024-01-02", "2024-01-02 00:00:00.000000"),
        ("0001-01-01 00:00:00", "0001-01-01 00:00:00.000000"),
        ("9999-12-31 23:59:59.999999", "9999-12-31 23:59:59.999999"),
    ],
)
def test_V29_V30_timestamps_are_utc(string: str, comes_back: str) -> None:
    """An offset counts, no offset is UTC, and the local form is SQLAlchemy's."""
    assert stored(Kind.TIMESTAMP, string) == comes_back


@pytest.mark.parametrize(
    "string",
    ["2024-01-01 00:00+16:00", "2024-01-01 00:00+05:60", "9999-12-31 23:59-01:00", "0001-01-01 00:00+01:00"],
)
def test_V31_offsets_out_of_range_are_quarantined(string: str) -> None:
    """An offset that PostgreSQL refuses, or that leaves the years 1 to 9999, is a defect."""
    assert code_of(Kind.TIMESTAMP, text(string)) == DefectCode.OUT_OF_RANGE


@pytest.mark.parametrize(
    "string",
    [
        "now",
        "today",
        "infinity",
        "-infinity",
        "epoch",
        "01/02/2024",
        "",
        "20240101",
        "2024-W01-1",
        "10000-01-01",
        "2024-1-1",
        "44-03-15 BC",
        "2024-01-01 BC",
        "2024-01-01x00:00:00",
        "2024-01-01 00:00:00,5",
        " 2024-01-01",
        "2024-01-01\n",
        "２024-01-01",
    ],
)
def test_V32_V33_other_spellings_of_a_moment_are_quarantined(string: str) -> None:
    """What PostgreSQL would evaluate at load, or read by its session's settings, is a defect of all three kinds."""
    for kind in (Kind.TIMESTAMP, Kind.DATE, Kind.TIME):
        assert code_of(kind, text(string)) == DefectCode.MALFORMED


def test_V29_a_time_with_an_offset_is_quarantined() -> None:
    """PostgreSQL would drop the offset silently."""
    assert code_of(Kind.TIME, text("12:00:00+01")) == DefectCode.MALFORMED
    assert code_of(Kind.TIME, text("12:00:00Z")) == DefectCode.MALFORMED
    assert stored(Kind.TIME, "12:30") == "12:30:00.000000"


@pytest.mark.parametrize("value", [1700000000, 2460310.5])
def test_V34_epoch_and_julian_numbers_are_quarantined(value: Value) -> None:
    """A number is no moment: nobody says which of the two it counts."""
    for kind in (Kind.TIMESTAMP, Kind.DATE, Kind.TIME):
        assert code_of(kind, value) == DefectCode.STORAGE_CLASS


def test_V35_a_seventh_digit_is_quarantined() -> None:
    """A time finer than a microsecond is a defect, not rounded."""
    assert code_of(Kind.TIMESTAMP, text("2024-01-01 00:00:00.1234567")) == DefectCode.INEXACT
    assert code_of(Kind.TIME, text("00:00:00.0000001")) == DefectCode.INEXACT


@pytest.mark.parametrize(
    "string",
    [
        '{"a":1,"a":2}',
        '{"a":1,"\\u0061":1}',
        '[{"b":{"a":[],"c":0,"a":":"}}]',
        '{"a":1,"a":"\\u003a"}',
        '{"a":1,"a":"\\u003A"}',
        '{"":1,"":1}',
    ],
)
def test_V36_a_key_that_stands_twice_is_quarantined(string: str) -> None:
    """The first of the two, in whatever spelling it stands, would be dropped by jsonb."""
    assert code_of(Kind.JSON, text(string)) == DefectCode.DUPLICATE_KEY


@pytest.mark.parametrize(
    "string", ['[{"a":1},{"a":2}]', '{"a":{"a":":\\":"}}', '{"a":"\\u003a\\u003A","b":"x:y"}', '{"A":1,"a":1}']
)
def test_V36_a_key_in_different_objects_is_taken(string: str) -> None:
    """Colons in strings and equal keys of different objects raise no alarm."""
    assert stored(Kind.JSON, string) == string


def test_V37_an_escaped_nul_is_quarantined() -> None:
    """The escape is a defect in a string and in a key; a backslash before the same letters is not."""
    assert code_of(Kind.JSON, text('["\\u0000"]')) == DefectCode.NUL
    assert code_of(Kind.JSON, text('{"a\\u0000":1}')) == DefectCode.NUL
    assert code_of(Kind.JSON, text('["\\\\u0000"]')) is None
    assert code_of(Kind.JSON, text('["\\\\\\u0000"]')) == DefectCode.NUL


@pytest.mark.parametrize("string", ["\\ud800", "\\udc00", "\\udc00\\ud800", "\\ud83d \\ude00", "\\ud83d\\u0041"])
def test_V39_half_a_surrogate_pair_is_quarantined(string: str) -> None:
    """Halves are defects, a whole pair is a character."""
    assert code_of(Kind.JSON, text(f'["{string}"]')) == DefectCode.LONE_SURROGATE
    assert code_of(Kind.JSON, text('["\\ud83d\\ude00"]')) is None


@pytest.mark.parametrize(
    "string", ["1e400", "123456789012345678901234567890.10", "-1E-16383", "[1e131071]", '"90e12345"']
)
def test_V40_big_numbers_are_sent_exactly(string: str) -> None:
    """A number that no float holds travels digit by digit."""
    assert stored(Kind.JSON, string) == string


@pytest.mark.parametrize(
    "string",
    [
        "",
        " ",
        "[1,]",
        "[1,,2]",
        "{'a':1}",
        "{a:1}",
        '{"a"}',
        '{"a":1,}',
        '{"a":}',
        "[",
        "]",
        "[}",
        '{"a":1',
        "1 2",
        "01",
        "1.",
        ".5",
        "+1",
        "-",
        "NaN",
        "Infinity",
        "nul",
        "True",
        '"',
        '"\\x"',
        '"\\u12"',
        '"\t"',
        "\ufeff1",
        "\x0b1",
        "//1",
        "{1:2}",
        "[:]",
    ],
)
def test_V38_V41_what_is_not_json_is_quarantined(string: str) -> None:
    """What jsonb would refuse is malformed."""
    assert code_of(Kind.JSON, text(string)) == DefectCode.MALFORMED


def test_V42_a_document_too_deep_is_quarantined() -> None:
    """Depth is counted without recursion, up to the limit and beyond."""
    assert code_of(Kind.JSON, text("[" * DEPTH_MAX + "]" * DEPTH_MAX)) is None
    for depth in (DEPTH_MAX + 1, 100_000):
        assert code_of(Kind.JSON, text("[" * depth + "]" * depth)) == DefectCode.TOO_DEEP
        assert code_of(Kind.JSON, text('{"a":' * depth + "1" + "}" * depth)) == DefectCode.TOO_DEEP


def test_V7_a_number_that_affinity_made_of_a_document_is_that_document() -> None:
    """A column declared JSON has NUMERIC affinity, and its numbers are JSON all the same."""
    assert stored(Kind.JSON, from_sqlite("JSON", "'5'")) == "5"
    assert stored(Kind.JSON, from_sqlite("JSON", "'1.5'")) == "1.5"
    assert code_of(Kind.JSON, from_sqlite("JSON", "x'7b7d'")) == DefectCode.STORAGE_CLASS


UUID_HEX = "a0eebc999c0b4ef8bb6d6bb9bd380a11"


@pytest.mark.parametrize(
    "string",
    [
        UUID_HEX,
        UUID_HEX.upper(),
        str(UUID(UUID_HEX)),
        str(UUID(UUID_HEX)).upper(),
        f"{{{UUID(UUID_HEX)}}}",
        f"{{{UUID_HEX}}}",
    ],
)
def test_V43_every_spelling_of_a_uuid_is_one_value(string: str) -> None:
    """Case, hyphens and braces do not make another UUID."""
    assert stored(Kind.UUID, string) == UUID_HEX
    assert stored(Kind.UUID, bytes.fromhex(UUID_HEX)) == UUID_HEX
    assert to_text(Kind.UUID, string) == str(UUID(UUID_HEX))


@pytest.mark.parametrize(
    "string", ["", UUID_HEX[:-1], "g" * 32, UUID_HEX[:-2] + " a", "{" + UUID_HEX, "-" * 36, "é" * 16]
)
def test_V43_what_is_no_uuid_is_quarantined(string: str) -> None:
    """Other texts, and blobs that have not 16 bytes, are defects."""
    assert code_of(Kind.UUID, text(string)) == DefectCode.MALFORMED
    assert code_of(Kind.UUID, b"short") == DefectCode.MALFORMED


def test_V44_a_blob_column_holds_blobs_only() -> None:
    """Text and numbers in a BLOB column are defects, and a blob in a TEXT column is one."""
    for expression in ("'text'", "1", "1.5"):
        assert code_of(Kind.BLOB, from_sqlite("BLOB", expression)) == DefectCode.STORAGE_CLASS
    assert code_of(Kind.TEXT, from_sqlite("TEXT", "x'00ff'")) == DefectCode.STORAGE_CLASS
    assert stored(Kind.BLOB, from_sqlite("BLOB", "x'00ff'")) == b"\x00\xff"


def test_N10_a_blob_too_large_for_a_row_is_quarantined() -> None:
    """A field's size is limited so that a value, its base and their text forms fit into production's memory."""
    assert code_of(Kind.BLOB, bytes(FIELD_BYTES_MAX)) is None
    assert code_of(Kind.BLOB, bytes(FIELD_BYTES_MAX + 1)) == DefectCode.TOO_LARGE


def test_N9_a_text_too_large_for_a_row_is_quarantined(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a text counts bytes, not characters; it is lowered here to spare memory."""
    monkeypatch.setattr("localstore.codec.scalars.FIELD_BYTES_MAX", 10)
    assert code_of(Kind.TEXT, text("é" * 5)) is None
    assert code_of(Kind.TEXT, text("é" * 5 + "a")) == DefectCode.TOO_LARGE


def test_N9_a_document_is_taken_up_to_jsonb_s_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A document counts its text and a surcharge for each key and value; the limit is lowered here to spare memory."""
    monkeypatch.setattr("localstore.codec.parse.JSONB_BYTES_MAX", 100)
    fits = 100 - TOKEN_BYTES_MAX - 2
    assert parse(b'"' + b"a" * fits + b'"') == "a" * fits
    for document in (b'"' + b"a" * (fits + 1) + b'"', b"[1,1,1,1,1,1,1,1]", b'{"a":1,"b":2,"c":3}'):
        with pytest.raises(ValueDefect) as caught:
            parse(document)
        assert caught.value.code == DefectCode.TOO_LARGE


def test_a_preview_is_short_and_harmless() -> None:
    """A preview has at most 80 characters, none of which moves a cursor or turns a line around."""
    for value in (
        text("\x1b[2J\u202e\x00\n" * 50),
        Text(b"\xff\xfe" * 90),
        bytes(500),
        text("é" * 500),
        "\ud800\u2066" * 90,
    ):
        shown = preview(value)
        assert len(shown) <= 80
        assert shown.isprintable()
        shown.encode()
    assert preview(text("plain")) == "plain"
    assert preview(b"\x00\xff") == "x'00ff'"
    assert preview(text("a\x00b")) == "a\\x00b"


def test_a_defect_says_what_where_and_why() -> None:
    """Code, message, preview and storage class are there, and its JSON can itself be stored as jsonb."""
    with pytest.raises(ValueDefect, match="integer column holds a value that SQLite stores as text") as caught:
        encoder(Kind.INTEGER)(text("a\x00"))
    assert caught.value.to_json() == {
        "code": "storage_class",
        "message": "an integer column holds a value that SQLite stores as text",
        "preview": "a\\x00",
        "storage": "text",
    }


def test_field_encoders_follow_the_columns_that_travel() -> None:
    """There is one encoder a sent column, in order; a computed column has none."""
    columns = (Column("a", Kind.INTEGER), Column("b", Kind.TEXT, computed=True), Column("c", Kind.UUID))
    encoders = field_encoders(Table("t", columns, key=("a",)))
    assert encoders == (encoder(Kind.INTEGER), encoder(Kind.UUID))


def test_NULL_is_equal_to_NULL_only() -> None:
    """NULL differs from every value, the empty text (V23) among them."""
    for kind in Kind:
        assert equal(kind, None, None)
        assert not equal(kind, None, b"")
        assert not equal(kind, b"", None)
    assert equality(Kind.TEXT)(b"a", b"a")
    assert not equality(Kind.TEXT)(b"a", b"b")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.1", "0.1000000000000000055"),
        ('{"a":18446744073709551616}', '{"a":18446744073709551617}'),
        ("[\t1.234567890123456789 ]", "[\t1.234567890123456788 ]"),
        ("1234567890123456e5", "1234567890123457e5"),
        ("0.123456789012345678e1", "0.123456789012345679e1"),
        ('{"a":-1.0E-330}', '{"a":-2.0E-330}'),
        ("[1]", "[true]"),
        ('{"a":null}', "{}"),
    ],
)
def test_V40_documents_that_differ_beyond_a_float_are_not_equal(one: str, other: str) -> None:
    """Numbers are compared digit by digit where a float would make them alike, and are no booleans."""
    a, b = encoder(Kind.JSON)(text(one)), encoder(Kind.JSON)(text(other))
    assert not equal(Kind.JSON, a, b)
    assert equal(Kind.JSON, a, b"\x01 " + a[1:])


@pytest.mark.parametrize(
    ("kind", "shown", "local"),
    [
        (Kind.BOOLEAN, "t", 1),
        (Kind.BOOLEAN, "false", 0),
        (Kind.BLOB, "\\x00ff", b"\x00\xff"),
        (Kind.TIMESTAMP, "2024-01-02 03:04:05.5+00", "2024-01-02 03:04:05.500000"),
        (Kind.UUID, str(UUID(UUID_HEX)), UUID_HEX),
        (Kind.REAL, "-Infinity", float("-inf")),
        (Kind.JSON, '{"a": 1}', '{"a": 1}'),
    ],
)
def test_production_s_texts_become_what_the_local_file_stores(kind: Kind, shown: str, local: object) -> None:
    """Each text form of production has one local value."""
    assert decode_text(kind, shown) == local


def test_text_that_is_not_a_sqlite_text_is_a_mistake_of_the_program() -> None:
    """A connection without `text_factory` is found at its first text, not taken for bad data."""
    with pytest.raises(TypeError, match="text_factory"):
        encoder(Kind.TEXT)("a str")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("declared", "kind"),
    [
        ("INTEGER", Kind.INTEGER),
        ("varchar(255)", Kind.TEXT),
        ("VARYING CHARACTER (70)", Kind.TEXT),
        ("DECIMAL(10, 2)", Kind.NUMERIC),
        ("timestamp  with time zone", Kind.TIMESTAMP),
        ("double precision", Kind.REAL),
        ("GUID", Kind.UUID),
        ("", None),
        ("STRING", None),
        ("FLOATING POINT", None),
        ("POINT", None),
    ],
)
def test_V7_V8_a_declaration_names_a_kind_only_where_it_is_sure(declared: str, kind: Kind | None) -> None:
    """A name whose affinity is not what it says leaves the decision to the stored values."""
    assert kind_of_declared(declared) is kind


def test_every_kind_has_a_type_of_its_own() -> None:
    """No two kinds share a type or an OID."""
    assert len({production_type(kind) for kind in Kind}) == len({type_oid(kind) for kind in Kind}) == len(Kind)


def test_V44_a_vector_is_a_blob_of_finite_floats() -> None:
    """Text, numbers, bytes that are no floats, NaN and infinities are defects; all else comes back to the bit."""
    assert code_of(Kind.VECTOR, text("[1,2]")) == DefectCode.STORAGE_CLASS
    assert code_of(Kind.VECTOR, 7) == DefectCode.STORAGE_CLASS
    assert code_of(Kind.VECTOR, b"") == code_of(Kind.VECTOR, b"abcde") == DefectCode.MALFORMED
    for number in (float("nan"), float("inf"), float("-inf")):
        assert code_of(Kind.VECTOR, struct.pack("<2f", 1.0, number)) == DefectCode.OUT_OF_RANGE
    assert code_of(Kind.VECTOR, struct.pack("<2f", float("inf"), float("-inf"))) == DefectCode.OUT_OF_RANGE
    assert code_of(Kind.VECTOR, bytes(4 * 16_001)) == DefectCode.OUT_OF_RANGE
    largest = struct.pack("<I", 0x7F7FFFFF)
    numbers = struct.pack("<3f", -0.0, 0.1, 1e-45) + largest * 15_000
    assert stored(Kind.VECTOR, numbers) == numbers
    assert decode_text(Kind.VECTOR, to_text(Kind.VECTOR, numbers)) == numbers


def test_a_vector_equals_another_number_by_number() -> None:
    """Minus zero is zero, as production says; another number, or one more, is another vector."""
    one, minus, more = (encoder(Kind.VECTOR)(struct.pack(f"<{len(v)}f", *v)) for v in ((0.0, 1), (-0.0, 1), (0, 1, 0)))
    assert equal(Kind.VECTOR, one, minus)
    assert not equal(Kind.VECTOR, one, more)


def test_an_array_that_is_no_vector_is_a_defect() -> None:
    """An application may have written NULLs or arrays of arrays where production has no type for vectors."""
    whole = encoder(Kind.VECTOR)(struct.pack("<2f", 1, 2))
    for data in (b"", whole[:-1], struct.pack(">iii", 0, 0, 700), struct.pack(">i", 2) + whole[4:], whole + b"1234"):
        with pytest.raises(ValueDefect):
            decode_binary(Kind.VECTOR, data)
