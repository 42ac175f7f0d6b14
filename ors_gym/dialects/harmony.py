"""Harmony, of gpt-oss: messages with a header and content, each on a channel; a call is a message with a recipient.

The template writes ``<|start|>assistant to=functions.NAME<|channel|>commentary json<|message|>{…}<|call|>``, the model
``<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>``, often on ``analysis``. The
recipient is accepted anywhere in the header.
"""

from __future__ import annotations

import re

from ors_gym.dialects.base import Dialect
from ors_gym.dialects.calls import tool_call
from ors_gym.dialects.reading import Reading
from ors_gym.dialects.scanning import UnreadableCallError, decode_json, excerpt

__all__ = ["Harmony"]

MESSAGE = "<|message|>"
_MARK = re.compile(r"<\|(?:start|channel|message|constrain|end|call|return)\|>")
_END = re.compile(r"<\|(?:start|end|call|return)\|>")
_PART = re.compile(r"(?P<mark><\|(?:channel|constrain)\|>)|to=(?P<recipient>[^\s<]++)|(?P<word>[^\s<]++)|\s++")
CHANNELS = ("analysis", "commentary", "final")
PEOPLE = ("user", "assistant", "all")


class Harmony(Dialect):
    """All marks are special tokens, so decoding must keep them. The reasoning is on the channel ``analysis``."""

    name = "harmony"
    special_marks = True
    form = f"<|channel|>commentary to=functions.NAME <|constrain|>json{MESSAGE}{{…}}<|call|>"
    stop_strings = ("<|call|>", "<|return|>")
    endings = ()
    thinking = (f"<|channel|>analysis{MESSAGE}", "<|end|>")

    def read(self, reading: Reading, thinking_open: bool) -> None:
        """Read each message in turn."""
        text = reading.text
        position = 0
        if thinking_open:
            position = self._content(reading, 0, "analysis")
        first = _MARK.search(text, position)
        if first is None or first[0] not in ("<|start|>", "<|channel|>", MESSAGE, "<|constrain|>"):
            reading.said.append(text[position : first.start() if first else len(text)])
            return
        while position < len(text):
            position += len("<|start|>") if text.startswith("<|start|>", position) else 0
            end = text.find(MESSAGE, position)
            if end < 0:
                if text[position:].isspace():
                    return
                raise UnreadableCallError("unfinished_call", f"no {MESSAGE} follows {excerpt(text, position)!r}")
            channel, recipient = _header(text[position:end])
            position = end + len(MESSAGE)
            if recipient in ("", *PEOPLE):
                position = self._content(reading, position, channel)
                continue
            arguments, position = decode_json(text, position)
            reading.add(tool_call({"name": recipient.removeprefix("functions."), "arguments": arguments}))
            position = reading.close(position, "<|call|>", "the call's JSON")

    @staticmethod
    def _content(reading: Reading, position: int, channel: str) -> int:
        end = _END.search(reading.text, position)
        content = reading.text[position : end.start() if end else len(reading.text)]
        (reading.thought if channel == "analysis" else reading.said).append(content)
        if end is None:
            if channel == "analysis":
                raise UnreadableCallError("unclosed_thinking", "the thinking was not closed with <|end|>")
            return len(reading.text)
        if end[0] == "<|call|>":
            raise UnreadableCallError("invalid_call", f"no to=… in the header names the tool of {excerpt(content)!r}")
        return end.start() if end[0] == "<|start|>" else end.end()


def _header(header: str) -> tuple[str, str]:
    """The channel and recipient of a message, empty if the header has none."""
    words: list[str] = []
    recipients: set[str] = set()
    position = 0
    while position < len(header):
        part = _PART.match(header, position)
        if part is None:
            raise UnreadableCallError("invalid_call", f"{excerpt(header)!r} is not a valid message header")
        if part["word"]:
            words.append(part["word"])
        elif part["recipient"]:
            recipients.add(part["recipient"])
        position = part.end()
    role = words.pop(0) if words[:1] == ["assistant"] else ""
    channel = words.pop(0) if words and words[0] in CHANNELS else ""
    if len(words) > 1 or len(recipients) > 1 or header.count("<|channel|>") > 1 or (words and not recipients):
        where = excerpt(header) if not role else excerpt(header.strip().removeprefix(role))
        raise UnreadableCallError("invalid_call", f"{where!r} is not a valid message header")
    return channel, recipients.pop() if recipients else ""
