"""The standard's own records: what crosses the wire between an agent and an ORS environment.

Plain frozen dataclasses, picklable and comparable. ``from_wire`` reads the JSON of the specification and of the
reference server alike: unknown keys are ignored, missing required ones raise :class:`~ors_gym.errors.ProtocolError`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast, overload

from ors_gym.errors import ProtocolError

__all__ = [
    "Block",
    "GroupCandidate",
    "GroupScore",
    "ImageBlock",
    "Message",
    "MessageBlock",
    "ReasoningBlock",
    "Split",
    "Task",
    "TerminalTool",
    "TextBlock",
    "ToolCall",
    "ToolCallBlock",
    "ToolList",
    "ToolOutput",
    "ToolResultBlock",
    "ToolSpec",
    "text_of",
]

Task: TypeAlias = Mapping[str, Any]
"""One problem instance: a JSON object whose meaning is the environment's own."""

JSONObject: TypeAlias = Mapping[str, Any]

MAX_SHOWN = 200
"""How much of a value of the server's an error or a record shows, in characters."""


def required(wire: Any, key: str, record: str) -> Any:
    """The value of ``key``; ``record`` names what is being read."""
    if not isinstance(wire, Mapping):
        raise ProtocolError(f"expected a JSON object for {record}, got {type(wire).__name__}")
    fields = cast(JSONObject, wire)
    try:
        return fields[key]
    except KeyError:
        raise ProtocolError(f"{record} has no {key!r}; it has {shown(sorted(map(str, fields)))}") from None


def string(wire: Any, key: str, record: str) -> str:
    """The text under ``key``."""
    value = required(wire, key, record)
    if not isinstance(value, str):
        raise ProtocolError(f"{key!r} of {record} must be a string, got {type(value).__name__}")
    return value


def text_or_none(value: Any) -> str | None:
    """Text that is not needed to go on; what is no string is shown as JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)[:MAX_SHOWN]


def object_or_none(value: Any) -> JSONObject | None:
    """A JSON object that is not needed to go on; another value is kept as its ``value``."""
    if value is None or isinstance(value, Mapping):
        return cast("JSONObject | None", value)
    return {"value": value}


def flag(wire: JSONObject, key: str, record: str) -> bool:
    """The boolean under ``key``, False where there is none. ``"false"`` is neither."""
    value = wire.get(key)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise ProtocolError(f"{key!r} of {record} must be true or false, got {shown(value)}")


def shown(value: Any) -> str:
    """The beginning of a value, for an error."""
    written = json.dumps(value, ensure_ascii=False, default=str)
    return written if len(written) <= MAX_SHOWN else f"{written[:MAX_SHOWN]}…"


@dataclass(frozen=True, slots=True)
class Split:
    """A named part of an environment's tasks; ``type`` is one of ``train``, ``validation``, ``test``."""

    name: str
    type: str = "train"

    @classmethod
    def from_wire(cls, wire: Any) -> Split:
        """Read a split, which servers write as an object or as a bare name."""
        if isinstance(wire, str):
            return cls(wire, wire if wire in ("train", "validation", "test") else "validation")
        name = string(wire, "name", "split")
        kind = wire.get("type")
        return cls(name, kind if isinstance(kind, str) and kind else "validation")


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


def _reward(wire: Any) -> float | None:
    if wire is None:
        return None
    with suppress(OverflowError):  # an integer of 400 digits
        if isinstance(wire, int | float) and not isinstance(wire, bool) and math.isfinite(reward := float(wire)):
            return reward
    raise ProtocolError(f"a reward must be a finite number or null, got {shown(wire)}")


def text_of(blocks: Sequence[MessageBlock]) -> str:
    """The text of the text blocks, joined by newlines."""
    return "\n".join(block.text for block in blocks if isinstance(block, TextBlock))


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


def sequence(wire: Any, record: str) -> Sequence[Any]:
    """The JSON array ``wire``; ``record`` names what is being read."""
    if not isinstance(wire, Sequence) or isinstance(wire, str | bytes):
        raise ProtocolError(f"expected a JSON array for the {record}, got {type(wire).__name__}")
    items: Sequence[Any] = wire  # pyright: ignore[reportUnknownVariableType]
    return items


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. Tool calls stand in assistant messages, tool results in user messages."""

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


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as the environment describes it; ``input_schema`` is JSON Schema, None for a tool without arguments."""

    name: str
    description: str = ""
    input_schema: JSONObject | None = None

    @classmethod
    def from_wire(cls, wire: Any) -> ToolSpec:
        """Read a tool of ``/tools`` or ``/task_tools``."""
        name, schema = string(wire, "name", "tool"), wire.get("input_schema")
        if schema is not None and not isinstance(schema, Mapping):
            raise ProtocolError(f"the input schema of tool {name!r} must be a JSON object, got {shown(schema)}")
        return cls(name, text_or_none(wire.get("description")) or "", cast("JSONObject | None", schema))

    @property
    def parameters(self) -> dict[str, Any]:
        """The schema of the input as a JSON object, also for a tool that takes none. Nothing is left out of it."""
        return {"type": "object", "properties": {}} if self.input_schema is None else dict(self.input_schema)

    def to_openai(self) -> dict[str, Any]:
        """The tool as OpenAI's chat completions, and the chat templates of open models, take it."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class TerminalTool:
    """The hidden tool that a model's plain final message goes to, as its argument ``arg`` (None: no argument)."""

    name: str
    arg: str | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class ToolList(Sequence[ToolSpec]):
    """The tools an agent may call, and what else the environment says of itself beside them."""

    tools: tuple[ToolSpec, ...] = ()
    terminal_tool: TerminalTool | None = None
    supports_score_group: bool = False
    message_block_types: tuple[str, ...] = field(default=("text", "image"))

    @classmethod
    def from_wire(cls, wire: Any) -> ToolList:
        """Read ``/tools`` or ``/task_tools``; fields that older servers do not send mean absent features."""
        tools = tuple(ToolSpec.from_wire(tool) for tool in sequence(required(wire, "tools", "tool list"), "tools"))
        terminal = wire.get("terminal_tool")
        if terminal is not None:
            name = string(terminal, "name", "terminal tool")
            arg = None if terminal.get("arg") is None else string(terminal, "arg", "terminal tool")
            terminal = TerminalTool(name, arg, text_or_none(terminal.get("description")) or "")
        kinds = wire.get("message_block_types")
        kinds = ("text", "image") if kinds is None else tuple(map(str, sequence(kinds, "message block types")))
        return cls(tools, terminal, flag(wire, "supports_score_group", "tool list"), kinds)

    @property
    def names(self) -> tuple[str, ...]:
        """The tools' names, in the environment's order."""
        return tuple(tool.name for tool in self.tools)

    def __len__(self) -> int:
        return len(self.tools)

    @overload
    def __getitem__(self, index: int) -> ToolSpec: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ToolSpec]: ...
    def __getitem__(self, index: int | slice) -> ToolSpec | Sequence[ToolSpec]:
        return self.tools[index]

    def __iter__(self) -> Iterator[ToolSpec]:
        return iter(self.tools)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """An agent's action: one call of the tool ``name`` with ``input``."""

    name: str
    input: JSONObject = field(default_factory=dict[str, Any])
    id: str = field(default="", compare=False)
    """What joins the call to its result in the conversation: the model provider's id where it gave one."""


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What one tool call gave.

    ``reward`` is None when the environment gave none, which is not the same as 0.0. ``ok`` is False when the call was
    the agent's mistake (``error`` says which; ``reason`` is ``not_found``, ``name_collision``, ``input_validation`` or
    ``episode_finished``): an observation for the agent, not a failure of the episode.
    """

    blocks: tuple[Block, ...] = ()
    reward: float | None = None
    finished: bool = False
    metadata: JSONObject | None = None
    ok: bool = True
    error: str | None = None
    reason: str | None = None

    @property
    def cut_short(self) -> bool:
        """Whether a limit of the environment's own ended the episode: truncated and not terminated, by the metadata."""
        metadata = self.metadata or {}
        return self.finished and metadata.get("truncated") is True and metadata.get("terminated") is False

    @property
    def text(self) -> str:
        """The text blocks joined by newlines, or the error of a refused call."""
        return text_of(self.blocks) if self.ok else (self.error or "")

    @property
    def tool_raised(self) -> bool:
        """Whether the call is refused because its tool raised, and not for the agent's mistake."""
        return self.reason == "tool_error"

    @property
    def shown(self) -> tuple[Block, ...]:
        """What the agent reads: the blocks, or the error of a refused call."""
        return self.blocks if self.ok else (TextBlock(self.text),)

    @property
    def images(self) -> tuple[ImageBlock, ...]:
        """The image blocks, in order."""
        return tuple(block for block in self.blocks if isinstance(block, ImageBlock))

    @classmethod
    def from_wire(cls, wire: Any) -> ToolOutput:
        """Read the result of ``/call``."""
        required(wire, "ok", "tool result")
        if not flag(wire, "ok", "tool result"):
            error = text_or_none(wire.get("error")) or "the call was refused"
            return cls(ok=False, error=error, reason=text_or_none(wire.get("reason")) or None)
        output = required(wire, "output", "tool result")
        blocks = blocks_from_wire(required(output, "blocks", "tool output"), "tool output")
        finished, metadata = flag(output, "finished", "tool output"), object_or_none(output.get("metadata"))
        return cls(blocks, _reward(output.get("reward")), finished, metadata)


@dataclass(frozen=True, slots=True)
class GroupCandidate:
    """One trajectory of a group, as ``/score_group`` compares it; ``metadata`` is the caller's own."""

    messages: tuple[Message, ...]
    metadata: JSONObject | None = None

    def to_wire(self) -> dict[str, Any]:
        """Write the candidate as the specification's JSON."""
        metadata = None if self.metadata is None else dict(self.metadata)
        return {"messages": [message.to_wire() for message in self.messages], "metadata": metadata}


@dataclass(frozen=True, slots=True)
class GroupScore:
    """What ``/score_group`` gave one candidate: a reward relative to the others'."""

    reward: float
    metadata: JSONObject | None = None

    @classmethod
    def from_wire(cls, wire: Any) -> GroupScore:
        """Read a score of ``/score_group``."""
        reward = _reward(required(wire, "reward", "group score"))
        if reward is None:
            raise ProtocolError("a group score's reward must be a number, got null")
        return cls(reward, object_or_none(wire.get("metadata")))
