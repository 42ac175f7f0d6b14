"""Paired tests of two models on the same tasks, and their power.

- McNemar exact and mid-p: Fagerland, Lydersen and Laake 2013
- several comparisons: Holm 1979
- detectable difference and number of tasks: Miller 2024, https://arxiv.org/abs/2411.00640
- equal within a margin: Schuirmann 1987, two one-sided tests
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ors_gym.evaluation.statistics.distributions import (
    binomial_tail,
    normal_quantile,
    t_power,
    t_quantile,
    t_two_sided_p,
)

__all__ = [
    "detectable_difference",
    "holm",
    "mcnemar",
    "sign_flip_p",
    "t_test_p",
    "tasks_needed",
    "within_margin",
]

DRAWS = 99_999
MAX_ENUMERATED = 16
"""Up to this number of differences, all 2**n sign patterns are enumerated."""
MAX_ADDITIONS = 2_000_000_000
"""Maximum additions for an exact distribution; beyond it, signs are drawn at random."""


def t_test_p(mean: float, se: float | None, df: float | None) -> float | None:
    """The p value of a mean difference; None without an error, 1 if every difference is 0."""
    if se is None or df is None:
        return None
    if se == 0.0:
        return 1.0 if mean == 0.0 else None
    return t_two_sided_p(mean / se, df)


def mcnemar(only_first: int, only_second: int) -> tuple[float, float]:
    """The exact p value and the mid-p of McNemar's test, from the tasks that only one model solved."""
    trials, fewer = only_first + only_second, min(only_first, only_second)
    if not trials:
        return 1.0, 1.0
    point = math.comb(trials, fewer) / 2**trials
    if only_first == only_second:
        return 1.0, 1.0 - point / 2.0
    exact = 2.0 * binomial_tail(fewer, trials)
    return min(1.0, exact), min(1.0, exact - point)


def sign_flip_p(differences: Sequence[float | Fraction], *, seed: int = 0) -> tuple[float, str]:
    """The p value of the mean of ``differences`` under random signs, and the method that computed it.

    Exact if the differences are fractions (of successes) or few; else from 99,999 seeded draws.
    """
    nonzero = [difference for difference in differences if difference]
    if not nonzero:
        return 1.0, "exact"
    if all(isinstance(difference, Fraction) for difference in nonzero):
        fractions = [Fraction(difference) for difference in nonzero]
        scale = math.lcm(*(fraction.denominator for fraction in fractions))
        whole = [int(fraction * scale) for fraction in fractions]
        if sum(map(abs, whole)) * 2 * len(whole) <= MAX_ADDITIONS:
            return _convolved(whole), "exact"
    values = np.asarray([float(difference) for difference in nonzero])
    observed = abs(float(values.sum())) * (1.0 - 1e-12) - 1e-12
    if len(values) <= MAX_ENUMERATED:
        signs = np.asarray(list(itertools.product((-1.0, 1.0), repeat=len(values))))
        return float((np.abs(signs @ values) >= observed).mean()), "exact"
    return _drawn(values, observed, seed), f"{DRAWS:,} draws"


def _convolved(whole: Sequence[int]) -> float:
    """Exact, from the distribution of the sum of integers with random signs."""
    reach = sum(map(abs, whole))
    chances = np.zeros(2 * reach + 1)
    chances[reach] = 1.0
    done = 0
    for size in map(abs, whole):
        now = chances[reach - done : reach + done + 1] / 2.0
        done += size
        chances[reach - done : reach + done + 1] = 0.0
        chances[reach - done : reach - done + len(now)] += now
        chances[reach + done + 1 - len(now) : reach + done + 1] += now
    observed = abs(sum(whole))
    upper = float(chances[reach + observed :].sum())
    return min(1.0, 2.0 * upper) if observed else 1.0


def _drawn(values: NDArray[np.float64], observed: float, seed: int) -> float:
    generator = np.random.default_rng(seed)
    hits, left = 0, DRAWS
    rows = max(1, 4_000_000 // len(values))
    while left:
        count = min(rows, left)
        signs = generator.integers(0, 2, (count, len(values)), dtype=np.int8) * 2.0 - 1.0
        hits += int((np.abs(signs @ values) >= observed).sum())
        left -= count
    return (1 + hits) / (1 + DRAWS)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values after Holm's adjustment, in the given order."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def detectable_difference(se: float, df: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The difference that a comparison with this error detects with probability ``power``."""
    return (t_quantile(1.0 - alpha / 2.0, df) + t_quantile(power, df)) * se


def tasks_needed(difference: float, sd: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """The number of tasks with which a ``difference`` is detected with probability ``power``.

    ``sd`` is the standard deviation of the differences by task.
    """
    if difference == 0.0 or sd <= 0.0:
        raise ValueError("tasks_needed requires a nonzero difference and a positive standard deviation")
    effect = abs(difference) / sd
    normal = ((normal_quantile(1.0 - alpha / 2.0) + normal_quantile(power)) / effect) ** 2
    count = max(2, math.floor(normal))
    while t_power(effect, count, alpha) < power:
        count += 1
    return count


def within_margin(mean: float, se: float | None, df: float | None, margin: float) -> bool | None:
    """Whether the 90 % interval lies within ``-margin`` to ``margin``; None without an error."""
    if se is None or df is None:
        return None
    half = t_quantile(0.95, df) * se
    return -margin < mean - half and mean + half < margin
