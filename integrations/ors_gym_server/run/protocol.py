"""HTTP connections with deadlines and limits: what a client begins, it has to go on with.

uvicorn waits for ever for the rest of a header section or of a body, takes header sections of any length, and keeps
what a client does not read. A sweep over the connections, once a second, ends what is over its time; a request costs
it two comparisons.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ors_gym_server.runtime.limits import Limits

__all__ = ["LimitedProtocol", "limited_protocol", "sweep"]

TOO_LARGE = b"the header section is larger than the server's limit"


class _Awaited(Enum):
    """What the server waits for from a client."""

    NOTHING = "nothing"
    HEADERS = "headers"
    BODY = "body"


class _Trailers(list[Any]):
    """Where the fields after a chunked body go: they are not read, and there may be any number."""

    def append(self, field: Any) -> None:
        """Forget it."""


class LimitedProtocol(HttpToolsProtocol):
    """A connection of uvicorn's that knows since when it waits."""

    limits: ClassVar[Limits]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._awaited = _Awaited.HEADERS
        self._since = self.loop.time()
        self._num_header_bytes = 0
        self._num_unsent = 0
        self._unsent_since = self._since

    def data_received(self, data: bytes) -> None:
        """Take in what came; a header section that is too long is refused."""
        if self._awaited is _Awaited.NOTHING:
            self._awaited, self._since, self._num_header_bytes = _Awaited.HEADERS, self.loop.time(), 0
        if self._awaited is _Awaited.HEADERS:
            self._num_header_bytes += len(data)
        super().data_received(data)
        if self._awaited is _Awaited.HEADERS and self._num_header_bytes > self.limits.max_header_bytes:
            if not self.cycle or self.cycle.response_complete:
                head = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain\r\n"
                size = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(TOO_LARGE)
                self.transport.write(head + size + TOO_LARGE)
            self.transport.close()

    def on_headers_complete(self) -> None:
        """Begin to wait for the body."""
        super().on_headers_complete()
        self.headers = _Trailers()
        self._awaited, self._since = _Awaited.BODY, self.loop.time()

    def on_message_complete(self) -> None:
        """The request is whole."""
        super().on_message_complete()
        self._awaited = _Awaited.NOTHING

    def resume_writing(self) -> None:
        """The client reads."""
        super().resume_writing()
        self._unsent_since = self.loop.time()

    def end_if_overdue(self, now: float) -> None:
        """Close the connection if the client has not gone on for too long."""
        limits = self.limits
        unsent = self.transport.get_write_buffer_size()
        if unsent < self._num_unsent or not unsent:
            self._unsent_since = now
        self._num_unsent = unsent
        if self.flow.read_paused:  # it is the server that makes the client wait
            self._since = now
        waited = now - self._since
        if (
            (unsent and now - self._unsent_since > limits.write_seconds)
            or (self._awaited is _Awaited.HEADERS and waited > limits.header_seconds)
            or (self._awaited is _Awaited.BODY and waited > limits.body_seconds)
        ):
            self.transport.abort()


def limited_protocol(limits: Limits) -> type[LimitedProtocol]:
    """The protocol class for a server with these limits."""
    return type("LimitedProtocol", (LimitedProtocol,), {"limits": limits})


def sweep(connections: set[Any], now: float) -> None:
    """End the connections that are over their time."""
    for connection in list(connections):
        if isinstance(connection, LimitedProtocol):
            connection.end_if_overdue(now)
