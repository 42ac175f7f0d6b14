"""``<tool_calls>…</tool_calls>``: Hunyuan A13B and Apriel write an array of calls, MiniMax M1 a call on each line."""

from __future__ import annotations

import re

from ors_gym.dialects.base import TaggedDialect
from ors_gym.dialects.calls import tool_calls
from ors_gym.dialects.reading import Reading
from ors_gym.dialects.scanning import decode_json, skip_space

__all__ = ["Hunyuan", "MiniMax1"]


class Hunyuan(TaggedDialect):
    """Both forms are read, whichever the template teaches."""

    name = "hunyuan"
    form = '<tool_calls>[{"name": …, "arguments": {…}}]</tool_calls>'
    stop_strings = ("<|eos|>",)
    endings = (*TaggedDialect.endings, "<|eos|>", "<|end|>", "<end_of_sentence>")
    begins = re.compile("<tool_calls>")
    strays = ("</tool_calls>",)

    def call(self, reading: Reading, match: re.Match[str]) -> int:
        """The calls end where the JSON ends: its strings may hold the marks themselves."""
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
    """A call on each line."""

    name = "minimax-m1"
    form = '<tool_calls>\n{"name": …, "arguments": {…}}\n</tool_calls>'
    stop_strings = ("<end_of_sentence>",)

    def teaches(self, written: str) -> bool:
        """Whether no array was written."""
        return re.search(r"<tool_calls>\s*+\{", written) is not None
