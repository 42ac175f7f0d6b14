"""Tasks as rows of a trainer's dataset: a prompt names its task to a reader and carries it to the rollout function."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from datasets import Dataset

from ors_gym.trajectory import TaskRef

__all__ = ["TASK_KEY", "dataset_of", "read_task"]

TASK_KEY = "ors"
"""Where a prompt's message carries its task: TRL hands a rollout function prompts only, and keeps unknown keys."""


def dataset_of(tasks: Iterable[tuple[str, TaskRef]]) -> Dataset:
    """One row per task; each comes with the name of its source."""
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
                    # A string: Arrow wants the same keys in every row, and task objects may differ in theirs.
                    "task": None if task.task is None else json.dumps(dict(task.task), sort_keys=True),
                },
            }
        ]
        for source, task in tasks
    ]
    return Dataset.from_dict({"prompt": prompts})


def read_task(prompt: Any) -> tuple[str, TaskRef]:
    """The source's name and the task that a row's prompt carries."""
    try:
        reference = prompt[-1][TASK_KEY]
        task = reference["task"]
        return reference["source"], TaskRef(
            reference["env_name"], reference["split"], reference["index"], None if task is None else json.loads(task)
        )
    except (TypeError, KeyError, IndexError):
        raise ValueError(
            f"a prompt without an ORS task reached rollout_func: {str(prompt)[:200]!r}. "
            "Pass the same ORSRollouts' train_dataset (or eval_dataset) to the trainer."
        ) from None
