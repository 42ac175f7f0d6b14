"""OpenAI's Chat Completions, also spoken by vLLM, SGLang, llama.cpp, Ollama and most hosted models. No I/O.

https://platform.openai.com/docs/api-reference/chat. Answers are read in all variants of these servers: see
:mod:`ors_gym.policies.completion`. Requests follow OpenAI's format until the endpoint rejects it (``quirks``).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from ors_gym.policies.answer import Answer, Origin
from ors_gym.policies.api import OpenAIAPI, Request, split_system
from ors_gym.policies.completion import Completion
from ors_gym.policies.names import ToolNames
from ors_gym.types import ImageBlock, Message, ReasoningBlock, TextBlock, ToolCallBlock, ToolResultBlock, text_of

__all__ = ["ChatCompletions", "chat_messages"]

SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")
"""The format of Mistral's call ids."""


class ChatCompletions(OpenAIAPI):
    """``POST /v1/chat/completions``."""

    name = "openai"
    path = "/chat/completions"
    limits = ("max_tokens", "max_completion_tokens")
    quirks: ClassVar[Mapping[str, re.Pattern[str]]] = {
        "max_completion_tokens": re.compile(r"(?i)(unsupported|not supported).*max_completion_tokens"),
        "no_usage": re.compile(r"stream_options"),
        "assistant_between": re.compile(r"(?i)role.{0,3}user.{0,20}after role.{0,3}tool"),
        "short_ids": re.compile(r"(?i)tool call id was.*length of 9"),
    }

    def body(self, request: Request) -> dict[str, Any]:
        """The request body, with vLLM's parameters if the dialect reads the calls."""
        body: dict[str, Any] = {
            "model": request.model,
            "messages": chat_messages(
                request.messages,
                request.names,
                with_reasoning=request.send_reasoning,
                origin=request.origin,
                quirks=request.quirks,
            ),
            "stream": request.stream,
        }
        if request.stream and "no_usage" not in request.quirks:
            body["stream_options"] = {"include_usage": True}
        if len(request.tools):
            body["tools"] = [tool.to_openai() for tool in request.tools]
            for tool in body["tools"]:
                tool["function"]["name"] = request.names.shown(tool["function"]["name"])
            if request.dialect.name != "plain":  # vLLM rejects tools without a parser unless disabled
                body["tool_choice"] = "none"
                if request.dialect.special_marks:
                    body["skip_special_tokens"] = False
        if request.max_tokens is not None:
            swapped = "max_completion_tokens" in request.quirks
            body["max_completion_tokens" if swapped else request.limit_name] = request.max_tokens
        return body | dict(request.options)

    def answer(self) -> Answer:
        """An empty completion."""
        return Completion()


def chat_messages(
    messages: Iterable[Message],
    names: ToolNames,
    *,
    with_reasoning: bool | None = None,
    origin: Origin | None = None,
    quirks: frozenset[str] = frozenset(),
) -> list[dict[str, Any]]:
    """A conversation in the format of the API.

    A tool result is its own message with the role ``tool``, which holds only text: images of results follow in a user
    message. Assistant messages from ``origin`` keep their original form. ``with_reasoning`` adds ``reasoning_content``
    to messages of other origin; False omits all reasoning.
    """
    system, rest = split_system(messages)
    wire: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for message in rest:
        if message.role == "assistant":
            wire.append(_assistant(message, names, with_reasoning, origin))
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
            if "assistant_between" in quirks and wire and wire[-1]["role"] == "tool":
                wire.append({"role": "assistant", "content": "Go on."})
            wire.append({"role": message.role, "content": _content(parts)})
    if "short_ids" in quirks:
        _shorten_ids(wire)
    return wire


def _assistant(
    message: Message, names: ToolNames, with_reasoning: bool | None, origin: Origin | None
) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    calls: list[dict[str, Any]] = []
    thoughts: list[str] = []
    for block in message.blocks:
        sent = None if origin is None else origin.kept(block)
        if isinstance(block, ToolCallBlock):
            function = {"name": names.shown(block.name), "arguments": json.dumps(dict(block.input))}
            rebuilt = {"type": "function", "function": function}
            calls.append({"id": block.id, **{key: value for key, value in (sent or rebuilt).items() if key != "id"}})
        elif isinstance(block, ReasoningBlock) and (sent is None or with_reasoning is False):
            thoughts.append(block.text)
        elif sent is not None:
            kept |= sent
    wire: dict[str, Any] = {"role": "assistant", "content": message.text}
    if with_reasoning and any(thoughts):
        wire["reasoning_content"] = "\n".join(filter(None, thoughts))
    return wire | kept | ({"tool_calls": calls} if calls else {})


def _part(block: TextBlock | ImageBlock) -> dict[str, Any]:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    return {"type": "image_url", "image_url": {"url": block.data_url}}


def _content(parts: Sequence[Mapping[str, Any]]) -> str | Sequence[Mapping[str, Any]]:
    """Plain text if there are only text parts: some servers accept nothing else."""
    return "\n".join(part["text"] for part in parts) if all(part["type"] == "text" for part in parts) else parts


def _shorten_ids(wire: Iterable[dict[str, Any]]) -> None:
    """Replace every call id that is not in Mistral's format."""

    def short(call_id: str) -> str:
        return call_id if SHORT_ID.fullmatch(call_id) else hashlib.sha256(call_id.encode()).hexdigest()[:9]

    for message in wire:
        if "tool_call_id" in message:
            message["tool_call_id"] = short(message["tool_call_id"])
        for call in message.get("tool_calls", ()):
            call["id"] = short(call["id"])
