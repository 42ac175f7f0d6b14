"""``<tool_call>name<arg_key>…</arg_key><arg_value>…</arg_value></tool_call>``: GLM 4.5 and later, Hunyuan 3.

Values have no quotes; their types come from the tool's schema.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from ors_gym.dialects.base import TaggedDialect
from ors_gym.dialects.reading import Reading
from ors_gym.dialects.scanning import UnreadableCallError, excerpt, expect, skip_space, value_end
from ors_gym.types import ToolCall

__all__ = ["GLM", "Hunyuan3"]

_NAME_ENDS = re.compile("\n|<|$")


class GLM(TaggedDialect):
    """Alternating keys and values. GLM 4.7 omits the line breaks between them, which carry no meaning."""

    name = "glm"
    form = "<tool_call>NAME\n<arg_key>KEY</arg_key>\n<arg_value>VALUE</arg_value>\n</tool_call>"
    stop_strings: ClassVar[tuple[str, ...]] = ("<|user|>", "<|observation|>", "<|endoftext|>")
    begins = re.compile("<tool_call>")
    strays: ClassVar[tuple[str, ...]] = ("</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    suffix: ClassVar[str] = ""
    """The suffix of all tag names."""

    def call(self, reading: Reading, match: re.Match[str]) -> int:
        """Read a call. ``</tool_call>`` is required: without it, further arguments could be missing."""
        return self._one(reading, match.end())

    def _one(self, reading: Reading, position: int) -> int:
        text, closing = reading.text, self._tag("/tool_call")
        position = skip_space(text, position)
        ends = _NAME_ENDS.search(text, position)
        after = ends.start() if ends else len(text)
        name = text[position:after].strip()
        if not name or name[0] in "{[":
            raise UnreadableCallError("invalid_call", f"expected a tool's name, got {excerpt(text, position)!r}")
        arguments: dict[str, Any] = {}
        position = skip_space(text, self._after_name(text, after))
        while not text.startswith(closing, position):
            key, start = self._key(text, position)
            end, position = value_end(text, start, self._tag("/arg_value"), (self._tag("arg_key"), closing))
            if key in arguments:
                raise UnreadableCallError("invalid_call", f"the argument {excerpt(key)!r} is given twice")
            arguments[key] = reading.argument(name, key, text[start:end])
        reading.add(ToolCall(name, arguments))
        return position + len(closing)

    def _after_name(self, text: str, position: int) -> int:
        return position

    def _key(self, text: str, position: int) -> tuple[str, int]:
        """The key at ``position``, and the start of its value."""
        start, closing = expect(text, position, self._tag("arg_key")), self._tag("/arg_key")
        end = text.find(closing, start)
        if end < 0:
            raise UnreadableCallError("unfinished_call", f"{excerpt(text, position)!r} is not closed")
        key = text[start:end].strip()
        if self._tag("arg_key") in key:  # a value contains the marks between two arguments
            raise UnreadableCallError("invalid_call", f"expected a key, got {excerpt(key)!r}")
        value = skip_space(text, end + len(closing))
        return key, expect(text, value, self._tag("arg_value"))

    def _tag(self, name: str) -> str:
        return f"<{name}{self.suffix}>"


class Hunyuan3(GLM):
    """Hunyuan 3: the same tags with a suffix, enclosed in ``<tool_calls:opensource>``."""

    name = "hunyuan-3"
    special_marks = True
    suffix = ":opensource"
    form = (
        "<tool_calls:opensource>\n<tool_call:opensource>NAME<tool_sep:opensource>\n"
        "<arg_key:opensource>KEY</arg_key:opensource>\n<arg_value:opensource>VALUE</arg_value:opensource>\n"
        "</tool_call:opensource>\n</tool_calls:opensource>"
    )
    stop_strings: ClassVar[tuple[str, ...]] = ("<｜hy_eos:opensource｜>",)
    endings = (*GLM.endings, "<｜hy_eos:opensource｜>")
    thinking = ("<think:opensource>", "</think:opensource>")
    begins = re.compile("<tool_calls:opensource>")
    strays: ClassVar[tuple[str, ...]] = tuple(
        f"<{name}:opensource>"
        for name in ("/tool_calls", "tool_call", "/tool_call", "arg_key", "arg_value", "/arg_value")
    )

    def call(self, reading: Reading, match: re.Match[str]) -> int:
        """Read all calls between the outer marks."""
        text, opening = reading.text, self._tag("tool_call")
        position = skip_space(text, match.end())
        while True:
            position = skip_space(text, self._one(reading, expect(text, position, opening)))
            if not text.startswith(opening, position):
                return expect(text, position, self._tag("/tool_calls"))

    def _after_name(self, text: str, position: int) -> int:
        return expect(text, position, self._tag("tool_sep"))
