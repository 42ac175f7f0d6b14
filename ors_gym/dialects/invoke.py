"""``<invoke name="…"><parameter name="…">…</parameter></invoke>``: MiniMax M2; DeepSeek V3.2 and V4, with a prefix.

Values have no quotes. MiniMax derives their types from the tool's schema; DeepSeek marks each as text or JSON.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from ors_gym.dialects.base import TaggedDialect
from ors_gym.dialects.reading import Reading
from ors_gym.dialects.scanning import UnreadableCallError, decode_json, excerpt, expect, skip_space, value_end
from ors_gym.types import ToolCall

__all__ = ["DSML", "DSML32", "MiniMax"]

MARK = "｜DSML｜"


class MiniMax(TaggedDialect):
    """All calls of a message are enclosed in one pair of marks."""

    name = "minimax"
    special_marks = True
    stop_strings: ClassVar[tuple[str, ...]] = ("[e~[",)
    endings = (*TaggedDialect.endings, "[e~[")
    mark: ClassVar[str] = ""
    """The prefix of the tags of calls."""
    around: ClassVar[str] = "minimax:tool_call"
    """The tag that encloses the calls."""
    form = (
        '<minimax:tool_call>\n<invoke name="NAME">\n<parameter name="KEY">VALUE</parameter>\n</invoke>\n'
        "</minimax:tool_call>"
    )
    begins = re.compile("<minimax:tool_call>")
    strays: ClassVar[tuple[str, ...]] = ("</minimax:tool_call>", "</invoke>", "</parameter>")

    def call(self, reading: Reading, match: re.Match[str]) -> int:
        """Read all calls between the marks."""
        text, invoke = reading.text, f"<{self.mark}invoke"
        position = skip_space(text, match.end())
        while True:
            position = skip_space(text, self._invoke(reading, position))
            if not text.startswith(invoke, position):
                return expect(text, position, f"</{self.mark}{self.around}>")

    def _invoke(self, reading: Reading, position: int) -> int:
        text, closing = reading.text, f"</{self.mark}invoke>"
        parameter, end_of_parameter = f"<{self.mark}parameter", f"</{self.mark}parameter>"
        (name, _), position = self._tag(text, position, f"<{self.mark}invoke")
        arguments: dict[str, Any] = {}
        position = skip_space(text, position)
        while not text.startswith(closing, position):
            (key, is_text), position = self._tag(text, position, parameter)
            end, following = value_end(text, position, end_of_parameter, (f'{parameter} name="', closing))
            if key in arguments:
                raise UnreadableCallError("invalid_call", f"the parameter {excerpt(key)!r} is given twice")
            arguments[key] = self._value(reading, name, key, text[position:end], is_text)
            position = following
        reading.add(ToolCall(name, arguments))
        return position + len(closing)

    @staticmethod
    def _value(reading: Reading, name: str, key: str, raw: str, is_text: str) -> Any:
        if is_text == "true":
            return raw
        return decode_json(raw, whole=True)[0] if is_text == "false" else reading.argument(name, key, raw)

    @staticmethod
    def _tag(text: str, position: int, tag: str) -> tuple[tuple[str, str], int]:
        """The name in a tag, its ``string`` attribute, and the position after the tag."""
        start = expect(text, position, f'{tag} name="')
        end = text.find(">", start)
        if end < 0:
            raise UnreadableCallError("unfinished_call", f"{excerpt(text, position)!r} is not closed")
        name, quote, more = text[start:end].partition('"')
        attribute = _STRING.fullmatch(more)
        if not (name and quote and attribute) or "\n" in name:
            raise UnreadableCallError("invalid_call", f"{excerpt(text, position)!r} is not a tag with a name")
        return (name, attribute[1] or ""), end + 1


_STRING = re.compile(r'\s*+(?:string="(true|false)")?\s*+')


class DSML(MiniMax):
    """DeepSeek V4."""

    name = "deepseek-v4"
    stop_strings: ClassVar[tuple[str, ...]] = ("<｜end▁of▁sentence｜>",)
    endings = TaggedDialect.endings
    mark = MARK
    around = "tool_calls"
    form = (
        f'<{MARK}tool_calls>\n<{MARK}invoke name="NAME">\n'
        f'<{MARK}parameter name="KEY" string="true">TEXT</{MARK}parameter>\n'
        f'<{MARK}parameter name="KEY" string="false">JSON</{MARK}parameter>\n</{MARK}invoke>\n</{MARK}tool_calls>'
    )
    begins = re.compile(f"<{MARK}tool_calls>")
    strays: ClassVar[tuple[str, ...]] = (
        f"</{MARK}tool_calls>",
        f"<{MARK}invoke",
        f"</{MARK}invoke>",
        f"<{MARK}parameter",
        f"</{MARK}parameter>",
    )


class DSML32(DSML):
    """DeepSeek V3.2, which encloses calls in another tag."""

    name = "deepseek-v3.2"
    around = "function_calls"
    form = DSML.form.replace("tool_calls", "function_calls")
    begins = re.compile(f"<{MARK}function_calls>")
    strays: ClassVar[tuple[str, ...]] = (f"</{MARK}function_calls>", *DSML.strays[1:])
