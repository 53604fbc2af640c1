"""What holds for every value, whatever it is: only defects are raised, encoding is stable, shortcuts change nothing."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from localstore.codec import Text, Value, ValueDefect, decode_binary, encoder, equal, preview
from localstore.codec.parse import Tree, parse, same_trees
from localstore.schema.tables import Kind

FRAGMENTS = [
    *(
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        '"',
        " ",
        "\n",
        "\ufeff",
        "null",
        "true",
        "NaN",
        "-",
        "0",
        "1",
        "01",
        "1.",
        "1e5",
        "1E-3",
    ),
    *(
        '"a"',
        '"b"',
        '"a":1',
        '"a":2',
        '"\\u0061"',
        '"\\u003a"',
        '"\\u003A"',
        '"\\u0000"',
        '"\\\\u0000"',
        '"\\ud83d\\ude00"',
    ),
    *(
        '"\\ud800"',
        "1e400",
        "1e-400",
        "1e0001",
        "1e-20000",
        "1e131072",
        '"90e12345"',
        '":"',
        "\x00",
        "\x1f",
        "é",
        "\U0001f600",
    ),
    *(
        "1" * 20,
        "0." + "3" * 17,
        "0." + "1" * 16_000,
        "0." + "1" * 16_400,
        "9" * 131_072,
        "9" * 131_073,
        "-0",
        "0.0",
        "-0.0",
    ),
    *("[" * 300, "]" * 300, "{}", "[]", '{"a":1,"b":2}', '{"b":2,"a":1}', "1.0", "10e-1"),
]

VALUES: SearchStrategy[Value] = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.binary(max_size=40),
    st.binary(max_size=40).map(Text),
    st.text(max_size=40).map(lambda string: Text(string.encode())),
    st.text("0123456789-:.+TZ ", max_size=32).map(lambda string: Text(string.encode())),
    st.text("0123456789abcdef-{}", max_size=38).map(lambda string: Text(string.encode())),
    st.datetimes().map(lambda moment: Text(moment.isoformat(" ").encode())),
)

DOCUMENTS = st.lists(st.sampled_from(FRAGMENTS), max_size=12).map(lambda parts: Text("".join(parts).encode()))


def documents() -> SearchStrategy[Text]:
    """Texts that look like JSON: pieces at random, and the same within arrays and objects."""
    leaf = st.sampled_from(FRAGMENTS)
    array = st.lists(leaf, max_size=4).map(lambda parts: "[" + ",".join(parts) + "]")
    pairs = st.lists(st.tuples(st.sampled_from(['"a"', '"b"', '"\\u0061"', '"a:"', '""']), leaf | array), max_size=3)
    table = pairs.map(lambda inside: "{" + ",".join(f"{key}:{value}" for key, value in inside) + "}")
    return DOCUMENTS | (leaf | array | table).map(lambda string: Text(string.encode()))


def tree_of(document: Text) -> Tree | ValueDefect:
    """Return what the careful reader says."""
    try:
        return parse(document)
    except ValueDefect as found:
        return found


def encoded(kind: Kind, value: Value) -> bytes | ValueDefect:
    """Return a value in binary, or what is wrong with it."""
    try:
        return encoder(kind)(value)
    except ValueDefect as found:
        return found


@pytest.mark.parametrize("kind", Kind)
def test_a_value_is_encoded_or_is_a_defect(kind: Kind) -> None:
    """Whatever a column holds, encoding ends in bytes that come back as an equal value, or in a named defect."""

    @given(VALUES | documents())
    def check(value: Value) -> None:
        data = encoded(kind, value)
        if isinstance(data, ValueDefect):
            assert data.code
            assert data.message.isprintable()
            assert data.preview == preview(value)
            return
        local = decode_binary(kind, data)
        again = encoder(kind)(Text(local.encode()) if isinstance(local, str) else local)
        assert equal(kind, data, again)
        assert decode_binary(kind, again) == local

    check()


@settings(max_examples=500)
@given(documents())
def test_V36_to_V42_the_fast_way_says_what_the_careful_way_says(document: Text) -> None:
    """A document is accepted without being parsed only if parsing it would find no defect."""
    tree, data = tree_of(document), encoded(Kind.JSON, document)
    if isinstance(tree, ValueDefect):
        assert isinstance(data, ValueDefect)
        assert data.to_json() == tree.to_json()
    else:
        assert data == b"\x01" + document


@given(documents(), documents())
@example(Text(b"0.1"), Text(b"0.1000000000000000055"))
@example(Text(b"1e-400"), Text(b"2e-400"))
@example(Text(b"[1]"), Text(b"[true]"))
def test_equality_of_documents_takes_no_wrong_shortcut(one: Text, other: Text) -> None:
    """Two documents are equal exactly when their trees are, in either order."""
    tree, tree_of_other = tree_of(one), tree_of(other)
    if not isinstance(tree, ValueDefect) and not isinstance(tree_of_other, ValueDefect):
        a, b = encoder(Kind.JSON)(one), encoder(Kind.JSON)(other)
        assert equal(Kind.JSON, a, b) == equal(Kind.JSON, b, a) == same_trees(tree, tree_of_other)
        assert equal(Kind.JSON, a, a)


@given(VALUES)
def test_a_preview_is_always_printable(value: Value) -> None:
    """No value leaves a control character in a preview, or makes it longer than 80 characters."""
    shown = preview(value)
    assert len(shown) <= 80
    assert shown.isprintable()
