"""Decompression of answers that some servers and proxies compress without being asked."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Mapping

from ors_gym.errors import ProtocolError
from ors_gym.http.transport import TransportResponse, read_body

__all__ = ["DecompressedResponse"]

PIECE_BYTES = 1 << 20
"""Maximum bytes decompressed at once: a few compressed bytes may expand to gigabytes."""


class DecompressedResponse:
    """A response whose body is decompressed as it arrives."""

    def __init__(self, response: TransportResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        """Read the whole body."""
        return await read_body(self.chunks())

    async def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the body as it arrives."""
        encoding = self.headers["content-encoding"].strip().lower()
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise ProtocolError(f"a body with Content-Encoding: {encoding[:80]!r}, which was not asked for")
        decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS + 32)  # gzip or zlib, as its first bytes say
        try:
            async for chunk in self._response.chunks():
                rest = chunk
                while rest and not decoder.eof:
                    if piece := decoder.decompress(rest, PIECE_BYTES):
                        yield piece
                    rest = decoder.unconsumed_tail
        except zlib.error as error:
            raise ProtocolError(f"a body that is no {encoding} ({error})") from None
        if not decoder.eof and encoding != "deflate":
            raise ProtocolError(f"a body that ends within its {encoding} stream")
