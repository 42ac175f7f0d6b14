"""Conversion of a trajectory to JSON and back, without I/O.

See :mod:`ors_gym.reporting.records` for the whole format.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from ors_gym.json_text import LIMITS
from ors_gym.redaction import Redactor
from ors_gym.trajectory import Exchange, Failure, Reply, StopReason, TaskRef, Trajectory, Transition
from ors_gym.types import Message, MessageBlock, ToolCall, ToolCallBlock, ToolOutput, ToolResultBlock
from ors_gym.types.messages import (
    block_to_wire,
    blocks_from_wire,
    message_block_from_wire,
)
from ors_gym.types.shapes import (
    JSONObject,
)

__all__ = ["RecordEncoder", "plain_json", "read_failure", "read_task", "read_trajectory"]


MAX_DEPTH = LIMITS.max_depth
"""Maximum nesting of arrays and objects in one value; deeper content is left out."""

MAX_BITS = 3 * LIMITS.max_digits
"""Maximum bits of an integer; a longer one has more digits than Python formats, and becomes text."""


def plain_json(value: Any, redact: Redactor, depth: int = MAX_DEPTH) -> Any:
    """``value`` as portable JSON, without secrets."""
    if isinstance(value, str):
        return redact(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() < MAX_BITS else redact(hex(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth == 0:
        return f"(nested deeper than {MAX_DEPTH})"
    if isinstance(value, Mapping):
        fields: Mapping[Any, Any] = value  # pyright: ignore[reportUnknownVariableType]
        return {redact.name(str(key)): plain_json(each, redact, depth - 1) for key, each in fields.items()}
    if isinstance(value, list | tuple):
        return [plain_json(each, redact, depth - 1) for each in cast("list[Any]", value)]
    return redact(str(value))


class RecordEncoder:
    """Converts trajectories to JSON without secrets.

    Only text from environments and models is redacted, never the keys, roles and types of the format: a secret may be
    an ordinary word, and the record must stay readable.
    """

    def __init__(self, redact: Redactor) -> None:
        self._redact = redact

    def plain(self, value: Any) -> Any:
        """A value as JSON, without secrets."""
        return plain_json(value, self._redact)

    def failure(self, failure: Failure) -> JSONObject:
        """A failure as JSON."""
        return {"kind": failure.kind, "message": self.plain(failure.message)}

    def task(self, task: TaskRef) -> JSONObject:
        """A task reference as JSON."""
        return {"env_name": task.env_name, "split": task.split, "index": task.index, "task": self.plain(task.task)}

    def trajectory(self, episode: Trajectory) -> dict[str, Any]:
        """A trajectory as JSON, each block once."""
        return {
            "episode_id": episode.episode_id,
            "task": self.task(episode.task),
            "stop_reason": str(episode.stop_reason),
            "failure": episode.failure and self.failure(episode.failure),
            "num_turns": episode.num_turns,
            "num_tokens": episode.num_tokens,
            "seconds": self.plain(episode.seconds),
            "attempt": episode.attempt,
            "prompt": [self._message(message) for message in episode.prompt],
            "exchanges": [self._exchange(exchange) for exchange in episode.exchanges],
        }

    def _exchange(self, exchange: Exchange) -> JSONObject:
        reply = exchange.reply
        answers = {transition.action.id: transition for transition in exchange.transitions}
        calls = [self._call(call.id, call, answers.get(call.id)) for call in reply.tool_calls]
        of_terminal_tool = [self._call(None, step.action, step) for step in exchange.transitions if not calls]
        return {
            "text": self.plain(reply.text),
            "reasoning": self.plain(reply.reasoning),
            "error": self.plain(reply.error),
            "reason": self.plain(reply.reason),
            "truncated": reply.truncated,
            "num_tokens": reply.num_tokens,
            "num_prompt_tokens": reply.num_prompt_tokens,
            "num_cached_tokens": reply.num_cached_tokens,
            "num_reasoning_tokens": reply.num_reasoning_tokens,
            "calls": calls + of_terminal_tool,
            "notices": [self._block(block) for block in exchange.notices],
            "finished": exchange.finished,
        } | ({"blocks": [self._block(block) for block in exchange.said().blocks]} if reply.blocks else {})

    def _call(self, call_id: str | None, call: ToolCall, answer: Transition | None) -> JSONObject:
        return {
            "id": self.plain(call_id),
            "name": self._redact.name(call.name),
            "input": self.plain(call.input),
            "seconds": answer and self.plain(answer.seconds),
            "output": answer and self._output(answer.output),
        }

    def _output(self, output: ToolOutput) -> JSONObject:
        return {
            "ok": output.ok,
            "reward": self.plain(output.reward),
            "finished": output.finished,
            "metadata": self.plain(output.metadata),
            "error": self.plain(output.error),
            "reason": self.plain(output.reason),
            "blocks": [self._block(block) for block in output.blocks],
        }

    def _message(self, message: Message) -> JSONObject:
        written: JSONObject = {"role": message.role, "blocks": [self._block(block) for block in message.blocks]}
        return written if message.detail is None else {**written, "detail": self.plain(message.detail)}

    def _block(self, block: MessageBlock) -> JSONObject:
        written = {key: self.plain(value) for key, value in block_to_wire(block).items()} | {"type": block.type}
        if isinstance(block, ToolCallBlock):
            written["name"] = self._redact.name(block.name)
        if isinstance(block, ToolResultBlock):
            written["blocks"] = [self._block(inner) for inner in block.blocks]
        return written


def read_failure(wire: JSONObject) -> Failure:
    """Read a failure."""
    return Failure(wire["kind"], wire["message"])


def read_task(wire: JSONObject) -> TaskRef:
    """Read a task reference."""
    return TaskRef(wire["env_name"], wire.get("split"), wire.get("index"), wire.get("task"))


def read_trajectory(wire: JSONObject) -> Trajectory:
    """Read a trajectory.

    Raises:
        ProtocolError, KeyError, TypeError, ValueError: ``wire`` is not a trajectory.
    """
    return Trajectory(
        wire["episode_id"],
        read_task(wire["task"]),
        StopReason(wire["stop_reason"]),
        tuple(map(Message.from_wire, wire["prompt"])),
        tuple(map(_read_exchange, wire["exchanges"])),
        wire["failure"] and read_failure(wire["failure"]),
        wire["seconds"],
        wire["attempt"],
    )


def _read_exchange(wire: JSONObject) -> Exchange:
    calls = [ToolCall(call["name"], call["input"], call["id"] or "") for call in wire["calls"]]
    from_message = tuple(call for call, written in zip(calls, wire["calls"], strict=True) if written["id"] is not None)
    transitions = tuple(
        Transition(call, _read_output(written["output"]), written["seconds"])
        for call, written in zip(calls, wire["calls"], strict=True)
        if written["output"] is not None
    )
    reply = Reply(
        wire["text"],
        from_message,
        wire["error"],
        wire["reason"],
        wire["reasoning"],
        wire["truncated"],
        wire["num_tokens"],
        wire["num_prompt_tokens"],
        wire.get("num_cached_tokens"),
        wire.get("num_reasoning_tokens"),
        tuple(map(message_block_from_wire, wire.get("blocks") or ())),
    )
    return Exchange(reply, transitions, blocks_from_wire(wire["notices"], "notices"), wire["finished"])


def _read_output(wire: JSONObject) -> ToolOutput:
    return ToolOutput(
        blocks_from_wire(wire["blocks"], "tool output"),
        wire["reward"],
        wire["finished"],
        wire["metadata"],
        wire["ok"],
        wire["error"],
        wire["reason"],
    )
