"""Carry commits to production in the background: each tenant's together, as soon and as long as production answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import stamina

from localstore.errors import LocalStoreError, PostgresUnavailable, TenantNotFound
from localstore.store import LocalStore
from sync.config import CONCURRENCY_DEFAULT, SyncSettings
from sync.engine import SyncEngine
from sync.errors import SyncError
from sync.results import Failure, Result

PAUSE_SECONDS: Final = 1.0
"""Between two pushes of a tenant: each leaves a batch in the ledger, so what is written meanwhile goes together."""

AWAY_SECONDS_MAX: Final = 5.0
"""The longest wait for a server that is away: hardly any load for it, and soon noticed when it is back."""

REFUSED_SECONDS_MAX: Final = 120.0
"""The longest wait before a push that was refused is tried again; somebody has to do something about it meanwhile."""

CLOSE_SECONDS: Final = 5.0
"""How long a storage that is closed tries to bring its last commits to production; they wait in the file anyhow."""

# That production is away is told by `failures`. A program that has not configured any logging would have each attempt
# printed; one that has, gets stamina's records as before.
logging.getLogger("stamina").addHandler(logging.NullHandler())


class Pusher:
    """Pushes and promotes tenants of one store, on the event loop of whoever writes.

    Nothing of it outlives its loop, and nothing needs to: what was committed is marked in the file, and a push that is
    cut anywhere goes on where it was. What a push met stands in `failures` until one succeeds.
    """

    def __init__(self, store: LocalStore, to: str) -> None:
        self._store = store
        self._to = to
        self._waiting: set[str] = set()
        self._contacts: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn, self._bringing = asyncio.Semaphore(CONCURRENCY_DEFAULT), asyncio.Lock()
        self.failures: dict[str, Failure] = {}
        self.held: dict[str, int] = {}

    @property
    def waiting(self) -> tuple[str, ...]:
        """Return the tenants that have commits which no push has carried yet."""
        return tuple(sorted(self._waiting))

    def in_contact(self, company_id: str) -> bool:
        """Return whether production told the tenant's file, since it was last away, what it has of it."""
        return company_id in self._contacts

    def lost(self) -> None:
        """Note that production went away: what it has may be another state when it comes back."""
        self._contacts.clear()

    def notice(self, company_id: str) -> None:
        """Have what the tenant's file holds carried to production soon. Neither waits nor fails."""
        self._waiting.add(company_id)
        loop = self._on_this_loop()
        task = self._tasks.get(company_id)
        if task is None or task.done():
            task = self._tasks[company_id] = loop.create_task(self._serve(company_id))
            task.add_done_callback(partial(self._ended, company_id))

    async def push(self, companies: Sequence[str]) -> Result:
        """Push and promote these tenants now; raises LocalStoreError when production cannot be reached at all."""
        async with self.engine() as engine:
            return await self._carry(engine, list(companies))

    async def bring(self, company_id: str) -> None:
        """Make the file of a company that other boxes have, as production has it, so that writes here build on that.

        Where production goes away meanwhile, what is missing comes with a later pull.
        """
        self._on_this_loop()
        async with self._bringing:
            if self._is_here(company_id):
                return
            with suppress(PostgresUnavailable):
                async with self.engine() as engine:
                    failure = (await engine.pull([company_id])).tenants[0].failure
                if failure is not None and failure.code != PostgresUnavailable.code:
                    raise SyncError(failure.message, hint=failure.hint, tenant=company_id)

    def engine(self) -> SyncEngine:
        """Return an engine of the store, which the caller closes."""
        return SyncEngine(self._store, to=self._to, settings=SyncSettings())

    async def close(self) -> None:
        """Stop, after a last and bounded attempt to carry what is waiting."""
        tasks = self._tasks.values() if self._loop is asyncio.get_running_loop() else ()
        self._tasks = {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not self._waiting:
            return
        # Whether anybody is there is asked first, since whoever closes waits for the answer.
        self.lost()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.push(self.waiting)
        except TimeoutError:
            self._note(self._waiting, Failure.of(_away(f"production did not answer within {CLOSE_SECONDS:g} s")))
        except LocalStoreError:
            # It stands in `failures`, and the commits in the file, for the next run.
            return

    async def _serve(self, company_id: str) -> None:
        while company_id in self._waiting:
            async for attempt in stamina.retry_context(
                on=_NotDone, attempts=None, timeout=None, wait_initial=PAUSE_SECONDS, wait_max=REFUSED_SECONDS_MAX
            ):
                with attempt:
                    await self._take_turn(company_id)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _take_turn(self, company_id: str) -> None:
        """Push one tenant, in turn with few others, so that no more than that many connections are open at once.

        While production is away the turn is kept, since nobody else could do anything with it.
        """
        async with self._turn:
            async for attempt in stamina.retry_context(
                on=_is_away, attempts=None, timeout=None, wait_initial=0.2, wait_max=AWAY_SECONDS_MAX
            ):
                with attempt:
                    try:
                        result = await self.push([company_id])
                    except LocalStoreError as error:
                        _obey_cancellation()
                        raise _NotDone(Failure.of(error)) from error
                    failure = result.tenants[0].failure
                    if failure is not None:
                        raise _NotDone(failure)

    async def _carry(self, engine: SyncEngine, companies: Sequence[str]) -> Result:
        self._waiting.difference_update(companies)
        try:
            if not self._contacts.issuperset(companies):
                # One connection says whether anybody is there, which the engine itself would ask for a while.
                async with (await engine.link()).connection():
                    pass
            result = await engine.push(companies, promote=True)
        except BaseException as error:
            self._waiting.update(companies)
            if isinstance(error, LocalStoreError):
                self._note(companies, Failure.of(error))
            raise
        for tenant in result.tenants:
            if tenant.tenant not in companies:
                continue  # One whose vectors another program left behind.
            if tenant.failure is not None:
                self._waiting.update({tenant.tenant} if self._is_here(tenant.tenant) else ())
                self._note([tenant.tenant], tenant.failure)
                continue
            self._contacts.add(tenant.tenant)
            self.failures.pop(tenant.tenant, None)
            self.held[tenant.tenant] = tenant.held
        return result

    def _note(self, companies: Iterable[str], failure: Failure) -> None:
        self.failures |= dict.fromkeys(companies, failure)
        if failure.code == PostgresUnavailable.code:
            self.lost()
        else:
            self._contacts.difference_update(companies)

    def _ended(self, company_id: str, task: asyncio.Task[None]) -> None:
        """Look at how a tenant's task ended: only a fault of the program ends it by an error."""
        if self._tasks.get(company_id) is task:
            del self._tasks[company_id]
        error = None if task.cancelled() else task.exception()
        if error is not None:
            what = f"the push ended by {type(error).__name__}: {error}"
            self._note([company_id], Failure("error", what, f"localstore sync push --promote --tenant {company_id}", 1))

    def _is_here(self, company_id: str) -> bool:
        try:
            self._store.tenant(company_id, create=False)
        except TenantNotFound:
            return False
        return True

    def _on_this_loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop; the tasks of a loop that ended have ended with it."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._tasks = loop, {}
            self._turn, self._bringing = asyncio.Semaphore(CONCURRENCY_DEFAULT), asyncio.Lock()
        return loop


class _NotDone(Exception):
    """Raised to have a push tried again later."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def _obey_cancellation() -> None:
    """End a task that was told to end, whatever a driver on the way made of that."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _is_away(error: Exception) -> bool:
    return isinstance(error, _NotDone) and error.failure.code == PostgresUnavailable.code


def _away(message: str) -> PostgresUnavailable:
    return PostgresUnavailable(
        message, hint="what is waiting travels with the next push: localstore sync push --promote"
    )
