"""Numbers as text, formatted the same on the terminal, in JSON and on the page."""

from __future__ import annotations

from collections.abc import Sequence

from ors_gym.evaluation.rules import Rules
from ors_gym.evaluation.statistics import Interval, TaskScores

__all__ = ["Scale", "counted", "p_value", "percent", "play_of"]


class Scale:
    """Formats values of the rules' metric: success rates as percentages, returns as numbers."""

    def __init__(self, rules: Rules) -> None:
        self.is_rate = rules.metric == "success"

    def value(self, value: float) -> str:
        """A value: ``61 %`` or ``0.61``."""
        return f"{percent(value)} %" if self.is_rate else f"{value:.3g}"

    def interval(self, interval: Interval) -> str:
        """An interval: ``55 to 67 %``."""
        low, high = interval
        return f"{percent(low)} to {percent(high)} %" if self.is_rate else f"{low:.3g} to {high:.3g}"

    def difference(self, difference: float) -> str:
        """A signed difference without its unit: ``+7.5``."""
        return f"{100.0 * difference:+.1f}" if self.is_rate else f"{difference:+.3g}"

    def size(self, difference: float) -> str:
        """The size of a difference with its unit: ``7.5 points``."""
        return f"{abs(100.0 * difference):.1f} points" if self.is_rate else f"{abs(difference):.3g}"

    def differences(self, interval: Interval) -> str:
        """An interval of differences: ``-2.0 to +5.0``. For rates it is clipped to -100 and +100 points."""
        if self.is_rate:
            interval = max(-1.0, interval[0]), min(1.0, interval[1])
        return f"{self.difference(interval[0])} to {self.difference(interval[1])}"

    @property
    def unit(self) -> str:
        """The unit after a signed difference."""
        return " points" if self.is_rate else " mean return"


def percent(share: float) -> str:
    """A share in percent: whole numbers from 1 to 99, one decimal otherwise."""
    value = 100.0 * share
    return f"{value:.0f}" if 1.0 <= value <= 99.0 else f"{value:.1f}".removesuffix(".0")


def p_value(p: float) -> str:
    """A p value with two significant digits: ``p = 0.40``, ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2f}" if p >= 0.1 else f"p = {p:.2g}"


def counted(count: int, noun: str) -> str:
    """A number with its noun: ``1 task``, ``200 tasks``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def play_of(scores: Sequence[TaskScores]) -> str:
    """What was played: ``200 tasks × 4 epochs``, or the number of episodes if it differs between tasks."""
    epochs = {task.episodes for task in scores}
    tasks = counted(len(scores), "task")
    if len(epochs) == 1:
        return f"{tasks} × {counted(epochs.pop(), 'epoch')}"
    return f"{tasks}, {counted(sum(task.episodes for task in scores), 'episode')}"
