"""Object stores that fall silent, are slow, cut every connection, or are none: what a call waits for, and how often."""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import stamina
from pydantic import SecretStr

from localstore import BlobError, ObjectStoreUnavailable
from localstore.blobs import s3
from localstore.blobs.s3 import Bucket
from localstore.blobs.s3_objects import S3Objects

if TYPE_CHECKING:
    from tests.contract.s3_server import S3Server

pytest_plugins = ["tests.contract.s3_server"]

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

SECONDS = 1.0
PIECE_BYTES = 64 * 1024
BYTES_PER_SECOND = 1024 * 1024
LARGE = 8 * 1024 * 1024
"""More than the kernel takes ahead of a server that has stopped reading."""


class Stranger:
    """A server on loopback that counts its connections and does to each what `handle` says."""

    def __init__(self, handle: Handler) -> None:
        self.connections = 0
        self.bytes = 0
        self._handle = handle
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def bucket(self, **known: Any) -> AsyncIterator[Bucket]:
        """Run the server for a block and give a bucket that is said to be there."""
        listening = socket.socket()
        # What the kernel takes for a server that does not read would else look like bytes that moved.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE_BYTES)
        listening.bind(("127.0.0.1", 0))
        server = await asyncio.start_server(self._serve, sock=listening, limit=PIECE_BYTES)
        options: dict[str, Any] = {"name": "bucket", "access_key": "key", "secret_key": SecretStr("secret")} | known
        host, port = listening.getsockname()
        try:
            async with Bucket(**options, endpoint_url=f"http://{host}:{port}", seconds=SECONDS) as bucket:
                yield bucket
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._one(reader, writer))
        self._tasks.add(task)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError):
                await self._handle(reader, writer)
        finally:
            writer.transport.abort()


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept, and do nothing else."""
    del reader, writer
    await asyncio.Event().wait()


async def stop_reading(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take the beginning of a body, and then no more of it."""
    del writer
    for _ in range(8):
        await reader.read(PIECE_BYTES)
    await asyncio.Event().wait()


async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close the connection when a request has begun."""
    del writer
    await reader.read(1)


async def ask_for_a_login(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer 200 and a page to whatever comes, as a network does that wants a login first."""
    request = await reader.readuntil(b"\r\n\r\n")
    body = b"<html><body>log in</body></html>"
    sent = b"" if request.startswith(b"HEAD") else body
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(body) + sent)
    await writer.drain()
    await reader.read()


CALLS: dict[str, Callable[[Bucket], Awaitable[Any]]] = {
    "head": lambda bucket: bucket.call("head_object", Key="key"),
    "put": lambda bucket: bucket.call("put_object", Key="key", Body=bytes(LARGE)),
    "get": lambda bucket: bucket.read("key", 0, 10),
    "list": lambda bucket: bucket.call("list_objects_v2", Prefix="key"),
}


@pytest.mark.parametrize("handle", [say_nothing, stop_reading])
@pytest.mark.parametrize("call", CALLS)
async def test_a_server_that_falls_silent_is_waited_for_once(call: str, handle: Handler) -> None:
    """Whatever was asked, and however much of it was taken, a call ends when nothing has moved, and is not repeated."""
    server = Stranger(handle)
    async with server.bucket() as bucket:
        with pytest.raises(ObjectStoreUnavailable, match="silent for 1 seconds"):
            await CALLS[call](bucket)
    assert server.connections == 1


async def test_calls_after_one_that_waited_in_vain_fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who come next do not wait for the same dead server one by one; after a rest it is asked again."""
    monkeypatch.setattr(s3, "REST_SECONDS", 3600.0)
    server = Stranger(say_nothing)
    async with server.bucket() as bucket:
        for _ in range(3):
            with pytest.raises(ObjectStoreUnavailable, match="silent"):
                await CALLS["head"](bucket)
        assert server.connections == 1
        monkeypatch.setattr(bucket, "_resting", None)
        with pytest.raises(ObjectStoreUnavailable, match="silent"):
            await CALLS["head"](bucket)
        assert server.connections == 2


async def test_a_server_that_is_slow_and_moves_is_waited_for(s3_server: S3Server) -> None:
    """A transfer that takes several times the seconds of patience succeeds, up and down, as long as bytes move."""
    target = urlsplit(s3_server.endpoint_url)

    async def pass_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(PIECE_BYTES):
                sink.write(data)
                await sink.drain()
                await asyncio.sleep(len(data) / BYTES_PER_SECOND)

        inner_reader, inner_writer = await asyncio.open_connection(target.hostname, target.port, limit=PIECE_BYTES)
        inner = inner_writer.get_extra_info("socket")
        inner.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE_BYTES)
        try:
            await asyncio.gather(pipe(reader, inner_writer), pipe(inner_reader, writer))
        finally:
            inner_writer.transport.abort()

    server = Stranger(pass_slowly)
    data = random.Random(1).randbytes(4 * 1024 * 1024)
    known = {"name": s3_server.bucket_name, "access_key": s3_server.access_key}
    async with server.bucket(**known, secret_key=SecretStr(s3_server.secret_key)) as bucket:
        key = f"slow-{secrets.token_hex(4)}"
        await bucket.call("put_object", Key=key, Body=data)
        assert await bucket.read(key, 0, len(data)) == data
    assert server.connections <= 2  # one for each call


@pytest.mark.parametrize("call", CALLS)
async def test_a_server_that_cuts_connections_is_tried_a_few_times(call: str) -> None:
    """One layer tries again; below it aiohttp does once, for connections that a server closed while they were idle."""
    server = Stranger(cut)
    async with AsyncExitStack() as stack:
        bucket = await stack.enter_async_context(server.bucket())
        stack.enter_context(stamina.set_testing(True, attempts=s3.ATTEMPTS_MAX))
        with pytest.raises(ObjectStoreUnavailable, match="does not answer"):
            await CALLS[call](bucket)
    assert server.connections <= 2 * s3.ATTEMPTS_MAX


@pytest.mark.parametrize("call", CALLS)
async def test_a_page_that_asks_for_a_login_is_no_object_store(call: str) -> None:
    """An answer that lacks what an object store always tells is an error that says so, not a blob and not a crash."""
    server = Stranger(ask_for_a_login)
    async with server.bucket() as bucket:
        with stamina.set_testing(True, attempts=1), pytest.raises(ObjectStoreUnavailable) as caught:
            await CALLS[call](bucket)
        assert caught.value.hint
        with stamina.set_testing(True, attempts=1), pytest.raises(BlobError):
            await S3Objects(bucket, "wedosoft").stat("ab" * 32)
