"""A proxy in front of several ORS servers: each request goes to the server that holds its session.

An ASGI application without knowledge of environments. Its :class:`Backends` decide which server takes a new session
and know which one holds a session. The proxy streams requests and answers piece by piece, so event streams arrive as
the server sends them. When a client disconnects, its request to the server is cancelled; when a server dies in the
middle of an answer, the answer is cut, so that the reader sees that it is incomplete.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

from ors_gym.errors import ConnectError, ProtocolError, TransportError
from ors_gym.http.answers import Message, Receive, RefusedError, Scope, Send, refuse, send_session_id
from ors_gym.http.asyncio_transport import AsyncioTransport

__all__ = ["Backends", "StickyProxy"]

CONNECT_SECONDS = 5.0
"""Connect timeout; servers are on this machine or in this cluster."""

MAX_KEYS = 1000
"""Number of accepted API keys that are cached by their digests."""

HOP_BY_HOP = frozenset(
    (b"host", b"connection", b"keep-alive", b"content-length", b"transfer-encoding", b"te", b"upgrade", b"expect")
)
"""Request headers that belong to one connection and are not forwarded."""

NOT_PASSED_BACK = frozenset(("connection", "keep-alive", "transfer-encoding", "date", "server"))
"""Answer headers that the ASGI server writes itself."""


class Backends(Protocol):
    """The servers behind a proxy. Servers are named by their URLs, without a path."""

    async def place(self) -> str:
        """Reserve a place and return the new session's id; :meth:`find` returns its server.

        Raises:
            RefusedError: no server can take another session now.
        """
        ...

    async def find(self, session_id: str) -> str:
        """The server that holds a session.

        Raises:
            RefusedError: there is none.
        """
        ...

    async def any(self) -> str:
        """A server for a request without a session.

        Raises:
            RefusedError: there is none.
        """
        ...

    async def unreachable(self, url: str) -> RefusedError:
        """The answer when a server cannot be reached."""
        ...


class StickyProxy:
    """The ASGI application.

    Args:
        backends: The servers.
        max_request_bytes: A larger request is refused with 413.
    """

    def __init__(self, backends: Backends, *, max_request_bytes: int = 16 * 2**20) -> None:
        self.backends = backends
        self._max_request_bytes = max_request_bytes
        self._let_in: set[bytes] = set()
        self._transport = AsyncioTransport(connect_seconds=CONNECT_SECONDS, decompress=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http":
            try:
                await self._serve(scope, receive, send)
            except RefusedError as refused:
                await refuse(send, refused)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def aclose(self) -> None:
        """Close the connections to the servers."""
        await self._transport.aclose()

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = _path(scope)
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            if name not in HOP_BY_HOP:
                headers[name.decode("latin-1")] = value.decode("latin-1")
        method = scope["method"]
        if method == "HEAD":
            method = "GET"  # the ASGI server leaves the body out
        if path != "/health" or method != "GET":
            await self._authenticate(headers)
        body = await self._body(receive)
        session_id = headers.get("x-session-id", "").strip()
        if not session_id and path == "/create_session" and method == "POST":
            await send_session_id(scope, send, await self.backends.place())
            return
        url = await self.backends.find(session_id) if session_id else await self.backends.any()
        sent = body if body or method in ("POST", "PUT", "PATCH") else None
        gone = asyncio.ensure_future(receive())
        while_here = asyncio.timeout(None)  # ends when the client leaves

        def leave(_: asyncio.Task[Message]) -> None:
            with suppress(RuntimeError):  # the answer has ended in the same moment
                while_here.reschedule(0.0)

        begun = False
        try:
            async with while_here:
                gone.add_done_callback(leave)
                async with self._transport.send(method, f"{url}{path}", headers, sent) as answer:
                    begun = True
                    passed = [
                        (name.encode("latin-1"), value.encode("latin-1"))
                        for name, value in answer.headers.items()
                        if name not in NOT_PASSED_BACK
                    ]
                    await send({"type": "http.response.start", "status": answer.status, "headers": passed})
                    whole = False
                    async for chunk in answer.chunks():
                        whole = answer.complete
                        await send({"type": "http.response.body", "body": chunk, "more_body": not whole})
                    if not whole:
                        await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            pass  # the client is gone
        except ConnectError:
            raise await self.backends.unreachable(url) from None
        except (TransportError, ProtocolError) as error:
            if not begun:
                raise RefusedError(502, f"the server that holds the session did not answer: {error.message}") from None
            # Returning without the last chunk truncates the answer, as the upstream server did.
        finally:
            gone.remove_done_callback(leave)
            gone.cancel()

    async def _authenticate(self, headers: Mapping[str, str]) -> None:
        """Ask a server whether it accepts the client's API key, before the body is read.

        Raises:
            RefusedError: 401 or 403: it does not.
        """
        key = {name: headers[name] for name in ("x-api-key", "authorization") if name in headers}
        digest = hashlib.sha256(repr(key).encode()).digest()
        if digest in self._let_in:
            return
        url = await self.backends.any()
        try:
            async with self._transport.send("GET", f"{url}/list_environments", key, None) as answer:
                async for _ in answer.chunks():
                    pass
        except ConnectError:
            raise await self.backends.unreachable(url) from None
        except (TransportError, ProtocolError) as error:
            raise RefusedError(502, f"a server did not answer: {error.message}") from None
        if answer.status in (401, 403):
            raise RefusedError(answer.status, "the API key is missing or wrong; send it as X-API-Key")
        if len(self._let_in) >= MAX_KEYS:
            self._let_in.clear()
        self._let_in.add(digest)

    async def _body(self, receive: Receive) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedError(400, "the request was cut off")
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > self._max_request_bytes:
                raise RefusedError(413, f"the request is larger than the limit of {self._max_request_bytes} bytes")
            if not message.get("more_body"):
                return b"".join(pieces)


def _path(scope: Scope) -> str:
    """The path and query as sent, without the application's root path."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    path = raw.decode("latin-1")
    if root := scope.get("root_path"):
        path = path.removeprefix(root)
    query: bytes = scope.get("query_string", b"")
    return (path or "/") + (f"?{query.decode('latin-1')}" if query else "")
