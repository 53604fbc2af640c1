"""Following: at the end of a command Qdrant is brought what production has by then, of every company that is due.

A command's own companies come first. The others are those whose applications, or whose commands, did not get as far;
whoever has production at hand heals them, whether or not their files are here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import asyncpg

from localstore.config import Settings
from localstore.errors import ConfigurationError, LocalStoreError, VectorsUnavailable
from localstore.vectors.table import VECTORS
from sync.link import Link
from sync.results import Failure, Result, TenantResult
from sync.sql import sql
from sync.staging import UNDO_DAYS

if TYPE_CHECKING:
    from localstore.vectors.qdrant_server import Qdrant

OTHERS_MAX: Final = 200
"""No command spends longer than some seconds on companies that are not its own; the next one goes on."""

QDRANT_EXTRA: Final = "pip install 'localstore[vectors,qdrant]'"


class Following:
    """The way to the Qdrant that QDRANT_URL names; nothing connects before it is needed."""

    def __init__(self) -> None:
        self._qdrant: Qdrant | None = None

    async def close(self) -> None:
        """Close the connection."""
        qdrant, self._qdrant = self._qdrant, None
        if qdrant is not None:
            await qdrant.client.close()

    async def after(self, link: Link, result: Result, *, others: int = OTHERS_MAX) -> Result:
        """Follow, and add what fails to the result: what production has is safe, and the next command brings it.

        At most so many `others` than the result's companies are followed, too; one of those gets an entry only if it
        fails.
        """
        settings = Settings.from_environment()
        if settings.qdrant_url is None:
            return result
        own = [tenant.tenant for tenant in result.tenants]
        try:
            qdrant = self._connected(settings)
            due = await link.run(partial(due_companies, qdrant=qdrant, own=own, others=others))
        except LocalStoreError as error:
            if not own:
                raise
            return _with_failures(result, dict.fromkeys(own, Failure.of(error)))
        return _with_failures(result, await self._bring(link, qdrant, due, own))

    async def _bring(
        self, link: Link, qdrant: Qdrant, due: Sequence[tuple[str, str]], own: Sequence[str]
    ) -> dict[str, Failure]:
        from sync.outbox import follow

        failures: dict[str, Failure] = {}
        for place, (company, target) in enumerate(due):
            mine = company in own
            try:
                await link.run(partial(follow, company=company, target=target, qdrant=qdrant, wait=mine))
            except VectorsUnavailable as error:
                # It will not answer for the others, either.
                waiting = [other for other, _ in due[place:] if other in own] or [company]
                return failures | dict.fromkeys(waiting, Failure.of(error))
            except LocalStoreError as error:
                failures[company] = Failure.of(error)
        return failures

    def _connected(self, settings: Settings) -> Qdrant:
        assert settings.qdrant_url is not None
        try:
            # Neither the client nor numpy is needed by anybody else.
            from localstore.vectors.qdrant_server import connect

            if self._qdrant is None:
                self._qdrant = connect(settings.qdrant_url)
        except ModuleNotFoundError as error:
            raise ConfigurationError("QDRANT_URL is set, but the client is missing", hint=QDRANT_EXTRA) from error
        return self._qdrant


async def due_companies(
    connection: asyncpg.Connection, qdrant: Qdrant, own: Sequence[str], others: int = OTHERS_MAX
) -> list[tuple[str, str]]:
    """Return the companies, with their schemas, of which Qdrant may lack something: by one query."""
    from sync.outbox import follower_of

    rows = await connection.fetch(
        sql("due"), follower_of(qdrant), VECTORS.name, VECTORS.fingerprint, list(own), others, UNDO_DAYS
    )
    return [(row["company_id"], row["target"]) for row in rows]


def _with_failures(result: Result, failures: Mapping[str, Failure]) -> Result:
    entries = [
        replace(tenant, failure=tenant.failure or failures.get(tenant.tenant)) if tenant.tenant in failures else tenant
        for tenant in result.tenants
    ]
    own = {tenant.tenant for tenant in result.tenants}
    others = [
        TenantResult(company, "failed", failure=failure) for company, failure in failures.items() if company not in own
    ]
    return Result((*entries, *others))
