"""The distributions that intervals and tests use."""

from __future__ import annotations

import math

from ors_gym.extras import packages_of

with packages_of("eval"):
    from scipy import special  # pyright: ignore[reportMissingTypeStubs]

__all__ = ["binomial_tail", "normal_quantile", "t_power", "t_quantile", "t_two_sided_p"]


def t_quantile(probability: float, df: float) -> float:
    """The quantile of Student's t distribution with ``df`` degrees of freedom."""
    return float(special.stdtrit(df, probability))


def t_two_sided_p(statistic: float, df: float) -> float:
    """The probability of a t statistic at least this far from 0, on either side."""
    return min(1.0, 2.0 * float(special.stdtr(df, -abs(statistic))))


def normal_quantile(probability: float) -> float:
    """The quantile of the standard normal distribution."""
    return float(special.ndtri(probability))


def t_power(effect: float, num_tasks: int, alpha: float) -> float:
    """The power of a two-sided one-sample t test for a mean of ``effect`` standard deviations."""
    df = num_tasks - 1
    limit, noncentrality = t_quantile(1.0 - alpha / 2.0, df), effect * math.sqrt(num_tasks)
    below = float(special.nctdtr(df, noncentrality, limit))
    return 1.0 - below + float(special.nctdtr(df, noncentrality, -limit))


def binomial_tail(count: int, trials: int) -> float:
    """The probability of at most ``count`` heads in ``trials`` tosses of a fair coin, exact."""
    total: int = sum(math.comb(trials, heads) for heads in range(count + 1))
    return float(total / (1 << trials))
