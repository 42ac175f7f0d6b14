"""A chat-completions endpoint of the tests' own: a real HTTP server whose model says what it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.ors_servers import serve_app

Answer: TypeAlias = Response | Callable[[Mapping[str, Any]], Response]


@dataclass
class ChatServer:
    """Answers with ``answers`` in order, the last one for ever, and keeps the requests."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer if isinstance(answer, Response) else answer(body)


@contextlib.contextmanager
def serve_chat() -> Iterator[ChatServer]:
    server = ChatServer()
    with serve_app(Starlette(routes=[Route("/v1/chat/completions", server.complete, methods=["POST"])])) as running:
        server.url = f"{running.url}/v1"
        yield server


def chunk(delta: Mapping[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    """One chunk of a stream."""
    choice = {"index": 0, "delta": dict(delta), "finish_reason": finish_reason}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


def usage(tokens: int) -> dict[str, Any]:
    return {"id": "c", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": tokens}}


def call_deltas(index: int, name: str, arguments: str, pieces: int = 3) -> list[dict[str, Any]]:
    """A tool call as vLLM streams it: the name first, then its arguments in pieces."""
    size = max(1, -(-len(arguments) // pieces))
    cuts = [arguments[at : at + size] for at in range(0, len(arguments), size)]
    head = {"index": index, "id": f"call-{index}", "type": "function", "function": {"name": name, "arguments": ""}}
    return [{"tool_calls": [head]}] + [
        {"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in cuts
    ]


class HoldOpenError(Exception):
    """Cuts the connection: nothing proper follows."""


def stream(*items: Any, done: bool = True, cut: bool = False, hang: bool = False) -> Response:
    """A stream of these chunks, or of these texts as they are; then it is done, cut off, or silent."""

    async def events() -> AsyncIterator[bytes]:
        for item in items:
            yield item.encode() if isinstance(item, str) else f"data: {json.dumps(item)}\n\n".encode()
        if hang:
            await asyncio.Event().wait()
        if cut:
            raise HoldOpenError
        if done:
            yield b"data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def says(text: str, tokens: int = 5) -> Callable[[Mapping[str, Any]], Response]:
    return lambda body: stream(chunk({"role": "assistant"}), chunk({"content": text}), chunk({}, "stop"), usage(tokens))


def calls(*wanted: tuple[str, str], text: str = "", tokens: int = 5) -> Callable[[Mapping[str, Any]], Response]:
    """Answer with these tool calls: names and arguments as JSON text."""
    deltas: Sequence[Mapping[str, Any]] = [
        delta for index, (name, arguments) in enumerate(wanted) for delta in call_deltas(index, name, arguments)
    ]
    said = [chunk({"content": text})] if text else []
    return lambda body: stream(*said, *map(chunk, deltas), chunk({}, "tool_calls"), usage(tokens))


def refuses(status: int, message: str = "no", headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": {"message": message, "code": status}}, status, headers=dict(headers or {}))
