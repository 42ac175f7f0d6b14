"""The reference server with one thing more: the client may choose the ``task_id`` of a call.

An ASGI application around another: it says so when a session is created, and translates the client's ids to the
server's own. A first call with an id that is not known runs; any other with the same id replays it.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from ors_gym.http.sse import EventDecoder

__all__ = ["NamedTasks"]


class NamedTasks:
    def __init__(self, app: Any) -> None:
        self.app = app
        self.names: dict[str, asyncio.Future[str]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and path == "/create":
            await self.app(scope, receive, self.advertise(send))
        elif scope["type"] == "http" and path.endswith("/call"):
            await self.call(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def advertise(self, send: Any) -> Any:
        async def advertised(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [each for each in message["headers"] if each[0] != b"content-length"]
            elif message.get("body", b"").startswith(b"{"):
                message["body"] = json.dumps(json.loads(message["body"]) | {"client_task_ids": True}).encode()
            await send(message)

        return advertised

    async def call(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        wire = json.loads(body)
        name = wire.pop("task_id")
        known = self.names.get(name)
        if known is not None:
            wire["task_id"] = await known
        else:
            known = self.names[name] = asyncio.get_running_loop().create_future()
        body = json.dumps(wire).encode()
        scope["headers"] = [each for each in scope["headers"] if each[0] != b"content-length"]
        scope["headers"].append((b"content-length", str(len(body)).encode()))
        given = False
        decoder = EventDecoder()

        async def replay() -> Any:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def listen(message: Any) -> None:
            if message["type"] == "http.response.body" and not known.done():
                for event in decoder.feed(message.get("body", b"")):
                    if event.name == "task_id":
                        known.set_result(event.data)
            await send(message)

        await self.app(scope, replay, listen)
