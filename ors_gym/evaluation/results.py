"""The result of one model: its estimates, its outcomes, and their text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ors_gym.evaluation.rules import Rules
from ors_gym.evaluation.statistics import (
    Estimate,
    Interval,
    TaskScores,
    all_zero_or_one,
    largest_return,
    mean_return,
    of_the_split,
    pass_at,
    pass_hat,
    stratified,
    success_rate,
)
from ors_gym.evaluation.words import Scale, counted, percent, play_of

__all__ = ["Gate", "ModelResult", "TaskSample"]


@dataclass(frozen=True)
class TaskSample:
    """How the tasks were sampled from the split."""

    num_tasks: int | None = None
    """Number of tasks in the split; None if unknown."""
    stratum_of: Mapping[str, str] = field(default_factory=dict[str, str])
    """The stratum of each played task, by task identity."""
    stratum_sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    """Number of tasks of the split in each stratum."""


@dataclass(frozen=True)
class Gate:
    """Whether a model is shown to reach a threshold, judged by the lower end of the interval."""

    met: bool
    sentence: str


@dataclass(frozen=True)
class ModelResult:
    """The results of one model on the tasks of one split."""

    name: str
    scores: tuple[TaskScores, ...]
    rules: Rules = field(default_factory=Rules)
    sample: TaskSample = field(default_factory=TaskSample)
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The run's own description: environment, split, limits, server version."""
    usage: Mapping[str, float | None] = field(default_factory=dict[str, "float | None"])
    """Means over the scored episodes and totals: turns, calls, tokens, seconds, cost."""
    complete: bool = True
    """Whether every planned episode was played; an incomplete run has no verdict."""

    # ------------------------------------------------------------- outcomes

    @cached_property
    def counts(self) -> dict[str, int]:
        """Episodes by outcome. ``scored`` counts those with a reward; ``unrewarded`` ones are scored as well."""
        unrewarded = sum(task.unrewarded for task in self.scores)
        return {
            "tasks": len(self.scores),
            "episodes": sum(task.episodes for task in self.scores),
            "scored": sum(task.scored for task in self.scores) - unrewarded,
            "unrewarded": unrewarded,
            "failed": sum(task.failed for task in self.scores),
            "first_attempts_failed": sum(task.first_attempts_failed for task in self.scores),
        }

    @property
    def failed_share(self) -> float:
        """The share of episodes that failed on every attempt."""
        return self.counts["failed"] / max(1, self.counts["episodes"])

    @property
    def first_failed_share(self) -> float:
        """The share of episodes whose first attempt failed."""
        return self.counts["first_attempts_failed"] / max(1, self.counts["episodes"])

    @property
    def too_many_failed(self) -> bool:
        """Whether too many episodes failed for a verdict."""
        return self.failed_share > self.rules.max_failed

    # ------------------------------------------------------------- estimates

    @cached_property
    def success(self) -> Estimate:
        """The success rate."""
        return self._success(self._solved)

    @cached_property
    def mean_return(self) -> Estimate:
        """The mean return; equal to the success rate if every return is 0 or 1."""
        if self.counts["episodes"] > self.counts["failed"] and self._returns_are_successes:
            return self.success
        scored = [task for task in self.scores if task.scored]
        return self._of_population(mean_return(self.scores), scored, rate=False)

    @property
    def main(self) -> Estimate:
        """The estimate used for verdicts and gates."""
        return self.success if self.rules.metric == "success" else self.mean_return

    @cached_property
    def passes(self) -> dict[str, Estimate]:
        """pass@k and pass^k for k from 2 to the number of epochs: up to 4, powers of two, and the last."""
        most = max((task.episodes for task in self.scores), default=0)
        chosen = [k for k in range(2, most + 1) if k <= 4 or k & (k - 1) == 0 or k == most]
        at = self.rules.success_at
        return {f"pass@{k}": pass_at(self.scores, k, at) for k in chosen} | {
            f"pass^{k}": pass_hat(self.scores, k, at) for k in chosen
        }

    @cached_property
    def failed_as_unsolved(self) -> Estimate:
        """The main estimate with a return of 0 for every failed episode."""
        if self.rules.metric == "success":
            return self._success([task.with_failed_as(0.0) for task in self._solved])
        return mean_return([task.with_failed_as(0.0) for task in self.scores])

    @cached_property
    def failed_as_solved(self) -> Estimate | None:
        """The success rate with 1 for every failed episode; None for returns, which have no maximum."""
        if self.rules.metric != "success":
            return None
        return self._success([task.with_failed_as(1.0) for task in self._solved])

    @property
    def interval_with_failures(self) -> Interval | None:
        """The interval that accounts for failures: from all of them unsolved to all of them solved."""
        unsolved, solved = self.failed_as_unsolved, self.failed_as_solved
        if solved is None or unsolved.interval is None or solved.interval is None:
            return None
        return unsolved.interval[0], solved.interval[1]

    @cached_property
    def _solved(self) -> list[TaskScores]:
        return [task.as_successes(self.rules.success_at) for task in self.scores]

    @property
    def _returns_are_successes(self) -> bool:
        return 0.0 < self.rules.success_at <= 1.0 and all_zero_or_one(self.scores)

    def _success(self, solved: Sequence[TaskScores]) -> Estimate:
        scored = [task for task in solved if task.scored]
        return self._of_population(success_rate(solved), scored, rate=True)

    def _of_population(self, estimate: Estimate, scored: Sequence[TaskScores], *, rate: bool) -> Estimate:
        sample = self.sample
        if self.rules.population == "split" and sample.num_tasks is not None:
            return of_the_split(estimate, scored, sample.num_tasks, rate=rate)
        if not sample.stratum_sizes or not scored:
            return estimate
        values: dict[str, list[float]] = {}
        for task in scored:
            values.setdefault(sample.stratum_of[task.task], []).append(task.mean)
        return stratified(values, sample.stratum_sizes, rate=rate, episodes=sum(task.scored for task in scored))

    # ------------------------------------------------------------- words

    def sentence(self) -> str:
        """The result in one sentence, with its numbers."""
        scale, estimate, counts = Scale(self.rules), self.main, self.counts
        if estimate.value is None:
            return f"{self.name}: no scored episode ({counted(counts['failed'], 'episode')} failed)."
        if self.too_many_failed:
            return f"{self.name}: {self._not_comparable(estimate.value)}"
        unrewarded = counts["unrewarded"]
        without = f", {unrewarded:,} of them without reward, scored as {self.rules.unrewarded:g}" if unrewarded else ""
        outcomes = f"{counts['scored'] + unrewarded:,} scored{without}; {counts['failed']:,} failed"
        what = "solves" if scale.is_rate else "has a mean return of"
        of = " of tasks like these" if self.rules.population != "split" else " of the tasks of this split"
        text = (
            f"{self.name} {what} {scale.value(estimate.value)}{of if scale.is_rate else ''}"
            f" ({self._interval(estimate)}; {play_of(self.scores)}, {outcomes})."
        )
        return " ".join([text, *self.warnings()])

    def _interval(self, estimate: Estimate) -> str:
        notes = "; ".join(estimate.notes)
        if estimate.interval is None:
            return notes or "no interval"
        interval = f"95 % interval {Scale(self.rules).interval(estimate.interval)}"
        return f"{interval}, {notes}" if notes else interval

    def _not_comparable(self, value: float) -> str:
        scale, counts, solved = Scale(self.rules), self.counts, self.failed_as_solved
        text = (
            f"not comparable: {counts['failed']:,} of {counts['episodes']:,} episodes failed"
            f" ({percent(self.failed_share)} %, limit {percent(self.rules.max_failed)} %)."
            f" Scored episodes only: {scale.value(value)}"
            f"; with failures as unsolved {scale.value(self.failed_as_unsolved.value or 0.0)}"
        )
        if solved is None or solved.value is None:
            return f"{text}. Returns have no maximum, so there is no upper bound."
        text += f", as solved {scale.value(solved.value)}"
        both = self.interval_with_failures
        return f"{text}; interval covering both {scale.interval(both)}." if both else f"{text}."

    def warnings(self) -> list[str]:
        """What a reader must know besides the result."""
        counts, warnings = self.counts, list[str]()
        if not self.complete:
            warnings.append("The run is not complete: short episodes finish first.")
        left_out = sum(not task.scored for task in self.scores)
        if left_out:
            warnings.append(f"{counted(left_out, 'task')} without a scored episode left out.")
        if counts["first_attempts_failed"]:
            share = f"First attempts that failed: {counts['first_attempts_failed']:,} of {counts['episodes']:,}"
            bias = ": the value may favor short episodes" if self.first_failed_share > self.rules.max_failed else ""
            warnings.append(f"{share}{bias}.")
        largest = largest_return(self.scores)
        if self.rules.metric == "success" and largest is not None and largest > 0.0 and not self.success.value:
            at = f"success counts from {self.rules.success_at:g} (--success-at)"
            warnings.append(f"The largest return is {largest:.3g}; {at}.")
        return warnings

    def gate(self, limit: float) -> Gate:
        """Whether the lower end of the interval reaches ``limit``."""
        scale, estimate = Scale(self.rules), self.main
        required = f"--fail-below {limit:g} requires a lower end of {limit:g}"
        if estimate.value is None or estimate.interval is None:
            return Gate(False, f"Gate not shown: {self.name} has no interval; {required}.")
        low, high = estimate.interval
        where = f"value {estimate.value:.2f}, interval {low:.2f} to {high:.2f} ({play_of(self.scores)})"
        if low >= limit:
            return Gate(True, f"Gate met: {self.name} has {where}; at least {limit:g} is required.")
        if high < limit:
            return Gate(False, f"Gate missed: {self.name} is below {scale.value(limit)}: {where}.")
        return Gate(False, f"Gate not shown: {self.name} has {where}; {required}. It is not shown to be below either.")

    def to_json(self) -> dict[str, Any]:
        """The result as JSON; undefined numbers are null."""
        solved, both = self.failed_as_solved, self.interval_with_failures
        return {
            "model": self.name,
            "sentence": self.sentence(),
            "counts": self.counts,
            "failed_share": self.failed_share,
            "first_attempts_failed_share": self.first_failed_share,
            "complete": self.complete,
            "comparable": not self.too_many_failed,
            "success_rate": self.success.to_json(),
            "mean_return": self.mean_return.to_json(),
            "passes": {name: estimate.to_json() for name, estimate in self.passes.items()},
            "failed_as_unsolved": self.failed_as_unsolved.to_json(),
            "failed_as_solved": solved and solved.to_json(),
            "interval_with_failures": both and list(both),
            "usage": dict(self.usage),
            "about": dict(self.about),
        }
