"""OpenAI's Responses, without its storage: each request carries the whole conversation. No I/O.

https://platform.openai.com/docs/api-reference/responses. The items of an answer, including encrypted reasoning, are
sent back unchanged and in order, before the outputs of their calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, cast

from ors_gym.policies.answer import Answer, Finish, Piece, as_array, count_in, count_or
from ors_gym.policies.api import OpenAIAPI, Request, split_system
from ors_gym.policies.pieces import check_count
from ors_gym.types import ImageBlock, Message, ReasoningBlock, TextBlock, ToolCallBlock, ToolResultBlock
from ors_gym.types.shapes import JSONObject, mapping

__all__ = ["Responses"]


class Responses(OpenAIAPI):
    """``POST /v1/responses``."""

    name = "responses"
    path = "/responses"
    limits = ("max_output_tokens", "max_tokens")
    quirks: ClassVar[Mapping[str, re.Pattern[str]]] = {
        "no_include": re.compile(r"(?i)(unsupported|not supported|invalid|unknown).*encrypted_content"),
    }

    def body(self, request: Request) -> dict[str, Any]:
        """The request body."""
        instructions, rest = split_system(request.messages)
        body: dict[str, Any] = {
            "model": request.model,
            "input": [item for message in rest for item in _items(message, request)],
            "store": False,
            "stream": request.stream,
        }
        if "no_include" not in request.quirks:
            body["include"] = ["reasoning.encrypted_content"]
        if instructions:
            body["instructions"] = instructions
        if len(request.tools):
            body["tools"] = [
                {
                    "type": "function",
                    "name": request.names.shown(tool.name),
                    "description": tool.description,
                    "parameters": tool.parameters,
                    "strict": False,  # strict mode accepts only a subset of JSON Schema
                }
                for tool in request.tools
            ]
        if request.max_tokens is not None:
            body["max_output_tokens"] = request.max_tokens
        return body | dict(request.options)

    def answer(self) -> Answer:
        """An empty response."""
        return Response()


def _items(message: Message, request: Request) -> Iterator[dict[str, Any]]:
    """The items of one message."""
    parts: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    for block in message.blocks:
        sent = request.origin.kept(block)
        if isinstance(block, ToolCallBlock):
            arguments = json.dumps(dict(block.input), ensure_ascii=False)
            rebuilt = {"type": "function_call", "name": request.names.shown(block.name), "arguments": arguments}
            yield {**(sent or rebuilt), "call_id": block.id}
        elif sent is not None:
            yield sent
        elif isinstance(block, ToolResultBlock):
            outputs.append(_output(block))
        elif isinstance(block, ReasoningBlock):
            continue  # an endpoint accepts only its own reasoning
        elif message.role == "assistant":
            if isinstance(block, TextBlock) and block.text:
                yield {"role": "assistant", "content": [{"type": "output_text", "text": block.text}]}
        else:
            parts.append(_part(block))
    yield from outputs
    if parts:
        yield {"role": message.role, "content": parts}


def _output(result: ToolResultBlock) -> dict[str, Any]:
    """The output of a call, as text unless it has images. The API has no field for errors."""
    texts = [block.text for block in result.blocks if isinstance(block, TextBlock)]
    plain = len(texts) == len(result.blocks)
    output = "\n".join(texts) if plain else [_part(block) for block in result.blocks]
    return {"type": "function_call_output", "call_id": result.tool_call_id, "output": output}


def _part(block: TextBlock | ImageBlock) -> dict[str, Any]:
    if isinstance(block, TextBlock):
        return {"type": "input_text", "text": block.text}
    return {"type": "input_image", "image_url": block.data_url, "detail": "auto"}


class Response(Answer):
    """A response, read from its completed items."""

    words: ClassVar[Mapping[str, Finish]] = {
        "completed": Finish.DONE,
        "max_output_tokens": Finish.CUT,
        "content_filter": Finish.FILTERED,
    }

    def __init__(self) -> None:
        super().__init__()
        self._done: dict[int, JSONObject] = {}
        self._items: list[JSONObject] = []

    @property
    def finish(self) -> Finish:
        """The meaning of the finish reason; an incomplete call means that the answer was cut off."""
        cut = any(item.get("status") == "incomplete" for item in self._output() if item.get("type") == "function_call")
        return Finish.CUT if cut and super().finish is Finish.DONE else super().finish

    def feed(self, event: Any) -> None:
        """Process one event of a stream, or a complete response."""
        fields = mapping(event, "a response")
        kind = str(fields.get("type") or "")
        if kind.endswith(".delta") or kind == "response.output_item.added":
            self.begun = True
        elif kind == "response.output_item.done":
            index = count_or(fields.get("output_index"), len(self._done))
            self._done[cast("int", index)] = mapping(fields.get("item"), "an item of a response")
            check_count(self._done)
            self.begun = True
        elif kind in ("response.completed", "response.incomplete", "response.failed"):
            self._end(mapping(fields.get("response"), "a response"))
        elif not kind:
            self._end(fields)

    def error_of(self, event: Any) -> Any:
        """The error in an ``error`` event or a failed response."""
        if isinstance(event, Mapping):
            fields = cast("JSONObject", event)
            if fields.get("type") == "error":
                return {"error": fields.get("error") or fields}
            if fields.get("type") == "response.failed":
                return super().error_of(fields.get("response")) or {"error": fields}
        return super().error_of(event)

    def _end(self, response: JSONObject) -> None:
        self._items = [mapping(item, "an item") for item in as_array(response.get("output"), "a response's output")]
        status = str(response.get("status") or "completed")
        details = response.get("incomplete_details")
        reason = cast("JSONObject", details).get("reason") if isinstance(details, Mapping) else None
        self.finish_reason = str(reason or status) if status == "incomplete" else status
        usage = response.get("usage")
        if usage is None:
            return
        usage = mapping(usage, "a response's usage")
        self.usage = {
            "num_tokens": count_or(usage.get("output_tokens")),
            "num_prompt_tokens": count_or(usage.get("input_tokens")),
            "num_cached_tokens": count_in(usage, "input_tokens_details", "cached_tokens"),
            "num_reasoning_tokens": count_in(usage, "output_tokens_details", "reasoning_tokens"),
        }

    def _output(self) -> list[JSONObject]:
        """The completed items, or those of the response if none arrived separately."""
        return [self._done[index] for index in sorted(self._done)] or self._items

    def pieces(self) -> Iterator[Piece]:
        """One piece per item."""
        for item in self._output():
            kind = item.get("type")
            if kind == "function_call":
                arguments = item.get("arguments") or "{}"
                call_id, name = str(item.get("call_id") or item.get("id") or ""), str(item.get("name") or "")
                yield Piece("call", sent=item, call_id=call_id, name=name, arguments=arguments)
            elif kind == "message":
                yield Piece("text", "".join(_texts(item.get("content"))), item)
            else:  # reasoning, and any other kind
                thoughts = (*_texts(item.get("summary")), *_texts(item.get("content")))
                yield Piece("reasoning", "\n".join(thoughts), item)


def _texts(parts: Any) -> Iterable[str]:
    """The text of an item's parts; a refusal counts as text."""
    listed: list[Any] = parts if isinstance(parts, list) else []  # pyright: ignore[reportUnknownVariableType]
    for part in listed:
        fields = mapping(part, "a part of an item")
        text = fields.get("text") or fields.get("refusal")
        if isinstance(text, str):
            yield text
