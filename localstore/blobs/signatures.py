"""What a content's first bytes prove where a table of signatures says too much or too little."""

from __future__ import annotations

import codecs
import re
from typing import Final

_PROGRAMS: Final = (
    (re.compile(rb"\x7fELF"), ("application/x-elf", "application/x-executable", "application/x-sharedlib")),
    # Text may begin with these two letters; a program's header, which has 64 bytes, is never without zeros.
    (
        re.compile(rb"MZ(?=[^\0]{0,61}\0)", re.DOTALL),
        ("application/vnd.microsoft.portable-executable", "application/x-msdownload", "application/x-dosexec"),
    ),
    (re.compile(rb"\xfe\xed\xfa[\xce\xcf]|[\xce\xcf]\xfa\xed\xfe"), ("application/x-mach-binary",)),
    (re.compile(rb"\xca\xfe\xba\xbe"), ("application/java-vm", "application/x-java", "application/x-mach-binary")),
)
_SCRIPT: Final = (re.compile(rb"#![ \t]*/"), ("application/x-sh", "application/x-shellscript", "text/x-shellscript"))

_MEDIA: Final = re.compile(
    rb".{4}(ftyp|moov|mdat|wide|free|skip)|\x1aE\xdf\xa3|OggS|RIFF.{4}(WAVE|AVI |AMV )|fLaC|ID3|FLV|MThd|#!AMR|caff"
    rb"|FORM.{4}AIF[FC]|\.snd|0&\xb2u|\0\0\x01[\xb3\xba]|wvPK|MAC ",
    re.DOTALL,
)
"""How files of sound and pictures begin; more kinds of MP4 are written than any table of signatures lists."""

UNSIGNED: Final = frozenset(
    {"audio/mpeg", "audio/mp3", "audio/aac", "audio/x-aac", "audio/ac3", "video/mp2t", "video/mpeg"}
)
"""Streams that may begin anywhere, so that a missing signature says nothing."""

_OFFICE: Final = re.compile(r"application/vnd\.(openxmlformats-officedocument|ms-(word|excel|powerpoint)\..*macro).*")
_OFFICE_PARTS: Final = ("[Content_Types].xml", "_rels/", "docProps/", "customXml/", "word/", "xl/", "ppt/")
_TYPED_ZIP: Final = re.compile(r"application/(vnd\.oasis\.opendocument\..*|epub\+zip)")

_WIDE: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def program_types(head: bytes, *, is_text: bool) -> tuple[str, ...]:
    """Return the types of the program that a content is, if it is one. A script is text, and may be called so."""
    for pattern, kinds in (*_PROGRAMS, _SCRIPT):
        if pattern.match(head) and not (is_text and kinds is _SCRIPT[1]):
            return kinds
    return ()


def is_text(head: bytes) -> bool:
    """Return whether the bytes are text, in Unicode's wide forms if they begin with its mark."""
    for mark, encoding in _WIDE:
        if head.startswith(mark):
            try:
                # The head may end within a character.
                return "\0" not in codecs.getincrementaldecoder(encoding)().decode(head)
            except UnicodeDecodeError:
                return False
    return b"\0" not in head


def is_media(head: bytes) -> bool:
    """Return whether the bytes begin a file of sound or pictures."""
    return _MEDIA.match(head) is not None


def is_zip_of(kind: str, head: bytes) -> bool | None:
    """Return whether the bytes begin a document of a type that is a ZIP inside; None for all other types.

    The first entry tells: office programs begin with a part of theirs, in whichever order they write the others, and
    an OpenDocument with its own type. An archive of Java classes begins otherwise.
    """
    is_office = _OFFICE.fullmatch(kind) is not None
    if not is_office and _TYPED_ZIP.fullmatch(kind) is None:
        return None
    if not head.startswith(b"PK\x03\x04"):
        return False
    name_end = 30 + int.from_bytes(head[26:28], "little")
    name = head[30:name_end].decode("utf-8", "replace")
    if is_office:
        return name.startswith(_OFFICE_PARTS)
    content = head[name_end + int.from_bytes(head[28:30], "little") :]
    return name == "mimetype" and content.startswith(kind.encode())
