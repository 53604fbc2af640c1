"""Acknowledge: learn from the ledger what became of this replica's batches, and bring the tenant's file up to it.

Every contact with production begins and ends here. Nothing is assumed: marks are trimmed only for batches that the
ledger has in effect. Safe to run any number of times.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

import asyncpg

from localstore.sqlite.capture import unmarkable
from localstore.sqlite.database import Database
from localstore.sqlite.layout import read_catalogue
from sync import batches, ledger
from sync import cursor as cursors
from sync.batches import LocalBatch
from sync.errors import ForkError, StaleFile, SyncRefused, forked
from sync.mirror import HeldCopy, read_held, write_held


@dataclass(frozen=True, slots=True)
class Contact:
    """Where a replica stands: `unstaged` are its batches that the ledger does not have whole, oldest first."""

    unstaged: tuple[LocalBatch, ...]
    acknowledged: tuple[UUID, ...]


async def acknowledge(connection: asyncpg.Connection, database: Database) -> Contact:
    """Compare chains with production and take over what it says.

    Raises StaleFile when production knows later batches than the file, ForkError when they tell two histories.
    """
    identity = database.identity
    replica = UUID(str(identity.replica))
    try:
        chains = await _chains(connection, database, replica)
    except ForkError:
        # Another process may have withdrawn a batch between the two looks; a true fork is still one at the second.
        chains = await _chains(connection, database, replica)
    local = chains.local
    states = {entry.batch: entry.state for entry in chains.remote}
    given_up = chains.given_up
    if given_up is not None:
        await database.write(lambda write: batches.withdraw(write, given_up.batch))
        local = await database.read(lambda file: batches.live(file, chains.since))
    done = [batch for batch in local if batch.state == "sealed" and states.get(batch.batch) in ledger.IN_EFFECT]
    held = await read_held(connection, database)
    if done or held is not None:
        await database.write(lambda write: _take_over(write, done, held))
        for batch in done:
            keep(database.path.parent, batch.batch)
    # One that is staging was cut off, or another process is at it, which staging it again waits for.
    unstaged = tuple(batch for batch in local if states.get(batch.batch, ledger.STAGING) == ledger.STAGING)
    return Contact(unstaged, tuple(batch.batch for batch in done))


def require_all(contact: Contact, company: str, otherwise: str) -> None:
    """Raise SyncRefused while production lacks batches that it had promoted; `otherwise` says what that would do."""
    if any(batch.state == "acknowledged" for batch in contact.unstaged):
        raise SyncRefused(
            "production was restored to an earlier state: it lacks batches that it had promoted, and "
            f"{otherwise}; nothing was changed",
            hint=f"localstore sync push --promote --tenant {company}",
            tenant=company,
        )


@dataclass(frozen=True, slots=True)
class _Chains:
    """A file's chain and production's from the batch `since` on, which both have in effect (None: from the first).

    `given_up` is the first of the file's batches that somebody withdrew in production; it ends the file's chain.
    """

    local: list[LocalBatch]
    remote: list[ledger.Entry]
    since: LocalBatch | None
    given_up: LocalBatch | None


async def _chains(connection: asyncpg.Connection, database: Database, replica: UUID) -> _Chains:
    """Return both chains, one of which continues the other; raises ForkError if neither does.

    Each hash fixes all that came before, so that nothing before a batch that both sides have in effect has to be looked
    at again. Where production does not have the last acknowledged one so, it was restored, or tells another history.
    A restored file goes on with its chain: what production has of it is of earlier epochs, and what came later is, too.
    """
    chain = partial(ledger.chain, connection, database.company_id, replica)
    since = await database.read(batches.last_acknowledged)
    # Production first: whatever it has of this file was recorded here before it was sent, by whichever process.
    remote = await chain(since.seq if since is not None else 0)
    if since is not None and not any(_is_in_effect(since, entry) for entry in remote):
        since = None
        remote = await chain()
    local = await database.read(lambda file: batches.live(file, since))
    known = {entry.batch for entry in remote}
    given_up = await _given_up(connection, [batch for batch in local if batch.batch not in known])
    standing = [batch for batch in local if given_up is None or batch.seq < given_up.seq]
    _compare(database.company_id, standing, remote)
    return _Chains(local, remote, since, given_up)


def _is_in_effect(batch: LocalBatch, entry: ledger.Entry) -> bool:
    return entry.hash == batch.hash and entry.state in ledger.IN_EFFECT


def _take_over(connection: sqlite3.Connection, done: Sequence[LocalBatch], held: HeldCopy | None) -> None:
    """Trim what production has and note what it holds, at once: a change is never without both its mark and that.

    Of a table that came whole, production may have kept rows that were absent: the next pull brings them back. But
    where every seal carries it whole, what is absent may as well be a delete that nobody has allowed yet.
    """
    carried: set[str] = set()
    for batch in done:
        batches.acknowledge(connection, batch.batch)
        carried |= batch.snapshots
    if carried:
        marked = [entry.table for entry in read_catalogue(connection) if entry.table.name in carried]
        cursors.forget(connection, {table.name for table in marked if unmarkable(connection, table) is None})
    if held is not None:
        write_held(connection, held)


def keep(tenant: Path, batch: UUID) -> None:
    """Move an acknowledged batch's bundle aside, where it can be sent again should production be restored."""
    kept = batches.kept_path(tenant, batch)
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        batches.bundle_path(tenant, batch).rename(kept)


def _compare(company: str, local: list[LocalBatch], remote: list[ledger.Entry]) -> None:
    """Raise unless one chain continues the other, the file's being the longer one."""
    mine = {batch.seq: batch.hash for batch in local}
    for entry in remote:
        if entry.seq is None or mine.get(entry.seq) == entry.hash:
            continue
        if entry.seq > max(mine, default=0):
            raise StaleFile(
                f"production has batch {entry.seq} of this replica, the tenant's file only {max(mine, default=0)}: "
                "the file was restored or copied from an older one; nothing was changed",
                hint=f"localstore sync rebase --tenant {company}",
                tenant=company,
            )
        raise forked(company, entry.seq)


async def _given_up(connection: asyncpg.Connection, unknown: list[LocalBatch]) -> LocalBatch | None:
    """Return the first of the batches that somebody withdrew in production."""
    found = await ledger.states(connection, [batch.batch for batch in unknown if batch.state == "sealed"])
    return next((batch for batch in unknown if found.get(batch.batch) == ledger.WITHDRAWN), None)
