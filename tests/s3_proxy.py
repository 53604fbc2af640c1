"""An HTTP proxy between a box and its object store: it counts requests, and a rule may refuse, cut or stop them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web
from yarl import URL

if TYPE_CHECKING:
    from tests.contract.s3_server import S3Server

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
_OWN_HEADERS = frozenset({"transfer-encoding", "connection", "content-length"})


class Fate(Enum):
    """What becomes of a request."""

    PASS = auto()
    SLOW_DOWN = auto()  # The proxy answers 503 SlowDown itself; the server never saw it.
    CUT = auto()  # The connection is cut when the body has come; the server never saw it.
    LOSE_ANSWER = auto()  # The server has done it, and the connection is cut before the box sees that.
    DENY = auto()  # The proxy answers 403 itself, as a store does to credentials that may not ask this.
    STALL = auto()  # Nothing is answered until the box goes away.


@dataclass(frozen=True, slots=True)
class Request:
    """One request, and how many of its kind came before it."""

    kind: str
    path: str
    number: int


Rule = Callable[[Request], Fate | Awaitable[Fate]]


@dataclass
class S3Proxy:
    """`server` is the object store as it is reached through the proxy; `seen` are the requests that came."""

    target: S3Server
    server: S3Server
    rule: Rule = lambda _: Fate.PASS
    seen: list[Request] = field(default_factory=list)
    ending: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self, kind: str) -> int:
        """Return how many requests of a kind came."""
        return sum(request.kind == kind for request in self.seen)

    async def serve(self, session: aiohttp.ClientSession, request: web.BaseRequest) -> web.StreamResponse:
        """Pass one request on, or not."""
        assert request.transport is not None
        if "Expect" in request.headers:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await request.content.read()
        kind = _kind(request)
        seen = Request(kind, request.path, self.count(kind))
        self.seen.append(seen)
        judged = self.rule(seen)
        fate = judged if isinstance(judged, Fate) else await judged
        if fate is Fate.SLOW_DOWN:
            return web.Response(status=503, body=SLOW_DOWN, content_type="application/xml")
        if fate is Fate.DENY:
            return web.Response(status=403, body=DENIED, content_type="application/xml")
        if fate is Fate.STALL:
            await self.ending.wait()
        if fate not in (Fate.CUT, Fate.STALL):
            answer = await self._pass(session, request, body)
            if fate is Fate.PASS:
                return answer
        request.transport.abort()
        return web.Response(status=500)

    async def _pass(self, session: aiohttp.ClientSession, request: web.BaseRequest, body: bytes) -> web.Response:
        url = URL(self.target.endpoint_url + request.raw_path, encoded=True)
        sent = {name: value for name, value in request.headers.items() if name.lower() != "expect"}
        passing = session.request(request.method, url, data=io.BytesIO(body), headers=sent, allow_redirects=False)
        async with passing as answer:
            headers = {name: value for name, value in answer.headers.items() if name.lower() not in _OWN_HEADERS}
            if request.method == "HEAD":
                headers["Content-Length"] = answer.headers.get("Content-Length", "0")
            return web.Response(status=answer.status, body=await answer.read(), headers=headers)


def _kind(request: web.BaseRequest) -> str:
    """Return S3's own name for a request, as far as the tests tell them apart."""
    query = request.query
    if "uploadId" in query:
        return {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "GET": "ListParts"}.get(request.method, "Abort")
    if "uploads" in query:
        return "CreateMultipartUpload" if request.method == "POST" else "ListMultipartUploads"
    if "list-type" in query:
        return "ListObjects"
    return {"PUT": "PutObject", "HEAD": "HeadObject", "GET": "GetObject", "DELETE": "DeleteObject"}[request.method]


@asynccontextmanager
async def s3_proxy_to(target: S3Server) -> AsyncIterator[S3Proxy]:
    """Run a proxy on loopback for a block."""
    proxy = S3Proxy(target, target)
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        server = web.Server(lambda request: proxy.serve(session, request), access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            proxy.server = replace(target, endpoint_url=f"http://{host}:{port}")
            yield proxy
        finally:
            proxy.ending.set()
            await runner.cleanup()
