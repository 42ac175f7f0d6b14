"""Muse Glimmer: messages to a recipient; a call is a message to a tool, with ``<atem:…>`` tags of raw values."""

from __future__ import annotations

import re
from typing import Any

from ors_gym.dialects.base import Dialect
from ors_gym.dialects.reading import Reading
from ors_gym.dialects.scanning import UnreadableCallError, excerpt, expect, skip_space, value_end
from ors_gym.types import ToolCall

__all__ = ["Muse"]

MESSAGE, CALLS = "<|message|>", "<atem:function_calls>"
INVOKE, PARAMETER = '<atem:invoke name="', '<atem:parameter name="'
_END = re.compile(r"<\|(?:eom|eot|start)\|>")
_TO = re.compile(r"\s*+(?:assistant)?\s*+to=")
_HEADER = re.compile(r"\s*+(?:assistant)?\s*+(?:to=([^<>\n]++))?")


class Muse(Dialect):
    """Values have no quotes and no added line breaks; their types come from the schema."""

    name = "muse"
    special_marks = True
    form = (
        f' to=NAME{MESSAGE}{CALLS}\n{INVOKE}NAME">\n{PARAMETER}KEY">VALUE</atem:parameter>\n'
        "</atem:invoke>\n</atem:function_calls>"
    )
    stop_strings = ("<|eot|>",)
    endings = ()
    thinking = (f" to=self{MESSAGE}", "<|eom|>")

    def read(self, reading: Reading, thinking_open: bool) -> None:
        """Read each message in turn."""
        text = reading.text
        position = self._content(reading, 0, "self") if thinking_open else 0
        while position < len(text):
            position += len("<|start|>") if text.startswith("<|start|>", position) else 0
            end = text.find(MESSAGE, position)
            if end < 0:
                if text[position:].strip() in ("", "assistant"):
                    return
                if _TO.match(text, position):
                    raise UnreadableCallError("unfinished_call", f"no {MESSAGE} follows {excerpt(text, position)!r}")
                self._content(reading, position, "user")
                return
            header = _HEADER.fullmatch(text, position, end)
            if header is None:
                raise UnreadableCallError("invalid_call", f"{excerpt(text, position)!r} is not a valid message header")
            recipient, position = (header[1] or "user").strip(), end + len(MESSAGE)
            if recipient in ("self", "user"):
                position = self._content(reading, position, recipient)
            else:
                position = self._calls(reading, position, recipient)

    @staticmethod
    def _content(reading: Reading, position: int, recipient: str) -> int:
        end = _END.search(reading.text, position)
        content = reading.text[position : end.start() if end else len(reading.text)]
        (reading.thought if recipient == "self" else reading.said).append(content)
        if recipient == "self" and end is None:
            raise UnreadableCallError("unclosed_thinking", "the thinking was not closed with <|eom|>")
        if recipient != "self" and INVOKE in content:
            raise UnreadableCallError("invalid_call", "a call must be in a message with to=NAME of its tool")
        if end is None:
            return len(reading.text)
        return end.start() if end[0] == "<|start|>" else end.end()

    @staticmethod
    def _calls(reading: Reading, position: int, recipient: str) -> int:
        text = reading.text
        position = expect(text, skip_space(text, position), CALLS)
        position = skip_space(text, position)
        while True:
            name, position = _name(text, position, INVOKE)
            if name != recipient and not name.startswith(f"{recipient}."):
                why = f"a message to {excerpt(recipient)!r} invokes {excerpt(name)!r}"
                raise UnreadableCallError("invalid_call", why)
            arguments: dict[str, Any] = {}
            position = skip_space(text, position)
            while not text.startswith("</atem:invoke>", position):
                key, position = _name(text, position, PARAMETER)
                end, following = value_end(text, position, "</atem:parameter>", (PARAMETER, "</atem:invoke>"))
                if key in arguments:
                    raise UnreadableCallError("invalid_call", f"the parameter {excerpt(key)!r} is given twice")
                arguments[key] = reading.argument(name, key, text[position:end])
                position = following
            reading.add(ToolCall(name, arguments))
            position = skip_space(text, position + len("</atem:invoke>"))
            if not text.startswith(INVOKE, position):
                break
        position = skip_space(text, expect(text, position, "</atem:function_calls>"))
        after = _END.match(text, position)
        if after is None and position < len(text):
            raise UnreadableCallError("invalid_call", f"{excerpt(text, position)!r} follows the call")
        return len(text) if after is None else after.start() if after[0] == "<|start|>" else after.end()


def _name(text: str, position: int, tag: str) -> tuple[str, int]:
    """The name in a tag, which ends with ``">``, and the position after it."""
    start = expect(text, position, tag)
    end = text.find('">', start)
    if end < 0:
        raise UnreadableCallError("unfinished_call", f"{excerpt(text, position)!r} is not closed")
    if end == start or "\n" in text[start:end]:
        raise UnreadableCallError("invalid_call", f"{excerpt(text, position)!r} is not a tag with a name")
    return text[start:end], end + 2
