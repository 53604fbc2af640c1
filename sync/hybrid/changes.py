"""Changes as a hybrid storage sees them: a value may have been made from the file or from production's copy of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from localstore.cache.changes import ABSENT, Changes, FileChanges
from sync.hybrid.production import NoAnswer, Production

NO_ANSWER: Final = "-"
"""What production's part of a state is when production did not answer."""

_BETWEEN: Final = "&"


class HybridChanges:
    """The states of one company's tables in both places; a value holds while neither has changed.

    While production does not answer, the file alone is read, and its state alone counts.
    """

    def __init__(self, file: FileChanges, production: Production, company_id: str) -> None:
        self._file = file
        self._production = production
        self._company_id = company_id

    async def states(self, tables: Collection[str]) -> dict[str, str]:
        """Return the state of each table that is followed in one of the places; without an answer, of any."""
        here = await self._file.states(tables)
        there = await self._there(tables)
        return {
            table: f"{here.get(table, ABSENT)}{_BETWEEN}{NO_ANSWER if there is None else there.get(table, ABSENT)}"
            for table in tables
            if here.get(table, ABSENT) != ABSENT or there is None or table in there
        }

    async def hold(self, made_from: Sequence[Mapping[str, str]]) -> list[bool]:
        """Return for each value whether nothing has changed in either place."""
        parted = [{table: state.partition(_BETWEEN) for table, state in states.items()} for states in made_from]
        file = await self._file.hold([{table: part[0] for table, part in states.items()} for states in parted])
        return [
            holds and await self._holds_there({table: part[2] for table, part in states.items()}, only_there)
            for holds, states in zip(file, parted, strict=True)
            for only_there in (any(part[0] == ABSENT for part in states.values()),)
        ]

    async def _holds_there(self, states: Mapping[str, str], only_there: bool) -> bool:
        """Return whether production's part holds; without an answer the file is read, where there is one."""
        known = {table: state for table, state in states.items() if state not in (NO_ANSWER, ABSENT)}
        there = await self._there([table for table in states if table not in known])
        if there is None:
            return not only_there
        if there or NO_ANSWER in states.values():
            return False
        try:
            return not known or (await self._production.ask(lambda: self._changes().hold([known])))[0]
        except NoAnswer:
            return not only_there

    async def _there(self, tables: Collection[str]) -> dict[str, str] | None:
        """Return the states in production, None where it does not answer."""
        if self._production.rests:
            return None
        if not tables:
            return {}
        try:
            return await self._production.ask(lambda: self._changes().states(tables))
        except NoAnswer:
            return None

    def _changes(self) -> Changes:
        return self._production.truth.changes(self._company_id)
