"""The records of both authoring APIs as the standard's JSON: ours are dataclasses, the reference SDK's Pydantic models.

NaN and infinities are refused as rewards and become ``null`` elsewhere (metadata), as on the reference server.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel
from pydantic_core import to_json

from ors_gym.types import GroupScore, Message, Split, ToolList, ToolOutput
from ors_gym.types.messages import block_to_wire
from ors_gym_server.authoring.tools import as_output

__all__ = [
    "blocks_wire",
    "encode",
    "encode_output",
    "encode_refusal",
    "encode_scores",
    "error_text",
    "flatten_messages",
    "message_wire",
    "split_wire",
    "tool_list_wire",
]

JSONDict = dict[str, Any]


def encode(value: Any) -> bytes:
    """Any JSON value as bytes."""
    return to_json(value, inf_nan_mode="null")


def error_text(error: BaseException) -> str:
    """The text of an exception, also of one whose ``str()`` raises."""
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException as raised:  # it is the environment's code, and the call has to come to its end
        text = f"its str() raised {type(raised).__name__}"
    return f"{name}: {text}" if text else name


def _finite(reward: Any, what: str) -> float | None:
    if reward is None:
        return None
    if not math.isfinite(reward):
        raise ValueError(f"{what} is {reward!r}; a reward is a finite number, or None for no reward")
    return float(reward)


# -------------------------------------------------------------------- results of tools


def encode_refusal(error: str | None, reason: str | None) -> str:
    """The result of a call with a mistake of the agent."""
    return to_json({"ok": False, "error": error or "the call was refused", "reason": reason}).decode()


def encode_output(name: str, result: Any) -> tuple[str, bool]:
    """What tool ``name`` returned, as the result's JSON, and whether it ended the episode.

    Raises:
        TypeError, ValueError: it is not a tool output or cannot be sent; the message names the tool.
    """
    record: Any = result if isinstance(result, BaseModel) and hasattr(result, "blocks") else as_output(name, result)
    try:
        if isinstance(record, BaseModel):
            _finite(getattr(record, "reward", None), "its reward")
            return f'{{"ok":true,"output":{record.model_dump_json()}}}', bool(getattr(record, "finished", False))
        if not record.ok:
            return encode_refusal(record.error, record.reason), False
        return _encode_record(record), record.finished
    except (TypeError, ValueError) as error:
        raise ValueError(f"the result of tool {name!r} cannot be sent: {error}") from error


def _encode_record(output: ToolOutput) -> str:
    wire = {
        "ok": True,
        "output": {
            "blocks": [_block_wire(block, "it") for block in output.blocks],
            "metadata": output.metadata,
            "reward": _finite(output.reward, "its reward"),
            "finished": bool(output.finished),
        },
    }
    return to_json(wire, inf_nan_mode="null").decode()


def encode_scores(scores: Iterable[Any], num_candidates: int) -> str:
    """The result of ``score_group``: numbers, or records with ``reward`` and ``metadata``."""
    wire: list[JSONDict] = []
    for score in scores:
        record = score if hasattr(score, "reward") else GroupScore(float(score))
        reward = _finite(record.reward, f"the score of candidate {len(wire)}")
        if reward is None:
            raise ValueError(f"candidate {len(wire)} has no score")
        wire.append({"reward": reward, "metadata": getattr(record, "metadata", None)})
    if len(wire) != num_candidates:
        raise ValueError(f"score_group returned {len(wire)} scores for {num_candidates} candidates")
    return to_json({"scores": wire}, inf_nan_mode="null").decode()


# -------------------------------------------------------------------- what an environment says of itself


def split_wire(split: Any) -> JSONDict:
    """A split: a record, or a name, which is of type ``validation`` unless it is a split type itself."""
    if isinstance(split, str):
        split = Split.from_wire(split)
    return {"name": str(split.name), "type": str(split.type)}


def tool_list_wire(tools: Any) -> JSONDict:
    """The answer of ``/tools``: the tools and the other fields."""
    if isinstance(tools, BaseModel):
        return tools.model_dump(mode="json")
    if not isinstance(tools, ToolList):
        raise TypeError(f"a list of tools must be a ToolList, not {type(tools).__name__}")
    specs = [
        {"name": each.name, "description": each.description, "input_schema": each.input_schema} for each in tools.tools
    ]
    last = tools.terminal_tool
    return {
        "tools": specs,
        "terminal_tool": last and {"name": last.name, "arg": last.arg, "description": last.description},
        "supports_score_group": tools.supports_score_group,
        "message_block_types": list(tools.message_block_types),
    }


# -------------------------------------------------------------------- prompts and conversations


def blocks_wire(blocks: Any, what: str) -> list[JSONDict]:
    """The blocks of a prompt; a ``str`` is one block of text."""
    if isinstance(blocks, str):
        return [{"type": "text", "text": blocks}]
    if not isinstance(blocks, list | tuple):
        raise TypeError(f"{what} returned {type(blocks).__name__}; expected a list of blocks, or a str")
    sequence: Sequence[Any] = blocks  # pyright: ignore[reportUnknownVariableType]
    return [_block_wire(block, what) for block in sequence]


def _block_wire(block: Any, what: str) -> JSONDict:
    if isinstance(block, BaseModel):
        return block.model_dump(mode="json")
    if isinstance(block, Mapping):
        return dict(cast("Mapping[str, Any]", block))
    if getattr(block, "type", None) is None:
        raise TypeError(f"{what} holds {type(block).__name__}; expected blocks of text or images")
    return block_to_wire(block)


def message_wire(message: Any) -> JSONDict:
    """One message of ``get_messages``."""
    if isinstance(message, BaseModel):
        return message.model_dump(mode="json")
    if not isinstance(message, Message):
        raise TypeError(f"get_messages returned {type(message).__name__}s; expected Messages")
    return message.to_wire()


def flatten_messages(messages: Sequence[JSONDict]) -> list[JSONDict]:
    """A conversation as the blocks of a prompt, as the reference SDK flattens it.

    One user message of text and images stays as it is; otherwise each message's blocks follow a ``[role]`` header.
    """
    plain = len(messages) == 1 and messages[0]["role"] == "user"
    if plain and all(block["type"] in ("text", "image") for block in messages[0]["blocks"]):
        return list(messages[0]["blocks"])
    flat: list[JSONDict] = []
    for message in messages:
        role = message["role"]
        flat.append(_text(f"[{role}]", {"role": role}))
        for block in message["blocks"]:
            flat += _flatten_block(block)
    return flat


def _text(text: str, detail: JSONDict) -> JSONDict:
    return {"text": text, "detail": detail, "type": "text"}


def _flatten_block(block: JSONDict) -> list[JSONDict]:
    match block["type"]:
        case "reasoning":
            return [_text(f"<think>{block['text']}</think>", {"type": "reasoning"})]
        case "tool_call":
            text = f"[tool_call {block['name']}] {json.dumps(block['input'])}"
            return [_text(text, {"type": "tool_call", "id": block["id"]})]
        case "tool_result":
            header = "[tool_result (error)]" if block.get("is_error") else "[tool_result]"
            return [
                _text(header, {"type": "tool_result", "tool_call_id": block["tool_call_id"]}),
                *block["blocks"],
            ]
        case _:
            return [block]
