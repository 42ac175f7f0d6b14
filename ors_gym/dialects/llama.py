"""The forms of Llama 3 and 4.

``{"name": …, "parameters": {…}}`` (several: separated by ``;``), ``<function=name>{…}</function>`` (Llama 3), and
``[name(argument=…), …]`` (Llama 3.2, 4).
"""

from __future__ import annotations

import re

from ors_gym.dialects.base import TaggedDialect
from ors_gym.dialects.calls import tool_call
from ors_gym.dialects.pythonic import python_calls
from ors_gym.dialects.reading import Reading
from ors_gym.dialects.scanning import UnreadableCallError, decode_json, excerpt, skip_space

__all__ = ["Llama"]

_JSON_CALL = re.compile(r'\s*+\{\s*+"(?:name|type|function)"\s*+:')
_PYTHON_CALL = re.compile(r"\s*+(?:<\|python_start\|>)?\s*+(?=\[\s*+[A-Za-z_][\w.-]*+\()")


class Llama(TaggedDialect):
    """JSON calls have no marks: only a message that starts with one contains calls."""

    name = "llama"
    form = '{"name": …, "parameters": {…}}'
    stop_strings = ("<|eot_id|>", "<|eom_id|>")
    begins = re.compile(r"<function=|<\|python_tag\|>")
    strays = ("</function>",)

    def body(self, reading: Reading, position: int) -> int | None:
        """Detect the form from the start of the message."""
        text = reading.text
        if python := _PYTHON_CALL.match(text, position):
            end = reading.close(python_calls(reading, python.end()), "<|python_end|>", "the list of calls")
            if skip_space(text, end) < len(text):
                raise UnreadableCallError("invalid_call", f"{excerpt(text, end)!r} follows the list of calls")
        elif _JSON_CALL.match(text, position):
            self._json_calls(reading, position)
        else:
            return super().body(reading, position)
        return None

    def call(self, reading: Reading, match: re.Match[str]) -> int:
        """Read JSON after ``<|python_tag|>``, or one ``<function=name>{…}</function>``."""
        text = reading.text
        if match[0] == "<|python_tag|>":
            return self._json_calls(reading, match.end())
        end = text.find(">", match.end())
        name = text[match.end() : end].strip() if end >= 0 else ""
        if end < 0:
            raise UnreadableCallError("unfinished_call", f"{excerpt(text, match.start())!r} is not closed")
        if not name or "\n" in name:
            raise UnreadableCallError("invalid_call", f"{excerpt(text, match.start())!r} is not <function=name>")
        arguments, position = decode_json(text, end + 1)
        reading.add(tool_call({"name": name, "arguments": arguments}))
        return reading.close(position, "</function>", "the call's JSON")

    @staticmethod
    def _json_calls(reading: Reading, position: int) -> int:
        text = reading.text
        while not reading.calls or position < len(text):
            value, position = decode_json(text, position)
            reading.add(tool_call(value))
            position = skip_space(text, position, semicolons=True)
        return position
