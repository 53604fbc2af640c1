"""`localstore blobs` as a person and a program use it."""

from __future__ import annotations

from pathlib import Path

from tests.integration.command import command


def test_blobs_are_put_listed_got_and_removed(tmp_path: Path) -> None:
    """The four commands do what they say, on a store that the first of them makes, and say so in JSON, too."""
    data, source = tmp_path / "data", tmp_path / "견적서 1.pdf"
    source.write_bytes(b"%PDF-1.7 " + bytes(5_000_000))
    put = command("blobs", "put", "wedosoft", source, "--data", data, "--json")
    assert put.code == 0
    blob = put.json["blob"]
    assert (put.json["version"], put.json["exit"], put.json["tenant"]) == (1, 0, "wedosoft")
    assert (blob["key"], blob["size"], blob["content_type"]) == ("견적서 1.pdf", 5_000_009, "application/pdf")
    assert command("blobs", "put", "wedosoft", source, "docs/copy", "--type", "text/x-a", "--data", data).code == 0
    shown = command("blobs", "list", "wedosoft", "--data", data)
    assert "견적서 1.pdf" in shown.out
    assert "2 blobs, 10000018 bytes" in shown.out
    listed = command("blobs", "list", "wedosoft", "docs/", "--data", data, "--json").json
    assert [(entry["key"], entry["content_type"]) for entry in listed["blobs"]] == [("docs/copy", "text/x-a")]
    (tmp_path / "out.pdf").write_bytes(b"before")
    got = command("blobs", "get", "wedosoft", "docs/copy", tmp_path / "out.pdf", "--data", data)
    assert (got.code, (tmp_path / "out.pdf").read_bytes() == source.read_bytes()) == (0, True)
    (tmp_path / "folder").mkdir()
    command("blobs", "get", "wedosoft", "docs/copy", "--data", data, cwd=tmp_path / "folder")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["copy"]
    assert command("blobs", "rm", "wedosoft", "docs/", "--prefix", "--data", data, "--json").json["removed"] == 1
    assert command("blobs", "rm", "wedosoft", "견적서 1.pdf", "--data", data).code == 0
    assert command("blobs", "list", "wedosoft", "--data", data, "--json").json["blobs"] == []


def test_what_cannot_be_done_names_the_next_command(tmp_path: Path) -> None:
    """A tenant, a blob, a file or a key that is not there or cannot be ends with its own code, a message and a hint."""
    data = tmp_path / "data"
    note = tmp_path / "note"
    note.write_bytes(b"note")
    missing = command("blobs", "list", "wedosoft", "--data", data)
    assert (missing.code, "Try: " in missing.err) == (1, True)
    assert not data.exists()
    command("blobs", "put", "wedosoft", note, "--data", data)
    for arguments, code, word in [
        (("get", "wedosoft", "other"), 1, "blob_not_found"),
        (("put", "wedosoft", str(tmp_path / "nothing")), 1, "blob"),
        (("put", "wedosoft", str(note), "../note"), 2, "invalid_identifier"),
        (("put", "wedosoft", str(note), "NOTE"), 1, "blob_key_taken"),
        (("put", "wedosoft", "-"), 2, "configuration"),
        (("get", "wedosoft", "note", str(tmp_path / "no" / "folder")), 1, "blob"),
    ]:
        refused = command("blobs", *arguments, "--data", data, "--json")
        assert (refused.code, refused.json["error"]["code"]) == (code, word), arguments
        assert refused.json["error"]["hint"]
    turned = command("blobs", "put", "wedosoft", "../x", note, "--data", data, "--json").json["error"]
    assert "../x" in turned["message"]
    assert "FILE comes first, then KEY" in turned["hint"]
    limited = command("blobs", "put", "wedosoft", note, "--data", data, "--json", LOCALSTORE_BLOBS_TYPES="image/*")
    assert limited.json["error"]["code"] == "blob_refused"
