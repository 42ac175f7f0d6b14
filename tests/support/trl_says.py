"""A parser that decides what an untrained model said."""

from __future__ import annotations

from typing import Any

from ors_gym import Reply, ToolCall
from ors_gym.dialects import Dialect, Reading

__all__ = ["Says"]


class Says(Dialect):
    """Reads the same calls, or none, in whatever an untrained model writes."""

    name = "says"
    form = "anything"

    def __init__(self, *calls: ToolCall, text: str = "") -> None:
        self.said = Reply(text, calls)

    def parse(self, text: str, **known: Any) -> Reply:
        return self.said

    def read(self, reading: Reading, thinking_open: bool) -> None:
        raise NotImplementedError
