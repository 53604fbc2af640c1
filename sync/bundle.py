"""Bundles: one immutable file a batch, written once, hashed, and read back chunk by chunk.

The layout is drawn in docs/architecture.md. The hash is BLAKE2b-256 over the whole file; since the head names the
parent's hash, it fixes the whole history of the replica.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import UUID

import orjson

from localstore.schema.tables import Table
from sync.errors import BundleNotWritten, DamagedBundle
from sync.rows import COPY_HEADER, COPY_TRAILER, RowEncoder

if TYPE_CHECKING:
    from sync.changes import Change

MAGIC = b"LOCALSTORE-BUNDLE-1\n"
CHUNK_BYTES_MAX = 4 << 20
"""A chunk is what one transaction stages: large enough to amortise a commit, small enough to resend after a cut."""
CHUNK_ROWS_MAX = 20_000
READ_BYTES = 1 << 20
SNAPSHOT = "s"
"""The operation of rows that come with all others of their table, so that it tells of those that are absent, too."""
KEPT_FOLDER = "kept"
"""Where acknowledged bundles lie, beside the open ones."""

_frame = struct.Struct(">IQ")


@dataclass(frozen=True, slots=True)
class Head:
    """What a batch says of itself. `parent` is the hash of the batch before it, None for a replica's first."""

    batch: UUID
    company_id: str
    replica: UUID
    epoch: int
    seq: int
    parent: str | None
    marks_to: int
    sealed_at: datetime
    tables: tuple[Table, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the head as plain JSON values."""
        return {
            "batch": str(self.batch),
            "company_id": self.company_id,
            "replica": str(self.replica),
            "epoch": self.epoch,
            "seq": self.seq,
            "parent": self.parent,
            "marks_to": self.marks_to,
            "sealed_at": self.sealed_at.isoformat(),
            "tables": [table.to_json() for table in self.tables],
        }

    @classmethod
    def from_json(cls, shape: dict[str, Any]) -> Head:
        """Build the head that `to_json` described."""
        return cls(
            batch=UUID(shape["batch"]),
            company_id=shape["company_id"],
            replica=UUID(shape["replica"]),
            epoch=shape["epoch"],
            seq=shape["seq"],
            parent=shape["parent"],
            marks_to=shape["marks_to"],
            sealed_at=datetime.fromisoformat(shape["sealed_at"]),
            tables=tuple(Table.from_json(table) for table in shape["tables"]),
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """One run of rows of one table: `payload` is the body of a binary COPY, without header and trailer."""

    number: int
    table: str
    rows: int
    payload: bytes

    @property
    def copy(self) -> tuple[bytes, bytes, bytes]:
        """Return the parts of the whole COPY stream."""
        return COPY_HEADER, self.payload, COPY_TRAILER


@dataclass(frozen=True, slots=True)
class Sealed:
    """A bundle that lies whole on disk. `counts` are rows by table and operation."""

    head: Head
    path: Path
    hash: str
    chunks: int
    counts: dict[str, dict[str, int]]


class BundleWriter:
    """Write one bundle beside its final place; `finish` makes it durable and gives it its name."""

    def __init__(self, outbox: Path, head: Head) -> None:
        self._head = head
        self._path = outbox / f"{head.batch}.bundle"
        self._partial = self._path.with_suffix(".partial")
        self._digest = hashlib.blake2b(digest_size=32)
        self._file = os.fdopen(os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
        self._counts: dict[str, dict[str, int]] = {}
        self._chunks = 0
        self._ordinal = 0
        self._write(MAGIC)
        self._write_frame({"type": "head", **head.to_json()}, b"")

    def add(self, table: Table, changes: Iterable[Change], *, snapshot: bool = False) -> None:
        """Append the changes of one table, in chunks bounded by bytes and rows.

        A `snapshot` is news even where the table has no row.
        """
        encoder = RowEncoder(table, self._head.company_id, self._head.batch)
        counts: dict[str, int] = {SNAPSHOT: 0} if snapshot else {}
        rows: list[bytes] = []
        size = 0
        for change in changes:
            row = encoder.encode(change, self._chunks, self._ordinal)
            if row is None:
                continue
            rows.append(row)
            size += len(row)
            counts[change.op] = counts.get(change.op, 0) + 1
            self._ordinal += 1
            if size >= CHUNK_BYTES_MAX or len(rows) >= CHUNK_ROWS_MAX:
                self._write_chunk(table.name, rows)
                rows, size = [], 0
        if rows:
            self._write_chunk(table.name, rows)
        if counts:
            into = self._counts.setdefault(table.name, {})
            for op, count in counts.items():
                into[op] = into.get(op, 0) + count

    def finish(self) -> Sealed | None:
        """Make the bundle durable under its name; None, and no file, if it says nothing."""
        if not self._counts:
            self.discard()
            return None
        self._write_frame({"type": "tail", "counts": self._counts, "chunks": self._chunks}, b"")
        with self._on_disk():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.rename(self._path)
            _sync_folder(self._path.parent)
        return Sealed(self._head, self._path, self._digest.hexdigest(), self._chunks, self._counts)

    def discard(self) -> None:
        """Remove what was written so far."""
        # Closing writes what is still in memory, for which there may be no room.
        with suppress(OSError):
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def _write_chunk(self, table: str, rows: list[bytes]) -> None:
        header = {"type": "chunk", "number": self._chunks, "table": table, "rows": len(rows)}
        self._write_frame(header, b"".join(rows))
        self._chunks += 1

    def _write_frame(self, header: dict[str, Any], payload: bytes) -> None:
        text = orjson.dumps(header)
        self._write(_frame.pack(len(text), len(payload)))
        self._write(text)
        self._write(payload)

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        with self._on_disk():
            self._file.write(data)

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BundleNotWritten(
                f"the bundle of {self._head.company_id} cannot be written: {error.strerror or error}; "
                "its changes remain in the tenant's file",
                hint=f"make room on the disk of {self._path.parent}, then run the same command again",
                tenant=self._head.company_id,
            ) from error


class Bundle:
    """A bundle on disk, opened for reading; whoever opens it checks its hash first."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self, expected: str) -> None:
        """Raise DamagedBundle unless the file is what was sealed."""
        digest = hashlib.blake2b(digest_size=32)
        try:
            with self._open() as file:
                while data := file.read(READ_BYTES):
                    digest.update(data)
        except FileNotFoundError as error:
            raise DamagedBundle(
                f"the bundle {self.path.name} is missing", hint="localstore sync withdraw BATCH seals its changes anew"
            ) from error
        if digest.hexdigest() != expected:
            raise DamagedBundle(
                f"the bundle {self.path.name} is not what was sealed",
                hint="localstore sync withdraw BATCH seals its changes anew",
            )

    def chunks(self, after: frozenset[int] = frozenset()) -> Iterator[Chunk]:
        """Yield the chunks, in order, leaving out those whose numbers are given."""
        with self._open() as file:
            for header, size in self._frames(file):
                if header["type"] == "chunk" and header["number"] not in after:
                    yield Chunk(header["number"], header["table"], header["rows"], file.read(size))
                else:
                    file.seek(size, os.SEEK_CUR)

    def head(self) -> Head:
        """Return the first frame."""
        with self._open() as file:
            header, _ = next(self._frames(file))
            return Head.from_json(header)

    def tail(self) -> dict[str, Any]:
        """Return the last frame: rows by table and operation, and the number of chunks."""
        last: dict[str, Any] = {}
        with self._open() as file:
            for header, size in self._frames(file):
                last = header
                file.seek(size, os.SEEK_CUR)
        return last

    def _open(self) -> IO[bytes]:
        try:
            return self.path.open("rb")
        except FileNotFoundError:
            # Another process has finished the batch since this one looked, and put its bundle aside.
            return (self.path.parent / KEPT_FOLDER / self.path.name).open("rb")

    def _frames(self, file: IO[bytes]) -> Iterator[tuple[dict[str, Any], int]]:
        if file.read(len(MAGIC)) != MAGIC:
            raise DamagedBundle(f"{self.path.name} is no bundle", hint="export it again")
        while start := file.read(_frame.size):
            if len(start) < _frame.size:
                raise DamagedBundle(f"{self.path.name} ends in the middle of a frame", hint="export it again")
            header_size, size = _frame.unpack(start)
            yield orjson.loads(file.read(header_size)), size


def now() -> datetime:
    """Return the present in UTC."""
    return datetime.now(UTC)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
