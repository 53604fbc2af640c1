"""Say of each difference why it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localstore.schema.tables import Table
from sync.verify.differences import Difference, Why
from sync.verify.findings import Finding
from sync.verify.history import Held, History, Written

UPDATE = "u"


@dataclass(frozen=True, slots=True)
class Explainer:
    """`whole` says that a batch on its way, or the next one, carries the table whole."""

    table: Table
    history: History
    whole: bool

    async def explain(self, findings: Sequence[Finding]) -> list[Difference]:
        """Return the differences with their causes, in the same order."""
        exact = list(dict.fromkeys(finding.key for finding in findings if finding.exact))
        inexact = list(dict.fromkeys(finding.key for finding in findings if not finding.exact))
        at = {(key, True): place for place, key in enumerate(exact)}
        at |= {(key, False): place for place, key in enumerate(inexact)}
        held = {
            True: await self.history.held(exact, exact=True),
            False: await self.history.held(inexact, exact=False),
        }
        foreign = await self.history.foreign(exact)
        touched = exact if self.history.truncated else [exact[place] for place in sorted(foreign)]
        own: dict[tuple[str, ...], dict[str | None, int]] = {}
        for place, writes in (await self.history.own(touched)).items():
            own[touched[place]] = writes
        explained = []
        for finding in findings:
            place = at[finding.key, finding.exact]
            written = self._foreign(finding, foreign.get(place) if finding.exact else None, own.get(finding.key, {}))
            explained.append(self._cause(finding, held[finding.exact].get(place, []), written))
        return explained

    def _foreign(self, finding: Finding, written: Written | None, own: dict[str | None, int]) -> Written | None:
        """Return the last write of others, unless this replica has written the same column since."""
        emptied = self.history.truncated
        if emptied is not None and (written is None or emptied.number > written.number):
            written = emptied
        return None if written is None or written.number < own.get(self._name(finding), 0) else written

    def _cause(self, finding: Finding, held: Sequence[Held], written: Written | None) -> Difference:
        name = self._name(finding)
        for change in held:
            if change.columns is None or name is None or name in change.columns:
                detail = f"held ({change.reason}): {change.detail}" if change.detail else f"held ({change.reason})"
                return self._difference(finding, Why.HELD, detail)
        if self._is_pending(finding):
            detail = f"waiting to be promoted; also written by {_by(written)}" if written else "waiting to be promoted"
            return self._difference(finding, Why.PENDING, detail)
        if written is not None:
            return self._difference(finding, Why.FOREIGN_EDIT, f"written by {_by(written)}")
        if self.whole:
            return self._difference(finding, Why.PENDING, "waiting to be promoted with the whole table")
        return self._difference(finding, Why.DRIFT, "nothing that is known explains it")

    def _is_pending(self, finding: Finding) -> bool:
        """Return whether what is waiting to be sent is this very difference."""
        if finding.op != UPDATE:
            return finding.op is not None
        return finding.column in finding.changed

    def _name(self, finding: Finding) -> str | None:
        return None if finding.column is None else self.table.sent[finding.column].name

    def _difference(self, finding: Finding, why: Why, detail: str) -> Difference:
        detail = f"{detail}; {finding.note}" if finding.note else detail
        return Difference(finding.key, self._name(finding), finding.local, finding.production, why, detail)


def _by(written: Written) -> str:
    return written.who + (f" at {written.at:%Y-%m-%d %H:%M:%S} UTC" if written.at else "")
