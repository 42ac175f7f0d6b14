"""The standard's own records: what crosses the wire between an agent and an ORS environment.

Plain frozen dataclasses, picklable and comparable. ``from_wire`` reads the JSON of the specification and of the
reference server alike: unknown keys are ignored, missing required ones raise :class:`~ors_gym.errors.ProtocolError`.
"""

from ors_gym.types.messages import (
    Block,
    ImageBlock,
    Message,
    MessageBlock,
    ReasoningBlock,
    TextBlock,
    ToolCallBlock,
    ToolResultBlock,
    shown_blocks,
    text_of,
)
from ors_gym.types.tools import (
    GroupCandidate,
    GroupScore,
    Split,
    Task,
    TerminalTool,
    ToolCall,
    ToolList,
    ToolOutput,
    ToolSpec,
)

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
    "shown_blocks",
    "text_of",
]
