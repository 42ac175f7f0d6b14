"""Text, images and conversations."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from ors_gym.errors import ProtocolError
from ors_gym.types.shapes import JSONObject, flag, object_or_none, required, sequence, shown, string, text_or_none

__all__ = [
    "Block",
    "ImageBlock",
    "Message",
    "MessageBlock",
    "ReasoningBlock",
    "TextBlock",
    "ToolCallBlock",
    "ToolResultBlock",
    "block_to_wire",
    "blocks_from_wire",
    "shown_blocks",
    "text_of",
]


@dataclass(frozen=True, slots=True)
class TextBlock:
    """A piece of text."""

    text: str
    detail: JSONObject | None = None
    type: Literal["text"] = "text"


@dataclass(frozen=True, slots=True)
class ImageBlock:
    """An image: base64 ``data`` of a file of type ``mime_type`` (``image/png``, …)."""

    data: str
    mime_type: str
    detail: JSONObject | None = None
    type: Literal["image"] = "image"

    @property
    def data_url(self) -> str:
        """The image as a data URL."""
        return f"data:{self.mime_type};base64,{self.data}"


@dataclass(frozen=True, slots=True)
class ReasoningBlock:
    """A model's reasoning, in an assistant message."""

    text: str
    signature: str | None = None
    detail: JSONObject | None = None
    type: Literal["reasoning"] = "reasoning"


@dataclass(frozen=True, slots=True)
class ToolCallBlock:
    """A tool call, in an assistant message; ``id`` joins it to its result."""

    id: str
    name: str
    input: JSONObject
    detail: JSONObject | None = None
    type: Literal["tool_call"] = "tool_call"


@dataclass(frozen=True, slots=True)
class ToolResultBlock:
    """A tool's result, in a user message (ORS has no ``tool`` role)."""

    tool_call_id: str
    blocks: tuple[Block, ...]
    is_error: bool = False
    detail: JSONObject | None = None
    type: Literal["tool_result"] = "tool_result"


Block: TypeAlias = TextBlock | ImageBlock
MessageBlock: TypeAlias = TextBlock | ImageBlock | ReasoningBlock | ToolCallBlock | ToolResultBlock


def text_of(blocks: Sequence[MessageBlock]) -> str:
    """The text of the text blocks, joined by newlines."""
    return "\n".join(block.text for block in blocks if isinstance(block, TextBlock))


def shown_blocks(blocks: Sequence[Block]) -> str:
    """The content that an agent sees, as one text; images are hashed."""
    return "\n".join(
        block.text if isinstance(block, TextBlock) else hashlib.sha256(block.data.encode()).hexdigest()
        for block in blocks
    )


def blocks_from_wire(wire: Any, record: str) -> tuple[Block, ...]:
    """Read the text and image blocks of a prompt or a tool's output."""
    blocks = tuple(message_block_from_wire(block) for block in sequence(wire, record))
    for block in blocks:
        if not isinstance(block, TextBlock | ImageBlock):
            raise ProtocolError(f"{record} holds a block of type {block.type!r}; only text and image belong there")
    return blocks  # type: ignore[return-value]  # narrowed above


def message_block_from_wire(wire: Any) -> MessageBlock:
    """Read one block of a message."""
    kind = required(wire, "type", "block")
    detail = object_or_none(wire.get("detail"))
    match kind:
        case "text":
            return TextBlock(string(wire, "text", "text block"), detail)
        case "image":
            mime_type = wire.get("mimeType") or wire.get("mime_type")
            mime_type = mime_type if isinstance(mime_type, str) else "image/png"
            return ImageBlock(string(wire, "data", "image block"), mime_type, detail)
        case "reasoning":
            signature = text_or_none(wire.get("signature"))
            return ReasoningBlock(string(wire, "text", "reasoning block"), signature, detail)
        case "tool_call":
            name, call_id = string(wire, "name", "tool_call block"), string(wire, "id", "tool_call block")
            arguments = required(wire, "input", "tool_call block")
            if not isinstance(arguments, Mapping):
                raise ProtocolError(f"the input of a tool_call block must be a JSON object, got {shown(arguments)}")
            return ToolCallBlock(call_id, name, cast("JSONObject", arguments), detail)
        case "tool_result":
            call_id = string(wire, "tool_call_id", "tool_result block")
            blocks = blocks_from_wire(required(wire, "blocks", "tool_result block"), "tool_result block")
            return ToolResultBlock(call_id, blocks, flag(wire, "is_error", "tool_result block"), detail)
        case _:
            raise ProtocolError(f"unknown block type {shown(kind)}")


def block_to_wire(block: MessageBlock) -> dict[str, Any]:
    """Write one block as the specification's JSON."""
    wire: dict[str, Any]
    match block:
        case TextBlock(text=text):
            wire = {"type": "text", "text": text}
        case ImageBlock(data=data, mime_type=mime_type):
            wire = {"type": "image", "data": data, "mimeType": mime_type}
        case ReasoningBlock(text=text, signature=signature):
            wire = {"type": "reasoning", "text": text} | ({"signature": signature} if signature else {})
        case ToolCallBlock(id=call_id, name=name, input=arguments):
            wire = {"type": "tool_call", "id": call_id, "name": name, "input": dict(arguments)}
        case ToolResultBlock(tool_call_id=call_id, blocks=blocks, is_error=is_error):
            inner = [block_to_wire(each) for each in blocks]
            wire = {"type": "tool_result", "tool_call_id": call_id, "blocks": inner, "is_error": is_error}
    return wire if block.detail is None else wire | {"detail": dict(block.detail)}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. Tool calls are in assistant messages, tool results in user messages."""

    role: Literal["system", "user", "assistant"]
    blocks: tuple[MessageBlock, ...]
    detail: JSONObject | None = None

    @property
    def text(self) -> str:
        """The text blocks, joined by newlines."""
        return text_of(self.blocks)

    @property
    def tool_calls(self) -> tuple[ToolCallBlock, ...]:
        """The tool calls, in order."""
        return tuple(block for block in self.blocks if isinstance(block, ToolCallBlock))

    @classmethod
    def from_wire(cls, wire: Any) -> Message:
        """Read a message of ``/messages``."""
        role = required(wire, "role", "message")
        if role not in ("system", "user", "assistant"):
            raise ProtocolError(f"unknown message role {shown(role)}")
        blocks = tuple(message_block_from_wire(block) for block in sequence(required(wire, "blocks", "message"), role))
        return cls(role, blocks, object_or_none(wire.get("detail")))

    def to_wire(self) -> dict[str, Any]:
        """Write the message as the specification's JSON."""
        wire: dict[str, Any] = {"role": self.role, "blocks": [block_to_wire(block) for block in self.blocks]}
        return wire if self.detail is None else wire | {"detail": dict(self.detail)}
