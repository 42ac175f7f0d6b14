"""``<|tool_call_start|>[name(key='value')]<|tool_call_end|>``: LFM 2 and 2.5.

LFM 2 and the vision models of 2.5 escape strings; the text models of 2.5 do not.
"""

from __future__ import annotations

import re
from typing import ClassVar

from ors_gym.dialects.base import TaggedDialect
from ors_gym.dialects.pythonic import python_calls, raw_end
from ors_gym.dialects.reading import Reading
from ors_gym.dialects.scanning import UnreadableCallError, skip_space

__all__ = ["LFM", "RawLFM"]

_BARE = re.compile(r"\s*+\[[^\s'\"()\[\]{},=<>]++\(")


class LFM(TaggedDialect):
    """A list of calls between marks that are special tokens, so decoding must keep them."""

    name = "lfm"
    special_marks = True
    form = "<|tool_call_start|>[NAME(KEY='TEXT', KEY=5)]<|tool_call_end|>"
    begins = re.compile(r"<\|tool_call_start\|>")
    strays = ("<|tool_call_end|>",)
    raw_end: ClassVar[re.Pattern[str] | None] = None

    def call(self, reading: Reading, match: re.Match[str]) -> int:
        """Read the list; its end mark may be missing at the end of the message."""
        start = skip_space(reading.text, match.end())
        end = python_calls(reading, start, self.raw_end)
        return reading.close(end, "<|tool_call_end|>", "the list of calls")

    def check_text(self, reading: Reading, text: str) -> None:
        """Refuse a list of calls without its marks."""
        super().check_text(reading, text)
        if not reading.calls and _BARE.match(text):
            raise UnreadableCallError("invalid_call", "the list of calls lacks <|tool_call_start|> before it")


class RawLFM(LFM):
    """Strings without escapes, as LFM 2.5 writes them."""

    name = "lfm-raw"
    raw_end = raw_end("<|tool_call_end|>")
