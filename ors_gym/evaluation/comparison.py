"""Comparison of two models on the same tasks: the paired difference, its interval and the verdict.

The verdict follows from the t interval of the per-task differences, never from whether two intervals overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ors_gym.evaluation.rules import Rules
from ors_gym.evaluation.statistics import (
    Estimate,
    Interval,
    detectable_difference,
    within_margin,
)
from ors_gym.evaluation.words import Scale, counted, p_value

__all__ = ["Comparison", "Flip", "Test", "Verdict"]

MIN_DIFFERING_TASKS = 6
"""With five differing tasks the smallest exact p value is 2 / 2**5 = 0.0625."""
MIN_TASKS = 10
ALPHA = 0.05


class Verdict(StrEnum):
    """The verdict on two models."""

    BETTER = "better"
    """The other model is better than the base."""
    WORSE = "worse"
    """The other model is worse than the base."""
    NOT_DISTINGUISHABLE = "not distinguishable"
    """The interval of the difference contains 0, or the adjusted p value exceeds 0.05."""
    WITHIN_MARGIN = "equal within the margin"
    """The difference is shown to be smaller than the given margin."""
    TOO_FEW = "too few"
    """Too few tasks differ, or too few were played by both models."""
    NOT_COMPARABLE = "not comparable"
    """The runs differ in more than the model, or too many episodes failed."""


@dataclass(frozen=True, slots=True)
class Test:
    """A supplementary significance test."""

    __test__ = False  # not a pytest test class

    name: str
    p: float


@dataclass(frozen=True, slots=True)
class Flip:
    """A task on which two models differ, with the mean of each."""

    task: str
    base: float
    other: float

    @property
    def difference(self) -> float:
        """Mean of the other model minus that of the base."""
        return self.other - self.base


@dataclass(frozen=True)
class Comparison:
    """The second model (``other``) against the first (``base``)."""

    base: str
    other: str
    rules: Rules
    difference: Estimate
    p: float | None
    """The p value of the paired t test."""
    adjusted_p: float | None
    """The p value after Holm's adjustment for all comparisons made together."""
    num_comparisons: int
    tests: tuple[Test, ...]
    better: int
    worse: int
    equal: int
    flips: tuple[Flip, ...]
    bounds: Interval | None
    """Range of the difference if every failed episode were unsolved for one and solved for the other.

    None for returns.
    """
    changed: tuple[str, ...]
    """Tasks that differ between the two runs; excluded."""
    only_base: tuple[str, ...]
    only_other: tuple[str, ...]
    unscored: tuple[str, ...]
    """Tasks in both runs without a scored episode in one of them; excluded."""
    reasons: tuple[str, ...]
    """Why the models cannot be compared; empty if they can."""
    warnings: tuple[str, ...]
    played: str

    @property
    def detectable(self) -> float | None:
        """The smallest difference that is detected with 80 % power."""
        se, df = self.difference.se, self.difference.df
        return None if not se or df is None else detectable_difference(se, df)

    @property
    def verdict(self) -> Verdict:
        """The verdict, from the interval, the adjusted p value and the margin."""
        if self.reasons:
            return Verdict.NOT_COMPARABLE
        value, interval = self.difference.value, self.difference.interval
        if value is None or self.better + self.worse < MIN_DIFFERING_TASKS or self.difference.tasks < MIN_TASKS:
            margin = self._within_margin()
            return Verdict.WITHIN_MARGIN if margin and self.difference.tasks >= MIN_TASKS else Verdict.TOO_FEW
        p = self.adjusted_p
        if p is None:  # too few groups for an interval
            return Verdict.TOO_FEW
        excludes_zero = interval is None or interval[0] > 0.0 or interval[1] < 0.0
        if p <= ALPHA and excludes_zero:
            return Verdict.BETTER if value > 0.0 else Verdict.WORSE
        return Verdict.WITHIN_MARGIN if self._within_margin() else Verdict.NOT_DISTINGUISHABLE

    def _within_margin(self) -> bool:
        margin, estimate = self.rules.margin, self.difference
        if margin is None or estimate.value is None:
            return False
        return bool(within_margin(estimate.value, estimate.se, estimate.df, margin))

    def sentence(self) -> str:
        """The verdict as a sentence, with its numbers."""
        scale, value = Scale(self.rules), self.difference.value
        parts: list[str] = []
        left_out = self._left_out()
        if left_out:
            parts.append(left_out)
        if value is None:
            return " ".join([*parts, "No task was scored in both."])
        observed = f"{scale.difference(value)}{scale.unit}"
        interval = self.difference.interval
        within = f"95 % interval {scale.differences(interval)}" if interval else "; ".join(self.difference.notes)
        match self.verdict:
            case Verdict.NOT_COMPARABLE:
                parts.append(f"Not comparable: {'; '.join(self.reasons)}. Observed: {observed} ({within}).")
            case Verdict.TOO_FEW if self.better + self.worse < MIN_DIFFERING_TASKS:
                differ = self.better + self.worse
                what = (
                    f"{self.base} and {self.other} differ on {differ} of {counted(self.difference.tasks, 'task')}"
                    if differ
                    else f"no task of {self.difference.tasks:,} differs"
                )
                parts.append(
                    f"Too few to tell: {what}; at least {MIN_DIFFERING_TASKS} are needed. Observed: {observed}."
                )
            case Verdict.TOO_FEW if self.adjusted_p is None:
                parts.append(f"Too few to tell: {within}. Observed: {observed}.")
            case Verdict.TOO_FEW:
                tasks = counted(self.difference.tasks, "task")
                needed = f"{tasks}; at least {MIN_TASKS} are needed"
                parts.append(f"Too few to tell: {needed}. Observed: {observed} ({within}).")
            case Verdict.NOT_DISTINGUISHABLE:
                parts.append(self._not_distinguishable(value, within))
            case Verdict.WITHIN_MARGIN:
                margin = scale.size(self.rules.margin or 0.0)
                parts.append(f"Equal within {margin}: {observed} ({within}; {self.played}).")
            case _:
                word = "better" if value > 0.0 else "worse"
                counts = f"Better on {counted(self.better, 'task')}, worse on {self.worse:,}, equal on {self.equal:,}."
                text = f"{self.other} is {word} than {self.base}: {observed} ({within}, {self._p()}; {self.played})."
                parts.append(f"{text} {counts}")
        return " ".join([*parts, *self.warnings])

    def _not_distinguishable(self, value: float, within: str) -> str:
        scale = Scale(self.rules)
        more = "more" if value >= 0.0 else "less"
        verb = "solves" if scale.is_rate else "has"
        unit = " mean return" if not scale.is_rate else ""
        interval = self.difference.interval
        correction = ""
        if interval is not None and (interval[0] > 0.0 or interval[1] < 0.0):
            correction = f" after correction for {counted(self.num_comparisons, 'comparison')}"
        text = (
            f"Not distinguishable{correction}: {self.other} {verb} {scale.size(value)} {more}{unit} than {self.base}"
            f" ({within}, {self._p()}; {self.played})."
        )
        if self.detectable is None:
            return text
        detectable = f"A difference of {scale.size(self.detectable)} would usually be detected"
        return f"{text} {detectable}; smaller ones may exist."

    def _p(self) -> str:
        if self.adjusted_p is None:
            return "no p"
        over = f", Holm over {self.num_comparisons} pairs" if self.num_comparisons > 1 else ""
        return f"{p_value(self.adjusted_p)}{over}"

    def _left_out(self) -> str:
        excluded: list[str] = []
        if self.changed:
            excluded.append(f"{counted(len(self.changed), 'task')} changed since {self.base}")
        if self.only_base:
            excluded.append(f"{counted(len(self.only_base), 'task')} only in {self.base}")
        if self.only_other:
            excluded.append(f"{counted(len(self.only_other), 'task')} only in {self.other}")
        if self.unscored:
            excluded.append(f"{counted(len(self.unscored), 'task')} without a scored episode")
        if not excluded:
            return ""
        return f"{' and '.join(excluded)}: left out. On the {self.difference.tasks:,} others:"

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON; undefined numbers are null."""
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
