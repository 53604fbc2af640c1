"""Tenant ids become folder names: what could leave the folder, or collide in it, is refused."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from localstore.errors import ConfigurationError, InvalidIdentifier
from localstore.identifiers import check_platform, check_tenant_id, preview

RULE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
HOSTILE = [
    "", ".", "..", "../x", "/etc/passwd", "a/../b", "a\\..\\b", "a:b", "CON", "con", "nul", "nul.txt", "com1",
    "COM\u00b9", "a.", "a ",
    " a", "a\0b", "\u202ea", "\uff0e\uff0e", "A", "\u00e9", "e\u0301", "-a", "_a", "a\n", "x" * 64,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_S1_a_name_that_is_no_plain_folder_name_is_refused(text: str) -> None:
    """Everything outside the rule is refused, for tenants and platforms alike, with a hint."""
    for check in (check_tenant_id, check_platform):
        with pytest.raises(InvalidIdentifier) as caught:
            check(text)
        assert caught.value.hint


@given(st.text(max_size=70))
@example("a\n")
def test_S1_what_is_accepted_is_a_folder_of_its_own(text: str) -> None:
    """An accepted id matches the rule and names a direct child of the store; a refused one raises only our error."""
    try:
        accepted = check_tenant_id(text)
    except InvalidIdentifier:
        return
    assert RULE.fullmatch(accepted)
    root = Path(tempfile.gettempdir())
    assert (root / accepted).resolve().parent == root.resolve()
    assert accepted == accepted.casefold()


@given(st.from_regex(RULE, fullmatch=True))
def test_every_plain_name_is_accepted(text: str) -> None:
    """The rule is the whole rule, but for names that are devices on Windows."""
    if re.fullmatch(r"con|prn|aux|nul|(com|lpt)\d", text):
        return
    assert check_tenant_id(text) == text


@given(st.text())
def test_a_message_never_repeats_hostile_characters(text: str) -> None:
    """A preview is short and plain ASCII, whatever was given."""
    shown = preview(text).rstrip("…")
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= 41


def test_a_bad_identifier_is_a_value_error() -> None:
    """Callers that know nothing of the toolkit can still catch what is wrong with their value."""
    with pytest.raises(ValueError, match="not a valid tenant id"):
        check_tenant_id("../x")
    assert issubclass(InvalidIdentifier, ConfigurationError)


@pytest.mark.parametrize("check", [check_tenant_id, check_platform])
def test_a_number_too_long_to_be_written_is_refused_like_any_other(check: Callable[[Any], object]) -> None:
    """Python writes out no integer of more than 4,300 digits; the refusal does not need it to."""
    with pytest.raises(InvalidIdentifier, match="very long int"):
        check(10**5000)
