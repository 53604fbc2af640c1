"""JSON documents as text, file names, and what a directory may not make us read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localstore.interchange.document import BrokenDocument, decode, parse, replace_members
from localstore.interchange.layout import NAME_BYTES_MAX, Layout, Names, case_matters, safe_name, write_document

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ('{"a": 1,}', "not JSON"),
        ("{'a': 1}", "not JSON"),
        ('{"a": NaN}', "NaN is not a JSON value"),
        ('{"a": -Infinity}', "-Infinity is not a JSON value"),
        ("[1]", "not a JSON object"),
        ('"a"', "not a JSON object"),
        ('{"a": ' + "[" * 5_000 + "]" * 5_000 + "}", "nested too deeply"),
    ],
)
def test_V38_V41_what_is_no_json_object_is_refused(text: str, reason: str) -> None:
    """Python would take some of these; JSON is read strictly, and the reason says what is wrong."""
    with pytest.raises(BrokenDocument, match=reason):
        parse(text)


def test_V37_V39_escapes_that_postgres_refuses_are_json_all_the_same() -> None:
    """U+0000 and lone surrogates as escapes are legal JSON and are read."""
    assert parse(r'{"a": "\u0000", "b": "\ud800"}') == {"a": "\0", "b": "\ud800"}


def test_bytes_that_are_no_utf8_are_refused() -> None:
    """A file in another encoding is named with the place where it goes wrong."""
    with pytest.raises(BrokenDocument, match=r"not UTF-8 \(byte 6\)"):
        decode('{"a": "ü"}'.encode("latin-1")[:6] + b"\xfc")


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    """A BOM is taken off; line ends stay."""
    assert decode(b'\xef\xbb\xbf{"a":\r\n1}') == '{"a":\r\n1}'


@given(before=OBJECTS, members=OBJECTS, indent=st.sampled_from([None, 1]), ascii_only=st.booleans())
def test_replacing_members_changes_these_and_nothing_else(
    before: dict[str, Any], members: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    """Whatever the object and its layout, the new text holds the old members with the new ones over them."""
    text = json.dumps(before, indent=indent, ensure_ascii=ascii_only)
    assert json.loads(replace_members(text, members)) == before | members


def test_the_text_around_a_replaced_member_stays() -> None:
    """Spacing, numbers beyond a float and the order of members survive an edit of another member."""
    text = '{ "big" : 12345678901234567890.10 ,\r\n "title":"a", "s":"\\ud800" }\n'
    assert replace_members(text, {"title": "b", "new": 1}) == (
        '{ "big" : 12345678901234567890.10 ,\r\n "title":"b", "s":"\\ud800", "new": 1 }\n'
    )


def test_V36_of_a_member_that_stands_twice_the_last_one_is_replaced() -> None:
    """Readers take the last of two members of one name, so that is the one to edit."""
    assert parse(replace_members('{"a": 1, "a": 2}', {"a": 3})) == {"a": 3}


@given(st.text())
def test_every_id_gets_a_safe_file_name(item_id: str) -> None:
    """No id makes a name with a separator, a device, a hidden file or too many bytes."""
    name = safe_name(item_id)
    assert name
    assert not set(name) & set('/\\:<>"|?*\0')
    assert name[0] not in ". "
    assert name[-1] not in ". "
    assert name.isprintable()
    assert len(name.encode()) <= NAME_BYTES_MAX


@pytest.mark.parametrize(
    ("item_id", "name"),
    [
        ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
        ("CON", "%43ON"),
        ("nul.txt", "%6Eul.txt"),
        ("a.", "a%2E"),
        (".hidden", "%2Ehidden"),
        ("MOD-42", "MOD-42"),
        ("주문 1", "주문 1"),
    ],
)
def test_S1_names_that_are_no_file_names_are_encoded(item_id: str, name: str) -> None:
    """Separators, devices and dots at the ends are percent-encoded; ordinary ids stay readable."""
    assert safe_name(item_id) == name


def test_two_ids_never_share_a_file() -> None:
    """A name is given once, also where the file system ignores case."""
    names = Names(case_matters=False)
    given_names = [names.similar(item_id) for item_id in ("a", "A", "a", "a/b", "a%2Fb")]
    assert len({name.casefold() for name in given_names}) == len(given_names)
    assert names.exactly("a") is None
    assert Names(case_matters=True).exactly("a/b") is None


def test_a_document_is_replaced_whole(tmp_path: Path) -> None:
    """Writing leaves the new file and nothing beside it."""
    write_document(tmp_path / "a.json", "{}")
    write_document(tmp_path / "a.json", '{"a": 1}')
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == '{"a": 1}'
    assert case_matters(tmp_path) is not (tmp_path / "A.JSON").exists()


def test_S1_a_link_out_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    """A link inside the directory is read, one that leads out is listed, for files and for folders."""
    outside = tmp_path / "outside" / "jira" / "tickets"
    outside.mkdir(parents=True)
    (outside / "1.json").write_text("{}")
    folder = tmp_path / "in" / "acme" / "jira" / "tickets"
    folder.mkdir(parents=True)
    (folder / "2.json").write_text("{}")
    (folder / "3.json").symlink_to(outside / "1.json")
    (folder / "4.json").symlink_to(folder / "2.json")
    (tmp_path / "in" / "evil").symlink_to(tmp_path / "outside")
    (tmp_path / "in" / "acme" / "zendesk").symlink_to(tmp_path / "outside" / "jira")
    files = Layout(tmp_path / "in")
    assert files.companies() == ["acme"]
    assert files.platforms("acme") == ["jira"]
    assert [broken.path for broken in files.broken] == ["acme/zendesk", "evil"]
    assert files.read(folder / "4.json") == "{}"
    with pytest.raises(BrokenDocument, match="out of the directory"):
        files.read(folder / "3.json")


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    """A named pipe does not block the import and a folder does not end it."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    files = Layout(tmp_path)
    with pytest.raises(BrokenDocument, match="not a file"):
        files.read(tmp_path / "pipe.json")
    with pytest.raises(BrokenDocument, match="cannot be read"):
        files.read(tmp_path / "folder.json")


def test_S1_folders_that_cannot_be_tenants_are_listed(tmp_path: Path) -> None:
    """A folder with tickets whose name is no tenant id or platform is listed; other folders are nobody's business."""
    for name in ("Acme Inc", "acme", "con", "docs"):
        (tmp_path / name / "jira" / "tickets").mkdir(parents=True)
    (tmp_path / "acme" / "My Platform" / "tickets").mkdir(parents=True)
    (tmp_path / "acme" / "readme").mkdir()
    (tmp_path / "Something Else").mkdir()
    (tmp_path / ".git" / "x" / "tickets").mkdir(parents=True)
    files = Layout(tmp_path)
    assert files.companies() == ["acme", "docs"]
    assert sorted(broken.path for broken in files.broken) == ["Acme Inc", "acme/My Platform", "con"]
