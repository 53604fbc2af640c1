"""The writing connection of one file in one process, and whose turn it is to use it.

Writes that wait at the same moment are committed together (group commit): one BEGIN IMMEDIATE, a savepoint a write,
one COMMIT, and only then does anybody hear that theirs is done. A session takes a turn of its own. The queue is in
order of arrival, but for writes that a change of the tenant's mode holds off: they step aside, so that whoever changes
it gets through, and try again. Nothing here belongs to an event loop, so that stores of several loops may share a
writer.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic
from typing import Any, TypeVar

from localstore.errors import LocalStoreError, ModeChanging, StoreError
from localstore.sqlite.failures import busy_session, translate
from localstore.sqlite.threads import pool, settled

T = TypeVar("T")

GROUP_MAX = 512
"""More writes than this in one commit would make the first of them wait noticeably."""

HELD_OFF_SECONDS = 0.05
"""How long a write that a change of mode holds off waits before it tries again; such a change takes seconds."""


@dataclass(slots=True, eq=False)
class _Waiter:
    """Somebody in the queue; the outcome goes to `future` on its own loop."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    work: Callable[[sqlite3.Connection], Any] | None = None
    owner: asyncio.Task[Any] | None = None
    taken: bool = False
    abandoned: bool = False
    outcome: tuple[Any, BaseException | None] = field(default=(None, None))
    held_off_until: float | None = None


class Turn:
    """The sole use of the writing connection until `release`."""

    def __init__(self, writer: Writer, connection: sqlite3.Connection, owner: asyncio.Task[Any] | None) -> None:
        self.owner = owner
        self.ended = False
        self._connection = connection
        self._writer = writer

    @property
    def connection(self) -> sqlite3.Connection:
        """Return the connection; once the turn has ended it is somebody else's."""
        if self.ended:
            raise StoreError("this session's turn has ended: its tenant was closed", hint="open the store again")
        return self._connection

    def commit(self) -> None:
        """Commit what the holder has written; the turn goes on."""
        if self.connection.in_transaction:
            self.connection.execute("COMMIT")
            self._writer.after_commit(self.connection)

    def release(self) -> None:
        """Roll back what was not committed and let the next one in; a second call does nothing."""
        self._writer.take_back(self)


class Writer:
    """Hands out the writing connection of one file, in order of arrival."""

    def __init__(
        self,
        tenant: str,
        busy_timeout_seconds: float,
        connection: Callable[[], sqlite3.Connection],
        committed: Callable[[sqlite3.Connection], None],
    ) -> None:
        self._tenant = tenant
        self._busy_timeout_seconds = busy_timeout_seconds
        self._connection = connection
        self._committed = committed
        self._lock = Lock()
        self._queue: deque[_Waiter] = deque()
        self._active = False
        self._turn: Turn | None = None
        self._turns_wanted = 0
        self._closed = False

    @property
    def idle(self) -> bool:
        """Return whether nobody uses or awaits the connection."""
        return not self._active and not self._queue

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a transaction and return its result once that is committed.

        `work` runs in a thread, must leave the transaction open, and may run a second time when writes that shared
        its commit made that commit fail; so it has no effects but those on the connection.
        """
        result: T = await self._wait(self._enqueue(_waiter(work)))
        return result

    async def turn(self) -> Turn:
        """Wait for the sole use of the connection; raises StoreBusy when it is not free in time."""
        waiter = self._enqueue(_waiter(None))
        try:
            turn: Turn = await self._wait(waiter)
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                waiter.future.result().release()
            raise
        return turn

    async def close(self) -> None:
        """Take back a turn that is still held, let queued writes end, and refuse what comes later."""
        with self._lock:
            held = self._turn
        if held is not None:
            await asyncio.get_running_loop().run_in_executor(pool(), held.release)
        waiter = self._enqueue(_waiter(_nothing), closing=True)
        await self._wait(waiter)

    def take_back(self, turn: Turn) -> None:
        """End `turn`, if it has not ended yet."""
        with self._lock:
            if self._turn is not turn:
                return
            self._turn = None
        connection = turn.connection
        turn.ended = True
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        finally:
            with self._lock:
                self._turns_wanted -= 1
            self._go_on()

    def _enqueue(self, waiter: _Waiter, *, closing: bool = False) -> _Waiter:
        with self._lock:
            if self._closed:
                raise _closed(self._tenant)
            if self._turn is not None and self._turn.owner is not None and self._turn.owner is waiter.owner:
                # Waiting for oneself never ends.
                raise busy_session(self._tenant)
            self._closed = closing
            self._queue.append(waiter)
            behind_a_turn = self._turns_wanted > 0
            if waiter.work is None:
                self._turns_wanted += 1
            start, self._active = not self._active, True
        if behind_a_turn and not closing:
            timer = waiter.loop.call_later(self._busy_timeout_seconds, self._give_up, waiter)
            waiter.future.add_done_callback(lambda _: timer.cancel())
        if start:
            self._go_on()
        return waiter

    async def _wait(self, waiter: _Waiter) -> Any:
        try:
            return await asyncio.shield(waiter.future)
        except asyncio.CancelledError:
            with self._lock:
                waiter.abandoned = not waiter.taken
            if waiter.taken:
                # It is being committed; the caller's objects are in use until that has ended.
                await settled(waiter.future)
            else:
                waiter.future.cancel()
            raise

    def _give_up(self, waiter: _Waiter) -> None:
        with self._lock:
            if waiter.taken or waiter.held_off_until is not None:
                return
            waiter.abandoned = True
        if not waiter.future.done():
            waiter.future.set_exception(busy_session(self._tenant))

    def _go_on(self) -> None:
        try:
            pool().submit(self._serve)
        except RuntimeError:
            # The interpreter is shutting down and takes no new work, but what was accepted is still carried out.
            self._serve()

    def _serve(self) -> None:
        """Carry out the next group of writes, or hand over to the next turn."""
        group, turn = self._next()
        if turn is not None:
            self._hand_over(turn)
            return
        if group:
            self._commit(group)
            deliver([waiter for waiter in group if not self._put_off(waiter)])
        with self._lock:
            if not self._queue:
                self._active = False
                return
        self._go_on()

    def _put_off(self, waiter: _Waiter) -> bool:
        """Let a write that a change of mode holds off try again later, until it has waited for the whole timeout."""
        if not isinstance(waiter.outcome[1], ModeChanging):
            return False
        if waiter.held_off_until is None:
            waiter.held_off_until = monotonic() + self._busy_timeout_seconds
        with self._lock:
            if self._closed or monotonic() >= waiter.held_off_until:
                return False
            waiter.taken = False
        try:
            waiter.loop.call_soon_threadsafe(waiter.loop.call_later, HELD_OFF_SECONDS, self._again, waiter)
        except RuntimeError:
            # The loop was closed, so nobody waits any more.
            waiter.abandoned = True
        return True

    def _again(self, waiter: _Waiter) -> None:
        """Put a write that was held off in line again; runs on the loop of whoever waits for it."""
        with self._lock:
            if waiter.abandoned:
                return
            closed = self._closed
            if not closed:
                self._queue.append(waiter)
            start = not closed and not self._active
            self._active = self._active or start
        if closed:
            waiter.taken = True
            _settle([waiter])
        if start:
            self._go_on()

    def _next(self) -> tuple[list[_Waiter], _Waiter | None]:
        group: list[_Waiter] = []
        with self._lock:
            while self._queue and len(group) < GROUP_MAX:
                waiter = self._queue[0]
                if waiter.work is None and group and not waiter.abandoned:
                    break
                self._queue.popleft()
                if waiter.abandoned:
                    self._turns_wanted -= waiter.work is None
                    continue
                waiter.taken = True
                if waiter.work is None:
                    return [], waiter
                group.append(waiter)
        return group, None

    def _hand_over(self, waiter: _Waiter) -> None:
        try:
            turn = Turn(self, self._connection(), waiter.owner)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the waiter must hear it
            with self._lock:
                self._turns_wanted -= 1
            waiter.outcome = (None, translate(error, self._tenant))
            deliver([waiter])
            self._go_on()
            return
        with self._lock:
            self._turn = turn
        waiter.outcome = (turn, None)
        if not deliver([waiter]):
            turn.release()

    def _commit(self, group: list[_Waiter]) -> None:
        if all(waiter.work is _nothing for waiter in group):
            return
        try:
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
        except BaseException as error:  # noqa: BLE001 - every writer of the group must hear it
            for waiter in group:
                waiter.outcome = (None, translate(error, self._tenant))
            return
        try:
            for waiter in group:
                self._perform(connection, waiter, alone=len(group) == 1)
            connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 - every writer of the group must hear it
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            if len(group) == 1:
                group[0].outcome = (None, translate(error, self._tenant))
                return
            # One of them made the whole fail (a deferred foreign key, a full disk); alone, each gets its own answer.
            for waiter in group:
                self._commit([waiter])
            return
        self.after_commit(connection)

    def _perform(self, connection: sqlite3.Connection, waiter: _Waiter, *, alone: bool) -> None:
        """Run one write; its error is its own unless it took the transaction with it."""
        work = waiter.work or _nothing
        if alone:
            waiter.outcome = (work(connection), None)
        else:
            connection.execute("SAVEPOINT localstore_write")
            try:
                waiter.outcome = (work(connection), None)
            except BaseException as error:
                if not connection.in_transaction:
                    raise
                connection.execute("ROLLBACK TO localstore_write")
                waiter.outcome = (None, translate(error, self._tenant))
            if connection.in_transaction:
                connection.execute("RELEASE localstore_write")
        if not connection.in_transaction:
            raise StoreError("a write ended the transaction that it was given", tenant=self._tenant)

    def after_commit(self, connection: sqlite3.Connection) -> None:
        """Do what follows a commit; it cannot fail the commit any more."""
        try:
            self._committed(connection)
        except sqlite3.OperationalError:
            # The commit stands; a checkpoint that could not be made now is made after a later one.
            return


def deliver(waiters: Iterable[_Waiter]) -> bool:
    """Give every waiter its outcome, waking each event loop once; return whether all loops still run."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Waiter]] = {}
    for waiter in waiters:
        by_loop.setdefault(waiter.loop, []).append(waiter)
    delivered = True
    for loop, those in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, those)
        except RuntimeError:
            # The loop was closed, so nobody waits any more; the commit stands all the same.
            delivered = False
    return delivered


def _settle(waiters: list[_Waiter]) -> None:
    for waiter in waiters:
        result, error = waiter.outcome
        if waiter.future.done():
            if isinstance(result, Turn):
                result.release()
        elif error is None:
            waiter.future.set_result(result)
        elif isinstance(error, StopIteration):
            waiter.future.set_exception(RuntimeError("a write raised StopIteration"))
        else:
            waiter.future.set_exception(error)


def _waiter(work: Callable[[sqlite3.Connection], Any] | None) -> _Waiter:
    loop = asyncio.get_running_loop()
    return _Waiter(loop, loop.create_future(), work, asyncio.current_task())


def _nothing(_connection: sqlite3.Connection) -> None:
    return None


def _closed(tenant: str) -> LocalStoreError:
    return StoreError(f"tenant {tenant} is closed", hint="open the store again", tenant=tenant)
