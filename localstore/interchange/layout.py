"""The folders and files of the JSON layout: what is read, what is refused, and how ids become file names."""

from __future__ import annotations

import os
import re
import stat
import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote

from localstore.identifiers import is_identifier
from localstore.interchange.document import BrokenDocument, decode

TICKETS = "tickets"
ARTICLES = "knowledge_base"
SUMMARIES = "summaries"
PROGRESS = "progress"
ATTACHMENTS = "attachments"
FOLDERS = (TICKETS, ARTICLES, SUMMARIES, PROGRESS, ATTACHMENTS)
PROGRESS_FILE = "progress.json"

# Above this a payload is rather a dump of many; SQLite itself ends at 1 GB, and the codec at as many bytes.
DOCUMENT_BYTES_MAX = 256 * 1024 * 1024

# File systems take 255 bytes for a name; the rest is room for a suffix and for the temporary name while writing.
NAME_BYTES_MAX = 200

# What some file system or shell takes for something else than a character of a name.
_UNSAFE = frozenset('<>:"/\\|?*')
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Broken:
    """Something in the layout that cannot be read; `path` is relative to the layout's directory."""

    path: str
    reason: str

    def to_json(self) -> dict[str, str]:
        """Return it as plain JSON values."""
        return {"path": self.path, "reason": self.reason}


@dataclass(slots=True)
class Layout:
    """A directory in the JSON layout. What it refuses on the way is collected in `broken`."""

    root: Path
    broken: list[Broken] = field(default_factory=list)

    def companies(self) -> list[str]:
        """Return the companies that have a folder of the layout, in order of their names."""
        return [path.name for path in self._valid(self.root, "tenant id") if self.platforms(path.name)]

    def platforms(self, company: str) -> list[str]:
        """Return the platforms of a company that have a folder of the layout, in order of their names."""
        return [path.name for path in self._valid(self.root / company, "platform")]

    def files(self, company: str, platform: str, kind: str) -> list[Path]:
        """Return the JSON files of one folder in order of their stems; of progress only the one file."""
        folder = self.root / company / platform / kind
        if not folder.is_dir() or not self._is_inside(folder):
            return []
        if kind == PROGRESS:
            return [path for path in (folder / PROGRESS_FILE,) if os.path.lexists(path)]
        try:
            names = [entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(".json")]
        except OSError as error:
            self.refuse(folder, _reason(error))
            return []
        return [folder / name for name in sorted(names, key=lambda name: (Path(name).stem, name)) if name[0] != "."]

    def attachments(self, company: str, platform: str) -> Iterator[tuple[str, Path]]:
        """Give each attachment with its ticket's id, in order; what is no file, or leads out of here, is refused."""
        folder = self.root / company / platform / ATTACHMENTS
        if not folder.is_dir() or not self._is_inside(folder):
            return
        for ticket in self._folders(folder):
            if not self._is_inside(ticket):
                continue
            for path in sorted(ticket.iterdir()):
                if path.is_symlink() and not self._leads_inside(path):
                    self.refuse(path, "a link that leads out of the directory")
                elif not path.is_file():
                    self.refuse(path, "not a file")
                elif not _is_unfinished(path):
                    yield ticket.name, path

    def read(self, path: Path) -> str:
        """Return a file's text; raises `BrokenDocument` for what must not or cannot be read."""
        if path.is_symlink() and not self._leads_inside(path):
            raise BrokenDocument("a link that leads out of the directory")
        try:
            # Without O_NONBLOCK a named pipe would wait for its writer.
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise BrokenDocument("not a file")
                if status.st_size > DOCUMENT_BYTES_MAX:
                    raise BrokenDocument(f"larger than {DOCUMENT_BYTES_MAX >> 20} MiB")
                return decode(file.read())
        except OSError as error:
            raise BrokenDocument(_reason(error)) from error

    def refuse(self, path: Path, reason: str) -> None:
        """Note that something cannot be read."""
        broken = Broken(self.relative(path), reason)
        if broken not in self.broken:
            self.broken.append(broken)

    def relative(self, path: Path) -> str:
        """Return a path as it is shown, relative to the directory."""
        return os.fsencode(path.relative_to(self.root).as_posix()).decode(errors="replace")

    def _valid(self, folder: Path, what: str) -> Iterator[Path]:
        """Give the folders below `folder` that may be followed; other people's folders are passed over in silence."""
        for path in self._folders(folder):
            below = self._folders(path) if what == "tenant id" else [path]
            if not any((platform / kind).is_dir() for platform in below for kind in FOLDERS):
                continue
            if not is_identifier(path.name):
                self.refuse(path, f"the folder's name is not a valid {what}")
            elif self._is_inside(path):
                yield path

    def _folders(self, folder: Path) -> list[Path]:
        try:
            with os.scandir(folder) as entries:
                return sorted(folder / entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
        except OSError as error:
            self.refuse(folder, _reason(error))
            return []

    def _is_inside(self, folder: Path) -> bool:
        if not folder.is_symlink() or self._leads_inside(folder):
            return True
        self.refuse(folder, "a link that leads out of the directory")
        return False

    def _leads_inside(self, path: Path) -> bool:
        try:
            return path.resolve().is_relative_to(self.root.resolve())
        except (OSError, RuntimeError):
            return False


class Names:
    """The file names of one folder that is being written: safe ones, each given once."""

    def __init__(self, *, case_matters: bool) -> None:
        self._case_matters = case_matters
        self._given: set[str] = set()

    def exactly(self, item_id: str) -> str | None:
        """Return the id as a name if it can be one as it is."""
        return item_id if safe_name(item_id) == item_id and self._take(item_id) else None

    def similar(self, item_id: str) -> str:
        """Return a name made from the id, whatever the id holds."""
        name = safe_name(item_id)
        attempt = 1
        taken = name
        while not self._take(taken):
            attempt += 1
            taken = f"{name}~{attempt}"
        return taken

    def _take(self, name: str) -> bool:
        form = name if self._case_matters else unicodedata.normalize("NFC", name).casefold()
        is_free = form not in self._given
        self._given.add(form)
        return is_free


def safe_name(item_id: str) -> str:
    """Return a file name (without suffix) that every file system takes, with what none should hold percent-encoded."""
    name = "".join(
        character
        if character.isprintable() and character not in _UNSAFE
        else quote(character, safe="", errors="replace")
        for character in item_id
    )
    if not name or name[0] in ". " or _DEVICE.match(name):
        name = "".join(f"%{byte:02X}" for byte in name[:1].encode()) + name[1:] or "%"
    if name[-1] in ". ":
        name = f"{name[:-1]}%{ord(name[-1]):02X}"
    encoded = name.encode()
    if len(encoded) > NAME_BYTES_MAX:
        digest = blake2b(item_id.encode(errors="replace"), digest_size=8).hexdigest()
        name = encoded[: NAME_BYTES_MAX - len(digest) - 1].decode(errors="ignore") + "~" + digest
    return name


def write_document(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(text.encode())
    temporary.replace(path)


def case_matters(folder: Path) -> bool:
    """Return whether the file system tells names apart that differ in case only."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".case-", suffix=".new") as probe:
        path = Path(probe.name)
        return not path.with_name(path.name.upper()).exists()


def _is_unfinished(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".new")


def _reason(error: OSError) -> str:
    return f"cannot be read: {error.strerror or type(error).__name__}"
