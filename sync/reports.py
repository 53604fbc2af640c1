"""Reports: what the ledger says that a command did, which is true even when an answer was lost on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from time import monotonic
from uuid import UUID

import asyncpg

from sync import history, ledger
from sync.link import Link
from sync.results import TenantResult, sum_tables


async def promoted(link: Link, tenant: str, batches: Sequence[UUID]) -> TenantResult:
    """Report those of the batches that are in effect."""

    async def read(connection: asyncpg.Connection) -> list[ledger.Entry]:
        found = [await ledger.entry(connection, batch) for batch in batches]
        return [entry for entry in found if entry is not None and entry.state in ledger.IN_EFFECT]

    entries = await link.run(read)
    return TenantResult(
        tenant,
        "promoted" if entries else "unchanged",
        batch=entries[-1].batch if entries else None,
        batches=tuple(entry.batch for entry in entries),
        tables=sum_tables(entry.counts or {} for entry in entries),
    )


async def staged(link: Link, tenant: str, batches: Sequence[UUID]) -> TenantResult:
    """Report the batches that this command staged, and the last one of all that are."""
    entries = await link.run(partial(ledger.staged, company=tenant, target=link.target))
    return TenantResult(
        tenant,
        "staged" if entries else "unchanged",
        batch=entries[-1].batch if entries else None,
        batches=tuple(batches),
        tables=sum_tables(history.staged_counts(entry) for entry in entries if entry.batch in set(batches)),
    )


async def finished(link: Link, result: TenantResult, began: float) -> TenantResult:
    """Add how long it took and how many rows remain held."""
    held = result.held or await link.run(partial(history.count_held, company=result.tenant))
    return replace(result, held=held, seconds=monotonic() - began)
