"""The interface of a transport: send one request and stream its answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from ors_gym.errors import ProtocolError
from ors_gym.json_text import LIMITS

__all__ = ["MAX_ANSWER_BYTES", "Transport", "TransportResponse", "read_beginning", "read_body"]

MAX_ANSWER_BYTES = LIMITS.max_bytes
"""Maximum size of an answer read into memory."""

BEGINNING_BYTES = 64 * 1024
"""Maximum bytes read of an error's body; messages show its beginning."""


class TransportResponse(Protocol):
    """An answer whose body is not read yet."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, found by lower-case name."""
        ...

    async def read(self) -> bytes:
        """Read the whole body.

        Raises:
            ProtocolError: it is longer than ``MAX_ANSWER_BYTES``.
        """
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the body as it arrives."""
        ...


class Transport(Protocol):
    """Sends one request and streams the answer.

    Raises:
        ConnectError: nothing was sent, unless ``knows_unsent`` is False.
        ConnectionLostError: the connection broke later.
        RequestTimeoutError: a limit of the transport was reached.
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


async def read_body(chunks: AsyncIterator[bytes]) -> bytes:
    """Join the chunks of a body; raises ProtocolError beyond ``MAX_ANSWER_BYTES``."""
    pieces: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise ProtocolError(f"an answer longer than {MAX_ANSWER_BYTES:,} bytes")
        pieces.append(chunk)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def read_beginning(response: TransportResponse) -> bytes:
    """Read the beginning of a body of any length."""
    pieces: list[bytes] = []
    size = 0
    async for chunk in response.chunks():
        pieces.append(chunk)
        size += len(chunk)
        if size >= BEGINNING_BYTES:
            break
    return b"".join(pieces)[:BEGINNING_BYTES]
