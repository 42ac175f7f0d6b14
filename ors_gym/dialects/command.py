"""Cohere's Command R7B, Command A and later: an array of actions, and an answer between its own marks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from ors_gym.dialects.base import TaggedDialect
from ors_gym.dialects.calls import tool_call
from ors_gym.dialects.reading import Reading
from ors_gym.dialects.scanning import UnreadableCallError, decode_json, excerpt
from ors_gym.types import ToolCall

__all__ = ["Command"]

ACTION, END_OF_ACTION = "<|START_ACTION|>", "<|END_ACTION|>"
RESPONSE, END_OF_RESPONSE = "<|START_RESPONSE|>", "<|END_RESPONSE|>"
FIELDS = frozenset({"tool_call_id", "tool_name", "parameters"})


class Command(TaggedDialect):
    """A call has ``tool_name`` and ``parameters``; its ``tool_call_id`` is only unique within a message."""

    name = "command"
    special_marks = True
    form = f'{ACTION}[{{"tool_call_id": "0", "tool_name": …, "parameters": {{…}}}}]{END_OF_ACTION}'
    stop_strings = ("<|END_OF_TURN_TOKEN|>",)
    endings = (*TaggedDialect.endings, "<|END_OF_TURN_TOKEN|>")
    thinking = ("<|START_THINKING|>", "<|END_THINKING|>")
    begins = re.compile(f"{re.escape(ACTION)}|{re.escape(RESPONSE)}|{re.escape(END_OF_RESPONSE)}")
    strays = (END_OF_ACTION,)

    def call(self, reading: Reading, match: re.Match[str]) -> int:
        """Read the actions; the marks of an answer are skipped."""
        if match[0] != ACTION:
            return match.end()
        value, end = decode_json(reading.text, match.end())
        actions: list[Any] = value if isinstance(value, list) else [value]  # pyright: ignore[reportUnknownVariableType]
        for action in actions:
            reading.add(_call(action))
        return reading.close(end, END_OF_ACTION, "the actions")


def _call(action: Any) -> ToolCall:
    fields: Mapping[str, Any] = cast("Mapping[str, Any]", action) if isinstance(action, Mapping) else {}
    if "tool_name" not in fields or not fields.keys() <= FIELDS:
        shown = excerpt(json.dumps(action, ensure_ascii=False, default=str))
        raise UnreadableCallError("invalid_call", f'an action needs "tool_name" and "parameters", got {shown}')
    return tool_call({"name": fields["tool_name"], "parameters": fields.get("parameters")})
