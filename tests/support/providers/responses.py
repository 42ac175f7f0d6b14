"""OpenAI's Responses with a reasoning model, ``store: false``: https://platform.openai.com/docs/api-reference/responses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.support.providers.base import Double, RefusedError, Says, need, pieces

FOREIGN = {"messages", "max_tokens", "stop", "seed", "n"}
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ResponsesDouble(Double):
    """Calls need their reasoning before them, reasoning needs its encrypted content, calls and outputs go in pairs."""

    def check(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        need(headers.get("authorization") == f"Bearer {self.key}", "Incorrect API key provided", 401)
        for name in sorted(FOREIGN & body.keys()):
            raise RefusedError(f"Unsupported parameter: '{name}' is not supported with the Responses API.")
        need("temperature" not in body, "Unsupported parameter: 'temperature' is not supported with this model.")
        need(
            "include_usage" not in body.get("stream_options", {}), "Unknown parameter: 'stream_options.include_usage'."
        )
        need(body.get("max_output_tokens", 16) >= 16, "Invalid 'max_output_tokens': integer below minimum value.")
        for tool in body.get("tools", ()):
            need("function" not in tool and tool.get("name"), "Missing required parameter: 'tools[0].name'.")
            need(NAME.fullmatch(tool["name"]), "Invalid 'tools[0].name': string does not match pattern.")
            need("strict" in tool, "Missing required parameter: 'tools[0].strict'.")
            optional = tool["parameters"].get("properties", {}).keys() - set(tool["parameters"].get("required", ()))
            need(
                not tool["strict"] or not optional, "Invalid schema for function: 'required' must name every property."
            )
        self._check_items(body["input"], body)

    def _check_items(self, items: list[dict[str, Any]], body: Mapping[str, Any]) -> None:
        calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
        outputs = [item["call_id"] for item in items if item.get("type") == "function_call_output"]
        for call_id in calls:
            need(call_id in outputs, f"No tool output found for function call {call_id}.")
        seen: list[dict[str, Any]] = []
        for place, item in enumerate(items):
            kind = item.get("type") or "message"
            if kind == "message":
                expected = "output_text" if item["role"] == "assistant" else "input_"
                for part in item["content"]:
                    need(part["type"].startswith(expected), f"Invalid value: '{part['type']}' for {item['role']}.")
                    need(isinstance(part.get("image_url", ""), str), "Invalid type for 'image_url': expected a string.")
            elif kind == "reasoning":
                wanted = item.get("encrypted_content")
                need(wanted, f"Item with id '{item['id']}' not found. Items are not persisted.", 404)
                need(
                    self.knows(wanted, [item["id"], item["summary"]]), f"The encrypted content for item {item['id']} …"
                )
                after = items[place + 1].get("type", "message") if place + 1 < len(items) else ""
                assistant = after == "message" and items[place + 1].get("role") == "assistant"
                need(
                    assistant or after in ("function_call", "reasoning"),
                    f"Item '{item['id']}' of type 'reasoning' was provided without its required following item.",
                )
            elif kind == "function_call":
                need(isinstance(item["arguments"], str), "Invalid type for 'arguments': expected a string.")
                wanted = self.issued.get(f"reasoning of {item.get('id')}")
                need(
                    wanted is None or any(one.get("id") == wanted for one in seen),
                    f"Item '{item.get('id')}' was provided without its required 'reasoning' item: '{wanted}'.",
                )
            elif kind == "function_call_output":
                need(
                    item["call_id"] in calls,
                    f"No tool call found for function call output with call_id {item['call_id']}.",
                )
                need("is_error" not in item, "Unknown parameter: 'input[0].is_error'.")
            seen.append(item)

    def whole(self, says: Says, body: Mapping[str, Any]) -> dict[str, Any]:
        number = len(self.bodies)
        output: list[dict[str, Any]] = []
        if says.thoughts or says.calls:
            summary = [{"type": "summary_text", "text": says.thoughts}] if says.thoughts else []
            encrypted = self.kept("gAAA", [f"rs_{number}", summary])
            output.append(
                {"type": "reasoning", "id": f"rs_{number}", "summary": summary, "encrypted_content": encrypted}
            )
        if says.text:
            part = {"type": "output_text", "text": says.text, "annotations": []}
            message = {"type": "message", "id": f"msg_{number}", "role": "assistant", "status": "completed"}
            output.append(message | {"content": [part], "phase": "commentary" if says.calls else "final_answer"})
        for place, (name, arguments) in enumerate(says.calls):
            call = {"type": "function_call", "id": f"fc_{number}_{place}", "call_id": f"call_{number}_{place}"}
            self.issued[f"reasoning of {call['id']}"] = f"rs_{number}"
            output.append(
                call | {"name": name, "arguments": arguments, "status": "incomplete" if says.cut else "completed"}
            )
        reason = {"reason": "max_output_tokens"} if says.cut else None
        usage = {
            "input_tokens": 100,
            "input_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 0},
            "output_tokens": 20,
            "output_tokens_details": {"reasoning_tokens": 12},
            "total_tokens": 120,
        }
        status = "incomplete" if says.cut else "completed"
        response = {"id": f"resp_{number}", "object": "response", "status": status, "incomplete_details": reason}
        response |= {"created_at": 0, "model": body["model"], "parallel_tool_calls": True}
        response |= {"tool_choice": "auto", "tools": body.get("tools", [])}
        return response | {"error": None, "output": output, "usage": usage}

    def events(self, whole: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for number, (kind, fields) in enumerate(self._events(whole)):
            yield kind, {"type": kind, "sequence_number": number, **fields}

    def _events(self, whole: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        yield "response.created", {"response": {**whole, "status": "in_progress", "output": [], "usage": None}}
        for index, item in enumerate(whole["output"]):
            place = {"output_index": index, "item_id": item["id"]}
            early = {"arguments": "", "content": [], "encrypted_content": "early"}
            yield (
                "response.output_item.added",
                {**place, "item": item | {key: early[key] for key in early.keys() & item}},
            )
            for part in item.get("content", ()):
                for piece in pieces(part["text"]):
                    yield "response.output_text.delta", {**place, "content_index": 0, "logprobs": [], "delta": piece}
            for piece in pieces(item.get("arguments", "")):
                yield "response.function_call_arguments.delta", {**place, "delta": piece}
            yield "response.output_item.done", {**place, "item": item}
        yield f"response.{whole['status']}", {"response": whole}

    def refusal(self, refused: RefusedError) -> Any:
        return {"error": {"message": refused.message, "type": "invalid_request_error", "param": "input", "code": None}}
