"""A tenant's way from file over hybrid to postgresql, and back: `engine.modes`.

Production says where the truth is, and the file mirrors it. Every step looks at both before it does anything, so that
a change that was cut off anywhere is finished by `advance` and undone by `back`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeAlias

from localstore.errors import ConfigurationError, LocalStoreError, PostgresError, StoreBusy, TenantNotFound
from localstore.postgres.locks import FileLock
from localstore.sqlite.mode import ADVANCING, CLOSED, FILE, HYBRID, POSTGRESQL, read_mode, set_mode
from localstore.sqlite.threads import in_thread
from sync import authority, ledger, pipeline
from sync.blobs.tally import Tally
from sync.errors import ModeInDoubt, NotPrepared, NotReady
from sync.gates import CARRIED, EQUAL, Gate, Site, nothing_held
from sync.moded import ModeChange, ModeStatus, ModeStatuses
from sync.production import is_prepared
from sync.results import Result, TenantResult
from sync.status import read_status
from sync.steps.acknowledge import acknowledge
from sync.steps.pull import pull
from sync.steps.seal import alone
from sync.verifying import verified

if TYPE_CHECKING:
    from sync.pulling import Pulls

ROUNDS_MAX: Final = 5
"""Each round carries what the one before it brought in; more of them than this only chase a busy production."""

LOCK_NAME: Final = ".mode.lock"

WAY: Final = (FILE, HYBRID, ADVANCING, POSTGRESQL)
SETTLED: Final = (FILE, HYBRID, POSTGRESQL)

Step: TypeAlias = Callable[[Site, str | None, str], Awaitable[None]]


class Modes:
    """Where tenants' truth is, and moving it."""

    def __init__(self, engine: Pulls) -> None:
        self._engine = engine

    async def status(self, tenants: Sequence[str] | None = None) -> ModeStatuses:
        """Return each tenant's mode, by production where the engine knows one, and by its file where that is here."""
        found = []
        asked = self._engine.has_production and await (await self._engine.link()).run(is_prepared)
        for tenant in await self._engine.tenants(tenants):
            file = pending = held = production = None
            if await self._engine.is_local(tenant):
                async with self._engine.database(tenant) as database:
                    file = await database.read(read_mode)
                    status = await database.read(read_status)
                    pending, held = status.pending, status.conflicts + status.quarantined
            if asked:
                link = await self._engine.link()
                production = await link.run(partial(authority.mode_of, company=tenant))
            if file is None and production is None:
                raise TenantNotFound(
                    f"there is no tenant {tenant}, neither here nor in the production that was asked, if one was",
                    hint="localstore tenants list",
                    tenant=tenant,
                )
            found.append(ModeStatus(tenant, asked, production, file, pending, held))
        return ModeStatuses(tuple(found))

    async def advance(self, tenant: str, *, until: str | None = None) -> ModeChange:
        """Bring a tenant one mode further, or finish what an earlier call began; with `until`, as far as that mode.

        To hybrid once it was promoted and nothing unexplained sets both sides apart; to postgresql once production
        has everything, for which writes to the file wait. Raises NotReady, with the mode as it was, when it may not.
        """
        return await self._move(tenant, self._advance, until or POSTGRESQL, once=until is None)

    async def back(self, tenant: str, *, until: str | None = None) -> ModeChange:
        """Bring a tenant one mode back, or undo what an `advance` began that was cut off; with `until`, to that mode.

        From postgresql production first stops taking writes of its own; then the file takes in what it has, and opens
        in the transaction that does. A tenant without a file here is given one.
        """
        if not await self._engine.is_local(tenant):
            await self._engine.ready(prepare=False)
            await self._engine.make(tenant)
        return await self._move(tenant, self._back, until or FILE, once=until is None)

    async def _move(self, tenant: str, step: Step, last: str, *, once: bool) -> ModeChange:
        """Take steps until both sides have the mode `last`; in a mode that lies beyond it there is nothing to do."""
        if last not in SETTLED:
            raise ConfigurationError(f"there is no mode {last!r}", hint=f"one of {', '.join(SETTLED)}")
        began = monotonic()
        forwards = step == self._advance
        async with self._site(tenant) as site:
            production, here = await self._look(site)
            before = here
            while not _arrived(production, here, last, forwards=forwards):
                await step(site, production, here)
                production, here = await self._look(site)
                if once:
                    break
            return ModeChange(tenant, before, here, monotonic() - began)

    async def _advance(self, site: Site, production: str | None, here: str) -> None:
        match production, here:
            case "postgresql", _:
                await self._become_a_copy(site, here)
            case "hybrid", "file":
                await self._mirror(site, HYBRID)
            case "hybrid", _:
                await self._to_postgresql(site, here)
            case _:
                await self._to_hybrid(site, here)

    async def _back(self, site: Site, production: str | None, here: str) -> None:
        match production, here:
            case "postgresql", _:
                await self._open(site)
            case _, "postgresql" | "advancing":
                await self._take_in(site)
            case "hybrid", _:
                await self._declare(site, FILE, among=(HYBRID,))
            case _:
                await self._mirror(site, FILE)

    # -- forwards -------------------------------------------------------------------------------------------------

    async def _to_hybrid(self, site: Site, here: str) -> None:
        if here in CLOSED:
            # The file of another box's change; as any file, it opens with what production has.
            await self._take_in(site)
        if not await site.link.run(partial(ledger.was_promoted, company=site.tenant)):
            raise NotReady(
                f"nothing of {site.tenant} was promoted yet",
                hint=f"localstore sync push --promote --tenant {site.tenant}",
                tenant=site.tenant,
            )
        await site.link.run(partial(acknowledge, database=site.database))
        found = await verified(site.link, site.database)
        if not found.equal and not found.explained:
            raise NotReady(
                f"the file of {site.tenant} and production differ, and neither pending nor held changes explain that",
                hint=f"localstore sync verify --tenant {site.tenant}",
                tenant=site.tenant,
            )
        await self._declare(site, HYBRID, among=(FILE,))

    async def _to_postgresql(self, site: Site, here: str) -> None:
        """Carry everything, hold writes off, carry the rest, compare, and only then let production be the truth."""
        if here != HYBRID:
            # Cut off on the way to or fro: production may have been the truth meanwhile.
            await self._take_in(site)
        # Most of it while others still write, which keeps the time short in which they wait.
        await self._settle(site, rounds=1)
        await nothing_held(site)
        await self._follow(site)
        told = False
        try:
            await self._mirror(site, ADVANCING)
            await self._settle(site)
            await self._follow(site)
            await _pass(site, EQUAL)
            told = True
            await self._declare(site, POSTGRESQL, among=(HYBRID,))
        except BaseException as error:
            in_effect = told and await self._mode_after(site, error) == POSTGRESQL
            await self._mirror(site, POSTGRESQL if in_effect else HYBRID)
            raise

    async def _become_a_copy(self, site: Site, here: str) -> None:
        """Make the file a copy of a production that is the truth already; what it still has of its own goes first."""
        try:
            await self._mirror(site, ADVANCING)
            await self._settle(site)
            await _pass(site, CARRIED)
            await self._mirror(site, POSTGRESQL)
        except BaseException:
            await self._mirror(site, here)
            raise

    async def _settle(self, site: Site, *, rounds: int = ROUNDS_MAX) -> None:
        """Push, promote and pull until neither side has anything that the other lacks, held rows aside."""
        options = self._engine.options()
        for _ in range(rounds):
            target = site.link.target
            sending = partial(pipeline.send, database=site.database, target=target, place=self._engine.place)
            await site.link.run(partial(sending, tally=Tally(), closing=True))
            await site.link.run(partial(pipeline.promote_staged, company=site.tenant, target=target, options=options))
            await site.link.run(partial(acknowledge, database=site.database))
            await site.link.run(partial(pull, database=site.database, target=target))
            if not await site.database.read(authority.waits):
                return

    async def _follow(self, site: Site) -> None:
        """Let Qdrant, where there is one, have what production has: there vectors are searched from then on."""
        done = await self._engine.followed(Result((TenantResult(site.tenant, "promoted"),)), others=0)
        failure = done.tenants[0].failure
        if failure is not None:
            raise NotReady(failure.message, hint=failure.hint, tenant=site.tenant)

    # -- backwards ------------------------------------------------------------------------------------------------

    async def _open(self, site: Site) -> None:
        """Take in what production has, stop writes to it, and take in the last of them."""
        # The first time while others still write, and before anything is changed: what cannot work is found here.
        await self._pull(site)
        await self._tell(site, HYBRID, among=(POSTGRESQL,))
        await self._take_in(site)

    async def _take_in(self, site: Site) -> None:
        """Open a closed file with what production has, since nobody can tell how long ago it was closed.

        A copy follows production's mode in the transaction that takes the rows over. A file that a change was
        cut off on is opened after that: in between nobody writes to either side.
        """
        await self._pull(site)
        production, here = await self._look(site)
        if here == ADVANCING:
            await self._mirror(site, production or HYBRID)

    async def _pull(self, site: Site) -> None:
        result = await site.link.run(partial(pull, database=site.database, target=site.link.target))
        if result.left_alone:
            row, why = result.left_alone[0]
            raise NotReady(
                f"the file of {site.tenant} cannot hold {len(result.left_alone):,} rows of production, such as "
                f"{row} ({why}), so it cannot be the truth",
                hint=f"correct them in production, then: localstore mode back {site.tenant}",
                tenant=site.tenant,
            )

    # -- both -----------------------------------------------------------------------------------------------------

    async def _declare(self, site: Site, mode: str, *, among: Collection[str]) -> None:
        """Set the mode in production, then in the file; nothing else that follows the one comes in between."""
        async with alone(site.database.path.parent):
            await self._tell(site, mode, among=among)
            await self._mirror(site, mode)

    async def _tell(self, site: Site, mode: str, *, among: Collection[str]) -> None:
        """Set the mode in production, and know that it is set."""
        found = await site.link.run(partial(authority.set_mode, company=site.tenant, mode=mode, among=among))
        _refuse_other(site, found, mode, among)

    async def _mirror(self, site: Site, mode: str) -> None:
        await site.database.write(partial(set_mode, mode=mode))
        await site.database.refresh()

    async def _mode_after(self, site: Site, error: BaseException) -> str | None:
        """Return production's mode after a failure; raises ModeInDoubt when production cannot be asked, either."""
        try:
            return await site.link.run(partial(authority.mode_of, company=site.tenant))
        except PostgresError as silent:
            raise ModeInDoubt(
                f"production was told that tenant {site.tenant} is in mode postgresql, and its answer was lost; "
                "writes to the file wait until that is known",
                hint=f"`localstore mode advance {site.tenant}` finishes it, `localstore mode back {site.tenant}` "
                "undoes it",
                tenant=site.tenant,
            ) from (error if isinstance(error, LocalStoreError) else silent)

    async def _look(self, site: Site) -> tuple[str | None, str]:
        production = await site.link.run(partial(authority.mode_of, company=site.tenant))
        return production, await site.database.read(read_mode)

    @asynccontextmanager
    async def _site(self, tenant: str) -> AsyncIterator[Site]:
        """Open a tenant's file and production for one change of its mode; a second one at a time is refused.

        The lock is the kernel's, so it goes with the process that holds it.
        """
        try:
            await self._engine.ready(prepare=False)
        except NotPrepared as error:
            # A first push prepares production, too, and brings what a mode needs there.
            hint = f"localstore sync push --promote --tenant {tenant}"
            raise NotPrepared(error.message, hint=hint, tenant=tenant) from error
        async with self._engine.database(tenant) as database:
            link = await self._engine.link(await self._engine.target(database))
            lock = FileLock(database.path.parent / LOCK_NAME)
            if not await in_thread(lambda: lock.try_acquire(shared=False)):
                raise StoreBusy(
                    f"another command is changing the mode of tenant {tenant}",
                    hint=f"localstore mode status {tenant}",
                    tenant=tenant,
                )
            try:
                yield Site(database, link)
            finally:
                lock.release()


def _arrived(production: str | None, here: str, last: str, *, forwards: bool) -> bool:
    """Return whether both sides agree, and on a mode that is `last` or lies beyond it."""
    way = WAY.index(here) - WAY.index(last)
    return production in (None, here) and (way >= 0 if forwards else way <= 0)


async def _pass(site: Site, gates: Sequence[Gate]) -> None:
    for gate in gates:
        await gate(site)


def _refuse_other(site: Site, found: str | None, wanted: str, among: Collection[str]) -> None:
    """Raise unless production has the mode that it was told."""
    if found == wanted:
        return
    why = (
        f"production rolled the new mode of tenant {site.tenant} back at COMMIT"
        if found in among
        else f"another box changed the mode of tenant {site.tenant} to {found or 'none'} meanwhile"
    )
    raise NotReady(why, hint=f"localstore mode status {site.tenant}", tenant=site.tenant)
