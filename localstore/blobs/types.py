"""Content types: guessed by a blob's name and its first bytes, and checked by both where only some are allowed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from mimetypes import MimeTypes
from typing import Final

from localstore.blobs.signatures import UNSIGNED, is_media, is_text, is_zip_of, program_types
from localstore.errors import BlobRefused, ConfigurationError
from localstore.identifiers import preview

UNKNOWN: Final = "application/octet-stream"
HEAD_BYTES: Final = 64 * 1024
"""How much of the content is looked at: the signature that stands farthest from the beginning is within."""

_CERTAIN: Final = 0.4
"""Signatures of four bytes and more; plain text may well begin with two or three bytes of something else's."""

_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")
_PARAMETERS: Final = re.compile(r"( *; *[A-Za-z0-9_-]+=(\"[ !#-\[\]-~]*\"|[A-Za-z0-9_.+:-]+))*")
_PATTERN: Final = re.compile(r"(\*|[a-z0-9][a-z0-9!#$&^_.+-]*)/(\*|[a-z0-9][a-z0-9!#$&^_.+-]*)")
_TEXT: Final = re.compile(r"text/.*|.*[/+](json|xml|yaml|javascript)|application/(sql|x-sh|toml|x-ndjson)")
_MEDIA: Final = ("audio/", "video/")

_SPELLINGS: Final = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
    "application/x-pdf": "application/pdf",
    "application/x-zip-compressed": "application/zip",
    "application/x-gzip": "application/gzip",
}


@dataclass(frozen=True, slots=True)
class Types:
    """Which content types are taken; none listed means all."""

    allowed: tuple[str, ...] = ()

    @classmethod
    def parse(cls, listed: str | None) -> Types:
        """Read a list such as `image/*, application/pdf`; raises ConfigurationError."""
        patterns = tuple(part.strip().lower() for part in (listed or "").split(",") if part.strip())
        if bad := next((pattern for pattern in patterns if not _PATTERN.fullmatch(pattern)), None):
            raise ConfigurationError(
                f"LOCALSTORE_BLOBS_TYPES holds {preview(bad)}, which is no content type",
                hint="list types separated by commas, such as image/*, application/pdf",
            )
        return cls(patterns)

    def choose(self, key: str, given: str | None, head: bytes) -> str:
        """Return the content type of a blob: as given, else by its name, else by its content.

        Raises BlobRefused where the type, the name or the content is not allowed, or where they contradict each other.
        """
        named = _by_name(key)
        chosen = _checked(given) if given else named or _by_content(head) or UNKNOWN
        if self.allowed:
            reason = self._reason(chosen, named, head)
            if reason is not None:
                raise BlobRefused(
                    f"{preview(key)} is refused: {reason}",
                    hint=f"only these types are taken: {', '.join(self.allowed)} (LOCALSTORE_BLOBS_TYPES)",
                )
        return chosen

    def _reason(self, chosen: str, named: str | None, head: bytes) -> str | None:
        for kind in filter(None, (chosen, named)):
            if not self._allows(kind):
                return f"{kind} is not allowed"
        bare = _bare(chosen)
        is_said_text = _TEXT.fullmatch(bare) is not None
        programs = () if bare == UNKNOWN else program_types(head, is_text=is_said_text)
        if programs and not any(map(self._allows, programs)):
            return f"it says {bare}, and its content is a program"
        if bare in programs:
            return None
        document = is_zip_of(bare, head)
        if document is not None:
            return None if document else f"its content is not {bare}"
        if is_said_text and not is_text(head):
            return "it says text, and its content is none"
        found = _found(head)
        if bare in found:
            return None
        certain = (kind for kind, certainty in found.items() if certainty >= _CERTAIN and kind != UNKNOWN)
        stranger = next(certain, None)
        if stranger is not None and not self._allows(stranger):
            return f"it says {bare}, and its content is {stranger}"
        if (
            bare in _signed()
            and not is_said_text
            and bare not in UNSIGNED
            and not (bare.startswith(_MEDIA) and is_media(head))
        ):
            return f"its content is not {bare}"
        return None

    def _allows(self, kind: str) -> bool:
        return any(fnmatchcase(_bare(kind), pattern) for pattern in self.allowed)


def _checked(given: str) -> str:
    kind, separator, parameters = given.partition(";")
    kind = kind.strip().lower()
    # What goes into a link or a header must not be able to end it.
    if not _TYPE.fullmatch(kind) or not _PARAMETERS.fullmatch(separator + parameters):
        raise BlobRefused(f"{preview(given)} is no content type", hint="give one such as application/pdf, or none")
    return kind + separator + parameters


def _bare(kind: str) -> str:
    bare = kind.partition(";")[0].strip()
    return _SPELLINGS.get(bare, bare)


@cache
def _names() -> MimeTypes:
    # The system's own tables would make a type depend on the machine.
    return MimeTypes(filenames=())


def _by_name(key: str) -> str | None:
    kind, encoding = _names().guess_type(key.rsplit("/", 1)[-1])
    if encoding is not None:
        return {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}.get(encoding)
    return kind


def _by_content(head: bytes) -> str | None:
    found = {kind: certainty for kind, certainty in _found(head).items() if is_zip_of(kind, head) is not False}
    best = max(found, key=lambda kind: (is_zip_of(kind, head) is True, found[kind]), default=None)
    return best if best is not None and found[best] >= _CERTAIN else None


def _found(head: bytes) -> dict[str, float]:
    """Return the types whose signatures the content bears, each with how certain that is."""
    import puremagic

    found: dict[str, float] = {}
    try:
        matches = puremagic.magic_string(head) if head else []
    except puremagic.PureError:
        matches = []
    for match in matches:
        if match.mime_type:
            kind = _bare(match.mime_type)
            found[kind] = max(found.get(kind, 0.0), match.confidence)
    return found


@cache
def _signed() -> frozenset[str]:
    """Return the types that have a signature."""
    from puremagic.main import magic_header_array

    return frozenset(_bare(entry.mime_type) for entry in magic_header_array)
