"""Estimates whose tasks are not a simple random sample: stratified samples, and a finite split.

Cochran 1977, Sampling Techniques, chapters 5 and 10.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ors_gym.evaluation.statistics.distributions import t_quantile
from ors_gym.evaluation.statistics.estimates import LEVEL, Estimate, clustered_wilson
from ors_gym.evaluation.statistics.scores import TaskScores

__all__ = ["of_the_split", "stratified"]


def stratified(
    values: Mapping[str, Sequence[float]], sizes: Mapping[str, int], *, rate: bool = False, episodes: int = 0
) -> Estimate:
    """The mean over strata, each weighted by its number of tasks, from a random sample of each.

    A stratum with a single played task is merged with its neighbor. ``rate`` selects the Wilson interval, for values
    between 0 and 1, instead of a t interval.
    """
    strata = _joined([(sizes[name], list(values[name])) for name in sorted(values) if values[name]])
    played = sum(len(stratum) for _, stratum in strata)
    if not strata:
        return Estimate(None, notes=("no scored episode",))
    total = sum(size for size, _ in strata)
    value = math.fsum(size / total * statistics.fmean(stratum) for size, stratum in strata)
    groups = {name: statistics.fmean(values[name]) for name in sorted(values) if values[name]}
    base = Estimate(value, method="stratified", tasks=played, episodes=episodes, groups=groups)
    if played < 2:
        return replace(base, notes=("one task: no error can be given",))
    parts = [
        ((size / total) ** 2 * statistics.variance(stratum) / len(stratum), len(stratum) - 1)
        for size, stratum in strata
    ]
    variance = math.fsum(part for part, _ in parts)
    if variance <= 0.0:
        df = float(sum(freedom for _, freedom in parts))
    else:
        df = variance**2 / math.fsum(part**2 / freedom for part, freedom in parts)
    return _with_interval(replace(base, se=math.sqrt(variance), df=df), rate)


def _joined(strata: list[tuple[int, list[float]]]) -> list[tuple[int, list[float]]]:
    """Merge each stratum with a single value with the next one, and the last with the one before it."""
    joined: list[tuple[int, list[float]]] = []
    for size, values in strata:
        if joined and len(joined[-1][1]) == 1:
            before, alone = joined.pop()
            size, values = before + size, alone + values
        joined.append((size, values))
    if len(joined) > 1 and len(joined[-1][1]) == 1:
        size, alone = joined.pop()
        before, values = joined.pop()
        joined.append((before + size, values + alone))
    return joined


def of_the_split(estimate: Estimate, scores: Sequence[TaskScores], num_tasks: int, *, rate: bool = False) -> Estimate:
    """``estimate`` for the ``num_tasks`` tasks of this split, of which ``scores`` were played.

    The remaining error comes from the tasks that were not played and from the variance between episodes of the same
    task, which needs two episodes of a task. Without them there is no error.
    """
    tasks = [task for task in scores if task.scored]
    if estimate.value is None or len(tasks) < 2:
        return estimate
    within_tasks = {task.task: statistics.variance(task.returns) for task in tasks if task.scored > 1}
    if not within_tasks:
        note = "one epoch: no error can be given for this list of tasks"
        return replace(estimate, se=None, df=None, interval=None, method="", notes=(note,))
    usual = statistics.fmean(within_tasks.values())  # for a task with a single scored episode
    share = min(1.0, len(tasks) / num_tasks)
    between = statistics.variance(task.mean for task in tasks) / len(tasks)
    within = statistics.fmean(within_tasks.get(task.task, usual) / task.scored for task in tasks) / len(tasks)
    se = math.sqrt((1.0 - share) * between + share * within)
    base = replace(estimate, se=se, df=float(len(tasks) - 1), interval=None, method="two-stage", notes=())
    return _with_interval(base, rate)


def _with_interval(estimate: Estimate, rate: bool) -> Estimate:
    value, se, df = estimate.value, estimate.se, estimate.df
    if value is None or se is None or df is None:
        return estimate
    if rate:
        most = float(max(estimate.episodes, estimate.tasks))
        interval, _ = clustered_wilson(value, se, df, most=most, clusters=estimate.tasks)
        return replace(estimate, interval=interval, method=f"{estimate.method}, clustered Wilson")
    half = t_quantile(0.5 + LEVEL / 2.0, df) * se
    return replace(estimate, interval=(value - half, value + half), method=f"{estimate.method}, t")
