"""Two models on the same tasks: the difference by task, its interval, and what may be said of it.

The verdict is the t interval of the differences by task, and never whether two intervals overlap.
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

FEWEST_DIFFERENT = 6
"""With five tasks that differ the smallest exact p is 2 / 2**5 = 0.0625."""
FEWEST_TASKS = 10
ALPHA = 0.05


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
            case Verdict.TOO_FEW if self.adjusted_p is None:
                parts.append(f"Too few to tell: {within}. Seen: {seen}.")
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
                text = f"{self.other} is {word} than {self.base}: {seen} ({within}, {self._p()}; {self.played})."
                parts.append(f"{text} {counts}")
        return " ".join([*parts, *self.warnings])

    def _not_distinguishable(self, value: float, within: str) -> str:
        scale = Scale(self.rules)
        more = "more" if value >= 0.0 else "less"
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
