"""The order of tasks: sequential or shuffled, for some epochs or forever, each task once per group member."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ors_gym.errors import StatusError
from ors_gym.trajectory import TaskRef
from ors_gym.types import Split

__all__ = ["TaskSampler", "describe_tasks", "load_tasks", "remaining_tasks"]


class TaskSampler(Iterator[TaskRef]):
    """Yields tasks, epoch after epoch: each task of an epoch once, ``group_size`` times in a row.

    ``order`` is ``"sequential"``, or ``"shuffle"`` for a fresh permutation every epoch, which depends on ``seed`` and
    the epoch's number alone. ``epochs`` None never ends.
    """

    def __init__(
        self,
        tasks: Sequence[TaskRef],
        *,
        order: Literal["sequential", "shuffle"] = "shuffle",
        seed: int = 0,
        epochs: int | None = None,
        group_size: int = 1,
    ) -> None:
        if not tasks:
            raise ValueError("there are no tasks to sample from")
        if order not in ("sequential", "shuffle"):
            raise ValueError(f"order must be 'sequential' or 'shuffle', not {order!r}")
        if group_size < 1 or (epochs is not None and epochs < 1):
            raise ValueError("group_size and epochs must be at least 1 (epochs None: forever)")
        self.tasks = tasks
        self.order = order
        self.seed = seed
        self.epochs = epochs
        self.group_size = group_size
        self._position = 0
        self._permutation: tuple[int, NDArray[np.intp]] | None = None

    @property
    def epoch(self) -> int:
        """The epoch that the next task belongs to, from 0."""
        return self._position // (len(self.tasks) * self.group_size)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TaskRef:
        epoch = self.epoch
        if self.epochs is not None and epoch >= self.epochs:
            raise StopIteration
        place = self._position // self.group_size % len(self.tasks)
        self._position += 1
        return self.tasks[place if self.order == "sequential" else int(self._shuffled(epoch)[place])]

    def _shuffled(self, epoch: int) -> NDArray[np.intp]:
        if self._permutation is None or self._permutation[0] != epoch:
            self._permutation = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.tasks))
        return self._permutation[1]


class KnowsTasks(Protocol):
    """The part of :class:`~ors_gym.ORSClient` that :func:`load_tasks` uses."""

    async def list_splits(self, env_name: str) -> tuple[Split, ...]:
        """The environment's splits."""
        ...

    async def num_tasks(self, env_name: str, split: str) -> int:
        """The number of tasks in a split."""
        ...


class DescribesTasks(Protocol):
    """The part of :class:`~ors_gym.ORSClient` that :func:`describe_tasks` uses."""

    async def get_task(self, env_name: str, split: str, index: int) -> Mapping[str, Any]:
        """The task at ``index`` of a split."""
        ...

    async def get_tasks(
        self, env_name: str, split: str, start: int | None = None, stop: int | None = None
    ) -> Sequence[Mapping[str, Any]]:
        """The tasks ``[start:stop]`` of a split."""
        ...


async def load_tasks(client: KnowsTasks, env_name: str, split: str, limit: int | None = None) -> tuple[TaskRef, ...]:
    """The tasks of a split by index, at most ``limit``, with two requests.

    Raises ValueError, with the splits there are, for a split that the environment does not have.
    """
    splits = [known.name for known in await client.list_splits(env_name)]
    if split not in splits:
        raise ValueError(f"{env_name!r} has no split {split!r}; it has {', '.join(map(repr, splits)) or 'none'}")
    count = await client.num_tasks(env_name, split)
    return tuple(TaskRef(env_name, split, index) for index in range(count if limit is None else min(limit, count)))


async def describe_tasks(client: DescribesTasks, tasks: Sequence[TaskRef]) -> tuple[TaskRef, ...]:
    """``tasks`` of one split with the server's JSON of each; unchanged where the server gives none."""
    indices = [task.index for task in tasks if task.index is not None]
    if not indices or len(indices) < len(tasks):
        return tuple(tasks)
    env_name, split, first = tasks[0].env_name, tasks[0].split or "", indices[0]
    described: list[Mapping[str, Any]] = []
    try:
        if indices == list(range(first, first + len(indices))):
            for start in range(first, first + len(indices), PAGE):
                stop = min(start + PAGE, first + len(indices))
                described += await client.get_tasks(env_name, split, start, stop)
        else:
            for start in range(0, len(indices), CONCURRENT_REQUESTS):
                asked = indices[start : start + CONCURRENT_REQUESTS]
                described += await asyncio.gather(*(client.get_task(env_name, split, index) for index in asked))
    except StatusError:
        return tuple(tasks)
    if len(described) < len(tasks):
        return tuple(tasks)
    return tuple(replace(task, task=each) for task, each in zip(tasks, described, strict=False))


PAGE = 1000
"""Maximum tasks per request."""

CONCURRENT_REQUESTS = 32


def remaining_tasks(tasks: Iterable[TaskRef], finished: Mapping[TaskRef, int]) -> Iterator[TaskRef]:
    """``tasks`` without finished ones, each left out as often as it was finished; ``tasks`` may be infinite.

    Resume a run with ``remaining_tasks(sampler, finished_tasks("run.jsonl"))`` (see :mod:`ors_gym.reporting.records`).
    """
    left = Counter(finished)
    for task in tasks:
        if left[task] > 0:
            left[task] -= 1
        else:
            yield task
