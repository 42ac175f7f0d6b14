"""An ASGI application in this process as an ORS server, without a socket.

::

    client = ORSClient("http://app", transport=ASGITransport(app))

Unlike ``httpx.ASGITransport``, which buffers a whole answer, this transport streams each piece as it is sent, so event
streams behave as on a network. Lifespan events are left to the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import httpx

from ors_gym.http.answers import ASGIApp, Message

__all__ = ["ASGITransport"]


class ASGITransport(httpx.AsyncBaseTransport):
    """Run ``app`` for each request and stream its answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._running: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; returns once the application has sent the head of its answer."""
        exchange = _Exchange(await request.aread())
        task = asyncio.create_task(self._run(_scope(request), exchange))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        head = await exchange.sent.get()
        if head is None or head["type"] != "http.response.start":
            await exchange.aclose()
            raise httpx.RemoteProtocolError(f"the application sent no answer ({exchange.error!r})", request=request)
        return httpx.Response(head["status"], headers=head.get("headers", []), stream=exchange)

    async def _run(self, scope: MutableMapping[str, Any], exchange: _Exchange) -> None:
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception as error:
            exchange.error = error
        finally:
            exchange.sent.put_nowait(None)

    async def aclose(self) -> None:
        """Cancel requests that still run in the application."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


class _Exchange(httpx.AsyncByteStream):
    """One request, between the application and the client."""

    def __init__(self, body: bytes) -> None:
        self.sent: asyncio.Queue[Message | None] = asyncio.Queue()
        self.error: Exception | None = None
        self._body: bytes | None = body
        self._gone = asyncio.Event()

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.put_nowait(message)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self.sent.get()) is not None:
            if message["type"] != "http.response.body":
                continue
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body", False):
                return
        raise httpx.RemoteProtocolError(f"the application ended in the middle of its answer ({self.error!r})")

    async def aclose(self) -> None:
        """Report a disconnect to the application, as a server does."""
        self._gone.set()


def _scope(request: httpx.Request) -> MutableMapping[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": request.url.raw_path.split(b"?")[0],
        "query_string": request.url.query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "server": (request.url.host, request.url.port),
        "client": ("127.0.0.1", 0),
    }
