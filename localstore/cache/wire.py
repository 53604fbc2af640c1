"""One event loop's way to a Redis server: what callers ask at the same moment travels together in one pipeline."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from localstore.cache.failures import CacheFailure
from localstore.errors import ConfigurationError

ANSWER_SECONDS: Final = 2.0
"""A cache that needs longer than this costs more than it saves."""

REST_SECONDS: Final = 2.0
"""After a server did not answer in time, nobody waits for it again for so long."""

AT_ONCE: Final = 500
"""Commands of one pipeline; more would make the first of them wait noticeably."""

Command = tuple[Any, ...]


class ConnectionLost(CacheFailure):
    """Raised when the connection could not be made, or broke before the answer: nobody knows what was carried out."""


@dataclass(slots=True, eq=False)
class _Question:
    commands: Sequence[Command]
    again: bool
    future: asyncio.Future[list[Any]]


@dataclass(slots=True)
class Wire:
    """One connection, used by one pipeline at a time; what is asked meanwhile goes with the next one."""

    client: Any
    _queue: deque[_Question] = field(default_factory=deque)
    _sending: asyncio.Task[None] | None = None
    _resting_until: float = 0.0
    _guard: AsyncGenerator[None, None] | None = None

    async def ask(self, commands: Sequence[Command], *, again: bool) -> list[Any]:
        """Return the server's answers, an error among them as what it is; raises CacheFailure without an answer.

        Where the connection is lost, what may be carried out twice (`again`) is asked once more.
        """
        if monotonic() < self._resting_until:
            raise CacheFailure("it did not answer a moment ago")
        await self._stay()
        question = _Question(commands, again, asyncio.get_running_loop().create_future())
        self._queue.append(question)
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send())
        return await question.future

    async def close(self) -> None:
        """Close the connection."""
        guard, self._guard = self._guard, None
        if guard is not None:
            await guard.aclose()

    async def _stay(self) -> None:
        """See to it that the connection is closed when the loop ends: a loop closes the generators begun on it."""
        if self._guard is None:
            self._guard = _closing(self.client)
            await anext(self._guard)

    async def _send(self) -> None:
        try:
            while self._queue:
                group: list[_Question] = []
                size = 0
                while self._queue and (not group or size + len(self._queue[0].commands) <= AT_ONCE):
                    group.append(self._queue.popleft())
                    size += len(group[-1].commands)
                await self._send_group([question for question in group if not question.future.done()])
        finally:
            self._sending = None
            for question in self._queue:
                question.future.cancel()
            self._queue.clear()

    async def _send_group(self, group: Sequence[_Question], *, last: bool = False) -> None:
        try:
            answers = iter(await self._answers([command for question in group for command in question.commands]))
        except CacheFailure as error:
            lost = isinstance(error, ConnectionLost) and not last
            for question in group:
                if not question.future.done() and not (lost and question.again):
                    question.future.set_exception(error)
            if lost:
                await self._send_group([question for question in group if question.again], last=True)
            return
        for question in group:
            own = [next(answers) for _ in question.commands]
            if not question.future.done():
                question.future.set_result(own)

    async def _answers(self, commands: Sequence[Command]) -> list[Any]:
        exceptions = redis_package().exceptions
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if len(commands) == 1:
                    return [await self.client.execute_command(*commands[0])]
                async with self.client.pipeline(transaction=False) as pipeline:
                    for command in commands:
                        pipeline.execute_command(*command)
                    answers: list[Any] = await pipeline.execute(raise_on_error=False)
                    return answers
        except exceptions.ResponseError as error:
            return [error]
        except (exceptions.TimeoutError, TimeoutError) as error:
            self._resting_until = monotonic() + REST_SECONDS
            raise CacheFailure("it did not answer in time") from error
        except (exceptions.ConnectionError, OSError) as error:
            raise ConnectionLost(said(error)) from error
        except exceptions.RedisError as error:
            raise CacheFailure(said(error)) from error


def wire_to(url: str) -> Wire:
    """Return a way to the server; nothing is opened yet."""
    redis = redis_package()
    client = redis.asyncio.Redis.from_url(
        url,
        protocol=2,
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
        # The driver would ask again without knowing what may be carried out twice.
        retry=redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0),
    )
    return Wire(client)


def redis_package() -> Any:
    """Return the package redis; raises ConfigurationError where it is not installed."""
    try:
        import redis.asyncio.retry
        import redis.backoff
    except ImportError as error:
        raise ConfigurationError(
            "REDIS_URL is set, but the package redis is not installed", hint="pip install 'localstore[redis]'"
        ) from error
    return redis


def said(error: Exception) -> str:
    """Return what an error of the server's or the driver's says, in one line."""
    text = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}"


async def _closing(client: Any) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await client.aclose()
