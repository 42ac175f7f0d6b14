"""Tool names for models: ORS allows any name, the models' APIs letters, digits, ``_`` and ``-``."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ors_gym.types import ToolSpec

__all__ = ["ToolNames"]

MAX_NAME = 64
"""The longest tool name that OpenAI and Anthropic accept."""


class ToolNames:
    """Maps the names of an episode's tools between environment and model.

    ``letter_first`` is for an API that rejects names starting with a digit or ``-``.
    """

    def __init__(self, tools: Iterable[ToolSpec], *, letter_first: bool = False) -> None:
        self._letter_first = letter_first
        names = [tool.name for tool in tools]
        self._shown: dict[str, str] = {name: name for name in names if name == self._allowed(name)}
        for name in names:
            shown, number = self._allowed(name), 2
            while name not in self._shown and shown in self._shown.values():
                shown, number = f"{self._allowed(name)[: MAX_NAME - 4]}_{number}", number + 1
            self._shown.setdefault(name, shown)
        self._own = {shown: name for name, shown in self._shown.items()}

    def shown(self, name: str) -> str:
        """The name that the model sees."""
        return self._shown.get(name) or self._allowed(name)

    def own(self, shown: str) -> str:
        """The environment's name of a tool; an unknown name is returned unchanged."""
        return self._own.get(shown, shown)

    def _allowed(self, name: str) -> str:
        allowed = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:MAX_NAME] or "_"
        if self._letter_first and not (allowed[0].isalpha() or allowed[0] == "_"):
            allowed = f"_{allowed}"[:MAX_NAME]
        return allowed
