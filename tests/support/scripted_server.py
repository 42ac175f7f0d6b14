"""An ORS server of bytes: each path is answered with what the test says, whatever HTTP allows or does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

__all__ = ["ScriptedORS", "endless", "events", "http", "json_answer"]

Answer: TypeAlias = "bytes | Callable[[asyncio.StreamWriter], Any]"


def http(body: bytes, kind: str = "application/json", *, status: str = "200 OK", headers: str = "") -> bytes:
    """A whole HTTP answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode("latin-1") + body


def json_answer(value: Any, **options: Any) -> bytes:
    """A JSON answer; text is taken as JSON already."""
    return http((value if isinstance(value, str) else json.dumps(value)).encode(), **options)


def events(*pairs: tuple[str, str]) -> bytes:
    """An event stream."""
    return http("".join(f"event: {name}\ndata: {data}\n\n" for name, data in pairs).encode(), "text/event-stream")


def endless(head: bytes, piece: bytes) -> Answer:
    """An answer that begins with ``head`` and goes on with ``piece`` for ever."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()

    return answer


RESULT = {"ok": True, "output": {"blocks": [{"type": "text", "text": "hi"}], "reward": 1.0, "finished": True}}


class ScriptedORS:
    """Serves one environment ``bad``; ``answers`` replace those of a sound server by the last part of the path.

    An answer that is a function is given the connection's writer.
    """

    def __init__(self, answers: Mapping[str, Answer] | None = None) -> None:
        self.answers: dict[str, Answer] = {
            "health": json_answer({"status": "ok"}),
            "list_environments": json_answer(["bad"]),
            "tools": json_answer({"tools": [{"name": "act", "description": "Act.", "input_schema": None}]}),
            "task_tools": json_answer({"tools": [{"name": "act", "description": "Act.", "input_schema": None}]}),
            "splits": json_answer([{"name": "train", "type": "train"}]),
            "tasks": json_answer({"tasks": [{"id": 0}], "env_name": "bad"}),
            "num_tasks": json_answer({"num_tasks": 1}),
            "task": json_answer({"task": {"id": 0}}),
            "task_range": json_answer({"tasks": [{"id": 0}]}),
            "create_session": json_answer({"sid": "s1"}),
            "create": json_answer({"sid": "s1"}),
            "prompt": json_answer([{"type": "text", "text": "go"}]),
            "messages": json_answer([{"role": "user", "blocks": [{"type": "text", "text": "go"}]}]),
            "call": events(("task_id", "t1"), ("end", json.dumps(RESULT))),
            "ping": json_answer({}),
            "delete": json_answer({}),
            "delete_session": json_answer({}),
            **(answers or {}),
        }
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        """Method, target, headers by lower-case name, body."""
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> ScriptedORS:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    def seen(self, name: str) -> list[tuple[str, str, dict[str, str], bytes]]:
        """The requests whose path ends with this."""
        return [request for request in self.requests if _name(request[1]) == name]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *rest = head.strip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in rest)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, target, _ = line.split(" ")
                self.requests.append((method, target, headers, body))
                answer = self.answers.get(_name(target), json_answer({"detail": "Not Found"}, status="404 Not Found"))
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(writer)
                    writer.close()
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


def _name(target: str) -> str:
    return target.partition("?")[0].rpartition("/")[2]
