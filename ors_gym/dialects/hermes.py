"""``<tool_call>{"name": …, "arguments": {…}}</tool_call>``: Hermes, Qwen 2.5, Qwen 3; SmolLM writes an array."""

from __future__ import annotations

import re

from ors_gym.dialects.base import TaggedDialect
from ors_gym.dialects.calls import tool_calls
from ors_gym.dialects.reading import Reading
from ors_gym.dialects.scanning import decode_json

__all__ = ["Hermes", "SmolLM"]


class Hermes(TaggedDialect):
    """JSON between ``<tool_call>`` and ``</tool_call>``; the latter may be missing at the end of the message."""

    name = "hermes"
    form = '<tool_call>{"name": …, "arguments": {…}}</tool_call>'
    begins = re.compile("<tool_call>")
    strays = ("</tool_call>",)

    def call(self, reading: Reading, match: re.Match[str]) -> int:
        """Read a call. It ends at the end of its JSON, whose strings may contain the marks."""
        value, end = decode_json(reading.text, match.end())
        for call in tool_calls(value):
            reading.add(call)
        return reading.close(end, "</tool_call>", "the call's JSON")


class SmolLM(Hermes):
    """One array of all calls between the marks."""

    name = "smollm"
    form = '<tool_call>[{"name": …, "arguments": {…}}]</tool_call>'

    def teaches(self, written: str) -> bool:
        """Whether the template wrote an array."""
        return re.search(r"<tool_call>\s*+\[", written) is not None
