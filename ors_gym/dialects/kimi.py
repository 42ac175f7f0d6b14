"""Kimi K2: JSON arguments after an id that contains the tool's name."""

from __future__ import annotations

import re

from ors_gym.dialects.base import TaggedDialect
from ors_gym.dialects.calls import tool_call
from ors_gym.dialects.reading import Reading
from ors_gym.dialects.scanning import UnreadableCallError, decode_json, excerpt, expect, skip_space

__all__ = ["Kimi"]

CALLS, END_OF_CALLS = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
CALL, ARGUMENTS, END_OF_CALL = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
_ID = re.compile(r"\s*+(?:functions\.)?((?:[^\s:<]++|:(?!\d++\s*+<))++)(?::\d++)?\s*+(?=<)")


class Kimi(TaggedDialect):
    """The model expects its own ids back, ``functions.NAME:NUMBER``, which are kept as the calls' ids."""

    name = "kimi"
    special_marks = True
    form = f"{CALLS}{CALL}functions.NAME:0{ARGUMENTS}{{…}}{END_OF_CALL}{END_OF_CALLS}"
    begins = re.compile(re.escape(CALLS))
    strays = (END_OF_CALLS, CALL, ARGUMENTS, END_OF_CALL)

    def call(self, reading: Reading, match: re.Match[str]) -> int:
        """Read all calls of a section."""
        text = reading.text
        position = skip_space(text, match.end())
        while True:
            start = expect(text, position, CALL)
            found = _ID.match(text, start)
            if found is None:
                raise UnreadableCallError("invalid_call", f"expected the id of a call, got {excerpt(text, start)!r}")
            arguments, end = decode_json(text, expect(text, found.end(), ARGUMENTS))
            call_id = found[0].strip()
            reading.add(tool_call({"id": call_id, "name": found[1], "arguments": arguments}))
            position = skip_space(text, reading.close(end, END_OF_CALL, "the call's JSON"))
            if not text.startswith(CALL, position):
                return reading.close(position, END_OF_CALLS, "the last call")
