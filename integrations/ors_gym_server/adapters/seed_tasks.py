"""Tasks that are seeds, in disjoint splits."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ors_gym.types import Split, Task

__all__ = ["SeedTasks", "Tasks"]

Tasks: TypeAlias = Sequence[int] | Sequence[Mapping[str, Any]]
"""Seeds, or mappings of a ``seed``, ``options`` for ``reset``, or both. A long range costs nothing."""

LONGEST_LIST = 100_000
"""Maximum tasks in one list."""

_SPLIT_TYPES = ("train", "validation", "test")


class SeedTasks:
    """The tasks of each split.

    Raises:
        ValueError: A seed is not an integer of at least 0, or a task is in two splits.
    """

    def __init__(self, splits: Mapping[str, Tasks]) -> None:
        if not splits:
            raise ValueError("there must be at least one split")
        for name, tasks in splits.items():
            _check_seeds(name, tasks)
        for (name, tasks), (other, others) in itertools.combinations(splits.items(), 2):
            if _overlap(tasks, others):
                raise ValueError(f"the splits {name!r} and {other!r} have tasks in common")
        self._tasks = dict(splits)

    @property
    def splits(self) -> list[Split]:
        """The splits in the given order."""
        return [Split(name, name if name in _SPLIT_TYPES else "train") for name in self._tasks]

    def count(self, split: str) -> int:
        """The number of tasks in the split."""
        return len(self._of(split))

    def at(self, split: str, index: int) -> Task:
        """The task at ``index``.

        Raises:
            IndexError: there is no such task.
        """
        tasks = self._of(split)
        if not -len(tasks) <= index < len(tasks):
            raise IndexError(f"split {split!r} has {len(tasks)} tasks, and none at {index}")
        return _task(split, index % len(tasks), tasks[index])

    def all(self, split: str) -> list[Task]:
        """All tasks of the split.

        Raises:
            NotImplementedError: There are too many for one response; fetch them by index or range.
        """
        if self.count(split) > LONGEST_LIST:
            raise NotImplementedError(f"split {split!r} has more than {LONGEST_LIST:,} tasks")
        return self.between(split, None, None)

    def between(self, split: str, start: int | None, stop: int | None) -> list[Task]:
        """The tasks from ``start`` to ``stop``, with the semantics of Python slices."""
        tasks = self._of(split)
        return [_task(split, index, tasks[index]) for index in range(len(tasks))[start:stop]]

    def _of(self, split: str) -> Tasks:
        try:
            return self._tasks[split]
        except KeyError:
            raise ValueError(f"there is no split {split!r}; there is {', '.join(self._tasks)}") from None


def _task(split: str, index: int, task: int | Mapping[str, Any]) -> Task:
    return {"id": f"{split}-{index}"} | _mapping(task)


def _check_seeds(split: str, tasks: Tasks) -> None:
    if isinstance(tasks, range):
        tasks = (tasks[0], tasks[-1]) if tasks else ()
    for task in tasks:
        if isinstance(task, Mapping) and "seed" not in task:
            if not task.get("options"):
                raise ValueError(f"a task of split {split!r} has neither a seed nor options")
            continue
        seed = task["seed"] if isinstance(task, Mapping) else task
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ValueError(f"a task of split {split!r} has the seed {seed!r}; seeds are integers of 0 or more")


def _overlap(tasks: Tasks, others: Tasks) -> bool:
    shorter, longer = sorted((tasks, others), key=len)
    if isinstance(shorter, range) and isinstance(longer, range):
        return _ranges_overlap(shorter, longer)
    if isinstance(longer, range):
        return any(task.get("seed") in longer and len(task) == 1 for task in map(_mapping, shorter))
    return not {_key(task) for task in tasks}.isdisjoint(map(_key, others))


def _ranges_overlap(one: range, other: range) -> bool:
    if not one or not other:
        return False
    one, other = (each if each.step > 0 else each[::-1] for each in (one, other))
    first, last = max(one[0], other[0]), min(one[-1], other[-1])
    around = math.lcm(one.step, other.step)  # common seeds repeat with this period
    return any(seed in one and seed in other for seed in range(first, min(last, first + around) + 1))


def _key(task: int | Mapping[str, Any]) -> str:
    return json.dumps(_mapping(task), sort_keys=True, default=str)


def _mapping(task: int | Mapping[str, Any]) -> dict[str, Any]:
    return {"seed": task} if isinstance(task, int) else dict(task)
