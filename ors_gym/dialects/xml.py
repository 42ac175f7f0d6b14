"""``<function=name><parameter=key>…</parameter></function>``: Qwen 3.5, 3.6, 3.8, Qwen-Coder, Nemotron 3.

Values have no quotes and are on separate lines; their types come from the tool's schema.
"""

from __future__ import annotations

import re
from typing import Any

from ors_gym.dialects.base import TaggedDialect
from ors_gym.dialects.reading import Reading
from ors_gym.dialects.scanning import UnreadableCallError, excerpt, expect, skip_space, value_end
from ors_gym.types import ToolCall

__all__ = ["XML"]

FUNCTION, PARAMETER = "<function=", "<parameter="


class XML(TaggedDialect):
    """Functions and parameters in tags with their names. ``<tool_call>`` is optional, as models omit it."""

    name = "xml"
    form = "<tool_call>\n<function=NAME>\n<parameter=KEY>\nVALUE\n</parameter>\n</function>\n</tool_call>"
    begins = re.compile("<tool_call>|<function=")
    strays = ("</tool_call>", "</function>", "<parameter=", "</parameter>")

    def call(self, reading: Reading, match: re.Match[str]) -> int:
        """Read a call. A value ends at a closing tag followed by the next parameter or the end of the function."""
        text = reading.text
        tagged = match[0] == "<tool_call>"
        position = skip_space(text, match.end()) if tagged else match.start()
        name, position = _tag(text, position, FUNCTION)
        if not tagged and not reading.knows(name):
            return self._plain(reading, match.start())
        arguments: dict[str, Any] = {}
        position = skip_space(text, position)
        while not text.startswith("</function>", position):
            key, position = _tag(text, position, PARAMETER)
            end, following = value_end(text, position, "</parameter>", (PARAMETER, "</function>"))
            if key in arguments:
                raise UnreadableCallError("invalid_call", f"the parameter {excerpt(key)!r} is given twice")
            raw = text[position:end].removeprefix("\n").removesuffix("\n")
            arguments[key] = reading.argument(name, key, raw)
            position = following
        reading.add(ToolCall(name, arguments))
        position += len("</function>")
        return reading.close(position, "</tool_call>", "</function>") if tagged else _orphan(text, position)

    @staticmethod
    def _plain(reading: Reading, start: int) -> int:
        """Treat an apparent call of an unknown tool as text."""
        end = reading.text.find("</function>", start)
        end = len(reading.text) if end < 0 else _orphan(reading.text, end + len("</function>"))
        reading.said.append(reading.text[start:end])
        return end


def _orphan(text: str, position: int) -> int:
    """The position after an unmatched ``</tool_call>``, or ``position`` if there is none."""
    closing = skip_space(text, position)
    return closing + len("</tool_call>") if text.startswith("</tool_call>", closing) else position


def _tag(text: str, position: int, tag: str) -> tuple[str, int]:
    """The name in a tag such as ``<function=name>``, and the position after it."""
    start = expect(text, position, tag)
    end = text.find(">", start)
    if end < 0:
        raise UnreadableCallError("unfinished_call", f"{excerpt(text, position)!r} is not closed")
    name = text[start:end]
    if not name or "\n" in name or "<" in name:
        raise UnreadableCallError("invalid_call", f"{excerpt(text, position)!r} is not a tag with a name")
    return name, end + 1
