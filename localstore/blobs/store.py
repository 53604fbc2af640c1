"""Blobs of one tenant: bytes under a key, with a row that says what they are."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, Literal, Self, overload

from localstore.blobs.fetch import fetch
from localstore.blobs.incoming import Content, Incoming
from localstore.blobs.index import BlobIndex, Page
from localstore.blobs.keys import check_key, check_prefix
from localstore.blobs.model import BlobInfo, NewBlob
from localstore.blobs.objects import Link, Objects, Reader
from localstore.blobs.stream import BlobReader, BlobWriter
from localstore.blobs.sweep import Swept, sweep
from localstore.blobs.types import Types
from localstore.columns import dump_json
from localstore.config import Settings
from localstore.errors import BlobDamaged, BlobError, BlobNotFound, ConfigurationError
from localstore.identifiers import preview

LIST_LIMIT: Final = 1000
"""A forgotten limit must not read every row into memory; `limit=None` does, and `walk` never has more than this."""

LINK_SECONDS_MAX: Final = 900
"""A link is a right that cannot be taken back: a quarter of an hour is enough for a browser, and little for a thief."""

# What JSON text says with an escape; a backslash that is itself escaped begins none.
_UNSTORABLE: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f][0-9a-f]{2})")

METADATA_BYTES_MAX: Final = 64 * 1024
"""Metadata travels with the row; what is larger is content."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tenant may put, and how long an object stays that no row names."""

    size_max: int
    quota: int | None
    types: Types
    grace: timedelta

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Read the limits from the settings."""
        return cls(
            size_max=settings.localstore_blob_size_max,
            quota=settings.localstore_blobs_quota,
            types=Types.parse(settings.localstore_blobs_types),
            grace=timedelta(seconds=settings.localstore_blobs_grace),
        )


class Blobs:
    """A tenant's blobs: an index of rows, and objects named by what they contain.

    A put is done when its row is committed: killed before that it leaves an object that nobody names, which a sweep
    removes later. Overwriting and deleting never touch the old bytes, so that a rollback of the row finds them.
    `far` gives the place from which bytes are fetched that are not here, or not whole, if there is one.
    """

    def __init__(
        self,
        index: BlobIndex,
        objects: Objects,
        limits: Limits,
        far: Callable[[], Objects | None] = lambda: None,
    ) -> None:
        self._index = index
        self.objects = objects
        self._limits = limits
        self._far = far

    def __repr__(self) -> str:
        return f"<Blobs of {self._index.company_id} in {self.objects!r}>"

    async def put(
        self,
        key: str,
        content: Content,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> BlobInfo:
        """Keep `content` under `key`, in place of what was there, and return what is known of it.

        `content` is bytes, a path (`pathlib.Path`), a file or stream with `read`, or an async iterator of bytes.
        Raises InvalidIdentifier for a key that cannot be, BlobKeyTaken for one that resembles another, and BlobRefused
        beyond a limit. When it returns, the blob survives a power cut.
        """
        async with self.open(key, "wb", content_type=content_type, metadata=metadata) as writer:
            await writer.fill(content)
        return writer.info

    async def get(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        """Return a blob's bytes, or those from `start` up to `end`; None where there is no such blob.

        A whole blob is checked against its hash; raises BlobDamaged where no place has its bytes as they were put.
        """
        try:
            async with self.open(key, start=start, end=end) as blob:
                return await blob.read()
        except BlobNotFound:
            return None

    @overload
    def open(self, key: str, mode: Literal["rb"] = "rb", *, start: int = 0, end: int | None = None) -> BlobReader: ...

    @overload
    def open(
        self,
        key: str,
        mode: Literal["wb"],
        *,
        content_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> BlobWriter: ...

    def open(
        self,
        key: str,
        mode: Literal["rb", "wb"] = "rb",
        *,
        start: int = 0,
        end: int | None = None,
        content_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> BlobReader | BlobWriter:
        """Return a blob as a stream, for `async with`: "rb" to read it or a range of it, "wb" to write it."""
        check_key(key)
        if mode == "wb":
            save = partial(self._save, key, content_type, _checked_metadata(metadata))
            return BlobWriter(Incoming(self.objects, self._limits.size_max), partial(self._admit, key, 0), save)
        if start < 0 or (end is not None and end < start):
            raise ConfigurationError(f"{start}:{end} is no range of bytes", hint="give 0 <= start <= end")
        return BlobReader(partial(self._reader, key), self._replaced, start, end)

    async def exists(self, key: str) -> bool:
        """Return whether there is such a blob."""
        return await self.stat(key) is not None

    async def stat(self, key: str) -> BlobInfo | None:
        """Return what is known of a blob, or None."""
        return await self._index.find(check_key(key))

    async def list(self, prefix: str = "", limit: int | None = LIST_LIMIT, after: str | None = None) -> Page:
        """Return blobs whose keys begin with `prefix`, in the order of their code points, behind the key `after`."""
        if limit is not None and limit < 0:
            raise ConfigurationError(f"a list cannot have {limit} entries", hint="give a limit of 0 or more, or None")
        return await self._index.list(check_prefix(prefix), None if after is None else check_prefix(after), limit)

    async def walk(self, prefix: str = "") -> AsyncIterator[BlobInfo]:
        """Give all blobs whose keys begin with `prefix`, however many they are, a page in memory at a time."""
        after: str | None = None
        while page := await self.list(prefix, LIST_LIMIT, after):
            for blob in page:
                yield blob
            after = page[-1].key

    async def copy(self, source: str, target: str) -> BlobInfo:
        """Give a blob a second key, in place of what was there; its bytes are not copied. Raises BlobNotFound."""
        check_key(target)
        found = await self.stat(source)
        if found is None:
            raise _not_found(source)
        if not await self.objects.hold(found.hash):
            raise _missing(source)
        blob = NewBlob(target, found.size, found.hash, found.content_type, found.metadata)
        return await self._index.save(blob, self._limits.quota)

    async def delete(self, key: str) -> bool:
        """Delete a blob; return whether there was one. Its bytes go with a later sweep."""
        return await self._index.delete(check_key(key))

    async def delete_prefix(self, prefix: str) -> int:
        """Delete every blob whose key begins with `prefix`, which must not be empty; return how many they were."""
        if not check_prefix(prefix):
            raise ConfigurationError("an empty prefix would delete every blob", hint="name what the keys begin with")
        return await self._index.delete_prefix(prefix)

    async def usage(self) -> tuple[int, int]:
        """Return how many blobs there are, and the sum of their sizes, which a quota bounds."""
        return await self._index.usage()

    async def presign(self, key: str, seconds: int = LINK_SECONDS_MAX) -> str:
        """Return a link with which anybody may GET the blob as it is now, for at most 900 seconds.

        It names one object below the tenant's own prefix, to be saved under the last part of the key. Blobs on a disk
        have a link from the bucket that sync carries them to, as soon as they are there. Raises BlobNotFound,
        BlobError before that, and ConfigurationError where nothing serves the objects.
        """
        if not 1 <= seconds <= LINK_SECONDS_MAX:
            raise ConfigurationError(
                f"a link cannot last for {seconds} seconds", hint=f"give 1 to {LINK_SECONDS_MAX} seconds"
            )
        found = await self.stat(key)
        if found is None:
            raise _not_found(key)
        link = Link(seconds, name=key.rsplit("/", 1)[-1], content_type=found.content_type)
        far = self._far()
        if far is None:
            return await self.objects.presign(found.hash, link)
        there = await far.stat(found.hash)
        if there is None or there.size != found.size:
            raise BlobError(
                f"the bytes of {preview(key)} are not in {far!r} yet, which a link would lead to",
                hint="localstore sync push --promote",
            )
        return await far.presign(found.hash, link)

    async def sweep(self, grace: timedelta | None = None) -> Swept:
        """Remove the objects that no row names and that are older than `grace`; any error ends it, nothing else.

        The grace must be longer than any put takes.
        """
        before = datetime.now(UTC) - (self._limits.grace if grace is None else grace)
        return await sweep(self._index, self.objects, before)

    async def _save(
        self, key: str, content_type: str | None, metadata: Mapping[str, Any], incoming: Incoming
    ) -> BlobInfo:
        kind = self._limits.types.choose(key, content_type, incoming.head)
        blob = NewBlob(key, incoming.size, incoming.hash, kind, metadata)
        await self._admit(key, blob.size)
        await incoming.keep()
        info = await self._index.save(blob, self._limits.quota)
        # A sweep that had begun before may have taken the object; from the commit on none does.
        if not await self.objects.hold(blob.hash):
            await incoming.keep()
        return info

    async def _admit(self, key: str, size: int) -> None:
        """Refuse before any byte goes anywhere what the row's own transaction would refuse in the end."""
        await self._index.admit(key, size, self._limits.quota)

    async def _reader(self, key: str) -> tuple[BlobInfo, Reader]:
        found = await self._index.find(key)
        if found is None:
            raise _not_found(key)
        reader = await self.objects.open(found.hash)
        far = None if reader is not None else self._far()
        # A row that was pulled may have come before its bytes.
        if far is not None and await fetch(self.objects, far, found.hash, found.size):
            reader = await self.objects.open(found.hash)
        if reader is None:
            raise _missing(key)
        return found, reader

    async def _replaced(self, blob: BlobInfo) -> Reader | None:
        """Bring an object whose bytes here are damaged from the far place; None where that has none to give either."""
        far = self._far()
        try:
            if far is None or not await fetch(self.objects, far, blob.hash, blob.size):
                return None
        except BlobError:
            # Whoever reads learns that the bytes are damaged here, which is what has to be mended first.
            return None
        return await self.objects.open(blob.hash)


def _checked_metadata(metadata: Mapping[str, Any] | None) -> Mapping[str, Any]:
    try:
        text = dump_json(dict(metadata or {}))
        if len(text.encode()) > METADATA_BYTES_MAX:
            reason = f"it has more than {METADATA_BYTES_MAX} bytes as JSON"
        elif _UNSTORABLE.search(text):
            reason = "production's text holds neither U+0000 nor lone surrogates"
        else:
            return dict(metadata or {})
    except (ValueError, TypeError) as error:
        reason = str(error)
    raise ConfigurationError(
        f"a blob's metadata cannot be stored: {reason}", hint="give a small mapping of JSON values"
    )


def _not_found(key: str) -> BlobNotFound:
    return BlobNotFound(f"there is no blob {preview(key)}", hint="`localstore blobs list TENANT` shows the keys")


def _missing(key: str) -> BlobDamaged:
    return BlobDamaged(
        f"the bytes of {preview(key)} are not here",
        hint="put the blob again, or restore the tenant's folder blobs/ from a backup",
    )
