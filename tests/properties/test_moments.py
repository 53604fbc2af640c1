"""Stored times in every spelling: read as production reads them, and ordered as production orders them."""

from __future__ import annotations

import sqlite3

from hypothesis import given
from hypothesis import strategies as st

from localstore.codec.times import decode_timestamp, encode_timestamp
from localstore.codec.values import Text, ValueDefect
from localstore.moments import moment_text, ordered, otherwise, read_time
from localstore.sqlite.alchemy import add_functions
from tests.spelling import MOMENTS, spellings

SPELLED = MOMENTS.flatmap(lambda moment: st.tuples(st.just(moment), spellings(moment)))
NEARLY = st.text(alphabet="0123456789-:. TZ+", max_size=32) | SPELLED.map(lambda drawn: drawn[1])
ANYTHING = st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=30) | NEARLY


@given(SPELLED)
def test_every_spelling_is_read_as_its_moment(spelled: tuple[object, str]) -> None:
    """Whatever way a moment is spelled, it is read as that moment, by the codec and by whoever reads a file."""
    moment, text = spelled
    assert read_time(text) == moment
    assert moment_text(text.encode()) == decode_timestamp(encode_timestamp(Text(text.encode())))


@given(NEARLY)
def test_what_production_is_given_is_read_as_the_same_moment(text: str) -> None:
    """No text that the codec takes is read as another moment, or as none."""
    try:
        sent = decode_timestamp(encode_timestamp(Text(text.encode())))
    except ValueDefect:
        return
    assert moment_text(text.encode()) == sent


@given(st.lists(ANYTHING, max_size=8))
def test_sqlite_orders_stored_times_by_their_moments(stored: list[object]) -> None:
    """Times are in order of their moments; NULL and what is no time come first, and no value is an error."""
    connection = sqlite3.connect(":memory:")
    add_functions(connection)
    connection.execute("CREATE TABLE t (at DATETIME)")
    connection.executemany("INSERT INTO t VALUES (?)", [(value,) for value in stored])
    found = connection.execute(f"SELECT {ordered('at')}, {otherwise('at')}, at FROM t ORDER BY 1").fetchall()
    connection.close()
    assert len(found) == len(stored)
    moments = [moment for moment, _, _ in found if moment is not None]
    assert moments == sorted(moments)
    for moment, otherwise_spelled, value in found:
        if not otherwise_spelled:
            assert moment == value
        elif isinstance(value, str):
            assert moment == moment_text(value.encode())


def test_only_the_form_that_we_write_is_in_order_already() -> None:
    """Another length, separator, hour or class of value is looked at one by one."""
    connection = sqlite3.connect(":memory:")
    normal = "2024-01-03 05:00:00.000000"
    others = (
        *("2024-01-03", "2024-01-03 05:00", "2024-01-03 05:00:00", "2024-01-03T05:00:00.000000", f"{normal}Z"),
        *("2024-01-03 24:00:00.000000", "2024-01-03 05:60:00.000000", "2024-01-03 05:00:00.000", "soon", ""),
        *(7, 2.5, normal.encode()),
    )
    for value, expected in ((None, 0), (normal, 0), *((other, 1) for other in others)):
        assert connection.execute(f"SELECT {otherwise('v')} FROM (SELECT ? AS v)", (value,)).fetchone() == (expected,)
    connection.close()
