"""Walk both sides of one table side by side and note every row and column in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from localstore.codec import equality
from sync.verify.findings import Finding, Findings
from sync.verify.frames import TRAILER, Defects, Fields, Frames, LocalRow, Stream
from sync.verify.local import LocalRows
from sync.verify.order import OutOfOrder, Place
from sync.verify.shown import both, row_shown
from sync.verify.wider import Unfit

PRODUCTION: Final = "production"

ONLY_HERE: Final = "production does not have the row"
ONLY_THERE: Final = "the tenant's file does not have the row"
UNFIT: Final = "the tenant's shape cannot hold production's value"
TWICE: Final = "another row of the file has the same key in production's types"


class Comparison:
    """Production's rows are handed in, the file's are fetched as they are needed.

    A production row that begins with the very bytes of the file's next row is that row: nothing of it is looked at.
    """

    def __init__(self, frames: Frames, local: LocalRows, findings: Findings) -> None:
        self._frames = frames
        self._local = local
        self._findings = findings
        self._equalities = tuple(equality(column.kind) for column in frames.columns)
        self._stream = Stream()
        self._rows: list[LocalRow] = []
        self._next = 0
        self._drained = False
        self._last: Place | None = None
        self._matched: Place | None = None

    async def take(self, piece: bytes) -> None:
        """Compare what has come of production's binary COPY."""
        taken = self._stream.take(piece)
        if taken is None:
            return
        data, at = taken
        size = len(data)
        while at < size:
            if self._next == len(self._rows) and not self._drained:
                await self._fetch()
            if self._next < len(self._rows):
                local = self._rows[self._next]
                if data.startswith(local.frame, at) and not local.defects:
                    self._last = self._matched = local.place
                    self._next += 1
                    at += len(local.frame)
                    continue
            if data.startswith(TRAILER, at):
                return
            fields, end = self._frames.split(data, at)
            if fields is None:
                self._stream.keep(data, at, end)
                return
            await self.row(self._frames.place(fields), fields)
            at = end

    async def unfit(self, row: Unfit) -> None:
        """Compare production's next row, of which the shape cannot hold every value."""
        if row.exact:
            await self.row(self._frames.place(row.fields), row.fields, row)
        else:
            self._only_there(None, row.fields, row)

    async def row(self, place: Place, fields: Fields, unfit: Unfit | None = None) -> None:
        """Compare production's next row; raises OutOfOrder unless it comes after the one before."""
        if self._last is not None and place <= self._last:
            raise OutOfOrder(PRODUCTION)
        self._last = place
        while True:
            if self._next == len(self._rows) and not self._drained:
                await self._fetch()
            local = self._rows[self._next] if self._next < len(self._rows) else None
            if local is not None and (local.place is None or local.place < place):
                self._only_here(local)
                self._next += 1
                continue
            if local is not None and local.place == place:
                self._columns(local, fields, {} if unfit is None else unfit.defects)
                self._matched = place
                self._next += 1
                return
            self._only_there(place, fields, unfit)
            return

    async def finish(self) -> None:
        """Note what the file has beyond production's last row."""
        while self._next < len(self._rows) or not self._drained:
            for local in self._rows[self._next :]:
                self._only_here(local)
            await self._fetch()

    async def _fetch(self) -> None:
        self._rows, self._next = await self._local.batch(), 0
        self._drained = not self._rows

    def _only_here(self, local: LocalRow) -> None:
        fields = self._frames.fields(local.frame)
        shown = row_shown(self._frames, fields, local.defects)
        exact = local.place is not None
        key = self._frames.key_text(fields) if exact else local.shown
        if local.defects:
            note = "; ".join(f"{self._frames.columns[at].name}: {local.defects[at][1]}" for at in sorted(local.defects))
        else:
            note = TWICE if exact and local.place == self._matched else ONLY_HERE
        self._findings.add(local.place, Finding(key, exact, None, shown, None, note))

    def _only_there(self, place: Place | None, fields: Fields, unfit: Unfit | None) -> None:
        key = self._frames.key_text(fields) if unfit is None else unfit.key
        exact = self._frames.exact(fields) if unfit is None else unfit.exact
        shown = row_shown(self._frames, fields, {} if unfit is None else unfit.defects)
        note = ONLY_THERE if unfit is None else f"{ONLY_THERE}, and could not hold it: {unfit.reason(self._frames)}"
        self._findings.add(place, Finding(key, exact, None, None, shown, note))

    def _columns(self, local: LocalRow, theirs: Sequence[bytes | None], unfit: Defects) -> None:
        ours = self._frames.fields(local.frame)
        shown: str | None
        for at, (our, their, same) in enumerate(zip(ours, theirs, self._equalities, strict=True)):
            if at in local.defects:
                shown, note = local.defects[at]
                production = None if their is None else both(self._frames.columns[at].kind, None, their)[1]
                production = unfit[at][0] if at in unfit else production
            elif at in unfit:
                shown = both(self._frames.columns[at].kind, our, None)[0]
                production, reason = unfit[at]
                note = f"{UNFIT}: {reason}"
            elif our == their or (our is not None and their is not None and same(our, their)):
                continue
            else:
                shown, production = both(self._frames.columns[at].kind, our, their)
                note = ""
            key = self._frames.key_text(theirs)
            self._findings.add(local.place, Finding(key, self._frames.exact(theirs), at, shown, production, note))
