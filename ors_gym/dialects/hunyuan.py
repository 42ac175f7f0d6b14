"""``<tool_calls>…</tool_calls>``: Hunyuan A13B and Apriel write an array of calls, MiniMax M1 one call per line."""

from __future__ import annotations

import re

from ors_gym.dialects.base import TaggedDialect
from ors_gym.dialects.calls import tool_calls
from ors_gym.dialects.reading import Reading
from ors_gym.dialects.scanning import decode_json, skip_space

__all__ = ["Hunyuan", "MiniMax1"]


class Hunyuan(TaggedDialect):
    """Both forms are read, regardless of the template."""

    name = "hunyuan"
    form = '<tool_calls>[{"name": …, "arguments": {…}}]</tool_calls>'
    stop_strings = ("<|eos|>",)
    endings = (*TaggedDialect.endings, "<|eos|>", "<|end|>", "<end_of_sentence>")
    begins = re.compile("<tool_calls>")
    strays = ("</tool_calls>",)

    def call(self, reading: Reading, match: re.Match[str]) -> int:
        """Read the calls. They end at the end of the JSON, whose strings may contain the marks."""
        text = reading.text
        value, position = decode_json(text, match.end())
        for call in tool_calls(value):
            reading.add(call)
        while text.startswith("{", skip_space(text, position)):
            value, position = decode_json(text, position)
            for call in tool_calls(value):
                reading.add(call)
        return reading.close(position, "</tool_calls>", "the calls' JSON")


class MiniMax1(Hunyuan):
    """One call per line."""

    name = "minimax-m1"
    form = '<tool_calls>\n{"name": …, "arguments": {…}}\n</tool_calls>'
    stop_strings = ("<end_of_sentence>",)

    def teaches(self, written: str) -> bool:
        """Whether the template wrote no array."""
        return re.search(r"<tool_calls>\s*+\{", written) is not None
