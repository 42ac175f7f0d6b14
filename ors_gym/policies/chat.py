"""Conversations as chat-completions endpoints take them, and their answers as replies. No I/O.

The API is OpenAI's (https://platform.openai.com/docs/api-reference/chat), which vLLM, SGLang, llama.cpp and most
hosted models speak too. Where servers differ, what any of them sends is read: reasoning as ``reasoning_content`` or
``reasoning`` or between ``<think>`` tags, arguments as JSON text or as an object, deltas without an index.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, cast

from ors_gym.dialects import Dialect, tool_call
from ors_gym.errors import ProtocolError
from ors_gym.policies.policy import Reply
from ors_gym.types import (
    ImageBlock,
    Message,
    ReasoningBlock,
    TextBlock,
    ToolCall,
    ToolCallBlock,
    ToolResultBlock,
    ToolSpec,
    text_of,
)

__all__ = ["Completion", "ToolNames", "chat_messages"]

JSONObject: TypeAlias = Mapping[str, Any]

MAX_NAME = 64
"""The longest name of a tool that OpenAI takes."""


class ToolNames:
    """The names that tools have before the model: ORS takes any name, these APIs letters, digits, ``_`` and ``-``."""

    def __init__(self, tools: Iterable[ToolSpec]) -> None:
        names = [tool.name for tool in tools]
        self._shown: dict[str, str] = {name: name for name in names if name == _allowed(name)}
        for name in names:
            shown, number = _allowed(name), 2
            while name not in self._shown and shown in self._shown.values():
                shown, number = f"{_allowed(name)[: MAX_NAME - 4]}_{number}", number + 1
            self._shown.setdefault(name, shown)
        self._own = {shown: name for name, shown in self._shown.items()}

    def shown(self, name: str) -> str:
        """The name that the model sees."""
        return self._shown.get(name) or _allowed(name)

    def own(self, shown: str) -> str:
        """The environment's name of a tool; a name that the model made up stays as it is."""
        return self._own.get(shown, shown)

    def declare(self, tools: Iterable[ToolSpec]) -> list[dict[str, Any]]:
        """The tools as the API takes them, their schemas whole."""
        declared = [tool.to_openai() for tool in tools]
        for tool in declared:
            tool["function"]["name"] = self.shown(tool["function"]["name"])
        return declared


def _allowed(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:MAX_NAME] or "_"


def chat_messages(
    messages: Iterable[Message], names: ToolNames, *, with_reasoning: bool = False
) -> list[dict[str, Any]]:
    """A conversation as the API takes it.

    A tool's result is its own message with the role ``tool``, which holds text only: images of results follow in
    a user message. ``with_reasoning`` gives the model its earlier thoughts back, as ``reasoning_content``.
    """
    wire: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "assistant":
            wire.append(_assistant(message, names, with_reasoning))
            continue
        parts: list[dict[str, Any]] = []
        for block in message.blocks:
            match block:
                case ToolResultBlock(tool_call_id=call_id, blocks=inner):
                    images = [_part(each) for each in inner if isinstance(each, ImageBlock)]
                    text = text_of(inner) or ("The image follows." if images else "")
                    wire.append({"role": "tool", "tool_call_id": call_id, "content": text})
                    parts += images
                case TextBlock() | ImageBlock():
                    parts.append(_part(block))
                case ReasoningBlock() | ToolCallBlock():
                    raise ValueError(f"a {block.type} block belongs to the assistant, not to the {message.role}")
        if parts:
            wire.append({"role": message.role, "content": _content(parts)})
    return wire


def _assistant(message: Message, names: ToolNames, with_reasoning: bool) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": "assistant", "content": message.text}
    reasoning = "\n".join(block.text for block in message.blocks if isinstance(block, ReasoningBlock))
    if with_reasoning and reasoning:
        wire["reasoning_content"] = reasoning
    if message.tool_calls:
        wire["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": names.shown(call.name), "arguments": json.dumps(dict(call.input))},
            }
            for call in message.tool_calls
        ]
    return wire


def _part(block: TextBlock | ImageBlock) -> dict[str, Any]:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    return {"type": "image_url", "image_url": {"url": f"data:{block.mime_type};base64,{block.data}"}}


def _content(parts: Sequence[Mapping[str, Any]]) -> str | Sequence[Mapping[str, Any]]:
    """Plain text where there is nothing else: some servers take nothing else."""
    return "\n".join(part["text"] for part in parts) if all(part["type"] == "text" for part in parts) else parts


class _CallInTheMaking:
    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []

    def add(self, delta: JSONObject) -> None:
        self.id = self.id or str(delta.get("id") or "")
        function = _object(delta.get("function") or {}, "a tool call's function")
        name, arguments = function.get("name"), function.get("arguments")
        if name and name != self.name:  # some servers repeat the name with every piece
            self.name += str(name)
        if arguments:
            self.arguments.append(arguments if isinstance(arguments, str) else json.dumps(arguments))

    def read(self) -> ToolCall:
        """The call, under the id that its provider gave; raises ValueError, in words, for one that cannot be read."""
        return tool_call({"id": self.id, "name": self.name, "arguments": "".join(self.arguments)})

    def __str__(self) -> str:
        return f"{self.name}({''.join(self.arguments)})"


class Completion:
    """An answer in the making: fed with a stream's chunks or with one whole answer, then read as a :class:`Reply`.

    Only the first choice is read.
    """

    def __init__(self) -> None:
        self.begun = False
        """Whether the model has produced anything."""
        self.finish_reason = ""
        """Why the answer ended; empty while it has not."""
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[_CallInTheMaking] = []
        self._places: dict[object, _CallInTheMaking] = {}
        self._num_tokens: int | None = None
        self._num_prompt_tokens: int | None = None
        self._num_cached_tokens: int | None = None
        self._num_reasoning_tokens: int | None = None

    def feed(self, answer: Any) -> None:
        """Take one chunk of a stream, or a whole answer.

        Raises:
            ProtocolError: it is neither.
        """
        answer = _object(answer, "a completion")
        usage = answer.get("usage")
        if usage is not None:
            usage = _object(usage, "a completion's usage")
            self._num_tokens = _count(usage.get("completion_tokens"), self._num_tokens)
            self._num_prompt_tokens = _count(usage.get("prompt_tokens"), self._num_prompt_tokens)
            kept = _detail(usage, "prompt_tokens_details", "cached_tokens")
            kept = usage.get("prompt_cache_hit_tokens") if kept is None else kept  # DeepSeek's word for it
            self._num_cached_tokens = _count(kept, self._num_cached_tokens)
            thought = _detail(usage, "completion_tokens_details", "reasoning_tokens")
            self._num_reasoning_tokens = _count(thought, self._num_reasoning_tokens)
        for choice in _array(answer.get("choices"), "a completion's choices")[:1]:
            choice = _object(choice, "a choice")
            whole = choice.get("message")
            delta = choice.get("delta") if whole is None else whole
            self._add(_object(delta or {}, "a choice's message"), whole=whole is not None)
            self.finish_reason = str(choice.get("finish_reason") or self.finish_reason)

    def end(self) -> None:
        """The stream says that it is over; some servers do not say why."""
        if self.begun:
            self.finish_reason = self.finish_reason or "stop"

    def _add(self, message: JSONObject, *, whole: bool) -> None:
        text, thought = _texts(message.get("content"))
        said = (*text, str(message.get("refusal") or ""))
        thoughts = (*thought, str(message.get("reasoning_content") or message.get("reasoning") or ""))
        calls = _array(message.get("tool_calls"), "a message's tool calls")
        self._text += filter(None, said)
        self._reasoning += filter(None, thoughts)
        self.begun = self.begun or any(said) or any(thoughts) or bool(calls)
        for delta in calls:
            delta = _object(delta, "a tool call")
            (self._new_call(delta) if whole else self._call_of(delta)).add(delta)

    def _call_of(self, delta: JSONObject) -> _CallInTheMaking:
        """The call that a stream's delta adds to."""
        index = delta.get("index")
        known = self._places.get(index) if index is not None else self._calls[-1] if self._calls else None
        if known is None:
            return self._new_call(delta)
        # Some servers give every call the index 0, or none, and some every delta its own id: a new call is one
        # that has both a name and another id.
        named = _object(delta.get("function") or {}, "a tool call's function").get("name")
        return self._new_call(delta) if named and delta.get("id") not in (None, "", known.id) else known

    def _new_call(self, delta: JSONObject) -> _CallInTheMaking:
        call = self._places[delta.get("index")] = _CallInTheMaking()
        self._calls.append(call)
        return call

    def reply(self, dialect: Dialect, names: ToolNames, tools: Iterable[ToolSpec] = ()) -> Reply:
        """What the model said. ``dialect`` reads its text, which holds calls where the server does not parse them.

        Arguments that cannot be read make no call at all: the reply then has an ``error`` and a ``reason``, and what
        the model wrote stands in its text.
        """
        shown = [replace(tool, name=names.shown(tool.name)) for tool in tools]
        parsed = dialect.parse("".join(self._text), tools=shown, cut=self.finish_reason == "length")
        reasoning = "\n".join(filter(None, ("".join(self._reasoning), parsed.reasoning)))
        own = tuple(replace(call, name=names.own(call.name)) for call in parsed.tool_calls)
        counted = replace(
            parsed,
            tool_calls=own,
            reasoning=reasoning,
            truncated=self.finish_reason == "length",
            num_tokens=self._num_tokens,
            num_prompt_tokens=self._num_prompt_tokens,
            num_cached_tokens=self._num_cached_tokens,
            num_reasoning_tokens=self._num_reasoning_tokens,
        )
        if not self._calls or parsed.error is not None:
            return counted
        try:
            made = [call.read() for call in self._calls]
        except ValueError as unreadable:
            text = "\n".join(filter(None, (parsed.text, *map(str, self._calls))))
            error = f"No tool was called: {unreadable}. Give the arguments as one JSON object"
            reason = getattr(unreadable, "reason", "invalid_call")
            return replace(counted, text=text, tool_calls=(), error=error, reason=reason)
        return replace(counted, tool_calls=(*own, *(replace(call, name=names.own(call.name)) for call in made)))


def _detail(usage: JSONObject, group: str, name: str) -> Any:
    """A number inside a group of a completion's usage; None where there is none."""
    details = usage.get(group)
    return cast("JSONObject", details).get(name) if isinstance(details, Mapping) else None


def _count(value: Any, known: int | None) -> int | None:
    return value if isinstance(value, int) else known


def _texts(content: Any) -> tuple[list[str], list[str]]:
    """What is said and what is thought in a message's content: text, or parts of which some are thoughts."""
    if content is None or isinstance(content, str):
        return ([content] if content else []), []
    said: list[str] = []
    thought: list[str] = []
    for part in _array(content, "a message's content"):
        part = _object(part, "a part of a message's content")
        if part.get("type") == "thinking":
            inner, _ = _texts(part.get("thinking"))
            thought += inner
        elif isinstance(part.get("text"), str):
            said.append(part["text"])
    return said, thought


def _object(value: Any, what: str) -> JSONObject:
    if not isinstance(value, Mapping):
        raise ProtocolError(f"expected a JSON object for {what}, got {type(value).__name__}")
    return cast("JSONObject", value)


def _array(value: Any, what: str) -> Sequence[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ProtocolError(f"expected a JSON array for {what}, got {type(value).__name__}")
    items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
    return items
