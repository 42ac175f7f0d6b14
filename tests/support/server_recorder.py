"""A recorder in front of a server: what each request asked and what it was answered, without what differs by chance."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ors_gym.http.sse import EventDecoder

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{32}\b")


@dataclass(frozen=True)
class Exchange:
    """One request and its answer."""

    method: str
    path: str
    asked: Any
    status: int
    answered: Any


class Recorder:
    """An ASGI application around another that writes down the conversation.

    Redirects are left out: the request that follows one is what was asked. An environment's name is no part of the
    recorded path.
    """

    def __init__(self, app: Any, environments: tuple[str, ...]) -> None:
        self._app = app
        self._environments = environments
        self.exchanges: list[Exchange] = []

    def taken(self) -> list[Exchange]:
        """The conversation until now; the next one starts afresh."""
        taken, self.exchanges = self.exchanges, []
        return taken

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked, answered, status = bytearray(), bytearray(), 0

        async def hear() -> Any:
            message = await receive()
            asked.extend(message.get("body", b""))
            return message

        async def say(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            answered.extend(message.get("body", b""))
            if message["type"] == "http.response.body" and not message.get("more_body") and status != 308:
                # before the client has all of the answer, so that exchanges stay in order
                path = "/" + "/".join(p for p in scope["path"].split("/") if p and p.lower() not in self._environments)
                body = _read(bytes(asked))
                self.exchanges.append(
                    Exchange(scope["method"], path, _plain(body), status, _plain(_read(bytes(answered))))
                )
            await send(message)

        await self._app(scope, hear, say)


def _read(body: bytes) -> Any:
    if not body:
        return None
    if body.startswith((b"event:", b":")):
        return _read_events(body)
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()


def _read_events(body: bytes) -> Any:
    """The events, with the pieces of a result as one."""
    result, events = "", []
    for name, data in EventDecoder().feed(body):
        if name in ("chunk", "end"):
            result += data
        if name == "end":
            events.append(["result", json.loads(result) if result else None])
        elif name != "chunk":
            events.append([name, data])
    return {"events": events}


def _plain(value: Any) -> Any:
    """The value with every id written as ``ID``."""
    return json.loads(UUID.sub("ID", json.dumps(value)))
