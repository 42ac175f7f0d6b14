"""What the client needs of HTTP: one request sent, its answer streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

__all__ = ["Transport", "TransportResponse"]


class TransportResponse(Protocol):
    """An answer whose body is still to come."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, found by lower-case name."""
        ...

    async def read(self) -> bytes:
        """Read the whole body."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the body as it arrives."""
        ...


class Transport(Protocol):
    """Sends one request and streams the answer.

    Raises:
        ConnectError: nothing was sent, or, where ``knows_unsent`` is False, perhaps something was.
        ConnectionLostError: the connection broke later.
        RequestTimeoutError: the transport's own limits ended it.
    """

    knows_unsent: bool

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> AbstractAsyncContextManager[TransportResponse]:
        """Send a request; leaving the context before the body ends closes the connection."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...
