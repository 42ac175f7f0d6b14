"""``[TOOL_CALLS]`` followed by a JSON array of calls, or by ``name[ARGS]{…}``, which may be repeated: Mistral."""

from __future__ import annotations

import re

from ors_gym.dialects.base import TaggedDialect
from ors_gym.dialects.calls import tool_call, tool_calls
from ors_gym.dialects.reading import Reading
from ors_gym.dialects.scanning import decode_json, skip_space

__all__ = ["Mistral"]

MARK = "[TOOL_CALLS]"
_ARRAY = re.compile(r'\s*+\[\s*+\{\s*+"(?:name|arguments)"\s*+:')
_NAME = re.compile(r"([^\s\[{]++)\s*+(?:\[CALL_ID\][^\[]*+)?(?:\[ARGS\])?")


class Mistral(TaggedDialect):
    """The mark is a special token that decoding may remove: a message that starts like the array counts as one."""

    name = "mistral"
    special_marks = True
    form = '[TOOL_CALLS][{"name": …, "arguments": {…}}]'
    stop_strings = ("</s>",)
    thinking = ("[THINK]", "[/THINK]")
    begins = re.compile(r"\[TOOL_CALLS\]")

    def body(self, reading: Reading, position: int) -> int | None:
        """Read the message, or the array that replaces it."""
        if _ARRAY.match(reading.text, position) is None:
            return super().body(reading, position)
        value, _ = decode_json(reading.text, position, whole=True)
        for call in tool_calls(value):
            reading.add(call)
        return None

    def call(self, reading: Reading, match: re.Match[str]) -> int:
        """Read everything after the mark as calls."""
        text = reading.text
        position = skip_space(text, match.end())
        while position < len(text) or not reading.calls:
            name = _NAME.match(text, position)
            if name is None:
                value, position = decode_json(text, position)
                for call in tool_calls(value):
                    reading.add(call)
            else:
                arguments, position = decode_json(text, name.end())
                reading.add(tool_call({"name": name[1], "arguments": arguments}))
            position = skip_space(text, position)
            if text.startswith(MARK, position):
                return position
        return position
