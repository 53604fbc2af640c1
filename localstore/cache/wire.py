"""One event loop's way to a Redis server: what callers ask at the same moment travels together in one pipeline."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from localstore.cache.address import ANSWER_SECONDS, client_of, redis_package
from localstore.cache.failures import CacheFailure

REST_SECONDS: Final = 2.0
"""After a server did not answer in time, nobody waits for it again for so long."""

AT_ONCE: Final = 500
BYTES_AT_ONCE: Final = 1024 * 1024
"""Commands and bytes of one pipeline; more would make the first of them, and whoever comes next, wait noticeably."""

Command = tuple[str | bytes | int, ...]


class ConnectionLost(CacheFailure):
    """Raised when the connection could not be made, or broke before the answer: nobody knows what was carried out."""


@dataclass(slots=True, eq=False)
class _Question:
    commands: Sequence[Command]
    size: int
    again: bool
    future: asyncio.Future[list[Any]]


@dataclass(slots=True)
class Wire:
    """One connection, used by one pipeline at a time; what is asked meanwhile goes with the next one.

    Callers of all companies share it, so no question may cost another one its answer: what cannot be sent is refused
    where it is asked, a long list of commands goes in parts between which others have their turn, and however a
    pipeline ends, everybody in it hears of it.
    """

    client: Any
    _queue: deque[_Question] = field(default_factory=deque)
    _sending: asyncio.Task[None] | None = None
    _resting_until: float = 0.0
    _guard: AsyncGenerator[None, None] | None = None

    async def ask(self, commands: Sequence[Command], *, again: bool) -> list[Any]:
        """Return the server's answers, an error among them as what it is; raises CacheFailure without an answer.

        Where the connection is lost, what may be carried out twice (`again`) is asked once more.
        """
        answers: list[Any] = []
        for part, size in _parts([_in_bytes(command) for command in commands]):
            if monotonic() < self._resting_until:
                raise CacheFailure("it did not answer a moment ago")
            await self._stay()
            question = _Question(part, size, again, asyncio.get_running_loop().create_future())
            self._queue.append(question)
            if self._sending is None or self._sending.done():
                self._sending = asyncio.get_running_loop().create_task(self._send())
                self._sending.add_done_callback(self._sent)
            answers += await question.future
        return answers

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
        while self._queue:
            group = [self._queue.popleft()]
            number, size = len(group[0].commands), group[0].size
            while self._queue:
                number, size = number + len(self._queue[0].commands), size + self._queue[0].size
                if number > AT_ONCE or size > BYTES_AT_ONCE:
                    break
                group.append(self._queue.popleft())
            await self._send_group([question for question in group if not question.future.done()])

    def _sent(self, task: asyncio.Task[None]) -> None:
        """See to it that nobody waits for a task that ended early; it may have been cancelled before it began."""
        if self._sending is task:
            _fail(self._queue, CacheFailure("asking was interrupted"))
            self._queue.clear()

    async def _send_group(self, group: Sequence[_Question], *, last: bool = False) -> None:
        """Ask a group's questions and settle every one of them, whatever happens."""
        left: Sequence[_Question] = ()
        try:
            answers = await self._answers([command for question in group for command in question.commands])
        except ConnectionLost as error:
            left = () if last else [question for question in group if question.again]
            _fail([question for question in group if question not in left], error)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear it
            _fail(group, error)
        except BaseException:
            _fail(group, CacheFailure("asking was interrupted"))
            raise
        else:
            start = 0
            for question in group:
                own = answers[start : start + len(question.commands)]
                start += len(own)
                if not question.future.done():
                    question.future.set_result(own)
        if left:
            await self._send_group(left, last=True)

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
            return [error] * len(commands)
        except (exceptions.TimeoutError, TimeoutError) as error:
            self._resting_until = monotonic() + REST_SECONDS
            raise CacheFailure("it did not answer in time") from error
        except (exceptions.ConnectionError, OSError) as error:
            raise ConnectionLost(said(error)) from error
        except exceptions.RedisError as error:
            raise CacheFailure(said(error)) from error
        except Exception:
            # Answers that were not read must not become those of the next question.
            with suppress(exceptions.RedisError, OSError):
                await self.client.connection_pool.disconnect()
            raise


def wire_to(url: str) -> Wire:
    """Return a way to the server; nothing is opened yet."""
    return Wire(client_of(url))


def said(error: Exception) -> str:
    """Return what an error of the server's or the driver's says, in one line."""
    text = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}"


async def _closing(client: Any) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await client.aclose()


def _in_bytes(command: Command) -> Command:
    """Return a command whose arguments are bytes, so that nothing is left to fail where others' commands are, too."""
    name, *arguments = command
    return name, *(argument if isinstance(argument, bytes) else str(argument).encode() for argument in arguments)


def _parts(commands: Sequence[Command]) -> Iterator[tuple[list[Command], int]]:
    """Yield commands some at a time, each time with how many bytes they are."""
    part: list[Command] = []
    size = 0
    for command in commands:
        own = sum(len(argument) for argument in command if isinstance(argument, bytes))
        if part and (len(part) == AT_ONCE or size + own > BYTES_AT_ONCE):
            yield part, size
            part, size = [], 0
        part.append(command)
        size += own
    if part:
        yield part, size


def _fail(questions: Iterable[_Question], error: Exception) -> None:
    for question in questions:
        if not question.future.done():
            question.future.set_exception(error)
