"""Tasks as rows of a trainer's dataset; the prompt carries the task to the rollout function."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from datasets import Dataset

from ors_gym.trajectory import TaskRef
from ors_gym_trl.compat import RESERVED_COLUMNS

__all__ = ["TASK_KEY", "dataset_of", "is_of_tasks", "read_prompt"]

TASK_KEY = "ors"
"""The key of a prompt's message with its task: TRL passes only prompts to a rollout function, with unknown keys."""


def dataset_of(tasks: Iterable[tuple[str, TaskRef]]) -> Dataset:
    """One row per task, with the name of its source.

    The tasks' JSON fields become columns, which reward functions receive: as they are if a field has one plain type in
    all tasks, else as JSON. Fields whose names TRL uses, or that begin with ``ors_``, are left out.
    """
    given = list(tasks)
    prompts = [
        [
            {
                "role": "user",
                "content": str(task),
                TASK_KEY: {
                    "source": source,
                    "env_name": task.env_name,
                    "split": task.split,
                    "index": task.index,
                    # A string, because Arrow needs the same keys in every row and task objects may differ.
                    "task": None if task.task is None else json.dumps(dict(task.task), sort_keys=True),
                },
            }
        ]
        for source, task in given
    ]
    return Dataset.from_dict({"prompt": prompts} | _columns([task.task or {} for _, task in given]))


def _columns(tasks: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = {name: None for task in tasks for name in task if name not in RESERVED_COLUMNS}
    return {name: _column([task.get(name) for task in tasks]) for name in names if not name.startswith("ors_")}


def _column(values: list[Any]) -> list[Any]:
    kinds = {type(value) for value in values if value is not None}
    if kinds in ({str}, {int}, {float}, {bool}, set()) and not any(isinstance(v, int) and abs(v) >> 63 for v in values):
        return values
    return [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]


def is_of_tasks(dataset: Any) -> bool:
    """Whether the rows of a dataset are ORS tasks."""
    try:
        return TASK_KEY in dataset[0]["prompt"][-1]
    except (TypeError, KeyError, IndexError):
        return False


def read_prompt(prompt: Any) -> tuple[str, TaskRef, str | None]:
    """The source's name, the task and the system message of a row's prompt."""
    try:
        *before, last = cast("list[Any]", prompt)
        reference = last[TASK_KEY]
        task = reference["task"]
        task_ref = TaskRef(
            reference["env_name"], reference["split"], reference["index"], None if task is None else json.loads(task)
        )
        system = [message["content"] for message in before if message["role"] == "system"]
    except (TypeError, KeyError, ValueError):
        raise ValueError(
            f"a prompt without an ORS task reached rollout_func: {str(prompt)[:200]!r}. "
            "Pass the same ORSRollouts' train_dataset (or eval_dataset) to the trainer."
        ) from None
    if len(system) < len(before):
        raise ValueError(
            f"the prompt of {task_ref} has messages beside its task: {str(before)[:200]!r}. The environment says what "
            "the conversation begins with; only a system message may stand before it"
        )
    return reference["source"], task_ref, "\n\n".join(system) or None
