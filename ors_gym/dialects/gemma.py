"""``<|tool_call>call:name{key:value}<tool_call|>``: Gemma 4. Strings are enclosed in ``<|"|>``, keys are bare."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from ors_gym.dialects.base import TaggedDialect
from ors_gym.dialects.literals import Literals
from ors_gym.dialects.reading import Reading
from ors_gym.dialects.scanning import UnreadableCallError, excerpt, expect
from ors_gym.trajectory import Reply
from ors_gym.types import ToolCall

__all__ = ["Gemma"]

QUOTE = '<|"|>'
_KEY = re.compile(r'[^:{}\[\],"<]++')
_BARE = re.compile(r"\s*+call:[^\s{]++\{")
_NAME = re.compile(r"[^{}<>\n]++")


class _GemmaValues(Literals):
    quotes = '"'  # models also write JSON's quotes; single quotes could be apostrophes

    def string(self, position: int) -> tuple[str, int] | None:
        if not self.text.startswith(QUOTE, position):
            return super().string(position)
        end = self.text.find(QUOTE, position + len(QUOTE))
        if end < 0:
            raise UnreadableCallError("unfinished_call", f"the string {excerpt(self.text, position)} is not closed")
        return self.text[position + len(QUOTE) : end], end + len(QUOTE)

    def key(self, position: int) -> tuple[str, int]:
        string = self.string(position)
        if string is not None:
            return string
        bare = _KEY.match(self.text, position)
        if bare is None:
            self.fail(position, "expected a key")
        return bare[0].strip(), bare.end()


class Gemma(TaggedDialect):
    """All marks are special tokens, so decoding must keep them."""

    name = "gemma"
    special_marks = True
    form = '<|tool_call>call:NAME{KEY:<|"|>TEXT<|"|>,KEY:5}<tool_call|>'
    stop_strings = ("<|tool_response>", "<turn|>")
    thinking = ("<|channel>", "<channel|>")
    begins = re.compile(r"<\|tool_call>")
    strays = ("<tool_call|>", QUOTE)

    def call(self, reading: Reading, match: re.Match[str]) -> int:
        """``call:``, the name, and the arguments in braces."""
        text = reading.text
        position = expect(text, match.end(), "call:")
        name = _NAME.match(text, position)
        start = expect(text, name.end() if name else position, "{")
        if name is None:
            raise UnreadableCallError("invalid_call", f"no name follows call: in {excerpt(text, position)!r}")
        arguments: dict[str, Any]
        arguments, end = _GemmaValues(text).fields(start)
        reading.add(ToolCall(name[0].strip(), arguments))
        return reading.close(end, "<tool_call|>", "the call's arguments")

    def parse(self, text: str, **known: Any) -> Reply:
        """Remove the channel name ``thought`` from the reasoning."""
        parsed = super().parse(text, **known)
        return replace(parsed, reasoning=parsed.reasoning.removeprefix("thought").lstrip())

    def check_text(self, reading: Reading, text: str) -> None:
        """Refuse a call without its mark."""
        super().check_text(reading, text)
        if not reading.calls and _BARE.match(text):
            raise UnreadableCallError("invalid_call", "the call lacks <|tool_call> before it")

    def opens_thinking(self, prompt: str) -> bool:
        """Whether the prompt ends with the start of a thought."""
        return prompt.rstrip().removesuffix("thought").endswith(self.thinking[0])
