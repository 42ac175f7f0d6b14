"""Conversations and tools in the format of open models' chat templates. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ors_gym.types import (
    ImageBlock,
    Message,
    MessageBlock,
    ReasoningBlock,
    TextBlock,
    ToolCallBlock,
    ToolList,
    ToolResultBlock,
    text_of,
)

__all__ = ["images_in", "template_tools", "to_chat_template"]


def template_tools(tools: ToolList) -> list[dict[str, Any]] | None:
    """The tools for a chat template, with their complete JSON Schemas; None instead of an empty list."""
    return [tool.to_openai() for tool in tools] or None


def to_chat_template(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """An ORS conversation for a chat template: tool results become messages of the role ``tool``.

    Content with images is a list of parts; other content is text.
    """
    chat: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for message in messages:
        results = [block for block in message.blocks if isinstance(block, ToolResultBlock)]
        for result in results:
            chat.append(
                {
                    "role": "tool",
                    "name": names.get(result.tool_call_id, ""),
                    "tool_call_id": result.tool_call_id,
                    "content": _content(result.blocks),
                }
            )
        content = _content(message.blocks)
        if results and not content:
            continue
        entry: dict[str, Any] = {"role": message.role, "content": content}
        reasoning = "\n".join(block.text for block in message.blocks if isinstance(block, ReasoningBlock))
        if reasoning:
            entry["reasoning_content"] = reasoning
        if message.tool_calls:
            entry["tool_calls"] = [_chat_tool_call(call) for call in message.tool_calls]
            names |= {call.id: call.name for call in message.tool_calls}
        chat.append(entry)
    return chat


def _content(blocks: Sequence[MessageBlock]) -> str | list[dict[str, Any]]:
    """The text of a message, or its text and images as parts."""
    if not any(isinstance(block, ImageBlock) for block in blocks):
        return text_of(blocks)
    texts_and_images = (block for block in blocks if isinstance(block, TextBlock | ImageBlock))
    return [
        {"type": "image"} if isinstance(block, ImageBlock) else {"type": "text", "text": block.text}
        for block in texts_and_images
    ]


def images_in(messages: Iterable[Message]) -> Iterator[ImageBlock]:
    """The images in the order of :func:`to_chat_template`."""
    for message in messages:
        for block in message.blocks:
            if isinstance(block, ToolResultBlock):
                yield from (inner for inner in block.blocks if isinstance(inner, ImageBlock))
        yield from (block for block in message.blocks if isinstance(block, ImageBlock))


def _chat_tool_call(call: ToolCallBlock) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": dict(call.input)}}
