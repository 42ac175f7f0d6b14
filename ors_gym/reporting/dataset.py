"""Trajectories as a ``datasets.Dataset``, one row each (extra ``datasets``)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from ors_gym.extras import packages_of
from ors_gym.policies.chat import chat_messages
from ors_gym.policies.names import ToolNames
from ors_gym.reporting.records import FilePath, TrajectoryRecord, read_records
from ors_gym.rollouts.returns import trajectory_return
from ors_gym.trajectory import Trajectory

if TYPE_CHECKING:
    from datasets import Dataset  # pyright: ignore[reportMissingTypeStubs]

__all__ = ["to_dataset"]


def to_dataset(
    source: FilePath | Iterable[Trajectory], score: Callable[[Trajectory], float | None] | None = None
) -> Dataset:
    """A Hugging Face dataset with one row per trajectory, from a file or from trajectories (extra ``datasets``).

    ``messages`` is the conversation in the format of chat templates (``role``, ``content``, ``tool_calls`` with their
    arguments as JSON text, ``tool_call_id``, ``reasoning_content``), with ``<image>`` in place of each image, and
    ``images`` has the images as data URLs. ``rewards`` has one number or null per tool call. ``return`` is computed by
    ``score``, by default read from the file, or :func:`~ors_gym.trajectory_return` for trajectories. ``task``, ``run``
    and ``versions`` are JSON. Other columns are named as in :class:`~ors_gym.trajectory.Trajectory` and
    :class:`~ors_gym.reporting.records.TrajectoryRecord`.
    """
    with packages_of("datasets"):
        import datasets  # pyright: ignore[reportMissingTypeStubs]

    if isinstance(source, str | os.PathLike):
        rows = [_row(record.trajectory, score, record) for record in read_records(source)]
    else:
        rows = [_row(trajectory, score) for trajectory in source]
    text, number, count = datasets.Value("string"), datasets.Value("float64"), datasets.Value("int64")
    function = {"name": text, "arguments": text}
    message = {
        "role": text,
        "content": text,
        "tool_calls": [{"id": text, "type": text, "function": function}],
        "tool_call_id": text,
        "reasoning_content": text,
    }
    columns = {
        "episode_id": text,
        "run": text,
        "versions": text,
        "env_name": text,
        "split": text,
        "index": count,
        "task": text,
        "group_id": text,
        "member": count,
        "dropped": datasets.Value("bool"),
        "score": number,
        "stop_reason": text,
        "failure": text,
        "return": number,
        "rewards": datasets.List(number),
        "num_turns": count,
        "num_tokens": count,
        "seconds": number,
        "messages": [message],
        "images": datasets.List(text),
    }
    make = cast("Any", datasets.Dataset)
    by_column = {name: [row[name] for row in rows] for name in columns}
    return cast("Dataset", make.from_dict(by_column, features=datasets.Features(columns)))


def _row(
    episode: Trajectory, score: Callable[[Trajectory], float | None] | None, record: TrajectoryRecord | None = None
) -> dict[str, Any]:
    images: list[str] = []
    messages = chat_messages(episode.messages, ToolNames(()), with_reasoning=True)
    task = episode.task
    if score is None:
        score = trajectory_return if record is None else lambda _: record.episode_return
    return {
        "episode_id": episode.episode_id,
        "run": record and json.dumps(record.run),
        "versions": record and json.dumps(record.versions),
        "env_name": task.env_name,
        "split": task.split,
        "index": task.index,
        "task": None if task.task is None else json.dumps(dict(task.task)),
        "group_id": record and record.group_id,
        "member": record and record.member,
        "dropped": record and record.dropped,
        "score": record and record.score,
        "stop_reason": str(episode.stop_reason),
        "failure": episode.failure and episode.failure.kind,
        "return": score(episode),
        "rewards": list(episode.rewards),
        "num_turns": episode.num_turns,
        "num_tokens": episode.num_tokens,
        "seconds": episode.seconds,
        "messages": [_text_only(message, images) for message in messages],
        "images": images,
    }


def _text_only(message: dict[str, Any], images: list[str]) -> dict[str, Any]:
    """A chat message whose images are moved to ``images``, with all columns."""
    content = message["content"]
    if not isinstance(content, str):
        images += [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        content = "\n".join("<image>" if part["type"] == "image_url" else part["text"] for part in content)
    columns: dict[str, Any] = {"tool_calls": [], "tool_call_id": None, "reasoning_content": None}
    return columns | message | {"content": content}
