"""Anthropic's Messages with a model that thinks unasked: https://docs.anthropic.com/en/api/messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.support.providers.base import Double, RefusedError, Says, need, pieces

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
SAMPLING = {"temperature", "top_p", "top_k"}
IMAGES = {"image/jpeg", "image/png", "image/gif", "image/webp"}
THINKING = ("thinking", "redacted_thinking")


class AnthropicDouble(Double):
    """Thinking is bound to all that was sent before it; every call has its result in the next message, first of all."""

    def check(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        need(headers.get("x-api-key") == self.key, "invalid x-api-key", 401)
        need("anthropic-version" in headers, "anthropic-version: header is required")
        need("max_tokens" in body, "max_tokens: Field required")
        need(
            headers["anthropic-version"] < "2026" or not SAMPLING & body.keys(),
            "temperature: Extra inputs are not permitted",
        )
        names = [tool["name"] for tool in body.get("tools", ())]
        need(len(set(names)) == len(names), "tools: Tool names must be unique.")
        for tool in body.get("tools", ()):
            need(NAME.fullmatch(tool["name"]), "tools.0.custom.name: String should match pattern")
            schema = tool["input_schema"]
            need(schema.get("type") == "object", "tools.0.custom.input_schema.type: Field required")
            need(
                not {"oneOf", "allOf", "anyOf"} & schema.keys(), "input_schema does not support oneOf, allOf, or anyOf"
            )
        thinking = body.get("thinking", {})
        if thinking.get("type") == "enabled":
            need(1024 <= thinking["budget_tokens"] < body["max_tokens"], "`max_tokens` must be greater than the budget")
            need(body.get("tool_choice", {}).get("type", "auto") in ("auto", "none"), "Thinking may not be enabled …")
        messages = body["messages"]
        need(messages and messages[0]["role"] == "user", 'messages: first message must use the "user" role')
        need(messages[-1]["role"] == "user", "This model does not support assistant message prefill.")
        called: set[str] = set()
        for place, message in enumerate(messages):
            content = message["content"]
            self._check_blocks(content, place)
            results = [block["tool_use_id"] for block in content if block["type"] == "tool_result"]
            need(called <= set(results), f"messages.{place}: `tool_use` ids were found without `tool_result` blocks")
            need(set(results) <= called, f"messages.{place}: unexpected `tool_use_id` found in `tool_result` blocks")
            kinds = [block["type"] == "tool_result" for block in content]
            need(kinds == sorted(kinds, reverse=True), "tool_result blocks must come first in the content")
            called = {block["id"] for block in content if block["type"] == "tool_use"}
            self._check_thinking(body, place, content, thinking)

    def _check_blocks(self, content: list[dict[str, Any]], place: int) -> None:
        need(content, f"messages.{place}: all messages must have non-empty content")
        for block in content:
            inner = block.get("content", []) if block["type"] == "tool_result" else []
            need(inner or not block.get("is_error"), "content cannot be empty if is_error is true")
            for each in (block, *inner):
                need(each["type"] != "text" or each["text"].strip(), "text content blocks must be non-empty")
                need(each["type"] != "image" or each["source"]["media_type"] in IMAGES, "media_type: Input should be …")
            need(block["type"] != "tool_use" or isinstance(block["input"], dict), "tool_use.input: should be an object")

    def _check_thinking(
        self, body: Mapping[str, Any], place: int, content: list[dict[str, Any]], thinking: Mapping[str, Any]
    ) -> None:
        if body["messages"][place]["role"] != "assistant":
            return
        for block in content:
            if block["type"] in THINKING:
                signature = block.get("signature") or block.get("data")
                need(
                    self.knows(signature, [bound_to(body, place), block.get("thinking")]),
                    f"messages.{place}.content.0: Invalid `signature` in `thinking` block. The block is bound to a "
                    "different conversation.",
                )
        need(content[-1]["type"] not in THINKING, "The final block in an assistant message cannot be `thinking`.")
        last = place == len(body["messages"]) - 2
        if last and thinking and any(block["type"] == "tool_use" for block in content):
            need(
                content[0]["type"] in THINKING,
                f"messages.{place}.content.0.type: Expected `thinking`, found `tool_use`",
            )

    def whole(self, says: Says, body: Mapping[str, Any]) -> dict[str, Any]:
        number, content = len(self.bodies), list[dict[str, Any]]()
        if says.thoughts or says.calls:
            signature = self.kept("EqQB", [bound_to(body, len(body["messages"])), says.thoughts])
            content.append({"type": "thinking", "thinking": says.thoughts, "signature": signature})
        if says.text:
            content.append({"type": "text", "text": says.text})
        for place, (name, arguments) in enumerate(says.calls):
            call = {"type": "tool_use", "id": f"toolu_{number}_{place}", "name": name, "input": json.loads(arguments)}
            content.append(call)
        reason = "max_tokens" if says.cut else "tool_use" if says.calls else "end_turn"
        usage = {
            "input_tokens": 30,
            "cache_creation_input_tokens": 6,
            "cache_read_input_tokens": 64,
            "output_tokens": 20,
            "output_tokens_details": {"thinking_tokens": 12},
        }
        message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": body["model"]}
        return message | {"content": content, "stop_reason": reason, "stop_sequence": None, "usage": usage}

    def events(self, whole: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        started = {**whole["usage"], "output_tokens": 1}
        message = {**whole, "content": [], "stop_reason": None, "usage": started}
        yield "message_start", {"type": "message_start", "message": message}
        yield "ping", {"type": "ping"}
        for index, block in enumerate(whole["content"]):
            empty = {"thinking": "", "text": "", "signature": "", "input": {}}
            start = {key: empty.get(key, value) for key, value in block.items()}
            yield "content_block_start", {"type": "content_block_start", "index": index, "content_block": start}
            for delta in self._deltas(block):
                yield "content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta}
            yield "content_block_stop", {"type": "content_block_stop", "index": index}
        ending = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
        yield "message_delta", {"type": "message_delta", "delta": ending, "usage": {"output_tokens": 20}}
        yield "message_stop", {"type": "message_stop"}

    def _deltas(self, block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        if block["type"] == "thinking":
            yield from ({"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"]))
            yield {"type": "signature_delta", "signature": block["signature"]}
        elif block["type"] == "text":
            yield from ({"type": "text_delta", "text": piece} for piece in pieces(block["text"]))
        elif block["input"]:
            arguments = pieces(json.dumps(block["input"]))
            yield from ({"type": "input_json_delta", "partial_json": piece} for piece in arguments)

    def refusal(self, refused: RefusedError) -> Any:
        kind = "authentication_error" if refused.status == 401 else "invalid_request_error"
        return {"type": "error", "error": {"type": kind, "message": refused.message}, "request_id": "req_1"}


def bound_to(body: Mapping[str, Any], place: int) -> Any:
    """What a thought of message ``place`` is bound to."""
    return [body.get("system"), body.get("tools"), body["messages"][:place]]
