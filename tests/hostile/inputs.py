"""Random and damaged inputs, equal for equal seeds."""

from __future__ import annotations

import json
import random
from typing import Any

from tests.support.hostile_texts import OPENINGS, PIECES

__all__ = ["EVENTS", "Inputs", "encoded"]

TEXTS = [*PIECES, *(opening for each in OPENINGS.values() for opening in each)]
NUMBERS = [0, -1, 1, 2**31, 2**63, 2**64, 10**400, 1e308, -1e-308, float("nan"), float("inf"), True, None]
KEYS = [
    "name",
    "type",
    "input",
    "arguments",
    "blocks",
    "text",
    "reward",
    "finished",
    "ok",
    "error",
    "output",
    "content",
    "role",
    "choices",
    "delta",
    "message",
    "index",
    "id",
    "tool_calls",
    "function",
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "finish_reason",
    "detail",
    "metadata",
    "tools",
    "split",
    "input_schema",
    "description",
    "task_spec",
    "env_name",
    "start",
    "stop",
    "secrets",
    "candidates",
    "messages",
    "candidate",
    "parts",
    "args",
    "thought",
    "functionCall",
    "usageMetadata",
    "response",
    "status",
    "event",
    "data",
    "item",
    "code",
    "terminal_tool",
    "mimeType",
    "reason",
    "scores",
    "score",
    "group",
    "version",
    "task",
    "return",
    "exchanges",
    "turns",
    "calls",
    "outputs",
    "end",
    "failure",
    "stop_reason",
    "__proto__",
    "constructor",
    "length",
    "then",
]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"s": "x", "n": 1}'}}
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
EVENTS: dict[str, list[Any]] = {
    "openai": [
        {
            "choices": [
                {"index": 0, "delta": {"role": "assistant", "content": "x", "tool_calls": [{"index": 0, **CALL}]}}
            ]
        },
        {"choices": [{"index": 0, "delta": {"reasoning_content": "y"}, "finish_reason": "tool_calls"}], "usage": USAGE},
        {"choices": [{"message": {"content": [{"type": "text", "text": "x"}], "tool_calls": [CALL]}}], "usage": USAGE},
    ],
    "anthropic": [
        {"type": "message_start", "message": {"id": "m", "content": [], "usage": USAGE}},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "tool_use", "id": "c", "name": "f", "input": {}},
        },
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "thinking", "thinking": "", "signature": ""},
        },
        {"type": "content_block_delta", "index": 1, "delta": {"type": "thinking_delta", "thinking": "y"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": USAGE},
    ],
    "google": [
        {
            "candidates": [
                {
                    "content": {"parts": [{"text": "x", "thought": True}, {"functionCall": {"name": "f", "args": {}}}]},
                    "finishReason": "STOP",
                }
            ],
            "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4},
        },
    ],
    "responses": [
        {"type": "response.created", "response": {"id": "r"}},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {"type": "function_call", "name": "f", "call_id": "c", "arguments": ""},
        },
        {
            "type": "response.output_item.done",
            "output_index": 0,
            "item": {"type": "message", "content": [{"type": "output_text", "text": "x"}]},
        },
        {
            "type": "response.completed",
            "response": {"status": "completed", "output": [{"type": "reasoning", "summary": []}], "usage": USAGE},
        },
    ],
}
"""Sound events, to be damaged."""
WIRE = [
    {"name": "f", "description": "", "input_schema": {"type": "object", "properties": {"s": {"type": "string"}}}},
    {"tools": [{"name": "f", "description": "", "input_schema": None}], "terminal_tool": {"name": "f", "arg": "s"}},
    {
        "ok": True,
        "output": {"blocks": [{"type": "text", "text": "x", "detail": None}], "reward": 1.0, "finished": False},
    },
    {"ok": False, "error": "no", "reason": "input_validation"},
    {"role": "assistant", "content": [{"type": "tool_call", "id": "1", "name": "f", "input": {}}]},
    {"name": "train", "type": "train"},
    {"scores": [{"score": 1.0, "metadata": {}}]},
    {"name": "f", "input": {}, "task_id": "t"},
    {"candidates": [{"messages": [{"role": "user", "content": []}]}]},
    {"env_name": "e", "split": "train", "index": 0, "secrets": {"a": "b"}},
]
"""Sound records, to be damaged."""


class Inputs:
    """Random inputs; equal for equal seeds."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self) -> str:
        """Pieces of calls in no order, some damaged."""
        pieces = [self.piece() for _ in range(self.random.randrange(10))]
        return "".join(pieces)

    def piece(self) -> str:
        """What a model might write in the middle of a call."""
        kind = self.random.randrange(8)
        if kind == 0:
            return self.json_text()
        if kind == 1:
            return "".join(
                chr(self.random.choice((self.random.randrange(128), self.random.randrange(0x110000)))) for _ in range(4)
            )
        piece = self.random.choice(TEXTS)
        if kind == 2:
            piece = piece[: self.random.randrange(len(piece) + 1)]
        return piece * (self.random.randrange(1, 40) if kind == 3 else 1)

    def value(self, depth: int = 0) -> Any:
        """A JSON value, of the shapes that the readers know and others."""
        kind = self.random.randrange(5 if depth > 4 else 9)
        if kind < 2:
            return self.random.choice(
                (*KEYS, "text", "tool_call", "image", "user", "assistant", "\ud800", "", "\x00", "\x1b]52;")
            )
        if kind < 4:
            return self.random.choice(NUMBERS)
        if kind == 4:
            return self.piece() if self.random.random() < 0.2 else ""
        if kind < 7:
            return {self.random.choice(KEYS): self.value(depth + 1) for _ in range(self.random.randrange(6))}
        return [self.value(depth + 1) for _ in range(self.random.randrange(4))]

    def damaged(self, value: Any) -> Any:
        """A copy of a sound value, some of whose parts are something else."""
        if self.random.random() < 0.05:
            return self.value(2)
        if isinstance(value, dict):
            return {key: self.damaged(child) for key, child in value.items() if self.random.random() > 0.02}
        return [self.damaged(child) for child in value] if isinstance(value, list) else value

    def json_text(self) -> str:
        """The text of a value, damaged in a third of all cases."""
        kind = self.random.randrange(12)
        if kind == 0:
            return self.random.choice(("[", '{"a":', '[{"a":')) * self.random.choice((10, 250, 5000))
        if kind == 1:
            return "9" * self.random.choice((10, 400, 5000)) + self.random.choice(("", "]", ".5", "e9"))
        text = json.dumps(
            self.damaged(self.random.choice(WIRE)) if kind > 7 else self.value(),
            ensure_ascii=self.random.random() < 0.5,
        )
        if kind < 4 and text:
            at = self.random.randrange(len(text))
            text = (
                text[:at]
                + self.random.choice(("", '"', "\\", "9" * 50, ",", "}", "\x00"))
                + text[at + self.random.randrange(3) :]
            )
        return text


def encoded(text: str) -> bytes:
    """As it arrives: surrogates are bytes that UTF-8 does not have."""
    return text.encode("utf-8", "surrogatepass")
