"""Anthropic's Messages API. No I/O.

https://docs.anthropic.com/en/api/messages. The blocks of an answer, including signed thinking, are sent back unchanged
and in order. The results of a message's calls open the next user message.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, ClassVar

from ors_gym.json_text import read_json
from ors_gym.policies.answer import Answer, Finish, Piece, as_array, as_place, count_in, count_or
from ors_gym.policies.api import API, Request, in_turns, said_blocks, split_system
from ors_gym.policies.pieces import check_count
from ors_gym.types import ImageBlock, Message, ReasoningBlock, TextBlock, ToolCallBlock, ToolResultBlock, ToolSpec
from ors_gym.types.shapes import JSONObject, mapping

__all__ = ["AnthropicMessages"]

COMBINED = ("oneOf", "anyOf", "allOf")
"""Keywords that the API rejects at the top level of a schema."""


class AnthropicMessages(API):
    """``POST /v1/messages``."""

    name = "anthropic"
    address = "https://api.anthropic.com/v1"
    address_variable = "ANTHROPIC_BASE_URL"
    key_variables = ("ANTHROPIC_API_KEY",)
    limits = ("max_tokens",)
    default_limit = 8192

    def root(self, path: str) -> str:
        """The path of an address, without the version, as the provider's own clients add it."""
        path = path.rstrip("/").removesuffix("/messages")
        return path if path.endswith(self.version) else path + self.version

    def call(self, model: str, *, stream: bool) -> str:
        """The same path for every model."""
        return "/messages"

    def headers(self, key: str) -> dict[str, str]:
        """The API's own key header."""
        return {"x-api-key": key}

    def own_headers(self) -> dict[str, str]:
        """The API version, which accepts sampling parameters for models that have them."""
        return {"anthropic-version": "2023-06-01"}

    def body(self, request: Request) -> dict[str, Any]:
        """The request body."""
        system, rest = split_system(request.messages)
        body: dict[str, Any] = {
            "model": request.model,
            "max_tokens": self.default_limit if request.max_tokens is None else request.max_tokens,
            "messages": _messages(rest, request),
            "stream": request.stream,
        }
        if system:
            body["system"] = system
        if len(request.tools):
            body["tools"] = [_tool(tool, request.names.shown(tool.name)) for tool in request.tools]
        return body | dict(request.options)

    def answer(self) -> Answer:
        """An empty message."""
        return AnthropicMessage()


def _tool(tool: ToolSpec, name: str) -> dict[str, Any]:
    """A tool in the API's format. Keywords rejected at the top level of its schema move into the description."""
    schema = {"type": "object", **tool.parameters}
    moved = {key: schema.pop(key) for key in COMBINED if key in schema}
    description = tool.description
    if moved:
        description = f"{description}\nThe input must also satisfy this JSON Schema: {json.dumps(moved)}".strip()
    return {"name": name, "description": description, "input_schema": schema}


def _messages(messages: Iterable[Message], request: Request) -> list[dict[str, Any]]:
    """The messages as alternating turns."""

    def turns() -> Iterator[tuple[str, list[dict[str, Any]]]]:
        for message in messages:
            content = list(_content(message, request))
            while content and content[-1]["type"] in ("thinking", "redacted_thinking"):
                content.pop()  # a message must not end with one
            yield "assistant" if message.role == "assistant" else "user", content

    return in_turns(turns(), "content", {"type": "text", "text": "Begin."})


def _content(message: Message, request: Request) -> Iterator[dict[str, Any]]:
    """The blocks of one message, the results of calls first."""
    results = [block for block in message.blocks if isinstance(block, ToolResultBlock)]
    for result in results:
        yield _result(result)
    for block in message.blocks:
        sent = request.origin.kept(block)
        if isinstance(block, ToolCallBlock):
            rebuilt = {"type": "tool_use", "name": request.names.shown(block.name), "input": dict(block.input)}
            yield {**(sent or rebuilt), "id": block.id}
        elif isinstance(block, TextBlock | ImageBlock):
            if isinstance(block, ImageBlock) or block.text.strip():
                yield sent or _part(block)
        elif isinstance(block, ReasoningBlock) and sent is not None:
            yield sent


def _result(result: ToolResultBlock) -> dict[str, Any]:
    content = [_part(block) for block in said_blocks(Message("user", result.blocks))]
    wire: dict[str, Any] = {"type": "tool_result", "tool_use_id": result.tool_call_id}
    if result.is_error:
        wire["is_error"] = True
        content = content or [{"type": "text", "text": "The call failed."}]
    return wire | ({"content": content} if content else {})


def _part(block: TextBlock | ImageBlock) -> dict[str, Any]:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    source = {"type": "base64", "media_type": block.mime_type, "data": block.data}
    return {"type": "image", "source": source}


class AnthropicMessage(Answer):
    """A message, assembled from its content blocks."""

    words: ClassVar[Mapping[str, Finish]] = {
        **dict.fromkeys(("end_turn", "tool_use", "stop_sequence"), Finish.DONE),
        **dict.fromkeys(("max_tokens", "model_context_window_exceeded"), Finish.CUT),
        "refusal": Finish.FILTERED,
    }

    def __init__(self) -> None:
        super().__init__()
        self._blocks: dict[object, _PartialBlock] = {}
        self._counts: dict[str, Any] = {}

    def feed(self, event: Any) -> None:
        """Process one event of a stream, or a complete message."""
        fields = mapping(event, "a message")
        match fields.get("type"):
            case "message":
                self._begin(fields)
            case "message_start":
                self._begin(mapping(fields.get("message"), "a message"))
            case "content_block_start":
                self._blocks[as_place(fields.get("index"), "a block")] = _PartialBlock(fields.get("content_block"))
                self.begun = True
            case "content_block_delta":
                index = as_place(fields.get("index"), "a block")
                block = self._blocks.setdefault(index, _PartialBlock({"type": "text", "text": ""}))
                block.add(mapping(fields.get("delta"), "a delta"))
                self.begun = True
            case "message_delta":
                delta = mapping(fields.get("delta") or {}, "a delta")
                self.finish_reason = str(delta.get("stop_reason") or self.finish_reason)
                self._count(fields.get("usage"))
            case _:
                pass  # ping and other events
        check_count(self._blocks)

    def _begin(self, message: JSONObject) -> None:
        for index, block in enumerate(as_array(message.get("content"), "a message's content")):
            self._blocks[index] = _PartialBlock(block)
            self.begun = True
        self.finish_reason = str(message.get("stop_reason") or self.finish_reason)
        self._count(message.get("usage"))

    def _count(self, usage: Any) -> None:
        """Record the tokens; later counts of a stream replace earlier ones."""
        if usage is None:
            return
        self._counts |= {name: value for name, value in mapping(usage, "a usage").items() if value is not None}
        known = self._counts
        cached, written = known.get("cache_read_input_tokens"), known.get("cache_creation_input_tokens")
        read = count_or(known.get("input_tokens"))
        self.usage = {
            "num_tokens": count_or(known.get("output_tokens")),
            "num_prompt_tokens": None if read is None else read + (count_or(cached) or 0) + (count_or(written) or 0),
            "num_cached_tokens": count_or(cached),
            "num_reasoning_tokens": count_in(known, "output_tokens_details", "thinking_tokens", "reasoning_tokens"),
        }

    def pieces(self) -> Iterator[Piece]:
        """One piece per block, without empty texts, which the API rejects."""
        for block in self._blocks.values():
            piece = block.piece()
            if piece.kind != "text" or piece.text:
                yield piece


class _PartialBlock:
    def __init__(self, start: Any) -> None:
        self._fields = dict(mapping(start, "a content block"))
        self._grown: dict[str, list[str]] = {}
        self._arguments: list[str] = []
        self._citations: list[Any] = list(as_array(self._fields.get("citations"), "citations"))

    def add(self, delta: JSONObject) -> None:
        match delta.get("type"):
            case "input_json_delta":
                self._arguments.append(str(delta.get("partial_json") or ""))
            case "citations_delta":
                self._citations.append(delta.get("citation"))
            case _:
                for name, value in delta.items():
                    if name != "type" and isinstance(value, str):
                        self._grown.setdefault(name, [str(self._fields.get(name) or "")]).append(value)

    def piece(self) -> Piece:
        sent = self._fields | {name: "".join(texts) for name, texts in self._grown.items()}
        if self._citations:
            sent["citations"] = self._citations
        kind = sent.get("type")
        if kind == "tool_use":
            arguments: Any = "".join(self._arguments)
            if arguments.strip():
                with suppress(ValueError):  # reported when the call is read
                    sent["input"] = read_json(arguments)
            else:
                arguments = sent.get("input") or {}
            call_id, name = str(sent.get("id") or ""), str(sent.get("name") or "")
            return Piece("call", sent=sent, call_id=call_id, name=name, arguments=arguments)
        if kind == "text":
            return Piece("text", str(sent.get("text") or ""), sent)
        return Piece("reasoning", str(sent.get("thinking") or ""), sent)
