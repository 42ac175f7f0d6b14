"""The rows of a trainer's dataset by their tasks, for groups whose place another task's group takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

from ors_gym.rollouts.tasks import TaskSampler
from ors_gym.trajectory import TaskRef
from ors_gym_trl.compat import RESERVED_COLUMNS
from ors_gym_trl.dataset import read_prompt

__all__ = ["DatasetRows", "ReplacementOrder", "Replacements"]

ReplacementOrder: TypeAlias = Literal["shuffled", "history"]


class DatasetRows:
    """The rows of a dataset of tasks. A task with several rows has the first of them."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._places: dict[tuple[str, TaskRef], int] = {}
        for place, prompt in enumerate(dataset["prompt"]):
            source, task, _ = read_prompt(prompt)
            self._places.setdefault((source, task), place)

    def tasks(self, source: str) -> list[TaskRef]:
        """The tasks of a source, in the dataset's order."""
        return [task for name, task in self._places if name == source]

    def fields(self, source: str, task: TaskRef) -> dict[str, Any]:
        """The columns of a task's row that reward functions receive."""
        row = self._dataset[self._places[source, task]]
        return {name: value for name, value in row.items() if name not in RESERVED_COLUMNS}


class Replacements:
    """Chooses the tasks that are played in the place of others, the same ones in every run of a seed.

    Under ``"history"`` tasks come first whose latest group taught something, then those that were not played yet, then
    those whose latest group had equal returns. The history is that of this process and training, as it was before the
    batch: within a batch, the order in which groups end changes nothing.
    """

    def __init__(self, tasks: Sequence[TaskRef], order: ReplacementOrder) -> None:
        self._tasks = tasks
        self._order = order
        self._latest: dict[TaskRef, bool] = {}
        self._seen: dict[TaskRef, bool] = {}

    def begin_batch(self) -> None:
        """Let what was seen in the last batch count."""
        self._latest |= self._seen
        self._seen = {}

    def saw(self, task: TaskRef, taught: bool) -> None:
        """A group of ``task`` was played; of several in a batch, one that taught something is enough."""
        self._seen[task] = taught or self._seen.get(task, False)

    def instead_of(self, task: TaskRef, seed: int) -> Iterator[TaskRef]:
        """The other tasks, in the order in which to try them."""
        others = (other for other in TaskSampler(self._tasks, seed=seed, epochs=1) if other != task)
        return others if self._order == "shuffled" else iter(sorted(others, key=self._place))

    def _place(self, task: TaskRef) -> int:
        taught = self._latest.get(task)
        return 1 if taught is None else 0 if taught else 2
