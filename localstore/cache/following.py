"""Following: entries that were made from rows, told apart by whether these are still what they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from localstore.cache import values
from localstore.cache.changes import Changes
from localstore.cache.failures import CacheFailure, Failures, RefusedEntry
from localstore.errors import ConfigurationError, LocalStoreError


class Following:
    """Reads the entries of one company's cache; what nobody can vouch for is counted and left out."""

    def __init__(self, changes: Changes | None, company_id: str, failures: Failures) -> None:
        self._changes = changes
        self._company_id = company_id
        self._failures = failures

    async def values(self, stored: Mapping[str, bytes]) -> tuple[dict[str, Any], list[str]]:
        """Return the values of entries, without those whose rows changed, and the keys of those nobody can read."""
        found: dict[str, Any] = {}
        refused: list[str] = []
        bound: dict[str, tuple[bytes, Mapping[str, str]]] = {}
        for key, entry in stored.items():
            try:
                data, states = values.unbind(entry)
                if states:
                    bound[key] = (data, states)
                else:
                    found[key] = values.decode(data)
            except RefusedEntry as error:
                self._failures.note(error)
                refused.append(key)
        holding = await self._all_hold([states for _, states in bound.values()]) if bound else []
        for (key, (data, _)), holds in zip(bound.items(), holding, strict=True):
            try:
                if holds:
                    found[key] = values.decode(data)
            except RefusedEntry as error:
                self._failures.note(error)
                refused.append(key)
        return found, refused

    async def value(self, stored: bytes, tables: tuple[str, ...]) -> tuple[bytes, Any] | None:
        """Return an entry's bytes and value if it was made from just these tables, and they have not changed since."""
        try:
            data, states = values.unbind(stored)
            if tuple(sorted(states)) == tables and await self.hold(states):
                return data, values.decode(data)
        except RefusedEntry as error:
            self._failures.note(error)
        return None

    async def hold(self, states: Mapping[str, str]) -> bool:
        """Return whether tables still are in these states."""
        return not states or (await self._all_hold([states]))[0]

    async def states(self, tables: tuple[str, ...]) -> dict[str, str]:
        """Return the tables' states; raises ConfigurationError where nobody follows the changes of one."""
        if not tables:
            return {}
        states = {} if self._changes is None else await self._changes.states(tables)
        missing = [table for table in tables if table not in states]
        if missing:
            raise ConfigurationError(
                f"no changes are followed of the table {missing[0]}, so nothing made from it can be kept",
                hint="name tracked tables; `localstore tenants show` lists them",
                tenant=self._company_id,
            )
        return states

    async def _all_hold(self, states: Sequence[Mapping[str, str]]) -> list[bool]:
        try:
            if self._changes is not None:
                return await self._changes.hold(states)
        except LocalStoreError as error:
            self._failures.note(CacheFailure(f"nobody can tell what changed: {error}"))
        return [False] * len(states)
