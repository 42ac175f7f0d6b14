"""JSON of a Chat Completions message, of its ``tool_calls``, or of one call; and plain text without calls."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from ors_gym.dialects.base import TaggedDialect
from ors_gym.dialects.calls import tool_calls
from ors_gym.dialects.reading import Reading
from ors_gym.dialects.scanning import decode_json

__all__ = ["OpenAI", "Plain"]

NEVER = re.compile("(?!)")
_MESSAGE = re.compile(r'\s*+(?:\[\s*+)?\{\s*+"(?:role|content|tool_calls|id|type|index|function|name)"\s*+:')


class Plain(TaggedDialect):
    """No calls: the whole message without its reasoning is text."""

    name = "plain"
    form = "plain text"
    begins = NEVER

    def call(self, reading: Reading, match: re.Match[str]) -> int:
        """Not used: nothing matches ``begins``."""
        raise NotImplementedError

    def check_text(self, reading: Reading, text: str) -> None:
        """Accept any text."""


class OpenAI(Plain):
    """Other text is plain. For a client library's objects see :func:`~ors_gym.dialects.tool_call`."""

    name = "openai"
    form = '{"tool_calls": [{"type": "function", "function": {"name": …, "arguments": "{…}"}}]}'

    def body(self, reading: Reading, position: int) -> int | None:
        """Read a message that is entirely JSON."""
        if _MESSAGE.match(reading.text, position) is None:
            return super().body(reading, position)
        value, _ = decode_json(reading.text, position, whole=True)
        message: Mapping[str, Any] = cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
        if not message.keys().isdisjoint(("role", "content", "tool_calls")):
            content = message.get("content") or ""
            value = cast("Any", message.get("tool_calls") or [])
            reading.said.append(content if isinstance(content, str) else json.dumps(content))
        for call in tool_calls(value):
            reading.add(call)
        return None
