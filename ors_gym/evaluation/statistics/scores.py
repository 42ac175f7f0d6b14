"""The outcomes of one model by task, from which every estimate and comparison is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["SUCCESS_TOLERANCE", "TaskScores", "all_zero_or_one", "largest_return"]

SUCCESS_TOLERANCE = 1e-9
"""A return this little below the threshold counts as success: sums of rewards are rounded."""


@dataclass(frozen=True, slots=True)
class TaskScores:
    """The episodes of one task: the returns of the scored ones, and the number of the others."""

    task: str
    """The task's name, such as its index in the split."""
    returns: tuple[float, ...] = ()
    """Of every scored episode; an episode without a reward has the rules' ``unrewarded``."""
    unrewarded: int = 0
    """Number of ``returns`` that belong to episodes without a reward."""
    failed: int = 0
    """Episodes that failed on every attempt: they have no return."""
    first_attempts_failed: int = 0
    """Episodes whose first attempt failed, including those that a later attempt completed."""
    cluster: str | None = None
    """The value of the field by which errors are clustered."""
    sha256: str | None = None
    """The hash of the task's JSON, equal in every run that plays the same task; None if unknown."""
    prompt_sha256: str | None = None
    """The hash of the messages before the agent's first one."""

    @property
    def scored(self) -> int:
        """The number of episodes with a return."""
        return len(self.returns)

    @property
    def episodes(self) -> int:
        """The number of episodes, failed ones included."""
        return len(self.returns) + self.failed

    @property
    def mean(self) -> float:
        """The mean return of the scored episodes. Raises ZeroDivisionError without any."""
        return math.fsum(self.returns) / len(self.returns)

    def successes(self) -> int:
        """Number of returns equal to 1, for scores made by :meth:`as_successes`."""
        return sum(value == 1.0 for value in self.returns)

    def as_successes(self, threshold: float) -> TaskScores:
        """The same task with returns of 1 for success (a return of at least ``threshold``) and 0 otherwise."""
        reached = tuple(float(value >= threshold - SUCCESS_TOLERANCE) for value in self.returns)
        return replace(self, returns=reached)

    def with_failed_as(self, value: float) -> TaskScores:
        """The same task with ``value`` as the return of every failed episode."""
        return replace(self, returns=(*self.returns, *(value,) * self.failed), failed=0)


def all_zero_or_one(scores: Sequence[TaskScores]) -> bool:
    """Whether every return is 0 or 1, so that the mean return is a success rate."""
    return all(value in (0.0, 1.0) for task in scores for value in task.returns)


def largest_return(scores: Sequence[TaskScores]) -> float | None:
    """The largest return; None without any."""
    return max((value for task in scores for value in task.returns), default=None)
