"""A TCP proxy in front of an ORS server that breaks exactly the request it is told to, in exactly the way."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

__all__ = ["Fault", "FaultyProxy", "ProxiedRequest"]


@dataclass(frozen=True)
class ProxiedRequest:
    """A request the proxy saw."""

    method: str
    path: str
    head: bytes
    body: bytes


@dataclass(frozen=True)
class Fault:
    """What to do to one request, once it is known.

    ``refuse``: cut before the server sees it. ``drop_answer``: let the server answer, pass nothing on and cut.
    ``silent``: let the server answer, pass nothing on and wait until the client goes.
    ``cut_after``, ``stall_after``: pass the answer on up to the end of the event that holds these bytes, then cut, or
    fall silent until the client goes. ``cut_at``: pass on so many bytes of the body. ``answer``: answer this in the
    server's place. ``rewrite``: change the answer's bytes. ``reset``: cut with RST instead of FIN.
    """

    refuse: bool = False
    drop_answer: bool = False
    silent: bool = False
    cut_after: bytes | None = None
    cut_at: int | None = None
    stall_after: bytes | None = None
    answer: bytes | None = None
    rewrite: tuple[bytes, bytes] | None = None
    reset: bool = False


def http_answer(status: str, body: bytes = b"", **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


@dataclass
class FaultyProxy:
    """Forwards to ``upstream``; asks ``plan`` about every request."""

    upstream: str
    plan: Callable[[ProxiedRequest], Fault | None] = lambda request: None
    requests: list[ProxiedRequest] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self._connections: set[asyncio.Task[None]] = set()
        await self.start()
        return self

    async def start(self, port: int = 0) -> None:
        """Listen, after :meth:`stop` on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """Refuse connections and cut the ones there are."""
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def count(self, path: str) -> int:
        """How many requests went to paths that end so."""
        return sum(request.path.endswith(path) for request in self.requests)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._forward(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # a stream's callback reports a cancelled handler as an error
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Pass one request on; False when the connection is to end."""
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(_content_length(head) or 0)
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        request = ProxiedRequest(method, target.partition("?")[0], head, body)
        self.requests.append(request)
        fault = self.plan(request) or Fault()
        if fault.answer is not None:
            writer.write(fault.answer)
            await writer.drain()
            return True
        if fault.refuse:
            _cut(writer, fault.reset)
            return False
        parts = urlsplit(self.upstream)
        up_reader, up_writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            up_writer.write(head[:-2] + b"Connection: close\r\n\r\n" + body)
            if fault.drop_answer or fault.silent:
                await up_reader.read()
                if fault.silent:
                    await reader.read()
                _cut(writer, fault.reset)
                return False
            return await self._answer(up_reader, reader, writer, fault)
        finally:
            up_writer.transport.abort()

    async def _answer(
        self, up: asyncio.StreamReader, client: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault
    ) -> bool:
        head = (await up.readuntil(b"\r\n\r\n")).replace(b"connection: close", b"connection: keep-alive")
        length = _content_length(head)
        body = b""
        mark = fault.cut_after or fault.stall_after
        if fault.rewrite is not None and length is not None:
            whole = (await up.readexactly(length)).replace(*fault.rewrite)
            writer.write(http_answer("200 OK", whole, Content_Type="application/json"))
            return True
        writer.write(head)
        while chunk := await up.read(65536):
            sent, body = len(body), body + chunk
            if fault.rewrite is not None:
                body = body.replace(*fault.rewrite)
            end = len(body)
            if mark is not None and mark in body:
                end = body.find(b"\r\n\r\n", body.find(mark))
                end = len(body) if end < 0 else end + 4
            if fault.cut_at is not None:
                end = min(end, fault.cut_at)
            writer.write(body[sent:end])
            await writer.drain()
            if fault.stall_after is not None and fault.stall_after in body:
                await client.read()  # until the client goes
                return False
            if (fault.cut_after is not None and fault.cut_after in body) or end == fault.cut_at:
                _cut(writer, fault.reset)
                return False
            if (length is None and body.endswith(b"0\r\n\r\n")) or len(body) == length:
                return True
        return False


def _content_length(head: bytes) -> int | None:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return None


def _cut(writer: asyncio.StreamWriter, reset: bool) -> None:
    if reset:
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()
