"""Tickets by company and platform: lists with filters, pages, single tickets, statistics; on files and production."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlmodel.ext.asyncio.session import AsyncSession

from localstore.errors import ConfigurationError, InvalidRow
from localstore.helpdesk import queries
from localstore.helpdesk.fields import values_of
from localstore.helpdesk.filters import After, TicketFilters, is_unicode
from localstore.helpdesk.models import Conversation, Ticket
from localstore.helpdesk.queries import Place
from localstore.helpdesk.sources import Reader, source_of
from localstore.identifiers import check_platform, check_tenant_id, preview
from localstore.models import utc_now
from localstore.postgres.pool import Pool
from localstore.store import LocalStore
from localstore.tenant import Tenant

LIMIT: Final = 100
"""A forgotten limit must not read a whole table into memory."""

TICKETS_AT_ONCE: Final = 500
"""How many tickets' messages one query asks for; SQLite takes 32,766 values and Postgres plans long lists slowly."""

Filters = Mapping[str, Any] | TicketFilters | None


@dataclass(frozen=True, slots=True)
class TicketThread:
    """A ticket with its conversations, the oldest first."""

    ticket: Ticket
    conversations: tuple[Conversation, ...]


class TicketRepository:
    """Reads and writes tickets, with the same answers wherever they are.

    `source` is a `LocalStore`, a `Tenant`, a session of one (whose caller then commits), or a `Pool` of production,
    whose tables are in `schema`. With the first three and no such company there, reads find nothing.
    """

    def __init__(self, source: LocalStore | Tenant | AsyncSession | Pool, *, schema: str = "public") -> None:
        self._source = source_of(source, schema)

    async def get_tickets(
        self,
        company_id: str,
        platform: str,
        filters: Filters = None,
        limit: int | None = LIMIT,
        offset: int = 0,
        *,
        after: Ticket | After | None = None,
    ) -> list[Ticket]:
        """Return up to `limit` tickets (None: all) that meet every filter, the newest first.

        Filters are `status`, `priority` and `assignee_email` (texts to choose, or one), `is_processed`, and
        `date_range` of `created_at` with `start` and `end`, both included. `offset` skips tickets; `after` goes on
        behind the last ticket of the page before, which costs the same however far that is.
        """
        page = self._page(company_id, platform, filters, limit, offset, after)
        return await self._source.read(company_id, page) or []

    async def get_threads(
        self,
        company_id: str,
        platform: str,
        filters: Filters = None,
        limit: int | None = LIMIT,
        offset: int = 0,
        *,
        after: Ticket | After | None = None,
    ) -> list[TicketThread]:
        """Return the tickets of `get_tickets` with their conversations: one query more in the same transaction."""
        place = self._place(company_id, platform)
        page = self._page(company_id, platform, filters, limit, offset, after)

        async def read(reader: Reader) -> list[TicketThread]:
            tickets = await page(reader)
            messages = await _conversations(reader, place, [ticket.ticket_id for ticket in tickets])
            return [TicketThread(ticket, tuple(messages[ticket.ticket_id])) for ticket in tickets]

        return await self._source.read(company_id, read) or []

    async def get_ticket_by_id(self, company_id: str, platform: str, ticket_id: str) -> Ticket | None:
        """Return the ticket with this id, or None."""
        if not is_unicode(ticket_id):
            return None
        statement = queries.ticket(self._place(company_id, platform), ticket_id)
        found = await self._source.read(company_id, lambda reader: reader.rows(Ticket, statement))
        return found[0] if found else None

    async def create_ticket(self, company_id: str, platform: str, ticket_data: Mapping[str, Any]) -> Ticket:
        """Insert a ticket of these columns, `ticket_id` among them, and return it as stored.

        Raises InvalidRow when it is there already, and for a column or a value that tickets cannot have.
        """
        key = self._key(company_id, platform, ticket_data.get("ticket_id"))
        values: dict[str, Any] = values_of(ticket_data, key) | key
        return await self._source.create(Ticket(**values))

    async def update_ticket(
        self, company_id: str, platform: str, ticket_id: str, update_data: Mapping[str, Any]
    ) -> Ticket | None:
        """Set columns of a ticket, `updated_at` with them, and return it as stored; None where there is none."""
        if not is_unicode(ticket_id):
            return None
        key = self._key(company_id, platform, ticket_id)
        values = values_of(update_data, key)
        if not values:
            return await self.get_ticket_by_id(company_id, platform, ticket_id)
        return await self._source.update(key, {"updated_at": utc_now()} | values)

    async def get_ticket_stats(self, company_id: str, platform: str) -> dict[str, Any]:
        """Count the tickets, in one round trip.

        Return `total_tickets`, `status_distribution` and `priority_distribution` (by value, None for none),
        `processed_count` and `unprocessed_count`, which together are the total.
        """
        statement = queries.statistics(self._place(company_id, platform))
        counted = await self._source.read(company_id, lambda reader: reader.values(statement)) or []
        by_name: dict[str, dict[str | None, int]] = {queries.STATUS: {}, queries.PRIORITY: {}, queries.PROCESSED: {}}
        for name, value, tickets in sorted(counted, key=lambda row: (row[0], -row[2], row[1] or "")):
            by_name[name][value] = by_name[name].get(value, 0) + tickets
        total = sum(by_name[queries.PROCESSED].values())
        processed = by_name[queries.PROCESSED].get(queries.YES, 0)
        return {
            "total_tickets": total,
            "status_distribution": by_name[queries.STATUS],
            "priority_distribution": by_name[queries.PRIORITY],
            "processed_count": processed,
            "unprocessed_count": total - processed,
        }

    async def get_conversations(
        self, company_id: str, platform: str, ticket_ids: Sequence[str]
    ) -> dict[str, list[Conversation]]:
        """Return the conversations of many tickets by ticket id, the oldest first; in one transaction."""
        place = self._place(company_id, platform)
        wanted = list(dict.fromkeys(ticket_ids))
        found = await self._source.read(company_id, lambda reader: _conversations(reader, place, wanted))
        return {ticket_id: [] for ticket_id in wanted} if found is None else found

    def _page(
        self,
        company_id: str,
        platform: str,
        filters: Filters,
        limit: int | None,
        offset: int,
        after: Ticket | After | None,
    ) -> Callable[[Reader], Awaitable[list[Ticket]]]:
        if (limit is not None and limit < 0) or offset < 0 or (offset and after is not None):
            raise ConfigurationError(
                "a page of tickets cannot be cut so", hint="give limit >= 0 and either offset >= 0 or after"
            )
        place, chosen, behind = self._place(company_id, platform), TicketFilters.read(filters), After.read(after)

        async def read(reader: Reader) -> list[Ticket]:
            mixed = place.spelled and bool(await reader.values(queries.spelled_otherwise(place)))
            statement = queries.page(place, chosen, limit=limit, offset=offset, after=behind, mixed=mixed)
            return await reader.rows(Ticket, statement)

        return read

    def _place(self, company_id: str, platform: str) -> Place:
        return Place(
            check_tenant_id(company_id), check_platform(platform), self._source.collation, self._source.spelled
        )

    def _key(self, company_id: str, platform: str, ticket_id: object) -> dict[str, str]:
        self._place(company_id, platform)
        if not isinstance(ticket_id, str) or not ticket_id or not is_unicode(ticket_id):
            raise InvalidRow(
                f"a ticket's id cannot be {preview(ticket_id)}", hint="give a text as ticket_id", tenant=company_id
            )
        return {"company_id": company_id, "platform": platform, "ticket_id": ticket_id}


async def _conversations(reader: Reader, place: Place, ticket_ids: Sequence[str]) -> dict[str, list[Conversation]]:
    found: dict[str, list[Conversation]] = {ticket_id: [] for ticket_id in ticket_ids}
    wanted = [ticket_id for ticket_id in ticket_ids if is_unicode(ticket_id)]
    for start in range(0, len(wanted), TICKETS_AT_ONCE):
        statement = queries.conversations(place, wanted[start : start + TICKETS_AT_ONCE])
        for row in await reader.rows(Conversation, statement):
            found[row.ticket_id].append(row)
    return found
