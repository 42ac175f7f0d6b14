"""A model's answer in progress, independent of the API, and its conversion to a reply. No I/O."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, ClassVar, Literal, cast

from ors_gym.dialects import Dialect, tool_call
from ors_gym.dialects.scanning import UnreadableCallError
from ors_gym.errors import ProtocolError
from ors_gym.policies.names import ToolNames
from ors_gym.trajectory import Reply
from ors_gym.types import MessageBlock, ReasoningBlock, TextBlock, ToolCall, ToolCallBlock, ToolSpec
from ors_gym.types.shapes import JSONObject, sequence

__all__ = ["Answer", "Finish", "Origin", "Piece", "as_array", "as_place", "count_in", "count_or"]


MAX_COUNT = 2**53
"""An upper limit for token counts; larger numbers cannot be averaged."""


class Finish(Enum):
    """The meaning of a finish reason."""

    DONE = auto()
    """The model completed its answer."""
    CUT = auto()
    """A token limit cut the answer off."""
    FILTERED = auto()
    """A content filter, or the model itself, withheld the answer."""
    MALFORMED = auto()
    """The model wrote a call that the endpoint could not parse."""
    FAILED = auto()
    """Anything else, including unknown finish reasons."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The endpoint and model of a message, the only ones that its original form is sent back to."""

    endpoint: str
    model: str

    def keep(self, sent: JSONObject | None) -> JSONObject | None:
        """The ``detail`` of a block that preserves this original form."""
        return None if sent is None else {"endpoint": self.endpoint, "model": self.model, "sent": sent}

    def kept(self, block: MessageBlock) -> dict[str, Any] | None:
        """The original form of a block; None for a block of another origin."""
        detail = block.detail or {}
        if (detail.get("endpoint"), detail.get("model")) != (self.endpoint, self.model):
            return None
        sent = detail.get("sent")
        return dict(cast("JSONObject", sent)) if isinstance(sent, Mapping) else None


@dataclass(slots=True)
class Piece:
    """A part of an answer."""

    kind: Literal["text", "reasoning", "call"]
    text: str = ""
    sent: JSONObject | None = None
    """The part as received, to be sent back unchanged; None if its text suffices."""
    call_id: str = ""
    name: str = ""
    arguments: Any = None
    """JSON text or an object."""

    def read(self, names: ToolNames) -> ToolCall:
        """The call, with the provider's id.

        Raises:
            ValueError: the call cannot be read; the message says why.
        """
        text = self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)
        call = tool_call({"id": self.call_id, "name": self.name, "arguments": text})
        return replace(call, name=names.own(call.name))

    def __str__(self) -> str:
        return f"{self.name}({self.arguments})" if self.kind == "call" else self.text


@dataclass
class Answer(ABC):
    """An answer in progress: fed with stream events or one complete answer, then converted to a reply."""

    words: ClassVar[Mapping[str, Finish]]
    """The known finish reasons; every other one is a failure."""

    begun: bool = False
    """Whether the model has produced anything."""
    finish_reason: str = ""
    """Why the answer ended; empty before its end."""
    usage: dict[str, int | None] = field(default_factory=dict[str, "int | None"])
    """Token counts of the reply, by field name."""

    @abstractmethod
    def feed(self, event: Any) -> None:
        """Process one event of a stream, or a complete answer.

        Raises:
            ProtocolError: ``event`` is neither.
        """

    def end(self) -> None:
        """Mark the end of the stream, for APIs that send such a mark."""
        return

    def error_of(self, event: Any) -> Any:
        """The error in an event; None without one."""
        if isinstance(event, list) and event:
            event = as_array(event, "an error")[0]
        if not isinstance(event, Mapping):
            return None
        return cast("Any", event) if cast("JSONObject", event).get("error") else None

    @abstractmethod
    def pieces(self) -> Iterable[Piece]:
        """The parts of the answer in the endpoint's order."""

    @property
    def finish(self) -> Finish:
        """The meaning of ``finish_reason``."""
        return self.words.get(self.finish_reason, Finish.FAILED)

    def reply(
        self,
        dialect: Dialect,
        names: ToolNames,
        tools: Iterable[ToolSpec] = (),
        *,
        origin: Origin | None = None,
        max_tokens: int | None = None,
    ) -> Reply:
        """The model's reply. ``dialect`` reads its text, which contains calls if the server does not parse them.

        An answer that was cut off makes no call, nor does one with unreadable arguments: the reply then has an
        ``error`` and a ``reason``, and its text contains the calls. vLLM reports ``tool_calls`` for calls that
        ``max_tokens`` cut off, so an answer with calls that reaches ``max_tokens`` counts as cut off.
        """
        pieces = list(self.pieces())
        calls = [piece for piece in pieces if piece.kind == "call"]
        spent = self.usage.get("num_tokens")
        at_limit = bool(calls) and max_tokens is not None and spent is not None and spent >= max_tokens
        cut = at_limit or self.finish is Finish.CUT
        shown = [replace(tool, name=names.shown(tool.name)) for tool in tools]
        parsed = dialect.parse("".join(piece.text for piece in pieces if piece.kind == "text"), tools=shown, cut=cut)
        reasoning = (*(piece.text for piece in pieces if piece.kind == "reasoning"), parsed.reasoning)
        counted = replace(
            parsed,
            tool_calls=tuple(replace(call, name=names.own(call.name)) for call in parsed.tool_calls),
            reasoning="\n".join(filter(None, reasoning)),
            truncated=cut,
            **cast("Any", self.usage),
        )
        if self.finish is Finish.MALFORMED:
            why = f"the endpoint could not parse the call ({self.finish_reason})"
            return _unread(counted, calls, why, "invalid_call")
        if parsed.error is not None:
            return counted
        try:
            if calls and cut:
                raise UnreadableCallError("unfinished_call", "the message was cut off at its limit")
            made = [call.read(names) for call in calls]
        except ValueError as unreadable:
            return _unread(counted, calls, str(unreadable), getattr(unreadable, "reason", "invalid_call"))
        whole = replace(counted, tool_calls=(*counted.tool_calls, *made))
        if origin is None or all(piece.sent is None for piece in pieces):
            return whole
        return replace(whole, blocks=tuple(_blocks(pieces, parsed, whole, origin)))


def _unread(reply: Reply, calls: Iterable[Piece], why: str, reason: str) -> Reply:
    text = "\n".join(filter(None, (reply.text, *map(str, calls))))
    error = f"No tool was called: {why}. Give the arguments as one JSON object"
    return replace(reply, text=text, tool_calls=(), error=error, reason=reason)


def _blocks(pieces: Sequence[Piece], parsed: Reply, whole: Reply, origin: Origin) -> Iterator[MessageBlock]:
    """The message in the endpoint's order, each block with its original form."""
    calls = list(whole.tool_calls)
    in_text, made = calls[: len(parsed.tool_calls)], iter(calls[len(parsed.tool_calls) :])
    if parsed.reasoning or in_text:  # the dialect split the text
        yield from (
            ReasoningBlock(each.text, detail=origin.keep(each.sent)) for each in pieces if each.kind == "reasoning"
        )
        yield from (ReasoningBlock(thought) for thought in [parsed.reasoning] if thought)
        yield from (TextBlock(text) for text in [parsed.text] if text)
        yield from (ToolCallBlock("", call.name, call.input) for call in in_text)
        pieces = [piece for piece in pieces if piece.kind == "call"]
    for piece in pieces:
        detail = origin.keep(piece.sent)
        if piece.kind == "reasoning":
            yield ReasoningBlock(piece.text, detail=detail)
        elif piece.kind == "text":
            yield TextBlock(piece.text, detail)
        else:
            call = next(made)
            yield ToolCallBlock("", call.name, call.input, detail)


def count_or(value: Any, known: int | None = None) -> int | None:
    """A token count, or ``known`` if ``value`` is not a valid one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT else known


def count_in(usage: JSONObject, group: str, *names: str) -> int | None:
    """A token count inside a group of the usage, under the first of ``names`` found; None if there is none."""
    details = usage.get(group)
    if not isinstance(details, Mapping):
        return None
    found = (count_or(cast("JSONObject", details).get(name)) for name in names)
    return next((value for value in found if value is not None), None)


def as_place(value: Any, what: str) -> int | str | None:
    """The index of a part, to which later deltas refer.

    Raises:
        ProtocolError: ``value`` is not an index.
    """
    if value is None or isinstance(value, int | str):
        return value
    raise ProtocolError(f"expected a number for the index of {what}, got {type(value).__name__}")


def as_array(value: Any, what: str) -> Sequence[Any]:
    """A JSON array of an answer, empty if absent; ``what`` names it in the error.

    Raises:
        ProtocolError: ``value`` is not an array.
    """
    return [] if value is None else sequence(value, what)
