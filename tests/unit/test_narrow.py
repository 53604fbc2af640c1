"""Claims about values that come back from a wider kind: the same value, or a defect that says why not."""

from __future__ import annotations

from decimal import Decimal
from itertools import product

import pytest

from localstore.codec import Text, ValueDefect, decode_binary, encoder
from localstore.codec.narrow import NARROWERS
from localstore.schema.steps import widens
from localstore.schema.tables import Kind


def test_every_widening_that_is_permitted_has_a_way_back() -> None:
    """A new one cannot be allowed without saying how tenants of the older shape read it."""
    permitted = {(old, new) for old, new in product(Kind, Kind) if old is not new and widens(old, new)}
    assert permitted == set(NARROWERS)


@pytest.mark.parametrize("text", ["0", "-0.00", "7.000", "-10000", str(2**63 - 1), str(-(2**63)), "1e18"])
def test_whole_numbers_come_back(text: str) -> None:
    """Whatever their scale."""
    wide = encoder(Kind.NUMERIC)(Text(text.encode()))
    assert decode_binary(Kind.INTEGER, NARROWERS[Kind.INTEGER, Kind.NUMERIC](wide)) == Decimal(text)


@pytest.mark.parametrize("text", ["0.5", "-6.01", str(2**63), str(-(2**63) - 1), "1e4301", "1e-4"])
def test_others_are_defects(text: str) -> None:
    """Nothing is rounded or cut, and no number is too long to be refused."""
    wide = encoder(Kind.NUMERIC)(Text(text.encode()))
    with pytest.raises(ValueDefect):
        NARROWERS[Kind.INTEGER, Kind.NUMERIC](wide)
