"""The state of parsing a message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ors_gym.dialects.scanning import (
    MAX_CALLS,
    UnreadableCallError,
    check_value,
    excerpt,
    skip_space,
)
from ors_gym.dialects.values import schema_of_argument, typed
from ors_gym.types import ToolCall, ToolSpec

__all__ = ["Reading"]


@dataclass(slots=True)
class Reading:
    """A message being parsed, with the results so far."""

    text: str
    tools: Mapping[str, Mapping[str, Any]] | None = None
    """The tools' schemas by name; None if the tools are unknown."""
    said: list[str] = field(default_factory=list[str])
    thought: list[str] = field(default_factory=list[str])
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    start: int = 0
    """The start of the message after the reasoning."""

    @classmethod
    def of(cls, text: str, tools: Iterable[ToolSpec] | None) -> Reading:
        """A reading at the start of ``text``."""
        return cls(text, None if tools is None else {tool.name: tool.parameters for tool in tools})

    def add(self, call: ToolCall) -> None:
        """Add a call after checking it against the limits."""
        if len(self.calls) == MAX_CALLS:
            raise UnreadableCallError("too_large", f"the message makes more than {MAX_CALLS} calls")
        check_value(call.name)
        check_value(dict(call.input))
        self.calls.append(call)

    def knows(self, name: str) -> bool:
        """Whether a tool of this name exists, or the tools are unknown."""
        return self.tools is None or name in self.tools

    def argument(self, tool: str, key: str, raw: str) -> Any:
        """The value of ``raw`` according to the tool's schema."""
        root = (self.tools or {}).get(tool)
        return typed(raw, schema_of_argument(root, key), root, key)

    def close(self, position: int, mark: str, what: str) -> int:
        """The position after a closing mark, which may be missing at the end, where it was the stop string."""
        position = skip_space(self.text, position)
        if self.text.startswith(mark, position):
            return position + len(mark)
        if position < len(self.text):
            raise UnreadableCallError("invalid_call", f"{excerpt(self.text, position)!r} follows {what}")
        return position
