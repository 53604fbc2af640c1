"""The driver's HTTP session, but for requests that are given up when nothing moves, however far they got.

aiohttp counts only the time in which it waits for an answer: a server that takes a connection, or half a body, and then
falls silent would be waited for as long as it likes.
"""

from __future__ import annotations

import io
import socket
import weakref
from typing import Any, Final

from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import ReadTimeoutError

from localstore.blobs.patience import Patience, patience_of_call

_PIECE_BYTES: Final = 16 * 1024
_UNSENT_BYTES_MAX: Final = 64 * 1024
"""The kernel takes no more than this ahead of what it can send; else megabytes that still wait would count as moved."""


class PatientSession(AIOHTTPSession):  # type: ignore[misc]
    """One client's connections; those of one that nobody closed go with it."""

    async def send(self, request: Any) -> Any:
        """Send a request and return the answer; raises ReadTimeoutError when nothing has moved for too long."""
        patience = patience_of_call.get(None) or Patience(self._timeout.sock_read)
        # The driver makes a file of every body, also of the bytes that we give it.
        if isinstance(request.body, io.BytesIO):
            request.body = _Moving(request.body.getvalue(), patience)
        # With this the session returns when the answer begins; what is left of it comes under aiohttp's own limit.
        is_streamed, request.stream_output = request.stream_output, True
        try:
            async with patience.wait():
                answer = await super().send(request)
        except TimeoutError as error:
            raise ReadTimeoutError(endpoint_url=request.url, error=error) from error
        finally:
            request.stream_output = is_streamed
        if not is_streamed:
            await answer.content
        return answer

    async def _get_session(self, proxy_url: str | None) -> Any:
        is_new = proxy_url not in self._sessions
        session = await super()._get_session(proxy_url)
        if is_new:
            weakref.finalize(self, _abandon, session)
        return session


def _abandon(session: Any) -> None:
    """Let go of connections whose owner is gone, on whichever thread or loop that is noticed."""
    if session.closed:
        return
    connector, loop = session.connector, session._loop  # noqa: SLF001 - there is no other way without awaiting
    session.detach()
    if loop.is_running():
        loop.call_soon_threadsafe(connector._close)  # noqa: SLF001
    else:
        connector._close()  # noqa: SLF001


class _Moving(io.BytesIO):
    """A body that says when some of it goes out."""

    def __init__(self, data: bytes, patience: Patience) -> None:
        super().__init__(data)
        self._patience = patience

    def read(self, size: int | None = -1, /) -> bytes:
        self._patience.moved()
        return super().read(_PIECE_BYTES if size is None or size < 0 else min(size, _PIECE_BYTES))


def new_socket(address: tuple[Any, ...]) -> socket.socket:
    """Return a socket for a connection that is about to be made."""
    family, kind, protocol, *_ = address
    opened = socket.socket(family, kind, protocol)
    # Where the system does not know this, what it has taken counts as moved.
    if (option := getattr(socket, "TCP_NOTSENT_LOWAT", None)) is not None:
        opened.setsockopt(socket.IPPROTO_TCP, option, _UNSENT_BYTES_MAX)
    return opened
