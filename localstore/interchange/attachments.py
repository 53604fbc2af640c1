"""Attachments of tickets: `<platform>/attachments/<ticket>/<name>` in the layout, blobs in the tenant."""

from __future__ import annotations

import asyncio
import os
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from localstore.blobs.model import BlobInfo
from localstore.blobs.objects import CHUNK_BYTES, new_hasher
from localstore.blobs.store import Blobs
from localstore.errors import BlobError, InvalidIdentifier
from localstore.identifiers import is_identifier
from localstore.interchange.items import Counts
from localstore.interchange.layout import ATTACHMENTS, TICKETS, Layout
from localstore.schema.tables import address
from localstore.sqlite.threads import in_thread

TOGETHER = 8
"""Files taken at once: they wait for the disk together, and their rows share commits."""

IMPORTED = "imported"
"""The metadata that says which content the last import brought, so that the next one tells an edit from a new file."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One file of a ticket, and the key of its blob."""

    ticket_id: str
    path: Path
    key: str


def attachment_key(platform: str, ticket_id: str, name: str) -> str:
    """Return the key of a ticket's attachment, in the normal form that keys have."""
    return unicodedata.normalize("NFC", f"{platform}/{TICKETS}/{ticket_id}/{name}")


async def import_attachments(blobs: Blobs, files: Layout, company: str, platform: str) -> Counts:
    """Put the files of all tickets of a platform; what cannot be taken is listed and stops nothing.

    A file that the last import brought already is left alone, whatever was done to its blob since.
    """
    counts = Counts()
    remaining = _attachments(files, company, platform)
    while batch := list(islice(remaining, TOGETHER)):
        for outcome in await asyncio.gather(*(_import(blobs, files, platform, found) for found in batch)):
            counts.add(outcome)
    return counts


async def export_attachments(blobs: Blobs, folder: Path, skip: Callable[[str, str], object]) -> int:
    """Write the attachments of all tickets below the company's folder and return how many they were.

    What cannot be read is told to `skip`, with its key and the reason.
    """
    written = 0
    async for blob in blobs.walk():
        path = _path(blob)
        if path is not None:
            try:
                await _write(blobs, blob, folder / path)
            except (BlobError, InvalidIdentifier) as error:
                skip(blob.key, error.message)
            else:
                written += 1
    return written


async def _import(blobs: Blobs, files: Layout, platform: str, found: Attachment) -> Counts:
    try:
        digest = await in_thread(partial(_hash, found.path))
        before = await blobs.stat(found.key)
        if before is not None and digest in {before.hash, before.metadata.get(IMPORTED)}:
            return Counts(unchanged=1)
        metadata = {"ticket": address(TICKETS, (platform, found.ticket_id)), IMPORTED: digest}
        await blobs.put(found.key, found.path, metadata=metadata)
    except OSError as error:
        files.refuse(found.path, f"cannot be read: {error.strerror or type(error).__name__}")
        return Counts()
    except (BlobError, InvalidIdentifier) as error:
        files.refuse(found.path, error.message)
        return Counts()
    return Counts(new=1) if before is None else Counts(changed=1)


def _attachments(files: Layout, company: str, platform: str) -> Iterator[Attachment]:
    for ticket_id, path in files.attachments(company, platform):
        yield Attachment(ticket_id, path, attachment_key(platform, ticket_id, path.name))


def _hash(path: Path) -> str:
    hasher = new_hasher()
    # Without O_NONBLOCK a named pipe would wait for its writer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
    digest: str = hasher.hexdigest()
    return digest


def _path(blob: BlobInfo) -> Path | None:
    """Return where an attachment stands in the layout, or None for another blob."""
    platform, _, rest = blob.key.partition("/")
    kind, _, rest = rest.partition("/")
    ticket_id, _, name = rest.partition("/")
    if kind != TICKETS or not is_identifier(platform) or not name or "/" in name:
        return None
    return Path(platform, ATTACHMENTS, ticket_id, name)


async def _write(blobs: Blobs, blob: BlobInfo, path: Path) -> None:
    temporary = path.with_name(f".{blob.hash}.new")
    # Opening it checks the key, which any tool may have written, before it becomes a path.
    async with blobs.open(blob.key) as source:
        await in_thread(partial(path.parent.mkdir, parents=True, exist_ok=True))
        file: BinaryIO = await in_thread(partial(temporary.open, "wb"))  # type: ignore[arg-type]
        try:
            async for chunk in source:
                await in_thread(partial(file.write, chunk))
        except BaseException:
            temporary.unlink()
            raise
        finally:
            await in_thread(file.close)
    await in_thread(partial(temporary.replace, path))
