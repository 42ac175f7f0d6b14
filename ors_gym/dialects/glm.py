"""``<tool_call>name<arg_key>…</arg_key><arg_value>…</arg_value></tool_call>``: GLM 4.5 and later.

Values stand without quotes; their types come from the tool's schema.
"""

from __future__ import annotations

import re
from typing import Any

from ors_gym.dialects.base import TaggedDialect
from ors_gym.dialects.reading import Reading
from ors_gym.dialects.scanning import UnreadableCallError, excerpt, expect, skip_space, value_end
from ors_gym.types import ToolCall

__all__ = ["GLM"]

_NAME_ENDS = re.compile("\n|<|$")


class GLM(TaggedDialect):
    """Keys and values in turn. GLM 4.7 leaves out the line breaks between them, which mean nothing."""

    name = "glm"
    form = "<tool_call>NAME\n<arg_key>KEY</arg_key>\n<arg_value>VALUE</arg_value>\n</tool_call>"
    stop_strings = ("<|user|>", "<|observation|>", "<|endoftext|>")
    begins = re.compile("<tool_call>")
    strays = ("</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")

    def call(self, reading: Reading, match: re.Match[str]) -> int:
        """``</tool_call>`` is never optional: after any value another argument may be missing."""
        text = reading.text
        position = skip_space(text, match.end())
        ends = _NAME_ENDS.search(text, position)
        after = ends.start() if ends else len(text)
        name = text[position:after].strip()
        if not name or name[0] in "{[":
            raise UnreadableCallError("invalid_call", f"no tool's name begins {excerpt(text, position)!r}")
        arguments: dict[str, Any] = {}
        position = skip_space(text, after)
        while not text.startswith("</tool_call>", position):
            key, start = _key(text, position)
            end, position = value_end(text, start, "</arg_value>", ("<arg_key>", "</tool_call>"))
            if key in arguments:
                raise UnreadableCallError("invalid_call", f"the argument {excerpt(key)!r} is given twice")
            arguments[key] = reading.argument(name, key, text[start:end])
        reading.add(ToolCall(name, arguments))
        return position + len("</tool_call>")


def _key(text: str, position: int) -> tuple[str, int]:
    """The key at ``position``, and where its value begins."""
    start = expect(text, position, "<arg_key>")
    end = text.find("</arg_key>", start)
    if end < 0:
        raise UnreadableCallError("unfinished_call", f"{excerpt(text, position)!r} is not closed")
    value = skip_space(text, end + len("</arg_key>"))
    return text[start:end].strip(), expect(text, value, "<arg_value>")
