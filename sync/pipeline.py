"""The whole story of a push, and of the plan and the promotion that may follow it elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from localstore.sqlite.database import Database
from sync import batches, ledger
from sync.authority import begins_in, may_send
from sync.batches import LocalBatch
from sync.blobs.tally import Tally
from sync.bundle import Bundle, Sealed
from sync.errors import HeldRows, NotPrepared, PromotionFailed, StalePlan
from sync.outcome import Options, Outcome
from sync.production import Registered, is_prepared, prepare, register, registered, require_rights
from sync.retention import trim_feed
from sync.staging import sweep
from sync.steps.acknowledge import acknowledge
from sync.steps.promote import promote, promotion
from sync.steps.seal import seal
from sync.steps.stage import stage
from sync.steps.upload import release_objects, upload
from sync.takeback import withdraw
from sync.waiting_vectors import release_vectors

if TYPE_CHECKING:
    from sync.blobs.place import Place


async def open_production(connection: asyncpg.Connection, target: str, *, prepare_it: bool) -> None:
    """Make an unprepared database ready, as `sync init` does, and check that the login may do what follows."""
    if not await is_prepared(connection):
        if not prepare_it:
            raise NotPrepared("the database was never prepared for sync", hint="localstore sync init --to URL")
        await prepare(connection, target)
    await require_rights(connection)


async def send(
    connection: asyncpg.Connection,
    database: Database,
    target: str,
    *,
    place: Place | None,
    tally: Tally,
    closing: bool = False,
) -> tuple[UUID, ...]:
    """Seal what is pending, upload what it names, and stage all that production lacks; return what was staged.

    `place` is where production's objects are, if it has any; `tally` counts what was brought there.

    Where production is the truth nothing is sent, but for the last changes of a file that is about to be its copy
    (`closing`).
    """
    await acknowledge(connection, database)
    if not closing and not await may_send(connection, database):
        return ()
    await release_vectors(connection, database, target)
    await release_objects(connection, database, place, tally)
    await seal(database, target)
    unstaged = (await acknowledge(connection, database)).unstaged
    open_batches = {batch.batch: batch for batch in (*unstaged, *await database.read(batches.opened))}
    await upload(connection, database, tuple(open_batches.values()), place, tally)
    for batch in unstaged:
        sealed = _sealed(database, batch)
        await register(connection, target, sealed.head.tables)
        await stage(connection, sealed, target, await database.read(begins_in))
    return tuple(batch.batch for batch in unstaged)


async def promote_staged(
    connection: asyncpg.Connection, company: str, target: str, options: Options, *, only: UUID | None = None
) -> list[Outcome]:
    """Promote a company's staged batches in the order of their chain, each in a transaction of its own."""
    known = await registered(connection, target)
    await _sweep_behind(connection, company, known)
    await trim_feed(connection, company)
    outcomes = []
    for entry in await ledger.staged(connection, company, target):
        try:
            async with promotion(connection, company):
                locked = await ledger.entry(connection, entry.batch, lock=True)
                if locked is None or locked.state != ledger.STAGED:
                    continue
                outcome = await promote(connection, locked, known, options)
        except HeldRows:
            await withdraw(connection, entry)
            raise
        await _confirm(connection, entry)
        await sweep(connection, entry, known)
        outcomes.append(outcome)
        if entry.batch == only:
            break
    return outcomes


async def promote_planned(
    connection: asyncpg.Connection, company: str, target: str, options: Options, planned: Sequence[tuple[UUID, str]]
) -> list[Outcome]:
    """Promote the batches of a plan in one transaction, if production is still as the plan saw it.

    Raises StalePlan, with nothing changed, when it is not.
    """
    known = await registered(connection, target)
    await _sweep_behind(connection, company, known)
    await trim_feed(connection, company)
    outcomes: list[Outcome] = []
    entries = []
    states = await ledger.states(connection, [batch for batch, _ in planned])
    if all(states.get(batch) == ledger.PROMOTED for batch, _ in planned):
        # Done already: by an earlier run of the same command, or by this one, whose answer was lost.
        return outcomes
    async with promotion(connection, company):
        for batch, digest in planned:
            entry = await ledger.entry(connection, batch, lock=True)
            if entry is None or entry.state != ledger.STAGED:
                raise StalePlan(
                    f"batch {batch} of the plan is {entry.state if entry else 'unknown'} by now",
                    hint="localstore sync plan --out FILE makes a new plan",
                    tenant=company,
                )
            outcome = await promote(connection, entry, known, options)
            if outcome.digest != digest:
                raise StalePlan(
                    f"production changed rows of {company} that batch {batch} touches since the plan was made; "
                    "nothing was promoted",
                    hint="localstore sync plan --out FILE makes a new plan",
                    tenant=company,
                )
            entries.append(entry)
            outcomes.append(outcome)
    for entry in entries:
        await _confirm(connection, entry)
        await sweep(connection, entry, known)
    return outcomes


async def try_staged(connection: asyncpg.Connection, company: str, target: str, options: Options) -> list[Outcome]:
    """Promote a company's staged batches and roll everything back: what a plan is."""
    known = await registered(connection, target)
    outcomes: list[Outcome] = []
    try:
        async with promotion(connection, company):
            entries = await ledger.staged(connection, company, target)
            # A plan gives nothing up: it shows what would be held.
            shown = replace(options, abort=False, trial=True)
            outcomes = [await promote(connection, entry, known, shown) for entry in entries]
            raise _Undone
    except _Undone:
        return outcomes


class _Undone(Exception):
    """Ends a plan's transaction."""


async def _sweep_behind(
    connection: asyncpg.Connection, company: str, known: Mapping[tuple[str, str], Registered]
) -> None:
    """Remove what was staged for batches that are done with, where whoever did them was cut off before that."""
    for entry in await ledger.unswept(connection, company):
        await sweep(connection, entry, known)


async def _confirm(connection: asyncpg.Connection, entry: ledger.Entry) -> None:
    """Ask the ledger whether the promotion took effect: a COMMIT can be answered by a rollback without an error."""
    found = await ledger.states(connection, [entry.batch])
    if found.get(entry.batch) not in ledger.IN_EFFECT:
        raise PromotionFailed(
            f"production rolled batch {entry.batch} back at COMMIT",
            hint="run the command again",
            tenant=entry.company_id,
        )


def _sealed(database: Database, batch: LocalBatch) -> Sealed:
    path = _bundle(database.path.parent, batch.batch)
    bundle = Bundle(path)
    bundle.check(batch.hash)
    tail = bundle.tail()
    return Sealed(bundle.head(), path, batch.hash, tail["chunks"], tail["counts"])


def _bundle(tenant: Path, batch: UUID) -> Path:
    """Return where a batch's bundle is: among the open ones, or, when production was restored, among the kept."""
    path = batches.bundle_path(tenant, batch)
    return path if path.exists() else batches.kept_path(tenant, batch)
