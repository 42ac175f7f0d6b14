"""Two models on the same tasks: the difference by task, its interval, and what may be said of it.

The verdict is the t interval of the differences by task, and never whether two intervals overlap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from typing import Any

from ors_gym.evaluation.results import ModelResult
from ors_gym.evaluation.rules import Rules
from ors_gym.evaluation.statistics import (
    Estimate,
    Interval,
    TaskScores,
    detectable_difference,
    holm,
    mcnemar,
    mean_estimate,
    sign_flip_p,
    success_rate,
    t_test_p,
    within_margin,
)
from ors_gym.evaluation.words import Scale, counted, p_value, percent, play_of

__all__ = ["Comparison", "Flip", "Test", "Verdict", "compare_results"]

FEWEST_DIFFERENT = 6
"""With five tasks that differ the smallest exact p is 2 / 2**5 = 0.0625."""
FEWEST_TASKS = 10
LARGEST_GAP = 0.05
"""Of the shares of first attempts that failed: retries replace hard episodes by luckier ones, and hide it."""
ALPHA = 0.05
ROUNDING = Fraction(1, 10**9)
SAME = ("env", "split", "max_turns", "max_tokens", "max_episode_seconds", "toolset", "tools_sha256", "score_group")
"""What two runs must have in common, as far as both say it."""


class Verdict(StrEnum):
    """What may be said of two models."""

    BETTER = "better"
    """The second is better than the base."""
    WORSE = "worse"
    """The second is worse than the base."""
    NOT_DISTINGUISHABLE = "not distinguishable"
    """The interval of the difference contains 0, or the adjusted p is over 0.05."""
    WITHIN_MARGIN = "equal within the margin"
    """The difference is shown to be smaller than the margin that was given."""
    TOO_FEW = "too few"
    """Too few tasks differ, or too few were played by both."""
    NOT_COMPARABLE = "not comparable"
    """The runs differ in more than the model, or too many episodes failed."""


@dataclass(frozen=True, slots=True)
class Test:
    """A test beside the verdict, by name."""

    __test__ = False  # not one of pytest's

    name: str
    p: float


@dataclass(frozen=True, slots=True)
class Flip:
    """A task on which two models differ: the mean of each."""

    task: str
    base: float
    other: float

    @property
    def difference(self) -> float:
        """What the second has more than the base."""
        return self.other - self.base


@dataclass(frozen=True)
class Comparison:
    """The second model (``other``) against the first (``base``)."""

    base: str
    other: str
    rules: Rules
    difference: Estimate
    p: float | None
    """Of the paired t test."""
    adjusted_p: float | None
    """Holm's, over all comparisons made together."""
    num_comparisons: int
    tests: tuple[Test, ...]
    better: int
    worse: int
    equal: int
    flips: tuple[Flip, ...]
    bounds: Interval | None
    """The difference with every failed episode unsolved for one and solved for the other; None for returns."""
    changed: tuple[str, ...]
    """Tasks that are not the same in both, left out."""
    only_base: tuple[str, ...]
    only_other: tuple[str, ...]
    unscored: tuple[str, ...]
    """Tasks in both without a scored episode in one of them, left out."""
    reasons: tuple[str, ...]
    """Why the two cannot be compared; empty where they can."""
    warnings: tuple[str, ...]
    played: str

    @property
    def detectable(self) -> float | None:
        """The difference that would usually have been seen."""
        se, df = self.difference.se, self.difference.df
        return None if not se or df is None else detectable_difference(se, df)

    @property
    def verdict(self) -> Verdict:
        """What may be said."""
        if self.reasons:
            return Verdict.NOT_COMPARABLE
        value, interval = self.difference.value, self.difference.interval
        if value is None or self.better + self.worse < FEWEST_DIFFERENT or self.difference.tasks < FEWEST_TASKS:
            margin = self._within_margin()
            return Verdict.WITHIN_MARGIN if margin and self.difference.tasks >= FEWEST_TASKS else Verdict.TOO_FEW
        p = self.adjusted_p
        excludes_zero = interval is None or interval[0] > 0.0 or interval[1] < 0.0
        if p is not None and p <= ALPHA and excludes_zero:
            return Verdict.BETTER if value > 0.0 else Verdict.WORSE
        return Verdict.WITHIN_MARGIN if self._within_margin() else Verdict.NOT_DISTINGUISHABLE

    def _within_margin(self) -> bool:
        margin, estimate = self.rules.margin, self.difference
        if margin is None or estimate.value is None:
            return False
        return bool(within_margin(estimate.value, estimate.se, estimate.df, margin))

    def sentence(self) -> str:
        """The verdict in words, with every number that belongs to it."""
        scale, value = Scale(self.rules), self.difference.value
        parts: list[str] = []
        left_out = self._left_out()
        if left_out:
            parts.append(left_out)
        if value is None:
            return " ".join([*parts, "No task was scored in both."])
        seen = f"{scale.difference(value)}{scale.unit}"
        interval = self.difference.interval
        within = f"95 % interval {scale.differences(interval)}" if interval else "; ".join(self.difference.notes)
        match self.verdict:
            case Verdict.NOT_COMPARABLE:
                parts.append(f"Not comparable: {'; '.join(self.reasons)}. Seen: {seen} ({within}).")
            case Verdict.TOO_FEW if self.better + self.worse < FEWEST_DIFFERENT:
                differ = self.better + self.worse
                what = (
                    f"{self.base} and {self.other} differ on {differ} of {counted(self.difference.tasks, 'task')}"
                    if differ
                    else f"no task of {self.difference.tasks:,} differs"
                )
                parts.append(f"Too few to tell: {what}; at least {FEWEST_DIFFERENT} are needed. Seen: {seen}.")
            case Verdict.TOO_FEW:
                tasks = counted(self.difference.tasks, "task")
                parts.append(f"Too few to tell: {tasks}; at least {FEWEST_TASKS} are needed. Seen: {seen} ({within}).")
            case Verdict.NOT_DISTINGUISHABLE:
                parts.append(self._not_distinguishable(value, within))
            case Verdict.WITHIN_MARGIN:
                margin = scale.size(self.rules.margin or 0.0)
                parts.append(f"Equal within {margin}: {seen} ({within}; {self.played}).")
            case _:
                word = "better" if value > 0.0 else "worse"
                counts = f"Better on {counted(self.better, 'task')}, worse on {self.worse:,}, equal on {self.equal:,}."
                parts.append(f"{self.other} is {word}: {seen} ({within}, {self._p()}; {self.played}). {counts}")
        return " ".join([*parts, *self.warnings])

    def _not_distinguishable(self, value: float, within: str) -> str:
        scale = Scale(self.rules)
        more = "more" if value >= 0.0 else "fewer" if scale.is_rate else "less"
        verb = "solves" if scale.is_rate else "has"
        unit = " mean return" if not scale.is_rate else ""
        interval = self.difference.interval
        allowed = ""
        if interval is not None and (interval[0] > 0.0 or interval[1] < 0.0):
            allowed = f" once {counted(self.num_comparisons, 'comparison')} are allowed for"
        text = (
            f"Not distinguishable{allowed}: {self.other} {verb} {scale.size(value)} {more}{unit} than {self.base}"
            f" ({within}, {self._p()}; {self.played})."
        )
        if self.detectable is None:
            return text
        usual = f"A difference of {scale.size(self.detectable)} would usually have been seen"
        return f"{text} {usual}; smaller ones may exist."

    def _p(self) -> str:
        if self.adjusted_p is None:
            return "no p"
        over = f", Holm over {self.num_comparisons} pairs" if self.num_comparisons > 1 else ""
        return f"{p_value(self.adjusted_p)}{over}"

    def _left_out(self) -> str:
        said: list[str] = []
        if self.changed:
            said.append(f"{counted(len(self.changed), 'task')} changed since {self.base}")
        if self.only_base:
            said.append(f"{counted(len(self.only_base), 'task')} only in {self.base}")
        if self.only_other:
            said.append(f"{counted(len(self.only_other), 'task')} only in {self.other}")
        if self.unscored:
            said.append(f"{counted(len(self.unscored), 'task')} without a scored episode")
        if not said:
            return ""
        return f"{' and '.join(said)}: left out. On the {self.difference.tasks:,} others:"

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON, null where a number is undefined."""
        return {
            "base": self.base,
            "other": self.other,
            "verdict": str(self.verdict),
            "sentence": self.sentence(),
            "metric": self.rules.metric,
            "difference": self.difference.to_json(),
            "p": self.p,
            "adjusted_p": self.adjusted_p,
            "num_comparisons": self.num_comparisons,
            "tests": {test.name: test.p for test in self.tests},
            "better": self.better,
            "worse": self.worse,
            "equal": self.equal,
            "bounds": self.bounds and list(self.bounds),
            "detectable_difference": self.detectable,
            "changed": list(self.changed),
            "only_base": list(self.only_base),
            "only_other": list(self.only_other),
            "unscored": list(self.unscored),
            "reasons": list(self.reasons),
            "flips": [{"task": flip.task, "base": flip.base, "other": flip.other} for flip in self.flips],
        }


def compare_results(
    base: ModelResult, others: Sequence[ModelResult], *, changed: Mapping[str, Sequence[str]] | None = None
) -> tuple[Comparison, ...]:
    """Each of ``others`` against ``base``, with Holm's adjustment over all of them.

    ``changed`` names, for a model, the tasks that are not what they were in the base.
    """
    compared = [_compare(base, other, tuple((changed or {}).get(other.name, ()))) for other in others]
    tested = [place for place, comparison in enumerate(compared) if comparison.p is not None]
    adjusted = holm([compared[place].p or 0.0 for place in tested])
    for place, p in zip(tested, adjusted, strict=True):
        compared[place] = replace(compared[place], adjusted_p=p, num_comparisons=len(tested))
    return tuple(compared)


def _compare(base: ModelResult, other: ModelResult, changed: tuple[str, ...]) -> Comparison:
    rules = other.rules
    left, right = ({task.task: task for task in _measured(result)} for result in (base, other))
    common = [task for task in left if task in right and task not in changed]
    scored = [task for task in common if left[task].scored and right[task].scored]
    exact = [_difference_of(left[task], right[task]) for task in scored]
    is_rate = rules.metric == "success"
    values = [float(difference) for difference in exact]
    both = [replace(right[task], returns=left[task].returns + right[task].returns) for task in scored]
    estimate = _difference(both, values)
    flips = [
        Flip(task, left[task].mean, right[task].mean)
        for task, difference in zip(scored, exact, strict=True)
        if difference
    ]
    flips.sort(key=lambda flip: (-abs(flip.difference), flip.task))
    p = None if estimate.value is None else t_test_p(estimate.value, estimate.se, estimate.df)
    tests = _tests([(left[task], right[task]) for task in scored], exact if is_rate else values, is_rate=is_rate)
    if p is None and estimate.se == 0.0:
        p = tests[-1].p  # every task differs by the same amount
    bounds = _bounds([left[task] for task in common], [right[task] for task in common]) if is_rate else None
    better = sum(difference > 0 for difference in exact)
    worse = sum(difference < 0 for difference in exact)
    return Comparison(
        base.name,
        other.name,
        rules,
        estimate,
        p,
        p,
        1,
        tests,
        better,
        worse,
        len(exact) - better - worse,
        tuple(flips),
        bounds,
        changed,
        tuple(task for task in left if task not in right and task not in changed),
        tuple(task for task in right if task not in left and task not in changed),
        tuple(task for task in common if task not in scored),
        tuple(_reasons(base, other, estimate.interval, bounds)),
        tuple(_warnings(base, other)),
        play_of([right[task] for task in scored]),
    )


def _measured(result: ModelResult) -> Sequence[TaskScores]:
    if result.rules.metric == "return":
        return result.scores
    return [task.as_successes(result.rules.success_at) for task in result.scores]


def _difference_of(base: TaskScores, other: TaskScores) -> Fraction:
    """The exact difference of the means, so that sign flips are exact; 0 for a trace of rounding."""
    means = [sum(map(Fraction, task.returns), Fraction(0)) / task.scored for task in (base, other)]
    difference = means[1] - means[0]
    return difference if abs(difference) > ROUNDING else Fraction(0)


def _difference(tasks: Sequence[TaskScores], values: Sequence[float]) -> Estimate:
    """The mean difference with its t interval. Differences are nearly symmetric, so it is not marked rough."""
    estimate = mean_estimate(tasks, values)
    return replace(estimate, notes=()) if estimate.interval is not None else estimate


def _tests(
    pairs: Sequence[tuple[TaskScores, TaskScores]], differences: Sequence[float | Fraction], *, is_rate: bool
) -> tuple[Test, ...]:
    """McNemar's for one epoch, sign flips for several."""
    if is_rate and pairs and all(left.scored == right.scored == 1 for left, right in pairs):
        only_base = sum(difference < 0 for difference in differences)
        exact, mid = mcnemar(only_base, sum(difference > 0 for difference in differences))
        return Test("McNemar mid-p", mid), Test("McNemar exact", exact)
    p, how = sign_flip_p(differences)
    return (Test(f"sign flips, {how}", p),)


def _bounds(left: Sequence[TaskScores], right: Sequence[TaskScores]) -> Interval | None:
    """The smallest and the largest difference that the failed episodes may have hidden, over all tasks."""

    def rate(scores: Sequence[TaskScores], failed_as: float) -> float | None:
        return success_rate([task.with_failed_as(failed_as) for task in scores]).value

    ends = rate(left, 0.0), rate(left, 1.0), rate(right, 0.0), rate(right, 1.0)
    if any(end is None for end in ends):
        return None
    base_low, base_high, other_low, other_high = (end or 0.0 for end in ends)
    return other_low - base_high, other_high - base_low


def _reasons(base: ModelResult, other: ModelResult, interval: Interval | None, bounds: Interval | None) -> list[str]:
    reasons = [
        f"{result.counts['failed']:,} of {result.counts['episodes']:,} episodes of {result.name} failed"
        f" ({percent(result.failed_share)} %, limit {percent(result.rules.max_failed)} %)"
        for result in (base, other)
        if result.too_many_failed
    ]
    shares = base.first_failed_share, other.first_failed_share
    if abs(shares[0] - shares[1]) > LARGEST_GAP:
        both = f"{percent(shares[0])} % of {base.name} and {percent(shares[1])} % of {other.name}"
        reasons.append(f"first attempts failed in {both}, and retries favour short episodes")
    if interval is not None and bounds is not None and interval[0] * interval[1] > 0.0 > bounds[0] * bounds[1]:
        reasons.append("the failed episodes might turn the difference around")
    reasons += [
        f"{name} is {base.about[name]!r} in {base.name} and {other.about[name]!r} in {other.name}"
        for name in SAME
        if name in base.about and name in other.about and base.about[name] != other.about[name]
    ]
    if base.rules != other.rules:
        reasons.append("they are scored by different rules")
    return reasons


def _warnings(base: ModelResult, other: ModelResult) -> list[str]:
    warnings: list[str] = []
    shares = base.counts["first_attempts_failed"], other.counts["first_attempts_failed"]
    if any(shares):
        both = f"{shares[0]:,} of {base.counts['episodes']:,} and {shares[1]:,} of {other.counts['episodes']:,}"
        warnings.append(f"First attempts that failed: {both}.")
    versions = base.about.get("server_version"), other.about.get("server_version")
    if all(versions) and versions[0] != versions[1]:
        warnings.append(f"The server is of version {versions[0]} in one and {versions[1]} in the other.")
    if not math.isclose(base.rules.max_failed, other.rules.max_failed):
        warnings.append("The limits of failed episodes differ.")
    return warnings
