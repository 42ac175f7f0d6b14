"""Selection of the tasks of an evaluation, and their identity: the index in the split and the hash of the JSON."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from ors_gym.client.client import ORSClient
from ors_gym.errors import ProtocolError, StatusError
from ors_gym.trajectory import TaskRef
from ors_gym.types import Split, Task

__all__ = ["PlannedTask", "TaskIdentity", "TaskPlan", "choose_test_split", "plan_tasks", "task_sha256"]

MAX_FETCHED_BY_INDEX = 64
"""Up to this number of tasks of a larger split are fetched by index; for more, the whole split is listed."""
MAX_CONCURRENT_REQUESTS = 16
MISSING = "(none)"
"""The value of a field that a task does not have."""


@dataclass(frozen=True, slots=True)
class TaskIdentity:
    """The identity of a task within a run and between runs."""

    label: str
    """Split and index, such as ``test[3]``."""
    sha256: str | None = None
    """The hash of the task's JSON; None if the server does not send it."""
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    """The values of the fields by which errors are clustered or samples stratified."""


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """A task to play."""

    ref: TaskRef
    identity: TaskIdentity


@dataclass(frozen=True)
class TaskPlan:
    """The tasks of an evaluation, in the order of the split."""

    tasks: tuple[PlannedTask, ...]
    num_tasks: int
    """Number of tasks in the split."""
    stratify_by: str | None = None
    stratum_sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    """Number of tasks of the split in each stratum, for a stratified sample."""


def choose_test_split(splits: Sequence[Split]) -> str:
    """The name of the split to evaluate on: the first of type test, else of type validation.

    Raises:
        ValueError: there is none; models are not evaluated on training tasks unless that split is named.
    """
    for kind in ("test", "validation"):
        for split in splits:
            if split.type == kind:
                return split.name
    names = ", ".join(f"{split.name!r} ({split.type})" for split in splits) or "none"
    raise ValueError(f"no split of type test or validation; choose one of {names}")


def task_sha256(task: Task) -> str:
    """The first 16 hex digits of the SHA-256 of a task's JSON, independent of the order of its keys."""
    text = json.dumps(task, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


async def plan_tasks(
    client: ORSClient,
    env_name: str,
    split: str,
    *,
    indices: Sequence[int] | None = None,
    limit: int | None = None,
    sample: int | None = None,
    stratify_by: str | None = None,
    cluster_by: str | None = None,
    seed: int = 0,
) -> TaskPlan:
    """The tasks to play: all, those at ``indices``, the first ``limit``, or a random ``sample`` drawn with ``seed``.

    ``stratify_by`` draws the sample in proportion to the values of a task field; a path such as ``meta.level`` names a
    nested field.

    Raises:
        ValueError: the split has no such tasks, or the server does not send the fields.
    """
    if sum(choice is not None for choice in (indices, limit, sample)) > 1:
        raise ValueError("tasks, limit and sample exclude one another: give one of them")
    if stratify_by is not None and sample is None:
        raise ValueError("stratify_by needs a sample size: give sample as well")
    count = await client.num_tasks(env_name, split)
    if not count:
        raise ValueError(f"split {split!r} has no tasks")
    wanted = [name for name in (stratify_by, cluster_by) if name is not None]
    listed = await _all_tasks(client, env_name, split) if wanted else None
    if wanted and listed is None:
        raise ValueError(f"the server does not list its tasks, so the field {wanted[0]!r} cannot be read")
    if listed is not None:
        count = len(listed)
    strata = [_value(task, stratify_by) for task in listed] if stratify_by and listed is not None else None
    chosen = _chosen(count, indices, limit, sample, seed, strata)
    tasks = await _tasks_at(client, env_name, split, chosen, count, listed)
    planned = [
        PlannedTask(
            TaskRef(env_name, split, index),
            TaskIdentity(
                f"{split}[{index}]",
                None if task is None else task_sha256(task),
                {name: _value(task, name) for name in wanted} if task is not None else {},
            ),
        )
        for index, task in zip(chosen, tasks, strict=True)
    ]
    sizes = Counter(strata or ())
    return TaskPlan(tuple(planned), count, stratify_by, dict(sorted(sizes.items())))


def _chosen(
    count: int,
    indices: Sequence[int] | None,
    limit: int | None,
    sample: int | None,
    seed: int,
    strata: Sequence[str] | None,
) -> list[int]:
    if indices is not None:
        wrong = [index for index in indices if not 0 <= index < count]
        if wrong or not indices:
            raise ValueError(f"there is no task {wrong[0]}: the split has {count}" if wrong else "no task is given")
        return sorted(set(indices))
    if limit is not None:
        return list(range(min(limit, count)))
    if sample is None or sample >= count:
        return list(range(count))
    generator = np.random.default_rng(seed)
    if strata is None:
        return sorted(map(int, generator.choice(count, sample, replace=False)))
    chosen: list[int] = []
    for stratum, share in _allotted(Counter(strata), sample).items():
        members = [index for index, value in enumerate(strata) if value == stratum]
        chosen += map(int, generator.choice(members, share, replace=False))
    return sorted(chosen)


def _allotted(sizes: Mapping[str, int], sample: int) -> dict[str, int]:
    """Number of tasks of each stratum: proportional, by largest remainders, and at least one if the sample allows."""
    total = sum(sizes.values())
    exact = {name: sample * size / total for name, size in sorted(sizes.items())}
    least = 1 if sample >= len(sizes) else 0
    allotted = {name: max(least, int(share)) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (int(exact[name]) - exact[name], name))
    while sum(allotted.values()) < sample:
        room = [name for name in by_remainder if allotted[name] < sizes[name]]
        most_short = max(room, key=lambda name: exact[name] - allotted[name])
        allotted[most_short] += 1
    while sum(allotted.values()) > sample:
        allotted[max(allotted, key=lambda name: allotted[name] - exact[name])] -= 1
    return allotted


async def _all_tasks(client: ORSClient, env_name: str, split: str) -> tuple[Task, ...] | None:
    """Every task of a split; None if the server does not list them."""
    try:
        return await client.list_tasks(env_name, split)
    except (StatusError, ProtocolError):
        return None


async def _tasks_at(
    client: ORSClient,
    env_name: str,
    split: str,
    chosen: Collection[int],
    count: int,
    listed: Sequence[Task] | None,
) -> list[Task | None]:
    """The JSON of each chosen task; None if the server does not send it."""
    if listed is None and (len(chosen) > MAX_FETCHED_BY_INDEX or len(chosen) == count):
        listed = await _all_tasks(client, env_name, split)
        if listed is None:
            return [None] * len(chosen)
    if listed is not None:
        return [listed[index] if index < len(listed) else None for index in chosen]
    slots = asyncio.Semaphore(MAX_CONCURRENT_REQUESTS)

    async def fetch(index: int) -> Task | None:
        async with slots:
            try:
                return await client.get_task(env_name, split, index)
            except (StatusError, ProtocolError):
                return None

    return list(await asyncio.gather(*map(fetch, chosen)))


def _value(task: Task | None, path: str) -> str:
    """The value of a field as text; ``meta.level`` is a nested field."""
    value: Any = task
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return MISSING
        value = cast("Mapping[str, Any]", value)[name]
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
