"""DeepSeek V3 (a fenced JSON block after the name) and V3.1 (JSON directly after the name)."""

from __future__ import annotations

import re

from ors_gym.dialects.base import TaggedDialect
from ors_gym.dialects.calls import tool_call
from ors_gym.dialects.reading import Reading
from ors_gym.dialects.scanning import UnreadableCallError, decode_json, excerpt, expect, skip_space

__all__ = ["DeepSeek", "DeepSeek31"]

CALLS, END_OF_CALLS = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, SEPARATOR, END_OF_CALL = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_BEFORE = re.compile("[^<\n]*+")
_NAME = re.compile("[^\n]*+\n")


class DeepSeek(TaggedDialect):
    """Both forms are read, regardless of the template: models mix them."""

    name = "deepseek"
    special_marks = True
    form = f"{CALLS}{CALL}function{SEPARATOR}NAME\n```json\n{{…}}\n```{END_OF_CALL}{END_OF_CALLS}"
    stop_strings = ("<｜end▁of▁sentence｜>",)
    begins = re.compile(f"{CALLS}|{CALL}")
    strays = (END_OF_CALLS, SEPARATOR, END_OF_CALL)

    def call(self, reading: Reading, match: re.Match[str]) -> int:
        """Read one call, or all calls between the outer marks."""
        text = reading.text
        if match[0] == CALL:
            return self._one(reading, match.end())
        position = skip_space(text, match.end())
        while True:
            position = skip_space(text, self._one(reading, expect(text, position, CALL)))
            if not text.startswith(CALL, position):
                return reading.close(position, END_OF_CALLS, "the last call")

    @staticmethod
    def _one(reading: Reading, position: int) -> int:
        text = reading.text
        before = _BEFORE.match(text, position)
        after = expect(text, before.end() if before else position, SEPARATOR)
        name, position, fence = before[0].strip() if before else "", skip_space(text, after), ""
        if not text.startswith("{", position):
            line = _NAME.match(text, position)
            if line is None:
                raise UnreadableCallError("unfinished_call", "the message ends within a call")
            after = expect(text, skip_space(text, line.end()), "```json")
            if name != "function":
                raise UnreadableCallError("invalid_call", f"expected function, got {excerpt(name)!r}")
            name, position, fence = line[0].strip(), after, "```"
        arguments, end = decode_json(text, position)
        reading.add(tool_call({"name": name, "arguments": arguments}))
        if fence:
            end = reading.close(end, fence, "the call's JSON")
        return reading.close(end, END_OF_CALL, "the call's JSON")


class DeepSeek31(DeepSeek):
    """The form of V3.1 and later."""

    name = "deepseek-v3.1"
    form = f"{CALLS}{CALL}NAME{SEPARATOR}{{…}}{END_OF_CALL}{END_OF_CALLS}"

    def teaches(self, written: str) -> bool:
        """Whether the template wrote no fence."""
        return "```json" not in written
