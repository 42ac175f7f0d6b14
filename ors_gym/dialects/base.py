"""What all dialects share: stop strings and thinking are set apart first, and failures are put into words.

One rule: a message is read when exactly one thing can be meant by it and every part of each call is closed. Otherwise
none of its calls is made, and the model is told what is wrong and how its dialect is written.
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
    """A way of writing tool calls. Make your own by :meth:`read`, or by :meth:`parse` altogether."""

    name: ClassVar[str]
    """What it is called, in options and in reports."""
    form: ClassVar[str]
    """How a call should have been written, told to the model with an error."""
    stop_strings: ClassVar[tuple[str, ...]] = ("<|im_end|>",)
    """What ends a turn in the models that write it: special tokens, for a sampler to stop at."""
    endings: ClassVar[tuple[str, ...]] = (
        *("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|eom|>", "<|end_of_text|>"),
        *("</s>", "<eos>", "<turn|>", "<|tool_response>", "<|user|>", "<|observation|>", "<｜end▁of▁sentence｜>"),
    )
    """What is taken off the end of a message: a tokenizer's end-of-sequence token may be any of these."""
    special_marks: ClassVar[bool] = False
    """Whether the marks of calls are special tokens, which decoding leaves out unless it is told otherwise."""
    thinking: ClassVar[tuple[str, str]] = ("<think>", "</think>")
    """The marks around what the model thinks before it speaks."""

    def parse(
        self,
        text: str,
        *,
        tools: Iterable[ToolSpec] | None = None,
        thinking_open: bool = False,
        cut: bool = False,
    ) -> Reply:
        """Take one message apart. Never raises, whatever the text; takes time in proportion to its length.

        Args:
            text: What the model wrote, special tokens included: in many dialects they are the marks of a call.
            tools: The tools of the episode: dialects without quotes take the types of arguments from their schemas.
                None where they are not known.
            thinking_open: Whether the prompt left the model's thinking open (see :meth:`opens_thinking`).
            cut: Whether the message was cut off at a limit: it makes no call, whatever it seems to hold.
        """
        if len(text) > MAX_CHARACTERS:
            why = f"the message has {len(text):,} characters, more than {MAX_CHARACTERS:,}"
            return Reply("", (), self._told(why), "too_large")
        reading = Reading.of(text[: without(text, self.endings)], tools)
        try:
            self.read(reading, thinking_open)
            if cut and reading.calls:
                raise UnreadableCallError("unfinished_call", "the message was cut off at its limit")
        except (ValueError, RecursionError) as unreadable:  # those of a dialect of the user's own, too
            body, thought = reading.text[reading.start :].strip(), _joined(reading.thought)
            reason = unreadable.reason if isinstance(unreadable, UnreadableCallError) else "invalid_call"
            return Reply(body, (), self._told(str(unreadable)), reason, thought)
        return Reply("".join(reading.said).strip(), tuple(reading.calls), reasoning=_joined(reading.thought))

    @abstractmethod
    def read(self, reading: Reading, thinking_open: bool) -> None:
        """Add what ``reading.text`` says, thinks and calls to ``reading``.

        Raises:
            ValueError: a call cannot be read. An :class:`UnreadableCallError` also has the reason in one word.
        """

    def opens_thinking(self, prompt: str) -> bool:
        """Whether a prompt, of which the last few tokens are enough, leaves the model's thinking open."""
        return prompt.rstrip().endswith(self.thinking[0])

    def teaches(self, written: str) -> bool:
        """Whether ``form`` is the way in which a template wrote the call ``written``, where there are several."""
        return True

    def _told(self, why: str) -> str:
        return f"No tool was called: {why}. Write a call as {self.form}"

    def __repr__(self) -> str:
        return f"<dialect {self.name}>"


def _joined(thoughts: Iterable[str]) -> str:
    return "\n".join(filter(None, (thought.strip() for thought in thoughts)))


# A call in bare JSON. Each part of the pattern ends at the first character that is none of its own: linear.
_BARE_CALL = re.compile(
    r'\{\s*+(?:"type"\s*+:\s*+"function"\s*+,\s*+)?"name"\s*+:\s*+"([^"\\]++)"\s*+,\s*+"(?:arguments|parameters|input)"'
)


class TaggedDialect(Dialect):
    """A dialect whose calls stand between marks, amid text: ``begins``, and then what :meth:`call` reads."""

    begins: ClassVar[re.Pattern[str]]
    """Where a call begins."""
    strays: ClassVar[tuple[str, ...]] = ()
    """Marks that belong into a call: outside of one, something is missing."""
    _marks: ClassVar[re.Pattern[str]]

    def __init_subclass__(cls) -> None:
        literals = "|".join(re.escape(mark) for mark in (*cls.strays, *cls.thinking))
        cls._marks = re.compile(f"(?P<begins>{cls.begins.pattern})|{literals}")

    @abstractmethod
    def call(self, reading: Reading, match: re.Match[str]) -> int:
        """Read what begins at ``match``, a match of ``begins``; returns where it ends."""

    def read(self, reading: Reading, thinking_open: bool) -> None:
        """Read thinking, then the message."""
        opening = self.thinking[0]
        begins = skip_space(reading.text, 0)
        if reading.text.startswith(opening, begins):
            thinking_open, begins = True, begins + len(opening)
        position: int | None = self._think(reading, begins) if thinking_open else 0
        while position is not None:
            position = self.body(reading, position)

    def body(self, reading: Reading, position: int) -> int | None:
        """Read text and calls as they come; returns where to begin again, if what was read was thinking after all."""
        text, (opening, closing) = reading.text, self.thinking
        while match := self._marks.search(text, position):
            start = match.start()
            if match[0] == closing:
                # The prompt had opened the thinking, unknown to the caller.
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
                raise UnreadableCallError("invalid_call", f"{match[0]} stands outside a call")
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
            reading.start = end + len(closing)  # nothing was said before
        return end + len(closing)

    def check_text(self, reading: Reading, text: str) -> None:
        """Refuse a call that stands without its marks in what would be the answer."""
        match = None if reading.calls else _BARE_CALL.search(text)
        if match is not None and reading.knows(match[1]):
            raise UnreadableCallError("invalid_call", f"the call of {excerpt(match[1])!r} has no marks around it")
