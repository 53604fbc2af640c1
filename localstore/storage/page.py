"""Which tickets a list shows, as SQL for both dialects: every part of it is answered from an index.

No index leads over all platforms of a company in order of time, so that a list of all of them is put together from one
list a platform, each no longer than the page's end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from localstore.storage.payload import check_page, is_storable

UNLIMITED = 2**62


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
        self, relation: str, company_id: str, platforms: Sequence[str], order: str, mark: Callable[[int], str]
    ) -> tuple[str, list[Any]]:
        """Return the condition that picks the page's rows of these platforms (one at least), and its values.

        The page is found by keys, so that what an offset skips is not read. `mark` makes a parameter's mark.
        """
        values: list[Any] = []

        def bound(value: Any) -> str:
            values.append(value)
            return mark(len(values))

        mine = f"company_id = {bound(company_id)}"
        parts: list[str] = []
        for platform in platforms:
            where = [f"company_id = {bound(company_id)}", f"platform = {bound(platform)}"]
            if self.status is not None:
                where.append(f"status = {bound(self.status)}")
            if self.processing_status is not None:
                where.append(f"processing_status = {bound(self.processing_status)}")
            end = "" if self.limit is None else f" LIMIT {self.limit + self.offset}"
            parts.append(
                f"SELECT * FROM (SELECT platform, ticket_id, created_at FROM {relation} "
                f"WHERE {' AND '.join(where)} ORDER BY {order}{end}) AS part{len(parts)}"
            )
        keys = (
            f"SELECT platform, ticket_id FROM ({' UNION ALL '.join(parts)}) AS page "
            f"ORDER BY {order} LIMIT {UNLIMITED if self.limit is None else self.limit} OFFSET {self.offset}"
        )
        return f"{mine} AND (platform, ticket_id) IN ({keys})", values
