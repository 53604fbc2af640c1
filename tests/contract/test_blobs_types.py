"""What a list of allowed types refuses by the content, and what it must not refuse."""

from __future__ import annotations

import io
import zipfile

import pytest

from localstore import BlobRefused
from localstore.blobs.types import Types

WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
WRITER = "application/vnd.oasis.opendocument.text"
ALLOWED = Types.parse(f"audio/*, video/*, image/*, text/plain, application/pdf, {WORD}, {WRITER}")

ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\0>\0" + bytes(200)
PE = b"MZ\x90\0\x03" + bytes(59) + b"PE\0\0" + bytes(100)
MACH_O = b"\xcf\xfa\xed\xfe\x07\0\0\x01" + bytes(100)
JAVA_CLASS = b"\xca\xfe\xba\xbe\0\0\x004" + bytes(100)
SCRIPT = b"#!/bin/sh\nrm -rf /\n"


def archive(*names: str, first: bytes = b"x") -> bytes:
    """Return a ZIP with these entries in this order."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for name in names:
            file.writestr(name, first if name == names[0] else b"x")
    return made.getvalue()


@pytest.mark.parametrize("program", [ELF, PE, MACH_O, JAVA_CLASS, SCRIPT])
@pytest.mark.parametrize("name", ["song.mp3", "song.aac", "clip.mp4", "clip.webm", "photo.png", "paper.pdf", "a.docx"])
def test_a_program_is_refused_whatever_it_is_called(name: str, program: bytes) -> None:
    """No claim of sound, film, a picture or a document lets a program through."""
    with pytest.raises(BlobRefused):
        ALLOWED.choose(name, None, program)


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\0\0", b"\0\0\xfe\xff"])
def test_a_mark_of_wide_text_does_not_make_text_of_a_program(mark: bytes) -> None:
    """Behind a byte order mark there must be text that decodes, without zeros."""
    with pytest.raises(BlobRefused):
        ALLOWED.choose("note.txt", None, mark + ELF)


@pytest.mark.parametrize("name", ["a.docx", "a.odt"])
def test_an_archive_of_java_classes_is_no_document(name: str) -> None:
    """A ZIP that begins with what no office program writes is refused as a document of one."""
    kind = {"a.docx": WORD, "a.odt": WRITER}[name]
    with pytest.raises(BlobRefused):
        ALLOWED.choose(name, kind, archive("META-INF/MANIFEST.MF", "Evil.class"))
    with pytest.raises(BlobRefused):
        ALLOWED.choose(name, kind, b"PK\x03\x04")


@pytest.mark.parametrize(
    ("name", "kind", "head"),
    [
        ("a.docx", WORD, archive("[Content_Types].xml", "word/document.xml")),
        ("a.docx", WORD, archive("_rels/.rels", "word/document.xml", "[Content_Types].xml")),
        ("a.odt", WRITER, archive("mimetype", "content.xml", first=WRITER.encode())),
        ("song.mp3", "audio/mpeg", b"\xff\xfb\x90\0" + bytes(100)),
        ("song.mp3", "audio/mpeg", b"ID3\x03\0" + bytes(100)),
        ("song.wav", "audio/x-wav", b"RIFF\0\0\0\0WAVEfmt "),
        ("song.ogg", "audio/ogg", b"OggS\0" + bytes(100)),
        ("voice.amr", "audio/amr", b"#!AMR\n<" + bytes(30)),
        ("clip.mp4", "video/mp4", b"\0\0\0\x18ftypiso5" + bytes(100)),
        ("clip.mov", "video/quicktime", b"\0\0\0\x18moov" + bytes(100)),
        ("clip.webm", "video/webm", b"\x1aE\xdf\xa3" + bytes(100)),
        ("stream.ts", "video/mp2t", b"G@\0\x10" + bytes(100)),
        ("note.txt", "text/plain", b"MZ are two letters, and #!/bin/sh begins a script"),
        ("note.txt", "text/plain", SCRIPT),
        ("note.txt", "text/plain", "견적서 😀".encode("utf-16")),
        ("note.txt", "text/plain", "견적서 😀".encode("utf-16")[:-2]),
        ("note.txt", "text/plain", "견적서 😀".encode("utf-32")),
    ],
)
def test_what_is_as_it_says_is_taken(name: str, kind: str, head: bytes) -> None:
    """Real beginnings of many formats, also such as tables of signatures do not list, are no reason to refuse."""
    assert ALLOWED.choose(name, kind, head) == kind


def test_a_program_is_taken_where_its_own_type_is_allowed() -> None:
    """Who lists the types of programs wants them."""
    types = Types.parse("application/x-msdownload, application/x-executable")
    assert types.choose("setup", "application/x-msdownload", PE) == "application/x-msdownload"
    assert types.choose("tool", "application/x-executable", ELF) == "application/x-executable"
