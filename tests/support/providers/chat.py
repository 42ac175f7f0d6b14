"""Chat Completions as several providers speak it, each with what it wants back in an assistant message."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.providers.base import Double, RefusedError, Says, need, pieces

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
PARAMETERS = {
    *("model", "messages", "tools", "tool_choice", "stream", "stream_options", "temperature", "top_p", "seed", "stop"),
    *("max_tokens", "max_completion_tokens", "reasoning_effort", "chat_template_kwargs"),
}


@dataclass
class ChatDouble(Double):
    """``dialect`` is deepseek, gemini, openrouter, mistral or openai."""

    dialect: str = "openai"
    context: int | None = None
    """The model's context, of which each message takes 100 tokens."""
    said: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The assistant messages of this endpoint, by the id of their first call."""

    def check(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        need(headers.get("authorization") == f"Bearer {self.key}", "Incorrect API key provided", 401)
        for name in sorted(body.keys() - PARAMETERS):
            raise RefusedError(f"Unrecognized request argument supplied: {name}")
        need(body.get("stream") or "stream_options" not in body, "'stream_options' is only allowed with 'stream'.")
        if self.dialect == "openai":
            need(
                "max_tokens" not in body,
                "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead.",
            )
        for tool in body.get("tools", ()):
            need(NAME.fullmatch(tool["function"]["name"]), "Invalid 'tools[0].function.name'")
        self._check_messages(body["messages"])
        limit = body.get("max_tokens")
        if self.context is not None and limit is not None:
            read = 100 * len(body["messages"])
            need(
                read + limit <= self.context,
                f"'max_tokens' or 'max_completion_tokens' is too large: {limit}. This model's maximum context length "
                f"is {self.context} tokens and your request has {read} input tokens.",
            )

    def _check_messages(self, messages: list[dict[str, Any]]) -> None:
        open_calls: list[str] = []
        before = ""
        for place, message in enumerate(messages):
            role, content = message["role"], message.get("content")
            need(role != "system" or place == 0, "System message must be at the beginning.")
            if role == "tool":
                need(message["tool_call_id"] in open_calls, "'tool' must be a response to a preceding message.")
                open_calls.remove(message["tool_call_id"])
                need(isinstance(content, str), "Image URLs are only allowed for messages with role 'user'")
            else:
                need(not open_calls, "An assistant message with 'tool_calls' must be followed by tool messages.")
            if self.dialect == "mistral":
                need((before, role) != ("tool", "user"), "Unexpected role 'user' after role 'tool'")
            for call in message.get("tool_calls", ()):
                need(isinstance(call["function"]["arguments"], str), "arguments: expected a string")
                if self.dialect == "mistral":
                    need(re.fullmatch("[a-zA-Z0-9]{9}", call["id"]), "Tool call id was … a length of 9.")
                open_calls.append(call["id"])
            if message.get("tool_calls"):
                self._check_said(place, message)
            before = role

    def _check_said(self, place: int, message: dict[str, Any]) -> None:
        """Whether a message with calls has what the provider sent in it."""
        said = self.said.get(message["tool_calls"][0]["id"])
        if said is None:
            return
        if self.dialect == "deepseek":
            back = message.get("reasoning_content") == said["reasoning_content"]
            need(back, f"Missing `reasoning_content` field in the assistant message at message index {place}")
        elif self.dialect == "gemini":
            back = message["tool_calls"][0].get("extra_content") == said["tool_calls"][0]["extra_content"]
            need(back, "Function call is missing a thought_signature in functionCall parts.")
        elif self.dialect == "openrouter":
            need(
                message.get("reasoning_details") == said.get("reasoning_details"),
                "Invalid `signature` in `thinking` block",
            )
        elif self.dialect == "mistral":
            need(message["content"] == said["content"], "The thoughts are not those of the model.")

    def whole(self, says: Says, body: Mapping[str, Any]) -> dict[str, Any]:
        number = len(self.bodies)
        message: dict[str, Any] = {"role": "assistant", "content": says.text or None}
        if self.dialect == "deepseek":
            message["reasoning_content"] = says.thoughts
        elif self.dialect == "openrouter" and says.thoughts:
            detail = {"type": "reasoning.text", "text": says.thoughts, "signature": f"sig-{number}", "index": 0}
            message |= {"content": says.text, "reasoning": says.thoughts}
            message["reasoning_details"] = [{**detail, "format": "anthropic-claude-v1"}]
        elif self.dialect == "mistral" and says.thoughts:
            thinking = {"type": "thinking", "thinking": [{"type": "text", "text": says.thoughts}]}
            message["content"] = [thinking, *([{"type": "text", "text": says.text}] if says.text else [])]
        calls = [self._call(number, place, *call) for place, call in enumerate(says.calls)]
        if calls:
            message["tool_calls"] = calls
            self.said[calls[0]["id"]] = message
        finish = "length" if says.cut else "tool_calls" if calls else "stop"
        usage: dict[str, Any] = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        usage["prompt_tokens_details"] = {"cached_tokens": 64}
        usage["completion_tokens_details"] = {"reasoning_tokens": 12}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        return {"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage}

    def _call(self, number: int, place: int, name: str, arguments: str) -> dict[str, Any]:
        call_id = f"mistral{number}{place}" if self.dialect == "mistral" else f"call_{number}_{place}"
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        signed = {"extra_content": {"google": {"thought_signature": f"sig-{number}"}}}
        return call | (signed if self.dialect == "gemini" and place == 0 else {})

    def events(self, whole: Mapping[str, Any]) -> Iterator[tuple[None, Any]]:
        (choice,) = whole["choices"]
        deltas = list(self._deltas(choice["message"]))
        for delta in [{"role": "assistant", "content": None}, *deltas]:
            yield None, {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        yield None, {"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]}
        yield None, {"choices": [], "usage": whole["usage"]}
        yield None, "[DONE]"

    def _deltas(self, message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        thoughts = message.get("reasoning_content")
        yield from [] if thoughts is None else ({"reasoning_content": piece} for piece in pieces(thoughts) or [""])
        for detail in message.get("reasoning_details", ()):
            common = {key: detail[key] for key in ("type", "index", "format")}
            for piece in pieces(detail["text"]):
                yield {"reasoning": piece, "reasoning_details": [{**common, "text": piece}]}
            yield {"reasoning_details": [{**common, "signature": detail["signature"]}]}
        content = message["content"]
        if isinstance(content, str):
            yield from ({"content": piece} for piece in pieces(content) or [""])
        for part in content if isinstance(content, list) else ():
            if part["type"] == "text":
                yield from ({"content": piece} for piece in pieces(part["text"]))
            else:
                (inner,) = part["thinking"]
                parts = ({**part, "thinking": [{**inner, "text": piece}]} for piece in pieces(inner["text"]))
                yield from ({"content": [each]} for each in parts)
        for index, call in enumerate(message.get("tool_calls", ())):
            place = {} if self.dialect == "gemini" else {"index": index}
            yield {"tool_calls": [{**call, **place, "function": {**call["function"], "arguments": ""}}]}
            for piece in pieces(call["function"]["arguments"]):
                yield {"tool_calls": [{**place, "function": {"arguments": piece}}]}

    def refusal(self, refused: RefusedError) -> Any:
        error = {"message": refused.message, "type": "invalid_request_error", "code": refused.status}
        return [{"error": error}] if self.dialect == "gemini" else {"error": error}


def arguments(**values: Any) -> str:
    return json.dumps(values)
