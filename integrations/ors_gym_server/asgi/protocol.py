"""HTTP connections with deadlines and limits.

uvicorn waits forever for the rest of a header section or a body, accepts header sections of any length, and buffers
answers that a client does not read. A sweep once a second closes connections that exceed a deadline; the cost per
request is two comparisons.
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
    """The state of the connection."""

    NOTHING = "nothing"
    HEADERS = "headers"
    BODY = "body"


class _Trailers(list[Any]):
    """Discards the trailers of a chunked body, of which there may be any number."""

    def append(self, field: Any) -> None:
        """Discard a field."""


class LimitedProtocol(HttpToolsProtocol):
    """A connection of uvicorn with deadlines."""

    limits: ClassVar[Limits]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._awaited = _Awaited.HEADERS
        self._since = self.loop.time()
        self._num_header_bytes = 0
        self._num_unsent = 0
        self._unsent_since = self._since

    def data_received(self, data: bytes) -> None:
        """Parse data; refuse a header section that is too long."""
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
        """Wait for the body."""
        super().on_headers_complete()
        self.headers = _Trailers()
        self._awaited, self._since = _Awaited.BODY, self.loop.time()

    def on_message_complete(self) -> None:
        """The request is complete."""
        super().on_message_complete()
        self._awaited = _Awaited.NOTHING

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._unsent_since = self.loop.time()

    def end_if_overdue(self, now: float) -> None:
        """Close the connection if a deadline has passed."""
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
    """Close the connections whose deadline has passed."""
    for connection in list(connections):
        if isinstance(connection, LimitedProtocol):
            connection.end_if_overdue(now)
