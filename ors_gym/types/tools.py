"""Tasks, tools, and what a call of one gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast, overload

from ors_gym.errors import ProtocolError
from ors_gym.types.messages import Block, ImageBlock, Message, TextBlock, blocks_from_wire, text_of
from ors_gym.types.shapes import (
    JSONObject,
    flag,
    object_or_none,
    required,
    reward_or_none,
    sequence,
    shown,
    string,
    text_or_none,
)

__all__ = [
    "GroupCandidate",
    "GroupScore",
    "Split",
    "Task",
    "TerminalTool",
    "ToolCall",
    "ToolList",
    "ToolOutput",
    "ToolSpec",
]

Task: TypeAlias = Mapping[str, Any]
"""One problem instance: a JSON object whose meaning is the environment's own."""


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
    """The tools that an agent may call, and further properties of the environment."""

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
    """The id that links the call to its result in the conversation: the model provider's if it sent one."""


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """The output of one tool call.

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
        """The blocks shown to the agent, or the error of a refused call."""
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
        return cls(blocks, reward_or_none(output.get("reward")), finished, metadata)


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
    """The score of one candidate from ``/score_group``: a reward relative to the others'."""

    reward: float
    metadata: JSONObject | None = None

    @classmethod
    def from_wire(cls, wire: Any) -> GroupScore:
        """Read a score of ``/score_group``."""
        reward = reward_or_none(required(wire, "reward", "group score"))
        if reward is None:
            raise ProtocolError("a group score's reward must be a number, got null")
        return cls(reward, object_or_none(wire.get("metadata")))
