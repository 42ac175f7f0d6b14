"""A trajectory as JSON, and back: the part of a record that is the trajectory's own. No I/O.

See :mod:`ors_gym.reporting.records` for the whole format.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from ors_gym.trajectory import Failure, StopReason, TaskRef, Trajectory, Transition
from ors_gym.types import (
    JSONObject,
    Message,
    TextBlock,
    ToolCall,
    ToolCallBlock,
    ToolOutput,
    ToolResultBlock,
    block_to_wire,
    blocks_from_wire,
)

__all__ = [
    "failure_to_json",
    "read_failure",
    "read_task",
    "read_trajectory",
    "task_to_json",
    "trajectory_to_json",
]

_Spoken: TypeAlias = Mapping[str, tuple[ToolCallBlock | None, ToolResultBlock | None]]
"""The tool calls and results of a conversation, by their ids."""


def failure_to_json(failure: Failure) -> JSONObject:
    """Write a failure."""
    return {"kind": failure.kind, "message": failure.message}


def read_failure(wire: JSONObject) -> Failure:
    """Read a failure."""
    return Failure(wire["kind"], wire["message"])


def task_to_json(task: TaskRef) -> JSONObject:
    """Write which task it was."""
    return {"env_name": task.env_name, "split": task.split, "index": task.index, "task": task.task}


def read_task(wire: JSONObject) -> TaskRef:
    """Read which task it was."""
    return TaskRef(wire["env_name"], wire.get("split"), wire.get("index"), wire.get("task"))


def trajectory_to_json(episode: Trajectory) -> dict[str, Any]:
    """Write a trajectory, each call and result once."""
    return {
        "episode_id": episode.episode_id,
        "task": task_to_json(episode.task),
        "stop_reason": str(episode.stop_reason),
        "failure": episode.failure and failure_to_json(episode.failure),
        "num_turns": episode.num_turns,
        "num_tokens": episode.num_tokens,
        "seconds": episode.seconds,
        "attempt": episode.attempt,
        "messages": [message.to_wire() for message in episode.messages],
        "transitions": _transitions(episode),
    }


def _transitions(episode: Trajectory) -> list[JSONObject]:
    spoken = _calls_and_results(episode.completion)
    pairs = iter([(call, result) for call, result in spoken.values() if call is not None and result is not None])
    following = next(pairs, None)
    written: list[JSONObject] = []
    for transition in episode.transitions:
        action, output = transition.action, transition.output
        fields: dict[str, Any] = {"turn": transition.turn, "seconds": transition.seconds, "name": action.name}
        answer: dict[str, Any] = {
            "ok": output.ok,
            "reward": output.reward,
            "finished": output.finished,
            "metadata": output.metadata,
            "error": output.error,
            "reason": output.reason,
        }
        if following is not None and _says_the_same(*following, transition):
            fields |= {"tool_call_id": following[0].id}
            following = next(pairs, None)
        else:
            answer["blocks"] = [block_to_wire(block) for block in output.blocks]
            fields |= {"tool_call_id": None, "input": action.input}
        written.append(fields | {"output": answer})
    return written


def _calls_and_results(messages: Iterable[Message]) -> _Spoken:
    """In the order of the calls; of those that share an id the last."""
    found: dict[str, tuple[ToolCallBlock | None, ToolResultBlock | None]] = {}
    for message in messages:
        for block in message.blocks:
            if isinstance(block, ToolCallBlock):
                found[block.id] = block, None
            elif isinstance(block, ToolResultBlock):
                found[block.tool_call_id] = found.get(block.tool_call_id, (None, None))[0], block
    return found


def _says_the_same(call: ToolCallBlock, result: ToolResultBlock, transition: Transition) -> bool:
    output = transition.output
    shown = output.blocks if output.ok else (TextBlock(output.text),)
    told = (call.name, call.input, result.blocks, result.is_error)
    return told == (transition.action.name, transition.action.input, shown, not output.ok)


def read_trajectory(wire: JSONObject) -> Trajectory:
    """Read a trajectory.

    Raises:
        ProtocolError, KeyError, TypeError, ValueError: it is none.
    """
    messages = tuple(map(Message.from_wire, wire["messages"]))
    spoken = _calls_and_results(messages)
    return Trajectory(
        wire["episode_id"],
        read_task(wire["task"]),
        StopReason(wire["stop_reason"]),
        tuple(_read_transition(transition, spoken) for transition in wire["transitions"]),
        messages,
        wire["failure"] and read_failure(wire["failure"]),
        wire["seconds"],
        wire["num_turns"],
        wire["num_tokens"],
        wire["attempt"],
    )


def _read_transition(wire: JSONObject, spoken: _Spoken) -> Transition:
    answer = wire["output"]
    call, result = spoken[wire["tool_call_id"]] if wire["tool_call_id"] is not None else (None, None)
    blocks = () if result is None else result.blocks if answer["ok"] else ()
    output = ToolOutput(
        blocks_from_wire(answer["blocks"], "tool output") if "blocks" in answer else blocks,
        answer["reward"],
        answer["finished"],
        answer["metadata"],
        answer["ok"],
        answer["error"],
        answer["reason"],
    )
    arguments = call.input if call is not None else wire["input"]
    return Transition(ToolCall(wire["name"], arguments), output, wire["turn"], wire["seconds"])
