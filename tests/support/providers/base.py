"""What the providers' doubles share: a script of answers, rules that refuse, and a real HTTP server."""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.ors_servers import serve_app


class RefusedError(Exception):
    """A rule of the provider is broken."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


def need(condition: object, message: str, status: int = 400) -> None:
    if not condition:
        raise RefusedError(message, status)


@dataclass(frozen=True)
class Says:
    """What the model answers: thoughts, then text, then calls with their arguments as JSON text."""

    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    thoughts: str = ""
    cut: bool = False


@dataclass
class Double(ABC):
    """A provider: answers with ``script`` in order, the last one for ever, and keeps the requests and its refusals."""

    key: ClassVar[str] = "sk-double"
    script: list[Says | Response] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    issued: dict[str, Any] = field(default_factory=dict)
    """What only the provider understands, with what it belongs to."""
    url: str = ""

    @abstractmethod
    def check(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """Refuse a request that breaks a rule."""

    @abstractmethod
    def whole(self, says: Says, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer in one piece."""

    @abstractmethod
    def events(self, whole: Mapping[str, Any]) -> Iterable[tuple[str | None, Any]]:
        """The same answer as a stream: names of events, and their data."""

    @abstractmethod
    def refusal(self, refused: RefusedError) -> Any:
        """The body of a refusal."""

    def streams(self, request: Request, body: Mapping[str, Any]) -> bool:
        return bool(body.get("stream"))

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        try:
            self.check(body, request.headers)
        except RefusedError as refused:
            self.refusals.append(refused.message)
            return JSONResponse(self.refusal(refused), refused.status)
        says = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(says, Response):
            return says
        whole = self.whole(says, body)
        if not self.streams(request, body):
            return JSONResponse(whole)

        async def chunks() -> Any:
            for name, data in self.events(whole):
                named = f"event: {name}\n" if name else ""
                yield f"{named}data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()

        return StreamingResponse(chunks(), media_type="text/event-stream")

    def kept(self, what: str, belongs_to: Any) -> str:
        """A signature that is known again by :meth:`knows`."""
        signature = f"{what}{len(self.issued):04}"
        self.issued[signature] = canonical(belongs_to)
        return signature

    def knows(self, signature: Any, belongs_to: Any) -> bool:
        return isinstance(signature, str) and self.issued.get(signature) == canonical(belongs_to)


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def pieces(text: str, size: int = 7) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


@dataclass
class Stage:
    """A server at which one provider after the other stands, whatever the path."""

    url: str = ""
    double: Double | None = None

    async def answer(self, request: Request) -> Response:
        assert self.double is not None
        return await self.double.answer(request)

    def put(self, double: Double, *script: Says | Response) -> Double:
        self.double = double
        double.script = list(script)
        double.url = self.url
        return double


@contextlib.contextmanager
def serve_stage() -> Iterator[Stage]:
    stage = Stage()
    with serve_app(Starlette(routes=[Route("/{path:path}", stage.answer, methods=["POST"])])) as running:
        stage.url = running.url
        yield stage
