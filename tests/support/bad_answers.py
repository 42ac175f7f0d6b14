"""Answers of servers that do not keep to the protocol, each a case that once ended a run."""

from __future__ import annotations

import json
from typing import Any

from tests.support.scripted_server import endless, events, http, json_answer

__all__ = ["ENDLESS", "ODD_RESULTS", "UNREADABLE", "result"]

CALL_WITH_A_NUMBER = {"type": "tool_call", "id": "1", "name": "x", "input": 3}
DEEP = "[" * 5000 + "]" * 5000
CHUNKED = b"HTTP/1.1 %s\r\nTransfer-Encoding: chunked\r\nContent-Type: %s\r\n\r\n"
CHUNK_EVENT = b"event: chunk\ndata: " + b"x" * 65536 + b"\n\n"
PIECE = b"10000\r\n" + b"x" * 65536 + b"\r\n"


def result(**fields: Any) -> bytes:
    """A result of a tool with these fields."""
    output = {"blocks": [], "reward": None, "finished": False} | fields
    return events(("task_id", "t"), ("end", json.dumps({"ok": True, "output": output})))


UNREADABLE: list[tuple[str, bytes]] = [
    ("list_environments", json_answer(DEEP)),
    ("list_environments", json_answer([{"name": "x"}])),
    ("list_environments", json_answer([])),
    ("list_environments", json_answer(["\ud800"])),
    ("splits", json_answer([{"name": 5}])),
    ("tools", json_answer({"tools": [{"name": "x", "input_schema": [1]}]})),
    ("tools", json_answer({"tools": [], "terminal_tool": {"name": "x", "arg": 5}})),
    ("num_tasks", json_answer('{"num_tasks": ' + "9" * 4000 + "}")),
    ("num_tasks", json_answer({"num_tasks": -1})),
    ("num_tasks", json_answer({"num_tasks": True})),
    ("task", json_answer({"task": [1]})),
    ("create_session", json_answer({"sid": "a\r\nX-Evil: 1"})),
    ("create_session", json_answer({"sid": "naïve-☃"})),
    ("create_session", json_answer({"sid": "x" * 5000})),
    ("create_session", json_answer({"sid": ""})),
    ("create_session", json_answer({"sid": 7})),
    ("create_session", events(("task_id", "\x7f\x01"))),
    ("create_session", events(("error", "no"))),
    ("create_session", http(b"\xff\xfe", "text/event-stream")),
    ("create", json_answer({"detail": ["a", {"b": "c"}]}, status="400 Bad Request")),
    ("create", http(b"", status="500 No", headers="Retry-After: 99999999999\r\n")),
    ("create", http(b"", status="429 No", headers="Retry-After: Fri, 31 Dec 99999 23:59:59 GMT\r\n")),
    ("create_session", http(b"", status="503 No", headers="Retry-After: " + "9" * 5000 + "\r\n")),
    ("prompt", json_answer(DEEP)),
    ("prompt", json_answer([{"type": ["text"]}])),
    ("prompt", json_answer("[" + "1" * 10_000 + "]")),
    ("prompt", http(b"\xff", status="400 Bad Request")),
    ("prompt", b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"x" * 600_000),
    ("prompt", b"HTTP/1.1 100 Continue\r\n\r\n" * 30_000),
    ("prompt", http(b"not gzip", headers="Content-Encoding: gzip\r\n")),
    ("prompt", http(b"?", headers="Content-Encoding: br\r\n")),
    ("messages", json_answer([{"role": ["user"], "blocks": []}])),
    ("messages", json_answer([{"role": "user", "blocks": [CALL_WITH_A_NUMBER]}])),
    ("call", events(("task_id", "t"), ("end", DEEP))),
    ("call", events(("task_id", "t"), ("end", "1" * 5000))),
    ("call", result(reward=int("9" * 400))),
    ("call", result(reward=float("nan"))),
    ("call", result(reward=float("inf"))),
    ("call", result(reward=True)),
    ("call", result(finished="false")),
    ("call", events(("task_id", "t"), ("end", '{"ok": "false"}'))),
    ("call", events(("task_id", ""))),
    ("call", events(("error", "no"))),
    ("call", http(b"<html><title>oh</title></html>", "text/html")),
    ("call", http(b"", status="302 Found", headers="Location: http://elsewhere/\r\n")),
]  # fmt: skip
"""The last part of a path, and an answer that cannot be read."""

ODD_RESULTS: list[bytes] = [
    result(blocks=[{"type": "image", "data": "aGk=", "mimeType": 5}]),
    result(blocks=[{"type": "text", "text": "x", "detail": [1, [2]]}]),
    result(metadata=[1, 2]),
    result(metadata="text"),
    result(blocks=[{"type": "text", "text": "\ud800"}]),
    events(("task_id", "t"), ("end", json.dumps({"ok": False, "error": ["a"], "reason": ["not_found"]}))),
    events(("task_id", "t"), ("end", json.dumps({"ok": False}))),
]
"""Results of tools with something wrong that is not needed."""

ENDLESS: dict[str, tuple[str, Any, str]] = {
    "prompt": ("prompt", endless(CHUNKED % (b"200 OK", b"application/json"), PIECE), "longer than"),
    "error body": ("prompt", endless(CHUNKED % (b"400 No", b"text/plain"), PIECE), "xxxx"),
    "headers": ("prompt", endless(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 1000), "header section"),
    "trailers": ("prompt", endless(CHUNKED % (b"200 OK", b"") + b"0\r\n", b"X-A: b\r\n" * 1000), "header section"),
    "session id": ("create_session", endless(CHUNKED % (b"200 OK", b"text/event-stream"), PIECE), "longer than"),
    "JSON result": ("call", endless(CHUNKED % (b"200 OK", b"application/json"), PIECE), "longer than"),
    "event": ("call", endless(CHUNKED % (b"200 OK", b"text/event-stream") + b"6\r\ndata: \r\n", PIECE), "longer than"),
    "chunks": ("call", endless(b"HTTP/1.1 200 OK\r\n\r\nevent: task_id\ndata: t\n\n", CHUNK_EVENT), "longer than"),
}  # fmt: skip
"""Answers that go on for ever: the last part of the path, the answer, and a word of the error."""
