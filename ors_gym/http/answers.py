"""Types of ASGI, JSON answers, and refusals: shared by the ASGI applications."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

__all__ = [
    "EVENT_STREAM",
    "NO_STORE",
    "PIECE_BYTES",
    "ASGIApp",
    "Message",
    "Receive",
    "RefusedError",
    "Scope",
    "Send",
    "refuse",
    "send_body",
    "send_json",
    "send_session_id",
]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

NO_STORE = (b"cache-control", b"no-store")
"""Sent with every answer, because a cache would give one session's prompt to another."""

PIECE_BYTES = 256 * 1024
"""Maximum size of one write; the next one waits until the client has read most of it."""

EVENT_STREAM: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-store, no-transform"),
        (b"x-accel-buffering", b"no"),
    ],
}
"""Headers of an event stream: no proxy may cache, transform or buffer it."""


class RefusedError(Exception):
    """A refused request: nothing of it ran.

    Args:
        status: The HTTP status.
        detail: The error text, or the list of errors in a body.
        retry_seconds: Value of ``Retry-After``. A 503 with it says that the environment is starting, so that clients
            retry even a request that they may not repeat.
        allow: The allowed methods, for a status of 405.
    """

    def __init__(self, status: int, detail: Any, retry_seconds: int | None = None, allow: str | None = None) -> None:
        super().__init__(status, detail, retry_seconds, allow)
        self.status = status
        self.detail = detail
        self.retry_seconds = retry_seconds
        self.allow = allow


async def refuse(send: Send, refused: RefusedError) -> None:
    """Send a refusal."""
    headers: list[tuple[bytes, bytes]] = []
    if refused.retry_seconds is not None:
        headers.append((b"retry-after", b"%d" % refused.retry_seconds))
        if refused.status == 503:
            headers.append((b"x-backend-state", b"starting"))
    if refused.allow is not None:
        headers.append((b"allow", refused.allow.encode()))
    body = json.dumps({"detail": refused.detail}, default=repr).encode()
    await send_json(send, body, refused.status, headers)


async def send_json(send: Send, body: bytes, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send JSON."""
    sent = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), NO_STORE, *headers]
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send_body(send, body)


async def send_body(send: Send, body: bytes) -> None:
    """Send the rest of an answer; a long one in pieces, so that a client that does not read holds no copy of it."""
    start = 0
    while len(body) - start > PIECE_BYTES:
        await send({"type": "http.response.body", "body": body[start : start + PIECE_BYTES], "more_body": True})
        start += PIECE_BYTES
    await send({"type": "http.response.body", "body": body[start:]})


async def send_session_id(scope: Scope, send: Send, session_id: str) -> None:
    """Answer ``/create_session``: with events as the reference server does, or JSON where the client asks for that."""
    accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
    if b"application/json" in accept and b"text/event-stream" not in accept:
        await send_json(send, json.dumps({"sid": session_id}).encode())
        return
    await send(EVENT_STREAM)
    events = f"event: task_id\r\ndata: {session_id}\r\n\r\nevent: end\r\ndata: \r\n\r\n"
    await send({"type": "http.response.body", "body": events.encode()})
