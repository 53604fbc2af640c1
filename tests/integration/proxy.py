"""A TCP proxy between a test and its server: it can be cut, stalled and listened to, and speak TLS for the server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from localstore.postgres.server import Server

SSL_REQUEST = bytes.fromhex("0000000804d2162f")


@dataclass
class Proxy:
    """`server` is reached through the proxy; `sent` is all that clients sent, in order, once it is decrypted."""

    target: Server
    server: Server
    tls: ssl.SSLContext | None = None
    handshakes: int = 0
    sent: bytearray = field(default_factory=bytearray)
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def stall(self) -> None:
        """Pass nothing on from now, as a network does that lost its peer."""
        self.flowing.clear()

    def cut(self) -> None:
        """End every connection at once."""
        for writer in self.writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either side ends it."""
        far_reader, far_writer = await asyncio.open_connection(self.target.hosts[0], self.target.ports[0])
        self.writers += [writer, far_writer]
        with suppress(ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            if self.tls is not None:
                first = await reader.readexactly(len(SSL_REQUEST))
                if first == SSL_REQUEST:
                    writer.write(b"S")
                    await writer.start_tls(self.tls)
                    self.handshakes += 1
                else:
                    far_writer.write(first)
            await asyncio.gather(self._carry(reader, far_writer, self.sent), self._carry(far_reader, writer, None))

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray | None
    ) -> None:
        while data := await reader.read(65_536):
            if record is not None:
                record += data
            await self.flowing.wait()
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def proxy_to(target: Server, tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    """Run a proxy to `target` on loopback for a block, which speaks TLS as `tls` says."""
    proxy = Proxy(target, target, tls)
    proxy.flowing.set()
    listener = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port: int = listener.sockets[0].getsockname()[1]
    proxy.server = Server(("127.0.0.1",), (port,), target.user, target.password, target.database)
    try:
        yield proxy
    finally:
        proxy.flowing.set()
        proxy.cut()
        listener.close()
