"""The common part of all dialects: removing stop strings, separating reasoning, and error messages.

A message is read only if its meaning is unambiguous and every part of each call is closed. Otherwise none of its calls
is made, and the model receives the error and the format of its dialect.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from ors_gym.dialects.reading import Reading
from ors_gym.dialects.scanning import MAX_CHARACTERS, UnreadableCallError, excerpt, skip_space, without
from ors_gym.trajectory import Reply
from ors_gym.types import ToolSpec

__all__ = ["Dialect", "TaggedDialect"]


class Dialect(ABC):
    """A format of tool calls. Implement :meth:`read`, or override :meth:`parse`, for a custom one."""

    name: ClassVar[str]
    """The dialect's name in options and reports."""
    form: ClassVar[str]
    """The correct format of a call, shown to the model with an error."""
    stop_strings: ClassVar[tuple[str, ...]] = ("<|im_end|>",)
    """Special tokens that end a turn, at which a sampler stops."""
    endings: ClassVar[tuple[str, ...]] = (
        *("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|eom|>", "<|end_of_text|>"),
        *("</s>", "<eos>", "<turn|>", "<|tool_response>", "<|user|>", "<|observation|>", "<｜end▁of▁sentence｜>"),
    )
    """Text that is removed from the end of a message: a tokenizer's end-of-sequence token may be any of these."""
    special_marks: ClassVar[bool] = False
    """Whether the marks of calls are special tokens, which decoding removes by default."""
    thinking: ClassVar[tuple[str, str]] = ("<think>", "</think>")
    """The marks around the model's reasoning."""

    def parse(
        self,
        text: str,
        *,
        tools: Iterable[ToolSpec] | None = None,
        thinking_open: bool = False,
        cut: bool = False,
    ) -> Reply:
        """Parse one message. Never raises for any text, and takes time linear in its length.

        Args:
            text: The model's output, including special tokens: in many dialects they mark calls.
            tools: The tools of the episode, or None if unknown: dialects without quotes derive argument types from
                their schemas.
            thinking_open: Whether the prompt opened the model's reasoning (see :meth:`opens_thinking`).
            cut: Whether the message was cut off at a limit; then it makes no call.
        """
        if len(text) > MAX_CHARACTERS:
            why = f"the message has {len(text):,} characters, more than {MAX_CHARACTERS:,}"
            return Reply("", (), self._told(why), "too_large")
        reading = Reading.of(text[: without(text, self.endings)], tools)
        try:
            self.read(reading, thinking_open)
            if cut and reading.calls:
                raise UnreadableCallError("unfinished_call", "the message was cut off at its limit")
        except (ValueError, RecursionError) as unreadable:  # including errors of custom dialects
            body, thought = reading.text[reading.start :].strip(), _joined(reading.thought)
            reason = unreadable.reason if isinstance(unreadable, UnreadableCallError) else "invalid_call"
            return Reply(body, (), self._told(str(unreadable)), reason, thought)
        return Reply("".join(reading.said).strip(), tuple(reading.calls), reasoning=_joined(reading.thought))

    @abstractmethod
    def read(self, reading: Reading, thinking_open: bool) -> None:
        """Add the text, reasoning and calls in ``reading.text`` to ``reading``.

        Raises:
            ValueError: a call cannot be read. An :class:`UnreadableCallError` also has a one-word reason.
        """

    def opens_thinking(self, prompt: str) -> bool:
        """Whether a prompt, or its last few tokens, leaves the model's reasoning open."""
        return prompt.rstrip().endswith(self.thinking[0])

    def teaches(self, written: str) -> bool:
        """Whether the template's rendering ``written`` of a call has this ``form``, for families with several."""
        return True

    def _told(self, why: str) -> str:
        return f"No tool was called: {why}. Write a call as {self.form}"

    def __repr__(self) -> str:
        return f"<dialect {self.name}>"


def _joined(thoughts: Iterable[str]) -> str:
    return "\n".join(filter(None, (thought.strip() for thought in thoughts)))


# A call in bare JSON. Each part of the pattern ends at the first character outside its class, so it is linear.
_BARE_CALL = re.compile(
    r'\{\s*+(?:"type"\s*+:\s*+"function"\s*+,\s*+)?"name"\s*+:\s*+"([^"\\]++)"\s*+,\s*+"(?:arguments|parameters|input)"'
)


class TaggedDialect(Dialect):
    """A dialect whose calls are enclosed in marks within text: ``begins``, then what :meth:`call` reads."""

    begins: ClassVar[re.Pattern[str]]
    """The start of a call."""
    strays: ClassVar[tuple[str, ...]] = ()
    """Marks that are only valid inside a call; outside of one, they indicate a malformed call."""
    _marks: ClassVar[re.Pattern[str]]

    def __init_subclass__(cls) -> None:
        literals = "|".join(re.escape(mark) for mark in (*cls.strays, *cls.thinking))
        cls._marks = re.compile(f"(?P<begins>{cls.begins.pattern})|{literals}")

    @abstractmethod
    def call(self, reading: Reading, match: re.Match[str]) -> int:
        """Read the call that starts at ``match``, a match of ``begins``, and return its end."""

    def read(self, reading: Reading, thinking_open: bool) -> None:
        """Read the reasoning, then the message."""
        opening = self.thinking[0]
        begins = skip_space(reading.text, 0)
        if reading.text.startswith(opening, begins):
            thinking_open, begins = True, begins + len(opening)
        position: int | None = self._think(reading, begins) if thinking_open else 0
        while position is not None:
            position = self.body(reading, position)

    def body(self, reading: Reading, position: int) -> int | None:
        """Read text and calls in order; return a position to restart from if the text turns out to be reasoning."""
        text, (opening, closing) = reading.text, self.thinking
        while match := self._marks.search(text, position):
            start = match.start()
            if match[0] == closing:
                # The prompt opened the reasoning without the caller's knowledge.
                reading.thought.append(text[reading.start : start])
                reading.said.clear()
                reading.calls.clear()
                reading.start = match.end()
                return reading.start
            reading.said.append(text[position:start])
            if match[0] == opening:
                if text.find(closing, start) < 0 and self.begins.search(text, start) is None:
                    position = start
                    break
                position = self._think(reading, match.end())
            elif match["begins"] is not None:
                position = self.call(reading, match)
            else:
                raise UnreadableCallError("invalid_call", f"{match[0]} is outside a call")
        reading.said.append(text[position:])
        self.check_text(reading, "".join(reading.said))
        return None

    def _think(self, reading: Reading, position: int) -> int:
        closing = self.thinking[1]
        end = reading.text.find(closing, position)
        reading.thought.append(reading.text[position : end if end >= 0 else len(reading.text)])
        if end < 0:
            reading.start = len(reading.text)
            raise UnreadableCallError("unclosed_thinking", f"the thinking was not closed with {closing}")
        if skip_space(reading.text, reading.start) + len(self.thinking[0]) >= position:
            reading.start = end + len(closing)  # no text precedes it
        return end + len(closing)

    def check_text(self, reading: Reading, text: str) -> None:
        """Refuse an unmarked call in the text of the answer."""
        match = None if reading.calls else _BARE_CALL.search(text)
        if match is not None and reading.knows(match[1]):
            raise UnreadableCallError("invalid_call", f"the call of {excerpt(match[1])!r} is not enclosed in marks")
