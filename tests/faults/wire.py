"""The wire between an engine and its Postgres, in the hands of a test: it understands messages, and can be cut at one.

A rule looks at each message that the client sends and says what happens to it. The server's side is passed on as it is.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto

from localstore.postgres.server import Server

SSL_REQUEST_CODE = 80877103
CANCEL_REQUEST_CODE = 80877102
COMMIT = b"COMMIT;\0"
ROLLBACK = b"ROLLBACK;\0"


class Fate(Enum):
    """What becomes of a message."""

    PASS = auto()
    CUT_BEFORE = auto()  # The connection is cut, and the server never saw it.
    CUT_AFTER = auto()  # The server has it, and the connection is cut at once.
    LOSE_ANSWER = auto()  # The server has answered it, and the connection is cut before the client sees that.
    STALL = auto()  # From now on nothing passes on any connection, and none is closed.
    ROLL_BACK = auto()  # A COMMIT arrives as a ROLLBACK.


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the client: its type, the rest of it, and how many of all connections came before it."""

    type: bytes
    body: bytes
    number: int

    @property
    def is_commit(self) -> bool:
        """Return whether this ends a transaction for good."""
        return self.type == b"Q" and self.body == COMMIT

    @property
    def is_answered(self) -> bool:
        """Return whether the server says something to this, whatever it thinks of it."""
        return self.type in (b"Q", b"S")

    @property
    def is_copy_data(self) -> bool:
        """Return whether this carries rows of a COPY."""
        return self.type == b"d"


Test = Callable[[Message], bool]
Rule = Callable[[Message], Fate | Awaitable[Fate]]


def let_pass(_: Message) -> Fate:
    """Be the rule of a wire that works."""
    return Fate.PASS


@dataclass
class Wire:
    """`url` leads through the wire. `rule` may be changed at any time; `messages` counts what clients sent."""

    server: Server
    url: str = ""
    rule: Rule = let_pass
    messages: int = 0
    _stalled: bool = False
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either side ends it or the rule does."""
        self._writers.append(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(self.server.hosts[0], self.server.ports[0])
        except OSError:
            writer.transport.abort()
            return
        self._writers.append(far_writer)
        losing = asyncio.Event()
        answered = asyncio.Event()
        back = asyncio.create_task(self._back(far_reader, writer, losing, answered))
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._forth(reader, far_writer, losing, answered)
        writer.transport.abort()
        far_writer.transport.abort()
        await back

    async def _back(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        losing: asyncio.Event,
        answered: asyncio.Event,
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                if losing.is_set():
                    answered.set()
                elif not self._stalled:
                    writer.write(data)
        answered.set()
        if not self._stalled:
            writer.close()

    async def _forth(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        losing: asyncio.Event,
        answered: asyncio.Event,
    ) -> None:
        greeted = False
        while True:
            kind = await reader.readexactly(1) if greeted else b""
            head = await reader.readexactly(4)
            body = await reader.readexactly(struct.unpack(">I", head)[0] - 4)
            if not greeted:
                greeted = struct.unpack(">I", body[:4])[0] not in (SSL_REQUEST_CODE, CANCEL_REQUEST_CODE)
            fate = Fate.PASS
            if kind:
                self.messages += 1
                ruling = self.rule(Message(kind, body, self.messages))
                fate = ruling if isinstance(ruling, Fate) else await ruling
            if fate is Fate.CUT_BEFORE:
                return
            if fate is Fate.STALL:
                self._stalled = True
            if fate is Fate.ROLL_BACK:
                head, body = struct.pack(">I", len(ROLLBACK) + 4), ROLLBACK
            if fate is Fate.LOSE_ANSWER:
                losing.set()
            if not self._stalled:
                writer.write(kind + head + body)
                await writer.drain()
            if fate is Fate.LOSE_ANSWER:
                await answered.wait()
            if fate in (Fate.CUT_AFTER, Fate.LOSE_ANSWER):
                return

    def heal(self) -> None:
        """Let everything pass again on new connections."""
        self._stalled = False
        self.rule = let_pass

    def cut_all(self) -> None:
        """Cut every connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


@asynccontextmanager
async def wire_to(url: str) -> AsyncIterator[Wire]:
    """Lay a wire to the server of a URL, for a block."""
    server = Server.parse(url)
    wire = Wire(server)
    listener = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    port: int = listener.sockets[0].getsockname()[1]
    wire.url = Server(("127.0.0.1",), (port,), server.user, server.password, server.database).url
    try:
        yield wire
    finally:
        listener.close()
        wire.cut_all()


def nth(test: Test, number: int, fate: Fate) -> Rule:
    """Return the rule that lets `number` messages that pass the test by, and gives the next one its fate."""
    seen = 0

    def rule(message: Message) -> Fate:
        nonlocal seen
        if not test(message):
            return Fate.PASS
        seen += 1
        return fate if seen == number + 1 else Fate.PASS

    return rule


def once(test: Test, fate: Fate) -> Rule:
    """Return the rule that gives the first message that passes the test its fate."""
    return nth(test, 0, fate)


def promoting_commit() -> Test:
    """Return the test for the COMMIT of a promotion: the first after the ledger was told that it is promoted."""
    told = False

    def test(message: Message) -> bool:
        nonlocal told
        told = told or b"SET state = 'promoted'" in message.body
        return told and message.is_commit

    return test
