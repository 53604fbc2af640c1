"""Which tickets a list shows, as SQL for both dialects: every part of it is answered from an index.

No index leads over all platforms of a company in order of time, so that a list of all of them is put together from one
list a platform, each no longer than the page's end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from localstore.moments import moment_of, otherwise
from localstore.storage.payload import check_page, is_storable

UNLIMITED = 2**62
TIME = "created_at"


@dataclass(frozen=True, slots=True)
class Page:
    """What `list_tickets` was asked for."""

    platform: str | None
    status: str | None
    processing_status: str | None
    limit: int | None
    offset: int

    def __post_init__(self) -> None:
        """Raise ConfigurationError for a page that cannot be."""
        check_page(self.limit, self.offset)

    @property
    def is_empty(self) -> bool:
        """Return whether no ticket can be on it."""
        texts = (self.status, self.processing_status)
        return self.limit == 0 or not all(text is None or is_storable(text) for text in texts)

    def condition(
        self,
        relation: str,
        company_id: str,
        platforms: Sequence[str],
        order: str,
        mark: Callable[[int], str],
        mixed: Collection[str] = (),
    ) -> tuple[str, list[Any]]:
        """Return the condition that picks the page's rows of these platforms (one at least), and its values.

        The page is found by keys, so that what an offset skips is not read. `mark` makes a parameter's mark. Of the
        platforms in `mixed` some times are texts that no index has in order: these tickets are a list of their own.
        """
        values: list[Any] = []

        def bound(value: Any) -> str:
            values.append(value)
            return mark(len(values))

        mine = f"company_id = {bound(company_id)}"
        parts: list[str] = []
        for platform in platforms:
            end = "" if self.limit is None else f" LIMIT {self.limit + self.offset}"
            here = f"company_id = {bound(company_id)} AND platform = {bound(platform)}"
            where = [here, *self._chosen(bound)] + ([f"NOT ({otherwise(TIME)})"] if platform in mixed else [])
            parts.append(
                f"SELECT * FROM (SELECT platform, ticket_id, created_at FROM {relation} "
                f"WHERE {' AND '.join(where)} ORDER BY {order}{end}) AS part{len(parts)}"
            )
            if platform in mixed:
                # Joined and limited so that SQLite begins with the index of these tickets, whatever is chosen of them.
                there = f"company_id = {bound(company_id)} AND platform = {bound(platform)}"
                ids = f"SELECT ticket_id AS other_id FROM {relation} WHERE {there} AND {otherwise(TIME)}"
                here = f"company_id = {bound(company_id)} AND platform = {bound(platform)} AND ticket_id = other_id"
                others = f"SELECT * FROM ({ids}) AS ids LEFT JOIN {relation} ON {here} LIMIT -1"
                parts.append(
                    f"SELECT platform, ticket_id, {moment_of(TIME)} FROM ({others}) AS part{len(parts)} "
                    f"WHERE {' AND '.join(['true', *self._chosen(bound)])}"
                )
        keys = (
            f"SELECT platform, ticket_id FROM ({' UNION ALL '.join(parts)}) AS page "
            f"ORDER BY {order} LIMIT {UNLIMITED if self.limit is None else self.limit} OFFSET {self.offset}"
        )
        return f"{mine} AND (platform, ticket_id) IN ({keys})", values

    def _chosen(self, bound: Callable[[Any], str]) -> list[str]:
        chosen = (("status", self.status), ("processing_status", self.processing_status))
        return [f"{name} = {bound(value)}" for name, value in chosen if value is not None]
