"""A parser that decides what an untrained model said."""

from __future__ import annotations

from ors_gym import Reply, ToolCall

__all__ = ["Says"]


class Says:
    """Reads the same calls, or none, in whatever an untrained model writes."""

    def __init__(self, *calls: ToolCall, text: str = "") -> None:
        self.read = Reply(text, calls)

    def parse(self, text: str) -> Reply:
        return self.read
