"""Means over tasks with their errors and intervals.

The task is the unit: y_i is the mean over the scored episodes of task i, and every value is the mean of the y_i.

- errors: Miller 2024, Adding Error Bars to Evals, https://arxiv.org/abs/2411.00640, with t quantiles
- clustered errors (CR2) and their degrees of freedom: Bell and McCaffrey 2002; Pustejovsky and Tipton 2018,
  https://arxiv.org/abs/1601.01981
- the Wilson interval of a clustered rate: Korn and Graubard 1998; Franco et al. 2019
- pass@k: Chen et al. 2021, https://arxiv.org/abs/2107.03374; pass^k: Yao et al. 2024, https://arxiv.org/abs/2406.12045
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ors_gym.evaluation.statistics.distributions import t_quantile
from ors_gym.evaluation.statistics.scores import TaskScores

__all__ = [
    "Estimate",
    "Interval",
    "clustered_wilson",
    "mean_estimate",
    "mean_return",
    "pass_at",
    "pass_hat",
    "rate_estimate",
    "standard_error",
    "success_rate",
]

Interval = tuple[float, float]
LEVEL = 0.95
MIN_DF = 4.0
"""A clustered interval with fewer degrees of freedom is uninformative: with one it reaches from -2 to 3."""
MAX_SHARE_LEFT_OUT = 0.05
"""pass@k is not shown if a larger share of the tasks has too few scored episodes."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and the sample it is the mean of. ``se``, ``df`` and ``interval`` are None if undefined."""

    value: float | None
    se: float | None = None
    df: float | None = None
    interval: Interval | None = None
    method: str = ""
    tasks: int = 0
    episodes: int = 0
    tasks_left_out: int = 0
    """Number of tasks with too few scored episodes for this value."""
    notes: tuple[str, ...] = ()
    """Caveats for a reader of the value."""
    groups: dict[str, float] = field(default_factory=dict[str, float])
    """The value in each cluster of tasks, if errors are clustered."""

    def to_json(self) -> dict[str, Any]:
        """The estimate as JSON; undefined numbers are null."""
        return {
            "value": self.value,
            "se": self.se,
            "df": self.df,
            "interval": None if self.interval is None else list(self.interval),
            "method": self.method,
            "tasks": self.tasks,
            "episodes": self.episodes,
            "tasks_left_out": self.tasks_left_out,
            "notes": list(self.notes),
            "groups": dict(self.groups),
        }


def standard_error(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> tuple[float | None, float | None]:
    """The standard error of the mean of ``values`` and its degrees of freedom; None for fewer than two clusters.

    Without ``clusters``: sd / sqrt(n) with n - 1 degrees of freedom. With them: the CR2 error, which equals the usual
    one for clusters of equal size and holds for few and unequal ones too.
    """
    count = len(values)
    residuals: dict[Hashable, list[float]] = defaultdict(list)
    mean = math.fsum(values) / count if count else 0.0
    for value, cluster in zip(values, clusters if clusters is not None else range(count), strict=True):
        residuals[cluster].append(value - mean)
    if len(residuals) < 2:
        return None, None
    shares = [len(group) / count for group in residuals.values()]
    sums = [math.fsum(group) for group in residuals.values()]
    if min(values) == max(values):  # the computed mean may differ by rounding
        sums = [0.0] * len(sums)
    variance = math.fsum(total**2 / (1.0 - share) for total, share in zip(sums, shares, strict=True)) / count**2
    squares = [share**2 / (1.0 - share) for share in shares]
    spread = math.fsum(share**2 for share in shares) + math.fsum(squares) ** 2
    return math.sqrt(variance), 1.0 / (spread - math.fsum(square**2 for square in squares))


def clustered_wilson(
    rate: float, se: float | None, df: float, *, most: float, clusters: int, level: float = LEVEL
) -> tuple[Interval, float]:
    """The Wilson interval of a rate of clustered trials, and the effective number of trials that it uses.

    ``most`` caps that number: it is the number of trials. If the error is 0 or the rate is 0 or 1, the effective number
    is that of the clusters.
    """
    bounded = min(max(rate, 0.0), 1.0)
    spread = bounded * (1.0 - bounded)
    effective = float(clusters) if not se or spread <= 0.0 else min(spread / se**2, most)
    quantile = t_quantile(0.5 + level / 2.0, df)
    squared = quantile**2
    centre = (bounded + squared / (2.0 * effective)) / (1.0 + squared / effective)
    half = quantile / (1.0 + squared / effective) * math.sqrt(spread / effective + squared / (4.0 * effective**2))
    return (max(0.0, centre - half), min(1.0, centre + half)), effective


def mean_return(scores: Sequence[TaskScores], *, level: float = LEVEL) -> Estimate:
    """The mean return with its t interval."""
    return mean_estimate(_scored(scores), [task.mean for task in _scored(scores)], _left_out(scores), level=level)


def success_rate(scores: Sequence[TaskScores], threshold: float = 1.0, *, level: float = LEVEL) -> Estimate:
    """The success rate with its clustered Wilson interval; a return of at least ``threshold`` is a success."""
    solved = [task.as_successes(threshold) for task in _scored(scores)]
    return rate_estimate(solved, [task.mean for task in solved], _left_out(scores), level=level)


def pass_at(scores: Sequence[TaskScores], k: int, threshold: float = 1.0, *, level: float = LEVEL) -> Estimate:
    """pass@k: the probability that at least one of k episodes of a task succeeds."""

    def chance(episodes: int, solved: int) -> float:
        draws = math.comb(episodes, k)
        return (draws - math.comb(episodes - solved, k)) / draws

    return _of_draws(scores, k, threshold, chance, level)


def pass_hat(scores: Sequence[TaskScores], k: int, threshold: float = 1.0, *, level: float = LEVEL) -> Estimate:
    """pass^k: the probability that all of k episodes of a task succeed."""

    def chance(episodes: int, solved: int) -> float:
        return math.comb(solved, k) / math.comb(episodes, k)

    return _of_draws(scores, k, threshold, chance, level)


def _of_draws(
    scores: Sequence[TaskScores], k: int, threshold: float, chance: Callable[[int, int], float], level: float
) -> Estimate:
    """The mean over the tasks with at least k scored episodes; the others are left out and counted."""
    taken = [task.as_successes(threshold) for task in scores if task.scored >= k]
    values = [chance(task.scored, task.successes()) for task in taken]
    left_out = len(scores) - len(taken)
    estimate = rate_estimate(taken, values, left_out, per_trial=k, level=level)
    if left_out > MAX_SHARE_LEFT_OUT * len(scores):
        note = f"{left_out} of {len(scores)} tasks have fewer than {k} scored episodes"
        estimate = replace(estimate, notes=(*estimate.notes, note))
    return estimate


def _scored(scores: Sequence[TaskScores]) -> list[TaskScores]:
    return [task for task in scores if task.scored]


def _left_out(scores: Sequence[TaskScores]) -> int:
    return sum(not task.scored for task in scores)


def _clusters(tasks: Sequence[TaskScores]) -> list[Hashable] | None:
    """The cluster of each task; None if no task has one. A task without a cluster forms its own."""
    if all(task.cluster is None for task in tasks):
        return None
    return [("task", task.task) if task.cluster is None else ("field", task.cluster) for task in tasks]


def _without_interval(tasks: Sequence[TaskScores], values: Sequence[float], left_out: int, method: str) -> Estimate:
    """The value with its error and notes, without an interval."""
    episodes = sum(task.scored for task in tasks)
    if not values:
        return Estimate(None, tasks_left_out=left_out, notes=("no scored episode",))
    clusters = _clusters(tasks)
    se, df = standard_error(values, clusters)
    groups: dict[str, list[float]] = defaultdict(list)
    for task, value in zip(tasks, values, strict=True):
        if task.cluster is not None:
            groups[task.cluster].append(value)
    notes: tuple[str, ...] = ()
    if se is None:
        notes = ("one task: no error can be given" if len(values) == 1 else "one group: no error can be given",)
    elif clusters is not None and df is not None and df < MIN_DF:
        notes = (f"{len(set(clusters))} groups: no interval",)
    return Estimate(
        math.fsum(values) / len(values),
        se,
        df,
        None,
        method if clusters is None else f"{method}, clustered (CR2)",
        len(values),
        episodes,
        left_out,
        notes,
        {name: math.fsum(group) / len(group) for name, group in sorted(groups.items())},
    )


def mean_estimate(
    tasks: Sequence[TaskScores], values: Sequence[float], left_out: int = 0, *, level: float = LEVEL
) -> Estimate:
    """The mean of one value per task with its t interval, which is marked as rough for few or skewed values."""
    base = _without_interval(tasks, values, left_out, "t")
    if base.value is None or base.notes or base.se is None or base.df is None:
        return base
    if base.se == 0.0:
        return replace(base, notes=(f"all {base.tasks} tasks equal",))
    half = t_quantile(0.5 + level / 2.0, base.df) * base.se
    notes: tuple[str, ...] = ()
    if len(values) < 30 or len(values) < 25.0 * _skewness(values) ** 2:
        notes = (f"rough: few or skewed values; median {statistics.median(values):.3g}",)
    return replace(base, interval=(base.value - half, base.value + half), notes=notes)


def rate_estimate(
    tasks: Sequence[TaskScores],
    values: Sequence[float],
    left_out: int = 0,
    *,
    per_trial: int = 1,
    level: float = LEVEL,
) -> Estimate:
    """The mean of one rate per task with a clustered Wilson interval.

    A trial is ``per_trial`` episodes: k for pass@k.
    """
    base = _without_interval(tasks, values, left_out, "clustered Wilson")
    if base.value is None or base.notes or base.df is None:
        return base
    clusters = _clusters(tasks)
    interval, _ = clustered_wilson(
        base.value,
        base.se,
        base.df,
        most=base.episodes / per_trial,
        clusters=base.tasks if clusters is None else len(set(clusters)),
        level=level,
    )
    return replace(base, interval=interval)


def _skewness(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    second = math.fsum((value - mean) ** 2 for value in values) / len(values)
    third = math.fsum((value - mean) ** 3 for value in values) / len(values)
    return 0.0 if second <= 0.0 else third / second**1.5
