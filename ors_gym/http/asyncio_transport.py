"""HTTP/1.1 over asyncio, cheap at any number of connections.

The CPU time of a request limits how many sessions one process can drive, and general HTTP clients spend most of it on
features that ORS does not use. Here a connection is one object, `httptools <https://github.com/MagicStack/httptools>`_
(llhttp, the parser of Node.js) parses the answers, and taking a connection from the pool is O(1).

Supports HTTP/1.1 and 1.0, TLS, bodies with a length, chunked or ended by the connection's end, HTTP proxies, and gzip
that was not asked for. Redirects are not followed; cookies are left to the caller.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import cast
from urllib.parse import urlsplit

import httptools

from ors_gym.errors import CertificateError, ConnectError, ConnectionLostError, ProtocolError
from ors_gym.http.compression import DecompressedResponse
from ors_gym.http.connect import Dialer
from ors_gym.http.proxies import ProxyServer
from ors_gym.http.tls import Verify, make_tls_context
from ors_gym.http.transport import read_body
from ors_gym.http.url import host_of

__all__ = ["KEEPALIVE_SECONDS", "AsyncioTransport"]

KEEPALIVE_SECONDS = 4.0
"""Maximum age of an idle connection: less than uvicorn's default of 5 s, because a connection that closes while a
request is on its way leaves a call that may or may not have run."""

MAX_TARGETS = 4096
"""Size of the parsed-URL cache; bounded because a proxy's clients choose the URLs."""

PAUSE_BYTES = 1 << 20
"""Unread bytes of an answer after which reading pauses, so that TCP slows the server down."""


MAX_HEAD_BYTES = 512 * 1024
"""Maximum bytes without any body: header section, interim answers, trailers."""


@dataclass(frozen=True, slots=True)
class _Target:
    """A parsed URL."""

    origin: tuple[str, str, int]
    line: str
    """The rest of the request line, and the Host header."""


class AsyncioTransport:
    """A pool of connections for one event loop."""

    knows_unsent = True

    def __init__(
        self,
        *,
        connect_seconds: float,
        verify: Verify = True,
        decompress: bool = True,
        proxy: ProxyServer | None = None,
    ) -> None:
        self.decompress = decompress
        """Whether compressed bodies are decompressed; a proxy forwards them as they are."""
        self._connect_seconds = connect_seconds
        self._proxy = proxy
        self._dialer = Dialer(connect_seconds=connect_seconds, proxy=proxy)
        self._verify = verify
        self._ssl: ssl.SSLContext | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._targets: dict[str, _Target] = {}
        self._idle: dict[tuple[str, str, int], deque[_Connection]] = {}
        self._open: set[_Connection] = set()

    def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> _Exchange:
        """Send a request and stream its answer, as an async context manager."""
        target = self._targets.get(url)
        if target is None:
            if len(self._targets) >= MAX_TARGETS:
                self._targets.clear()
            target = self._targets[url] = _take_apart(url, self._proxy)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
            raise ValueError("a header's name or value holds a line break")
        if not lines.isascii() and any(ord(character) > 255 for character in lines):
            raise ValueError("a header's name or value holds a character that HTTP cannot carry")
        length = f"Content-Length: {len(body or b'')}\r\n" if body is not None or method == "POST" else ""
        head = f"{method} {target.line}{lines}{length}\r\n".encode("latin-1")
        return _Exchange(self, target.origin, head + body if body else head)

    async def take(self, origin: tuple[str, str, int]) -> _Connection:
        """An idle connection, or a new one."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                raise RuntimeError("this client belongs to another event loop; make one client for each loop")
            self._loop = loop
        idle = self._idle.setdefault(origin, deque())
        oldest = loop.time() - KEEPALIVE_SECONDS
        while idle:
            connection = idle.pop()
            if connection.idle_since >= oldest and not connection.closing:
                return connection
            connection.close()
        return await self._connect(origin)

    def give(self, origin: tuple[str, str, int], connection: _Connection) -> None:
        """Return a connection whose answer was read to its end."""
        idle = self._idle[origin]
        now = connection.idle_since = asyncio.get_running_loop().time()
        idle.append(connection)
        while idle[0].idle_since < now - KEEPALIVE_SECONDS or idle[0].closing:
            idle.popleft().close()
            if not idle:
                return

    async def _connect(self, origin: tuple[str, str, int]) -> _Connection:
        scheme, host, port = origin
        context = self._tls() if scheme == "https" else None
        sock = await self._dialer.connect(host, port, tunnel=context is not None)
        loop = asyncio.get_running_loop()
        connection = _Connection(self._open)
        try:
            async with asyncio.timeout(self._connect_seconds):
                await loop.create_connection(
                    lambda: connection, sock=sock, ssl=context, server_hostname=host if context else None
                )
        except asyncio.CancelledError:
            connection.abandon()
            sock.close()
            raise
        except TimeoutError:
            connection.abandon()
            sock.close()
            raise ConnectError(f"{host}:{port} did not complete TLS within {self._connect_seconds:g} s") from None
        except ssl.SSLCertVerificationError as error:
            reason = error.verify_message or error.reason or str(error)
            raise CertificateError(f"the certificate of {host}:{port} is not trusted: {reason}") from error
        except OSError as error:
            raise ConnectError(f"no connection to {host}:{port} ({error})") from error
        return connection

    def _tls(self) -> ssl.SSLContext:
        if self._ssl is None:
            self._ssl = make_tls_context(self._verify)
        return self._ssl

    async def aclose(self) -> None:
        """Close every connection."""
        connections = tuple(self._open)
        for connection in connections:
            connection.close()
        await asyncio.gather(*(connection.closed.wait() for connection in connections))


class _Exchange:
    """One request and its answer."""

    __slots__ = ("_connection", "_data", "_origin", "_transport")

    def __init__(self, transport: AsyncioTransport, origin: tuple[str, str, int], data: bytes) -> None:
        self._transport = transport
        self._origin = origin
        self._data = data
        self._connection: _Connection | None = None

    async def __aenter__(self) -> _Connection:
        connection = self._connection = await self._transport.take(self._origin)
        try:
            await connection.begin(self._data)
        except BaseException:
            connection.close()
            raise
        if "content-encoding" in connection.headers and self._transport.decompress:
            return cast("_Connection", DecompressedResponse(connection))
        return connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connection = self._connection
        assert connection is not None
        if connection.reusable:
            self._transport.give(self._origin, connection)
        else:
            connection.close()


class _Connection(asyncio.Protocol):
    """One connection with the answer that it is reading."""

    def __init__(self, registry: set[_Connection]) -> None:
        self.idle_since = 0.0
        self.status = 0
        self.headers: dict[str, str] = {}
        self.closed = asyncio.Event()
        self._registry = registry
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []
        self._unread = 0
        self._without_body = 0
        self._paused = False
        self._in_body = False
        self._complete = True
        self._keep_alive = False
        self._fault: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    # called by the pool and the exchange

    @property
    def closing(self) -> bool:
        """Whether it can carry no further request."""
        return self._fault is not None or self._transport is None or self._transport.is_closing()

    @property
    def complete(self) -> bool:
        """Whether the answer is complete."""
        return self._complete

    @property
    def reusable(self) -> bool:
        """Whether the answer was read to its end and the server keeps the connection."""
        return self._complete and not self._chunks and self._keep_alive and not self.closing

    async def begin(self, data: bytes) -> None:
        """Send a request and wait for the head of its answer."""
        assert self._transport is not None
        self.headers = {}
        self._in_body = self._complete = False
        self._without_body = 0
        self._transport.write(data)
        while not self._in_body:
            await self._more()

    async def read(self) -> bytes:
        """The rest of the body."""
        return await read_body(self.chunks())

    async def chunks(self) -> AsyncIterator[bytes]:
        """The rest of the body, as it arrives."""
        while True:
            if self._chunks:
                chunk = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
                self._chunks.clear()
                self._unread = 0
                if self._paused and self._transport is not None:
                    self._paused = False
                    self._transport.resume_reading()
                yield chunk
            elif self._complete:
                return
            else:
                await self._more()

    async def _more(self) -> None:
        """Wait until something arrives."""
        if self._fault is not None:
            raise self._fault
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def abandon(self) -> None:
        """Close a connection that was not made whole: uvloop tells its protocol nothing of that."""
        self.close()
        self._registry.discard(self)
        self.closed.set()

    # called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is made."""
        # uvloop's transports have the methods of asyncio.Transport without being one.
        self._transport = cast("asyncio.Transport", transport)
        self._registry.add(self)

    def data_received(self, data: bytes) -> None:
        """Parse what arrives."""
        if self._complete:
            self._fault = ProtocolError("the server sent bytes that were not asked for")
            self.close()
            return
        self._without_body += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fault = ProtocolError(f"the server's answer is no HTTP ({error})")
            self.close()
        if self._without_body > MAX_HEAD_BYTES:
            self._fault = ProtocolError(f"a header section longer than {MAX_HEAD_BYTES:,} bytes")
            self.close()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed: the end of a body without a length, an error for other bodies."""
        whole = self._in_body and not {"content-length", "transfer-encoding"} & self.headers.keys()
        if whole and exc is None:
            self._complete = True
        if self._fault is None:
            self._fault = ConnectionLostError(f"the connection broke ({exc or 'closed by the server'})")
        self._registry.discard(self)
        self.closed.set()
        self._wake()

    # called by the parser

    def on_message_begin(self) -> None:
        """An answer begins; a second one without a request is a fault or an attack."""
        if self._complete:
            self._fault = ProtocolError("the server sent a second answer to one request")
            self._keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header: the last of repeated ones, but every ``Set-Cookie``, one per line."""
        key, text = name.lower().decode("latin-1"), value.decode("latin-1")
        if key == "set-cookie" and key in self.headers:
            text = f"{self.headers[key]}\n{text}"
        self.headers[key] = text

    def on_headers_complete(self) -> None:
        """The head is complete; interim answers (1xx) are skipped."""
        self.status = self._parser.get_status_code()
        if self.status < 200:
            self.headers = {}
        else:
            self._in_body = True
            self._keep_alive = self._parser.should_keep_alive()

    def on_body(self, chunk: bytes) -> None:
        """Keep a piece of the body; pause reading when too much is unread."""
        self._chunks.append(chunk)
        self._without_body = 0
        self._unread += len(chunk)
        if self._unread > PAUSE_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The answer is complete."""
        if self._in_body:
            self._complete = True


def _take_apart(url: str, proxy: ProxyServer | None) -> _Target:
    parts = urlsplit(url)
    host = host_of(parts.hostname or "")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    name = f"[{host}]" if ":" in host else host
    shown = name if parts.port is None else f"{name}:{port}"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = f"Host: {shown}\r\n"
    if proxy is not None and parts.scheme == "http":
        path, lines = f"http://{shown}{path}", lines + proxy.authorization
    return _Target((parts.scheme, host, port), f"{path} HTTP/1.1\r\n{lines}")
