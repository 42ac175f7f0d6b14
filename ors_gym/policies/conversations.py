"""Conversations in the formats of OpenAI, Anthropic, Google and chat templates, and back. No I/O.

For custom loops around :class:`~ors_gym.ORSClient`: ``to_anthropic(messages)`` returns the arguments of the provider's
client, and ``from_anthropic`` reads stored messages. The code is the same as for the requests of
:class:`~ors_gym.ChatPolicy`. Converting back loses provider-specific data, such as signatures of reasoning other than
Anthropic's, and what a format cannot hold: Chat Completions have no images in tool results.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from ors_gym.dialects import dialect, tool_call
from ors_gym.policies.answer import Origin
from ors_gym.policies.api import Request
from ors_gym.policies.apis import api_named
from ors_gym.policies.chat import chat_messages
from ors_gym.policies.names import ToolNames
from ors_gym.policies.templates import to_chat_template
from ors_gym.types import (
    Block,
    ImageBlock,
    Message,
    MessageBlock,
    ReasoningBlock,
    TextBlock,
    ToolCallBlock,
    ToolResultBlock,
)

__all__ = ["from_anthropic", "from_google", "from_openai", "to_anthropic", "to_chat_template", "to_google", "to_openai"]


def to_openai(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """``messages=`` of Chat Completions."""
    return chat_messages(messages, ToolNames(()))


def to_anthropic(messages: Iterable[Message]) -> dict[str, Any]:
    """``system=`` (if there is a system message) and ``messages=`` of Anthropic's Messages."""
    return _written("anthropic", messages, ("system", "messages"))


def to_google(messages: Iterable[Message]) -> dict[str, Any]:
    """``systemInstruction`` (if there is a system message) and ``contents`` of Google's generateContent."""
    return _written("google", messages, ("systemInstruction", "contents"))


def _written(name: str, messages: Iterable[Message], fields: Sequence[str]) -> dict[str, Any]:
    api, no_origin = api_named(name), Origin("", "")
    request = Request("", tuple(messages), (), ToolNames(()), no_origin, dialect("plain"), stream=False)
    body = api.body(request)
    return {field: body[field] for field in fields if field in body}


def from_openai(messages: Iterable[Any]) -> tuple[Message, ...]:
    """Messages of Chat Completions, as mappings or as a client library's objects.

    Raises:
        ValueError: a message has another format.
    """
    read: list[Message] = []
    for message in map(_fields, messages):
        role, content = message.get("role"), message.get("content")
        match role:
            case "system" | "developer":
                read.append(Message("system", _openai_parts(content)))
            case "assistant":
                thought = message.get("reasoning_content") or message.get("reasoning")
                thoughts = (ReasoningBlock(thought),) if isinstance(thought, str) and thought else ()
                calls = tuple(_call_block(call) for call in message.get("tool_calls") or ())
                read.append(Message("assistant", (*thoughts, *_openai_parts(content), *calls)))
            case "tool":
                _add(read, [ToolResultBlock(str(message.get("tool_call_id") or ""), _openai_parts(content))])
            case "user":
                _add(read, _openai_parts(content))
            case _:
                raise ValueError(f"Chat Completions has no role {role!r}")
    return tuple(read)


def _openai_parts(content: Any) -> tuple[Block, ...]:
    if content is None or isinstance(content, str):
        return (TextBlock(content),) if content else ()
    return tuple(_openai_part(_fields(part)) for part in content)


def _openai_part(part: Mapping[str, Any]) -> Block:
    if part.get("type") == "image_url":
        url = _fields(part.get("image_url")).get("url")
        return _image_of(str(url))
    if isinstance(part.get("text"), str):
        return TextBlock(part["text"])
    raise ValueError(f"unsupported part of type {part.get('type')!r}: expected text or image_url")


def _call_block(call: Any) -> ToolCallBlock:
    read = tool_call(call)
    return ToolCallBlock(read.id, read.name, read.input)


def from_anthropic(messages: Iterable[Any], system: Any = None) -> tuple[Message, ...]:
    """Messages of Anthropic's Messages, as mappings or as the client library's objects, preceded by the system prompt.

    Raises:
        ValueError: a message has another format.
    """
    system_blocks = _anthropic_blocks(system)
    read = [Message("system", system_blocks)] if system_blocks else []
    for message in map(_fields, messages):
        role, blocks = message.get("role"), _anthropic_blocks(message.get("content"))
        if role == "assistant":
            read.append(Message("assistant", blocks))
        elif role == "user":
            _add(read, blocks)
        else:
            raise ValueError(f"Anthropic's Messages has no role {role!r}")
    return tuple(read)


def _anthropic_blocks(content: Any) -> tuple[MessageBlock, ...]:
    if content is None or isinstance(content, str):
        return (TextBlock(content),) if content else ()
    return tuple(_anthropic_block(_fields(part)) for part in content)


def _anthropic_block(part: Mapping[str, Any]) -> MessageBlock:
    match part.get("type"):
        case "text":
            return TextBlock(str(part.get("text") or ""))
        case "thinking":
            return ReasoningBlock(str(part.get("thinking") or ""), part.get("signature"))
        case "redacted_thinking":
            return ReasoningBlock("")
        case "image":
            source = _fields(part.get("source"))
            if source.get("type") != "base64":
                raise ValueError("image URLs are not supported: embed the image as base64")
            return ImageBlock(str(source.get("data")), str(source.get("media_type")))
        case "tool_use":
            return ToolCallBlock(str(part.get("id") or ""), str(part.get("name")), dict(part.get("input") or {}))
        case "tool_result":
            inner = cast("tuple[Block, ...]", _anthropic_blocks(part.get("content")))
            return ToolResultBlock(str(part.get("tool_use_id") or ""), inner, bool(part.get("is_error")))
        case kind:
            raise ValueError(f"unsupported block of type {kind!r}")


def from_google(contents: Iterable[Any], system: Any = None) -> tuple[Message, ...]:
    """Contents of Google's generateContent, as mappings or as the client library's objects, preceded by the
    instruction.

    Calls without an id get one, and so do their responses, which are matched in the order of the calls.

    Raises:
        ValueError: a content has another format.
    """
    parts = [{"text": system}] if isinstance(system, str) else _fields(system or {}).get("parts") or ()
    system_blocks = tuple(TextBlock(str(_fields(part).get("text") or "")) for part in parts)
    read = [Message("system", system_blocks)] if system_blocks else []
    unanswered: list[tuple[str, str]] = []  # name and id of calls without a response so far
    for number, content in enumerate(map(_fields, contents)):
        blocks = [
            _google_block(_fields(part), f"call_{number}_{index}", unanswered)
            for index, part in enumerate(content.get("parts") or ())
        ]
        if content.get("role") == "model":
            read.append(Message("assistant", tuple(blocks)))
        else:
            _add(read, blocks)
    return tuple(read)


def _google_block(part: Mapping[str, Any], new_id: str, unanswered: list[tuple[str, str]]) -> MessageBlock:
    call, response = part.get("functionCall"), part.get("functionResponse")
    call, response = call or part.get("function_call"), response or part.get("function_response")
    data = part.get("inlineData") or part.get("inline_data")
    if call is not None:
        fields = _fields(call)
        name, call_id = str(fields.get("name")), str(fields.get("id") or new_id)
        unanswered.append((name, call_id))
        return ToolCallBlock(call_id, name, dict(fields.get("args") or {}))
    if response is not None:
        fields = _fields(response)
        answered = next((call for call in unanswered if fields.get("id") == call[1]), None)
        answered = answered or next((call for call in unanswered if call[0] == fields.get("name")), None)
        if answered is not None:
            unanswered.remove(answered)
        images = tuple(_google_image(_fields(each)) for each in fields.get("parts") or ())
        return _google_result(answered[1] if answered else str(fields.get("id") or ""), fields, images)
    if data is not None:
        return _google_image(part)
    text = str(part.get("text") or "")
    return ReasoningBlock(text) if part.get("thought") else TextBlock(text)


def _google_result(call_id: str, fields: Mapping[str, Any], images: tuple[Block, ...]) -> ToolResultBlock:
    answer = dict(fields.get("response") or {})
    is_error = "error" in answer and "output" not in answer
    output: Any = answer.get("error") if is_error else answer.get("output", answer.get("result", answer))
    text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    return ToolResultBlock(call_id, (*((TextBlock(text),) if text else ()), *images), is_error)


def _google_image(part: Mapping[str, Any]) -> ImageBlock:
    data = _fields(part.get("inlineData") or part.get("inline_data") or {})
    return ImageBlock(str(data.get("data") or ""), str(data.get("mimeType") or data.get("mime_type") or "image/png"))


def _image_of(url: str) -> ImageBlock:
    head, comma, data = url.partition(";base64,")
    if not (comma and head.startswith("data:")):
        raise ValueError("image URLs are not supported: use a data URL with base64")
    return ImageBlock(data, head.removeprefix("data:"))


def _add(read: list[Message], blocks: Iterable[MessageBlock]) -> None:
    """Append blocks of the user: to the message that holds the results of the last calls, or as a new message."""
    after_results = bool(read) and any(isinstance(block, ToolResultBlock) for block in read[-1].blocks)
    if after_results:
        read[-1] = Message("user", (*read[-1].blocks, *blocks))
    else:
        read.append(Message("user", tuple(blocks)))


def _fields(value: Any) -> Mapping[str, Any]:
    """The fields of a mapping, or of a client library's object."""
    if isinstance(value, Mapping):
        return cast("Mapping[str, Any]", value)
    if hasattr(value, "model_dump"):
        return cast("Mapping[str, Any]", value.model_dump(exclude_none=True))
    raise ValueError(f"expected a message or a part of a message, got {type(value).__name__}")
